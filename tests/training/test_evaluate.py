"""Scores on a set that a run was not trained on."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from dmf.data.filtering import prepare
from dmf.data.raw import RawWriter
from dmf.errors import DmfError
from dmf.files import read_json, sha256_file, write_json
from dmf.study import FilterParameters, Study
from dmf.training.evaluate import describe, evaluate, trained_elsewhere
from dmf.training.inference import predict

import synthetic
from conftest import tiny
from model_files import DESCRIPTION, weights, write_model
from run_folders import contents
from sets import ellipse, scan

IMAGES = 7
RUN = Path("models/phantom/fixed/seed-03")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a run of the set phantom, and a set `other` of images of several sizes."""
    monkeypatch.chdir(tmp_path)
    writer = RawWriter(Path("data/raw/other"), classes=2)
    for n in range(IMAGES):
        shape = (60 + n, 80)
        mask = ellipse(*shape, x=0.3 + n / 20) // 255
        writer.add(f"i{n}", "lesion", scan(n, *shape), mask, masks=1, source=f"i{n}.png")
    write_json(Path("data/raw/other/manifest.json"), writer.finish(0.9))
    a_run()


def a_run(dataset: str = "phantom") -> None:
    files = {"last": "model.safetensors", "best": "best.safetensors"}
    for seed, file in enumerate(files.values()):
        write_model(RUN / file, weights(seed))
    (RUN / "history.csv").write_text("epoch\n1\n")
    parameters = Study.from_mapping(tiny(training={"batch_size": 3})).run_parameters("fixed")
    record = {
        "key": "k",
        "dataset": dataset,
        "configuration": "fixed",
        "seed": 3,
        "parameters": parameters.model_dump(),
        "files": {n: sha256_file(RUN / n) for n in ("history.csv", *files.values())},
        "outcome": {"status": "complete"},
    }
    write_json(RUN / "run.json", record)


def by_hand(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and ground truth, straight from the files of the raw set."""
    parameters = FilterParameters.model_validate(DESCRIPTION["preprocessing"])
    pairs = [
        prepare(
            cv2.imread(f"data/raw/other/images/i{n}.png", 0),
            cv2.imread(f"data/raw/other/masks/i{n}.png", 0) // 255,
            parameters,
        )
        for n in range(IMAGES)
    ]
    return predict(RUN / file, np.array([pair[1] for pair in pairs])), np.array(
        [pair[2] for pair in pairs]
    )


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice over both classes of boolean arrays."""
    both = [
        2 * np.sum((predicted == c) & (truth == c)) / (np.sum(predicted == c) + np.sum(truth == c))
        for c in (0, 1)
    ]
    return float(np.mean(both))


def test_scores_are_those_counted_by_hand() -> None:
    found = list(evaluate([RUN], "other"))
    assert [(one.run, one.weights) for one in found] == [
        ("phantom/fixed/seed-03", "last"),
        ("phantom/fixed/seed-03", "best"),
    ]
    for one, file in zip(found, ("model.safetensors", "best.safetensors"), strict=True):
        predicted, truth = by_hand(file)
        each = [dice(*pair) for pair in zip(predicted, truth, strict=True)]
        batches = [dice(predicted[i : i + 3], truth[i : i + 3]) for i in range(0, IMAGES, 3)]
        assert one.scores["dice"] == pytest.approx(dice(predicted, truth))
        assert one.scores["image_dice"] == pytest.approx(np.mean(each))
        assert one.scores["batch_dice"] == pytest.approx(np.mean(batches))
        folder = Path("reports/evaluations/other/phantom/fixed/seed-03")
        scores = pd.read_csv(folder / "scores.csv").set_index(["weights", "metric"])["value"]
        assert scores[one.weights, "dice"] == pytest.approx(dice(predicted, truth))
        images = pd.read_csv(folder / "images.csv").query(f"weights == '{one.weights}'")
        assert images["id"].tolist() == [f"i{n}" for n in range(IMAGES)]
        assert images["dice"].tolist() == pytest.approx(each)
        hits = ((predicted == 1) & (truth == 1)).sum((1, 2))
        assert images["true_positive_1"].tolist() == hits.tolist()
    assert found[0].scores["dice"] != found[1].scores["dice"]
    lines = list(describe(found))
    assert len(lines) == 3
    assert f"{100 * found[0].scores['dice']:.2f}" in lines[1]
    assert len(set(map(len, lines))) == 1


def test_a_file_alone() -> None:
    (one,) = evaluate([RUN / "best.safetensors"], "other")
    assert (one.run, one.weights) == ("phantom/fixed/seed-03", "best")
    write_model(Path("x.safetensors"))
    (one,) = evaluate([Path("x.safetensors")], "other")
    assert (one.run, one.weights) == ("x", "file")


def refused(match: str, dataset: str = "other") -> None:
    before = contents(Path())
    with pytest.raises(DmfError, match=match):
        list(evaluate([RUN], dataset))
    assert contents(Path()) == before


def test_two_that_would_write_to_one_folder_are_refused() -> None:
    write_model(Path("a/x.safetensors"))
    write_model(Path("b/x.safetensors"))
    files = (RUN / "model.safetensors", RUN / "best.safetensors")
    for pair in ([Path("a/x.safetensors"), Path("b/x.safetensors")], files):
        with pytest.raises(DmfError, match="2 of the models are called"):
            list(evaluate(pair, "other"))
    assert not Path("reports").exists()
    assert len(list(evaluate(files, "other", every_image=False))) == 2
    assert len(list(evaluate([RUN, RUN], "other"))) == 2  # named twice, scored once: last and best


def test_a_file_of_an_incomplete_run_is_still_of_that_run() -> None:
    (RUN / "history.csv").unlink()
    (RUN / "model.safetensors").unlink()
    (one,) = evaluate([RUN / "best.safetensors"], "other")
    assert (one.run, one.weights) == ("phantom/fixed/seed-03", "best")
    with pytest.raises(DmfError, match="was trained on images of phantom"):
        list(evaluate([RUN / "best.safetensors"], "phantom"))
    write_model(RUN / "best.safetensors", weights(5))
    with pytest.raises(DmfError, match=r"best.safetensors is not the file that .*run.json names"):
        list(evaluate([RUN / "best.safetensors"], "other"))


def test_the_set_it_was_trained_on_is_refused() -> None:
    a_run("other")
    refused("was trained on images of other")


def test_what_cannot_be_scored_is_refused() -> None:
    refused("Download the set first", dataset="udiat")
    description = read_json(Path("data/raw/other/manifest.json"))
    write_json(Path("data/raw/other/manifest.json"), description | {"classes": 3})
    with pytest.raises(DmfError):
        list(evaluate([RUN], "other"))
    (RUN / "best.safetensors").write_bytes(b"x")
    refused("is no complete run")


def test_other_classes_are_refused() -> None:
    write_model(Path("three.safetensors"), classes=3)
    with pytest.raises(DmfError, match="tells 3 classes, the set has 2"):
        list(evaluate([Path("three.safetensors")], "other"))


@pytest.mark.parametrize(
    ("name", "value"), [("dataset", "../../x"), ("seed", "a"), ("parameters", {}), ("seed", None)]
)
def test_a_damaged_record_is_refused(name: str, value: object) -> None:
    record = read_json(RUN / "run.json")
    write_json(RUN / "run.json", record | {name: value})
    refused("run.json is damaged")


def test_runs_without_a_model_to_score_are_told_apart() -> None:
    made = synthetic.make_study(
        {"busi": "busi", "other": "folder"}, configurations=["fixed", "none-variance"], seeds=2
    )
    lost = [("busi", "none-variance", 1)]
    synthetic.write_study(Path(), made, missing=[("busi", "fixed", 0)], diverged=lost)
    complete, diverged = trained_elsewhere(made.grid, "other")
    runs = [Path("models/busi", run) for run in ("fixed/seed-01", "none-variance/seed-00")]
    assert complete == runs
    assert diverged == [Path("models/busi/none-variance/seed-01")]
    with pytest.raises(DmfError, match="no finished run"):
        trained_elsewhere(made.grid.model_copy(update={"datasets": ["other"]}), "other")

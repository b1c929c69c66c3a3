"""The command people type: what it says, and how it ends."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from dmf.cli import app
from dmf.layout import Cell
from dmf.stale import unnoticed
from dmf.study import Study
from dmf.training.run_record import Run
from dmf.training.train import train
from dmf.verify import problems

from conftest import TINY, StudyMaker, dmf, tiny


@pytest.fixture
def trained(tiny_study: StudyMaker, tmp_path: Path) -> Study:
    study = tiny_study()
    train(
        Run(Cell("phantom", "fixed", 0), study.run_parameters("fixed")),
        study.execution,
        lambda s: None,
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TINY))
    return study


def test_check_counts_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(TINY))
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 0
    assert "1 datasets x 1 configurations x 1 seeds = 1 runs of 3 epochs at 32x32" in result.output


def test_failures_are_one_message_and_status_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    python = [sys.executable, "-m", "dmf.cli", "check"]
    a_process = subprocess.run(python, capture_output=True, text=True)
    for done in (a_process, dmf("train", "phantom", "fixed", "0"), dmf("verify")):
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error: params.yaml cannot be read")
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_outside_the_study_is_refused(trained: Study) -> None:
    done = dmf("train", "phantom", "fixed", "7")
    assert done.returncode == 1
    assert "seeds 0 to 0" in done.stderr
    done = dmf("train", "phantom", "fixd", "0")
    assert done.returncode == 1
    assert "did you mean 'fixed'?" in done.stderr


def test_predict_writes_masks_and_overlays_of_the_images_own_size(trained: Study) -> None:
    rng = np.random.default_rng(0)
    for name, shape in (("a", (50, 70)), ("b", (32, 32))):
        cv2.imwrite(f"{name}.png", rng.integers(0, 255, (*shape, 3), dtype=np.uint8))
    run = "models/phantom/fixed/seed-00"
    done = dmf("predict", "a.png", "b.png", "--model", run, "--output", "out")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    for name, shape in (("a", (50, 70)), ("b", (32, 32))):
        mask = cv2.imread(f"out/{name}_mask.png", cv2.IMREAD_UNCHANGED)
        assert mask.shape == shape
        assert set(np.unique(mask)) <= {0, 255}
        assert cv2.imread(f"out/{name}_overlay.png").shape == (*shape, 3)


def test_models_are_found_in_the_folder_of_the_study(trained: Study) -> None:
    """By the names of their runs, from the project's folder, under any overlay."""
    cv2.imwrite("a.png", np.zeros((32, 32), np.uint8))
    Path("mine.yaml").write_text("study: {seeds: 1}\n")
    Path("build").mkdir()
    shutil.copytree("models", "build/tiny_mine/models")
    shutil.rmtree("models/phantom/fixed")
    named = ("predict", "a.png", "--model", "phantom/fixed/seed-00", "--output", "out")
    assert "phantom/fixed/seed-00 does not exist" in dmf(*named).stderr
    done = dmf(*named, "--overlay", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert Path("out/a_mask.png").is_file()


def test_evaluate_prints_a_table_and_writes_csvs(trained: Study) -> None:
    shutil.copytree("data/raw/phantom", "data/raw/other")
    done = dmf("evaluate", "--model", "phantom/fixed/seed-00", "--dataset", "other")
    assert done.returncode == 0, done.stderr
    head, last, best, note = done.stdout.splitlines()
    assert head.split()[:3] == ["run", "weights", "dice"]
    assert last.split()[:2] == ["phantom/fixed/seed-00", "last"]
    assert best.split()[1] == "best"
    assert str(Path("reports/evaluations/other").resolve()) in note
    assert Path("reports/evaluations/other/phantom/fixed/seed-00/scores.csv").is_file()


def test_evaluate_without_a_model_scores_every_run_of_the_study(trained: Study) -> None:
    shutil.copytree("data/raw/phantom", "data/raw/other")
    done = dmf("evaluate", "--dataset", "other")
    assert done.returncode == 0, done.stderr
    assert str(Path("reports/evaluations/other.csv").resolve()) in done.stdout
    rows = Path("reports/evaluations/other.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [
        ["phantom/fixed/seed-00", "last"],
        ["phantom/fixed/seed-00", "best"],
    ]
    refused = dmf("evaluate", "--dataset", "phantom")
    assert refused.returncode == 1
    assert "no finished run that was trained on another set than phantom" in refused.stderr


def test_predict_agrees_with_the_recorded_metrics(trained: Study) -> None:
    """The model file, read back, scores on the test images what the run says it scores."""
    import torch

    from dmf.data.arrays import read_arrays
    from dmf.files import read_json
    from dmf.metrics import SegmentationMetrics
    from dmf.training.inference import predict

    arrays = read_arrays(Path("data/filtered/phantom.json"))
    rows = Path("data/splits/phantom/seed-00.csv").read_text().splitlines()[1:]
    test = {row.split(",")[0] for row in rows if row.endswith(",test")}
    chosen = [i for i, name in enumerate(arrays.ids) if name in test]
    folder = Path("models/phantom/fixed/seed-00")
    outcome = read_json(folder / "metrics.json")
    for file, choice in (("model.safetensors", "last"), ("best.safetensors", "best")):
        masks = predict(folder / file, arrays.filtered[chosen])
        metrics = SegmentationMetrics()
        metrics.update(torch.from_numpy(masks), torch.from_numpy(arrays.masks[chosen]))
        assert metrics.compute(6) == pytest.approx(outcome[choice]["test"])


@pytest.mark.parametrize("content", [None, b"", b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!"])
def test_predict_refuses_what_is_no_model(trained: Study, content: bytes | None) -> None:
    if content is not None:
        Path("x.safetensors").write_bytes(content)
    cv2.imwrite("a.png", np.zeros((32, 32), np.uint8))
    done = dmf("predict", "a.png", "--model", "x.safetensors")
    assert done.returncode == 1
    assert "x.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_refuses_what_is_no_image(trained: Study) -> None:
    Path("a.png").write_text("not an image")
    done = dmf("predict", "a.png", "--model", "models/phantom/fixed/seed-00")
    assert done.returncode == 1
    assert "a.png" in done.stderr


def test_verify_names_everything_that_is_not_what_it_should_be(trained: Study) -> None:
    assert problems(trained, ["phantom"], Path()) == []

    image = sorted(Path("data/raw/phantom/images").glob("*.png"))[3]
    original = image.read_bytes()
    picture = cv2.imread(str(image), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(image), picture ^ 1)
    assert [image.stem in line for line in problems(trained, ["phantom"], Path())] == [True]
    image.write_bytes(original)

    folder = Path("models/phantom/fixed/seed-00")
    model = folder / "model.safetensors"
    original = model.read_bytes()
    model.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert problems(trained, ["phantom"], Path()) == [f"{folder}: missing, unfinished or damaged"]
    model.write_bytes(original)

    metrics = folder / "metrics.json"
    original = metrics.read_bytes()
    metrics.write_bytes(original.replace(b'"epochs": 3', b'"epochs": 4'))
    assert [str(metrics) in line for line in problems(trained, ["phantom"], Path())] == [True]
    metrics.write_bytes(original)

    training = trained.training.model_copy(update={"epochs": 9})
    longer = trained.model_copy(update={"training": training})
    assert ["other parameters" in line for line in problems(longer, ["phantom"], Path())] == [True]

    other = trained.split.model_copy(update={"train": 0.6, "validation": 0.2, "test": 0.2})
    assert problems(trained.model_copy(update={"split": other}), ["phantom"], Path()) == [
        "data/splits/phantom/seed-00.csv: not the split of these images that the study makes"
    ]

    split = Path("data/splits/phantom/seed-00.csv")
    original = split.read_bytes()
    twice = original.splitlines(keepends=True)
    split.write_bytes(b"".join([twice[0], twice[-1].replace(b"test", b"train"), *twice[1:]]))
    assert problems(trained, ["phantom"], Path()) == [
        f"{split}: not the split of these images that the study makes",
        f"{folder}: the result of other split",
    ]
    split.write_bytes(original)

    npz = Path("data/filtered/phantom.npz")
    npz.write_bytes(npz.read_bytes()[:-50])
    assert any("phantom.npz is damaged" in line for line in problems(trained, ["phantom"], Path()))


def test_verify_reads_given_splits_from_the_project_s_folder(
    trained: Study, tmp_path: Path
) -> None:
    """Each by itself: one that is damaged hides no other."""
    given = {"kind": "given", "file": "own-{seed}.csv"}
    Path("mine.yaml").write_text(yaml.safe_dump({"split": given, "study": {"seeds": 3}}))
    Path("build").mkdir()
    shutil.copytree("data", "build/tiny_mine/data")
    named = ("--params", str(tmp_path / "params.yaml"), "--overlay", str(tmp_path / "mine.yaml"))
    for seed in range(3):
        shutil.copy(tmp_path / "data/splits/phantom/seed-00.csv", tmp_path / f"own-{seed}.csv")
        assert dmf("split", "phantom", str(seed), *named).returncode == 0
    assert "/splits/" not in dmf("verify", *named).stderr
    for seed in (0, 2):
        (tmp_path / f"build/tiny_mine/data/splits/phantom/seed-0{seed}.csv").unlink()
    assert dmf("verify", *named).stderr.count("splits/phantom/seed-0") == 4  # and their two runs


@pytest.mark.parametrize(
    "named", [("aggregate", "--partial"), ("figures",), ("report",), ("evaluate", "--dataset", "x")]
)
def test_runs_of_other_settings_are_not_reported_as_the_study_s(
    trained: Study, tmp_path: Path, named: tuple[str, ...]
) -> None:
    """They lie there until the changed study trains them again."""
    changed = {**TINY, "training": {**TINY["training"], "epochs": 9}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
    refused = dmf(*named)
    assert refused.returncode == 1
    assert f"{tmp_path} holds results of other settings than the study's" in refused.stderr
    assert "models/phantom/fixed/seed-00: of other parameters" in refused.stderr
    assert not Path("reports").exists()
    changed = {**TINY, "data": {**TINY["data"], "filter": {"apply": False}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
    assert "data/filtered/phantom.json: made with other settings" in dmf(*named).stderr


def test_what_snakemake_takes_for_up_to_date_is_compared_with_the_study(
    trained: Study, tmp_path: Path
) -> None:
    def lines(**sections: Any) -> list[str]:
        return unnoticed(Study.from_mapping({**TINY, **sections}), tmp_path)

    assert lines() == []
    longer = {"training": {**TINY["training"], "epochs": 9}}
    other = "models/phantom/fixed/seed-00: of other parameters"
    assert lines(**longer) == [other]
    Path("data/filtered/phantom.json").rename("elsewhere.json")  # what it was trained on is away
    assert lines(**longer) == [other]
    Path("elsewhere.json").rename("data/filtered/phantom.json")
    more = {"datasets": {"phantom": {**TINY["datasets"]["phantom"], "images": 30}}}
    assert lines(**more) == ["data/raw/phantom/manifest.json: made with other settings"]
    name = base64.urlsafe_b64encode(b"models/phantom/fixed/seed-00/metrics.json").decode()
    mark = Path(".snakemake/incomplete", name)  # it will be made again
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert lines(**longer) == []


def test_the_settings_of_a_folder_of_one_s_own_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for where it lies: a description does not say it."""
    monkeypatch.chdir(tmp_path)

    def study(**settings: Any) -> Study:
        mine = {"mine": {"kind": "folder", "archive": "here", **settings}}
        return Study.from_mapping({**tiny(study={"datasets": ["mine"]}), "datasets": mine})

    parameters = study().download_parameters("mine")
    made = parameters.model_dump(mode="json", exclude={"source": {"archive"}})
    Path("data/raw/mine").mkdir(parents=True)
    Path("data/raw/mine/manifest.json").write_text(json.dumps({"parameters": made}))
    assert unnoticed(study(archive="there"), tmp_path) == []
    for change in ({"mask_threshold": 50}, {"kind": "busi"}):
        (line,) = unnoticed(study(**change), tmp_path)
        assert line == "data/raw/mine/manifest.json: made with other settings"


def test_verify_names_the_command_that_makes_it_again(trained: Study, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {image_size: 16}\n")
    assert "`snakemake --cores all --configfile mine.yaml` then makes it again" in (
        dmf("verify", "--overlay", "mine.yaml").stderr
    )


def test_prune_removes_only_what_the_study_does_not_name(trained: Study) -> None:
    stale = Path("models/phantom/focal-mad/seed-00")
    stale.mkdir(parents=True)
    Path("data/splits/phantom/seed-09.csv").touch()
    listed = dmf("prune").stdout.splitlines()
    assert len(listed) == 2
    assert stale.exists()
    dmf("prune", "--delete")
    assert not stale.exists()
    assert Path("models/phantom/fixed/seed-00/run.json").exists()
    assert Path("data/splits/phantom/seed-00.csv").exists()
    assert dmf("prune").stdout == ""


def test_plan_counts_runs_and_measures_the_rest(trained: Study) -> None:
    from dmf.training.plan import describe, plan

    (done,) = plan(trained)
    assert done.states == {"complete": 1, "diverged": 0, "interrupted": 0, "left": 0}
    more = trained.model_copy(
        update={"grid": trained.grid.model_copy(update={"configurations": ["fixed", "none-mad"]})}
    )
    (outlook,) = plan(more)
    assert (outlook.states["complete"], outlook.states["left"]) == (1, 1)
    assert outlook.seconds_per_run is not None
    assert 4 < outlook.seconds_per_run < 100
    folder = Path("models/phantom/fixed/seed-00")
    size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    assert outlook.bytes_per_run == pytest.approx(size, rel=0.6)
    text = "\n".join(describe(more, [outlook]))
    assert "phantom: 1 complete, 1 left" in text
    assert "left on the CPU" in text


def test_plan_says_what_it_cannot_measure(tiny_study: StudyMaker) -> None:
    from dmf.training.plan import describe, plan

    study = tiny_study()
    Path("data/filtered/phantom.json").unlink()
    text = "\n".join(describe(study, plan(study)))
    assert "1 left (not measured: make the data first" in text
    assert "and what could not be measured" in text


@pytest.mark.parametrize("name", ["", "../x", "phantom; touch x", "Phantom"])
@pytest.mark.parametrize("command", ["download", "filter", "card", "split", "evaluate"])
def test_what_is_no_name_of_a_set_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    """With or without parameters of its own: an empty name stands for the folder of all sets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/raw/other").mkdir(parents=True)
    given = {
        "card": ("--here",),
        "split": ("0", "--parameters", "{}"),
        "evaluate": ("--model", "x"),
    }
    named = ("--dataset", name) if command == "evaluate" else (name,)
    refused = dmf(command, *named, *given.get(command, ("--parameters", "{}")))
    assert refused.returncode == 1
    assert f"{name!r} is no name" in refused.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "other", "raw"]


@pytest.mark.parametrize("seed", ["-1", "100", "99999999999"])
def test_seeds_beyond_the_range_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = dmf("split", "phantom", "--parameters", "{}", "--", seed)
    assert refused.returncode != 0
    assert f"{seed} is no seed: use 0 to 99" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_parameters_that_are_none_are_refused_with_their_keys() -> None:
    refused = dmf("split", "phantom", "0", "--parameters", '{"kind": "x", "trian": 1}')
    assert refused.returncode == 1
    assert "kind = 'x'" in refused.stderr
    assert "Did you mean 'train'?" in refused.stderr


def test_prune_lists_what_a_killed_writer_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(TINY))
    folder = Path("models/phantom/fixed/seed-00")
    folder.mkdir(parents=True)
    for name, age in ((".tmp-old.json", 7200), (".tmp-young.json", 0)):
        (folder / name).write_text("")
        os.utime(folder / name, (time.time() - age,) * 2)
    assert [line.split(": ")[1] for line in dmf("prune").stdout.splitlines()] == [
        str(folder / ".tmp-old.json")
    ]
    dmf("prune", "--delete")
    assert os.listdir(folder) == [".tmp-young.json"]


def test_what_nobody_foresaw_is_one_message_that_names_the_file(
    trained: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.setattr("dmf.verify.read_arrays", lambda path: [][1])
    done = dmf("verify")
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/filtered/phantom.json: IndexError: ")
    assert "dmf --traceback" in done.stderr
    assert "Traceback" not in done.stderr
    for asked in (("--traceback", "verify"), ("verify",)):
        with pytest.raises(IndexError):
            dmf(*asked)
        monkeypatch.setenv("DMF_TRACEBACK", "1")

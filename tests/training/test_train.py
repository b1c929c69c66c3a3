"""One run from its inputs to its folder, with real processes that are really killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

from dmf.data import arrays as arrays_module
from dmf.errors import DmfError
from dmf.files import read_json, sha256_file
from dmf.layout import Cell
from dmf.settings import Execution
from dmf.study import Study
from dmf.training import engine as engine_module
from dmf.training import run_record
from dmf.training import train as train_module
from dmf.training.run_record import Run, complete_record
from dmf.training.train import Trainer, train

from conftest import StudyMaker

RESULT = (
    "history.csv",
    "metrics.json",
    "model.safetensors",
    "best.safetensors",
    "test_counts.csv",
)


def the_run(study: Study, configuration: str = "fixed", seed: int = 0) -> Run:
    return Run(Cell("phantom", configuration, seed), study.run_parameters(configuration))


def train_quietly(study: Study, configuration: str = "fixed") -> tuple[str, list[str]]:
    lines: list[str] = []
    status = train(the_run(study, configuration), study.execution, lines.append)
    return status, lines


def fingerprint(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in RESULT}


def command(study: Study, configuration: str = "fixed") -> list[str]:
    return [
        sys.executable,
        "-m",
        "dmf.cli",
        "train",
        "phantom",
        configuration,
        "0",
        "--parameters",
        study.run_parameters(configuration).model_dump_json(),
        "--execution",
        study.execution.model_dump_json(),
    ]


def wait_for_epoch(process: subprocess.Popen[bytes], live: Path, epoch: int) -> None:
    """Return once ``epoch`` epochs are in the live history."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        history = live / "history.csv"
        if history.exists() and len(history.read_text().splitlines()) > epoch:
            return
        if process.poll() is not None:
            raise AssertionError(f"ended early: {process.returncode}")
        time.sleep(0.01)
    raise AssertionError(f"no epoch {epoch} within a minute")


def test_a_run_folder_is_complete(tiny_study: StudyMaker) -> None:
    study = tiny_study(study={"configurations": ["cb_dice-variance"]})
    run = the_run(study, "cb_dice-variance")
    assert train_quietly(study, "cb_dice-variance")[0] == "complete"
    names = {path.name for path in run.cell.folder.iterdir()}
    assert names == {*RESULT, "run.json", "timing.csv"}

    metrics, record = (
        read_json(run.cell.folder / "metrics.json"),
        read_json(run.cell.folder / "run.json"),
    )
    assert record["outcome"] == metrics
    assert record["key"] == run.key()
    assert abs(record["ended"] - (run.cell.folder / "run.json").stat().st_mtime) < 60
    assert (metrics["status"], metrics["epochs"], metrics["synthetic"]) == ("complete", 3, True)
    history = (run.cell.folder / "history.csv").read_text().splitlines()
    assert len(history) == 4
    rows = [dict(zip(history[0].split(","), line.split(","), strict=True)) for line in history[1:]]
    best = max(range(3), key=lambda index: float(rows[index]["validation_cb_dice"]))
    assert metrics["best"]["epoch"] == best + 1
    for name in ("dice", "iou", "f1", "precision", "recall", "cb_dice", "foreground_dice"):
        assert metrics["last"]["validation"][name] == float(rows[2][f"validation_{name}"])
        assert 0 <= metrics["last"]["test"][name] <= 1
    assert not run.cell.live_folder.exists()


def test_data_that_change_while_it_waits_are_not_filed_under_the_old_key(
    tiny_study: StudyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    run = the_run(study)
    read = arrays_module.read_subsets

    def read_another(path: Path, arrays: arrays_module.Arrays) -> dict[str, Any]:
        path.write_text(path.read_text().rstrip())
        return read(path, arrays)

    monkeypatch.setattr(arrays_module, "read_subsets", read_another)
    with pytest.raises(DmfError, match=r"seed-00.csv was made again meanwhile. Repeat"):
        train_quietly(study)
    assert not run.cell.record.exists()
    assert train_quietly(study)[0] == "complete"


def test_settled_is_the_median_over_the_last_fifth(tiny_study: StudyMaker) -> None:
    """Of 11 epochs the last three, whose test scores alone are in the history."""
    study = tiny_study(training={"epochs": 11})
    run = the_run(study)
    train_quietly(study)
    history = pd.read_csv(run.cell.folder / "history.csv")
    assert history["test_dice"].notna().tolist() == [False] * 8 + [True] * 3
    settled = read_json(run.cell.folder / "metrics.json")["settled"]
    assert settled["epochs"] == 3
    assert set(settled) == {"epochs", "validation", "test"}
    for subset in ("validation", "test"):
        for name in ("dice", "iou", "foreground_dice"):
            expected = history[f"{subset}_{name}"].tail(3).median()
            assert settled[subset][name] == pytest.approx(expected, abs=1e-15)
    last = read_json(run.cell.folder / "metrics.json")["last"]["test"]
    assert history["test_dice"].iloc[-1] == last["dice"]


def test_the_counts_of_every_test_image_give_its_scores(tiny_study: StudyMaker) -> None:
    study = tiny_study(training={"epochs": 6, "learning_rate": 0.01})
    run = the_run(study)
    train_quietly(study)
    counts = pd.read_csv(run.cell.folder / "test_counts.csv")
    split = pd.read_csv(run.cell.split)
    test = set(split.loc[split["subset"] == "test", "id"])
    metrics = read_json(run.cell.folder / "metrics.json")
    assert set(counts["evaluation"]) == {"last", "best", "recalibrated"}
    for name, rows in counts.groupby("evaluation"):
        assert set(rows["id"]) == test
        table = rows[["true_positive", "false_positive", "false_negative"]].to_numpy()
        pooled = table.reshape(len(test), 2, 3).sum(0)
        dice = 2 * pooled[:, 0] / (2 * pooled[:, 0] + pooled[:, 1] + pooled[:, 2])
        assert metrics[name]["test"]["dice"] == pytest.approx(dice.mean())
    assert metrics["recalibrated"]["test"] != metrics["last"]["test"]


def test_a_run_does_not_go_on_in_another_precision(
    tiny_study: StudyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(training={"precision": "auto"})
    interrupt = lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    for precision, message in (("bf16", None), ("fp32", "trained up to epoch 3 on cpu in bf16")):
        monkeypatch.setattr(engine_module, "resolve_precision", lambda *_, p=precision: p)
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "write", interrupt)
            with pytest.raises(DmfError if message else KeyboardInterrupt, match=message):
                train_quietly(study)


def test_a_run_that_goes_on_elsewhere_names_both_devices(
    tiny_study: StudyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    run = the_run(study)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "write", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_quietly(study)
    monkeypatch.setattr(train_module, "processor", lambda: "another processor")
    train_quietly(study)
    devices = read_json(run.cell.folder / "run.json")["devices"]
    assert [device["from_epoch"] for device in devices] == [1, 4]
    assert devices[1]["name"] == "another processor" != devices[0]["name"]


def test_the_same_seed_gives_identical_files(tiny_study: StudyMaker) -> None:
    study = tiny_study()
    folder = the_run(study).cell.folder
    train_quietly(study)
    first = fingerprint(folder)
    shutil.rmtree(folder)
    train_quietly(study)
    assert fingerprint(folder) == first


def test_configurations_of_a_seed_are_paired_by_hashes(tiny_study: StudyMaker) -> None:
    study = tiny_study()
    hashes = []
    for name in ("fixed", "focal-mad"):
        train_quietly(study, name)
        hashes.append(read_json(the_run(study, name).cell.folder / "run.json")["hashes"])
    assert hashes[0] == hashes[1]


def test_a_complete_run_is_adopted(tiny_study: StudyMaker) -> None:
    """Snakemake removes the declared metrics.json before a job: the other files are enough."""
    study = tiny_study()
    folder = the_run(study).cell.folder
    train_quietly(study)
    before = fingerprint(folder)
    (folder / "metrics.json").unlink()
    status, lines = train_quietly(study)
    assert status == "adopted"
    assert "adopted" in lines[-1]
    assert fingerprint(folder) == before


@pytest.mark.parametrize("name", ["model.safetensors", "history.csv", "run.json"])
@pytest.mark.slow
def test_a_damaged_run_is_not_adopted(tiny_study: StudyMaker, name: str) -> None:
    study = tiny_study()
    folder = the_run(study).cell.folder
    train_quietly(study)
    before = fingerprint(folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-20])
    assert complete_record(folder) is None
    assert train_quietly(study)[0] == "complete"
    assert fingerprint(folder) == before


def test_the_key_follows_parameters_data_split_code_and_seed(
    tiny_study: StudyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(study={"seeds": 2})
    run = the_run(study)
    keys = {run.key(), the_run(study, "none-mad").key(), the_run(study, seed=1).key()}
    longer = study.model_copy(update={"training": study.training.model_copy(update={"epochs": 4})})
    keys.add(the_run(longer).key())

    arrays = read_json(run.cell.arrays)
    run.cell.arrays.write_text(json.dumps({**arrays, "sha256": "0" * 64}))
    keys.add(run.key())
    run.cell.arrays.write_text(json.dumps(arrays))
    lines = run.cell.split.read_text().splitlines()
    run.cell.split.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    keys.add(run.key())
    monkeypatch.setattr(run_record, "code_hash", lambda step: "another loss")
    keys.add(run.key())
    assert len(keys) == 7
    assert run.key() == the_run(study).key()


def test_where_a_run_runs_is_no_part_of_its_key(tiny_study: StudyMaker) -> None:
    study = tiny_study()
    assert "device" not in study.run_parameters("fixed").model_dump_json()
    train(the_run(study), study.execution, lambda line: None)
    elsewhere = Execution(device="cpu", slots=7, checkpoint_seconds=99)
    assert train(the_run(study), elsewhere, lambda line: None) == "adopted"


def test_missing_inputs_are_named(tiny_study: StudyMaker) -> None:
    study = tiny_study()
    run = the_run(study)
    Path("data/filtered/phantom.npz").unlink()
    with pytest.raises(DmfError, match=r"phantom\.npz.*missing"):
        train_quietly(study)
    run.cell.split.unlink()
    with pytest.raises(DmfError, match=r"seed-00\.csv does not exist.*split_phantom"):
        train_quietly(study)
    run.cell.arrays.unlink()
    run.cell.split.write_text("id,subset\n")
    with pytest.raises(DmfError, match=r"phantom\.json does not exist"):
        train_quietly(study)
    assert not run.cell.folder.exists()


def test_a_split_of_other_images_is_refused(tiny_study: StudyMaker) -> None:
    study = tiny_study()
    path = the_run(study).cell.split
    path.write_text(path.read_text() + "stranger,train\n")
    with pytest.raises(DmfError, match=r"'stranger'.*not part of"):
        train_quietly(study)


def test_a_split_that_leaks_or_leaves_out_is_refused(tiny_study: StudyMaker) -> None:
    study = tiny_study()
    path = the_run(study).cell.split
    whole = path.read_text()
    last = whole.splitlines()[-1].split(",")[0]
    path.write_text(f"{whole}{last},train\n{last},test\n")
    with pytest.raises(DmfError, match=rf"'{last}'.*named twice"):
        train_quietly(study)
    path.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    with pytest.raises(DmfError, match=rf"leaves out 1 images .*'{last}'"):
        train_quietly(study)


def test_a_diverged_run_says_where_and_is_no_failure(tiny_study: StudyMaker) -> None:
    study = tiny_study(training={"learning_rate": 1e30})
    folder = the_run(study).cell.folder
    status, lines = train_quietly(study)
    assert status == "diverged"
    assert "diverged in epoch 1, batch 2: cross_entropy is not finite" in lines[-1]
    metrics = read_json(folder / "metrics.json")
    assert metrics["status"] == "diverged"
    assert metrics["diverged"] == {"epoch": 1, "batch": 2, "loss": "cross_entropy"}
    assert metrics["last"] is None
    assert not (folder / "model.safetensors").exists()
    assert train_quietly(study)[0] == "adopted"


def test_running_out_of_memory_says_what_to_lower(
    tiny_study: StudyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmf.training.engine import Engine

    def exhausted(self: Engine, *arguments: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")

    study = tiny_study()
    monkeypatch.setattr(Engine, "run_epoch", exhausted)
    with pytest.raises(DmfError, match=r"out of memory\. Lower training\.batch_size \(now 6\)"):
        train_quietly(study)


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_with_the_same_bits(tiny_study: StudyMaker) -> None:
    study = tiny_study(training={"epochs": 30}, study={"configurations": ["cb_dice-bayesian"]})
    run = the_run(study, "cb_dice-bayesian")
    train_quietly(study, "cb_dice-bayesian")
    expected = fingerprint(run.cell.folder)
    shutil.rmtree(run.cell.folder)

    for epoch in (2, 11):
        process = subprocess.Popen(command(study, "cb_dice-bayesian"), stdout=subprocess.DEVNULL)
        wait_for_epoch(process, run.cell.live_folder, epoch)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not run.cell.folder.exists()
    done = subprocess.run(
        command(study, "cb_dice-bayesian"), capture_output=True, text=True, check=True
    )
    assert "continuing after epoch" in done.stdout
    assert fingerprint(run.cell.folder) == expected
    assert not run.cell.live_folder.exists()


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_and_the_run_continues(tiny_study: StudyMaker) -> None:
    study = tiny_study(training={"epochs": 60}, execution={"checkpoint_seconds": 1000})
    run = the_run(study)
    train_quietly(study)
    expected = fingerprint(run.cell.folder)
    shutil.rmtree(run.cell.folder)

    process = subprocess.Popen(command(study), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for_epoch(process, run.cell.live_folder, 1)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert b"stopped by SIGTERM; the same command continues" in errors
    status, lines = train_quietly(study)
    assert status == "complete"
    assert any("continuing after epoch" in line for line in lines)
    assert fingerprint(run.cell.folder) == expected


def test_an_epoch_that_was_interrupted_counts_all_its_seconds(
    tiny_study: StudyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    run_epoch = engine_module.Engine.run_epoch

    def stopped(self: engine_module.Engine, epoch: int, stop: Callable[[], bool]) -> Any:
        if epoch < 2:
            return run_epoch(self, epoch, stop)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        return None

    monkeypatch.setattr(engine_module.Engine, "run_epoch", stopped)
    with pytest.raises(train_module.Interrupted):
        train_quietly(study)
    monkeypatch.setattr(engine_module.Engine, "run_epoch", run_epoch)
    train_quietly(study)
    assert pd.read_csv(the_run(study).cell.folder / "timing.csv")["seconds"][1] > 0.5


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_serves(
    tiny_study: StudyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(training={"epochs": 6})
    run = the_run(study)
    train_quietly(study)
    expected = fingerprint(run.cell.folder)
    shutil.rmtree(run.cell.folder)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "write", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_quietly(study)
    newest = sorted(run.cell.live_folder.glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    status, lines = train_quietly(study)
    assert status == "complete"
    assert any(f"{newest.with_suffix('.json')} is damaged" in line for line in lines)
    assert any("continuing after epoch 5" in line for line in lines)
    assert fingerprint(run.cell.folder) == expected


def test_a_checkpoint_of_other_parameters_is_not_continued(
    tiny_study: StudyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "write", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_quietly(study)
    other = study.model_copy(
        update={"training": study.training.model_copy(update={"learning_rate": 0.002})}
    )
    _, lines = train_quietly(other)
    assert not any("continuing" in line for line in lines)


@pytest.mark.slow
def test_a_second_job_on_the_same_run_waits_and_adopts(tiny_study: StudyMaker) -> None:
    study = tiny_study(training={"epochs": 40})
    run = the_run(study)
    first = subprocess.Popen(command(study), stdout=subprocess.PIPE)
    wait_for_epoch(first, run.cell.live_folder, 1)
    status, lines = train_quietly(study)
    assert "another process trains this run; waiting for it" in lines[0]
    assert status == "adopted"
    assert first.wait() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing(tiny_study: StudyMaker, tmp_path: Path) -> None:
    study = tiny_study(training={"epochs": 4})
    run = the_run(study)
    train_quietly(study)
    expected = fingerprint(run.cell.folder)
    shutil.rmtree("models")
    Path("models").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path / "models")],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(DmfError, match=r"could not be written \(No space left on device\)"):
            train_quietly(study)
        assert complete_record(run.cell.folder) is None
        assert not list(run.cell.folder.glob(".tmp-*"))
    finally:
        subprocess.run(["umount", str(tmp_path / "models")], check=True)
    status, lines = train_quietly(study)
    assert status == "complete"
    assert any("continuing after epoch 4" in line for line in lines)
    assert fingerprint(run.cell.folder) == expected


def test_models_hold_no_pickle(tiny_study: StudyMaker) -> None:
    study = tiny_study()
    train_quietly(study)
    folder = the_run(study).cell.folder
    for name in ("model.safetensors", "best.safetensors"):
        assert load_file(folder / name)["head.weight"].shape == (2, 8, 1, 1)

"""Run folders into MLflow: each once, whatever happens in between, in no training's way."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dmf.analysis import results
from dmf.errors import DmfError
from dmf.files import write_json
from dmf.layout import Cell
from dmf.study import Study
from dmf.tracking import Summary, stores, track
from dmf.tracking.runs import Finished

from synthetic import make_study, write_study
from tracked import (
    Stored,
    check_all_there_once,
    deliver,
    environment,
    finished_in,
    small_study,
    stored_in,
)

DATABASE = Path("mlflow/mlflow.db")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised database to copy: MLflow takes seconds to make one."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    stores.connect(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """A study's working directory (with a space in its name) and an initialised database."""
    root = tmp_path / "my study"
    (root / "mlflow").mkdir(parents=True)
    shutil.copy(empty_database, root / DATABASE)
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


def change_score(folder: Path, value: float, key: str | None = None) -> None:
    """Give a finished run another test Dice and, as a rerun would, another key."""
    outcome = json.loads((folder / "metrics.json").read_text())
    outcome["last"]["test"]["dice"] = value
    write_json(folder / "metrics.json", outcome)
    if key is not None:
        record = json.loads((folder / "run.json").read_text())
        write_json(folder / "run.json", {**record, "key": key})


def test_every_run_of_a_study_arrives_once_with_all_its_numbers(workdir: Path) -> None:
    study = make_study(
        {"phantom": "phantom", "busi": "busi"},
        configurations=["cb_dice-variance", "fixed"],
        seeds=3,
        epochs=12,
    )
    diverged = ("phantom", "fixed", 1)
    write_study(workdir, study, diverged=[diverged], missing=[("busi", "fixed", 2)])
    summary = deliver(study)
    assert (summary.delivered, summary.already_there, summary.failed) == (11, 0, 0)
    assert "1 of the study's 12 not finished" in summary.message

    runs = stored_in(DATABASE)
    check_all_there_once(workdir, study, runs)
    by_place = {run.place: run for run in runs}
    run = by_place["phantom", "cb_dice-variance", 2]
    record = json.loads((Cell(*run.place).folder / "run.json").read_text())  # type: ignore[arg-type]
    wanted = {
        "study": "synthetic",
        "auxiliary": "cb_dice",
        "weighting": "variance",
        "commit": record["commit"],
        "arrays_sha256": record["hashes"]["arrays"],
        "split_sha256": record["hashes"]["split"],
        "synthetic": "true",
        "status": "complete",
    }
    assert wanted.items() <= run.tags.items()
    assert by_place["busi", "fixed", 0].tags["synthetic"] == "false"
    assert run.parameters["training.epochs"] == "12"
    assert run.parameters["model.filters"] == "[4, 8]"
    assert by_place[diverged].tags["diverged_at"] == "epoch 5, batch 3, loss iou"
    assert by_place["phantom", "fixed", None].metrics["diverged"] == {0: 1}
    pictures = list(Path("mlflow/artifacts").rglob("training_curve.svg"))
    assert {path.parts[-3] for path in pictures} == {
        r.run_id for r in runs if r.place[2] is not None
    }

    # The table in the report and MLflow's means are the same numbers.
    table = results.collect(study.report_parameters().grid, partial=True)
    means = results.summary(table)
    for (dataset, configuration, seed), found in by_place.items():
        if seed is None:
            for metric, value in means[dataset][configuration].items():
                assert found.metrics[f"test_{metric}_mean"][0] == pytest.approx(value, abs=1e-12)


def asked(query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(DATABASE)) as database:
        return database.execute(query).fetchall()


def test_runs_name_their_data_set_and_took_as_long_as_the_training(workdir: Path) -> None:
    study = small_study()
    write_study(workdir, study)
    deliver(study)
    sha256 = json.loads(Path("data/filtered/phantom.json").read_text())["sha256"]
    ((name, digest, kind, source, profile),) = asked(
        "SELECT name, digest, dataset_source_type, dataset_source, dataset_profile FROM datasets"
    )
    assert (name, digest, kind) == ("phantom", sha256[:16], "local")
    assert json.loads(source) == {"uri": "data/raw/phantom"}
    assert json.loads(profile)["images"] == 40
    inputs = {run for (run,) in asked("SELECT destination_id FROM inputs")}
    runs = stored_in(DATABASE)
    assert inputs == {run.run_id for run in runs}
    spans = {
        run: (start, end)
        for run, start, end in asked("SELECT run_uuid, start_time, end_time FROM runs")
    }
    by_place = {run.place: run for run in runs}
    for run in runs:
        if run.place[2] is None:
            seeds = [spans[by_place[(*run.place[:2], seed)].run_id] for seed in (0, 1)]
            assert spans[run.run_id] == (min(s for s, _ in seeds), max(e for _, e in seeds))
            assert run.metrics["training_seconds_mean"] == {0: 6.0}
        else:
            start, end = spans[run.run_id]
            written = Cell(*run.place).record.stat().st_mtime  # type: ignore[arg-type]
            assert abs(end - 1000 * written) < 1
            assert abs(end - start - 6000) <= 1  # four epochs of 1.5 seconds each
    # A copy's date is that of copying: the record says when the training ended.
    cell = Cell("phantom", "fixed", 0)
    record = json.loads(cell.record.read_text())
    write_json(cell.record, {**record, "ended": 1e9})
    assert Finished.read(cell).span() == (round(1e12) - 6000, round(1e12))
    parent = by_place["phantom", "fixed", None]
    mean, std = (100 * parent.metrics[f"test_dice_{what}"][0] for what in ("mean", "std"))
    assert parent.tags["dice"] == f"{mean:.2f} ± {std:.2f}"
    assert f"| dice | {mean:.2f} ± {std:.2f} |" in parent.tags["mlflow.note.content"]


def test_an_experiment_links_to_views_and_to_the_newest_report(workdir: Path) -> None:
    study = small_study()
    write_study(workdir, study)

    def tags() -> dict[str, str]:
        return dict(asked("SELECT key, value FROM experiment_tags WHERE experiment_id != 0"))

    deliver(study)
    assert "report" not in tags()["mlflow.note.content"]
    page = Path("reports/index.html")
    copy = Path("mlflow/artifacts/synthetic/phantom/report.html")
    page.parent.mkdir(exist_ok=True)
    for text in ("first", "second"):
        page.write_text(text)
        assert deliver(study).delivered == 0
        assert copy.read_text() == text
    note = tags()["mlflow.note.content"]
    assert "[report](/api/2.0/mlflow-artifacts/artifacts/synthetic/phantom/report.html)" in note
    linked = set(re.findall(r"viewStateShareKey=(\w+)", note))
    assert linked == {"means", "seeds"}
    metrics = {name for run in stored_in(DATABASE) for name in run.metrics}
    named = {name for run in stored_in(DATABASE) for name in run.tags}
    for name in linked:
        view = json.loads(tags()[f"mlflow.sharedViewState.{name}"])
        for column in view["selectedColumns"]:
            kind, key = re.fullmatch(r"(\w+)\.`(.*)`", column).groups()  # type: ignore[union-attr]
            assert (
                key
                in {"metrics": metrics, "tags": named, "attributes": {"Dataset", "Duration"}}[kind]
            )
        assert any(re.search(view["chartsSearchFilter"], metric) for metric in metrics)


def test_a_second_delivery_adds_nothing_and_does_not_import_mlflow(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study()
    write_study(workdir, study)
    deliver(study)
    before = stored_in(DATABASE)
    Path("mlflow/tracked.json").unlink()  # as after `make adopt`
    assert deliver(study).already_there == 4
    assert stored_in(DATABASE) == before
    monkeypatch.setitem(sys.modules, "mlflow", None)
    summary = deliver(study)
    assert (summary.delivered, summary.already_there, summary.failed) == (0, 4, 0)


def test_a_moved_study_is_not_delivered_again(workdir: Path, tmp_path: Path) -> None:
    study = small_study()
    write_study(workdir, study)
    deliver(study)
    workdir.rename(tmp_path / "elsewhere")
    os.chdir(tmp_path / "elsewhere")
    summary = deliver(study)
    assert (summary.delivered, summary.already_there) == (0, 4)


@pytest.mark.parametrize("key", ["another", None], ids=["new key", "same key, new numbers"])
def test_a_rerun_and_a_new_seed_replace_what_they_change(workdir: Path, key: str | None) -> None:
    study = small_study()
    write_study(workdir, study)
    deliver(study)
    before = {run.place: run.run_id for run in stored_in(DATABASE)}
    change_score(Cell("phantom", "fixed", 1).folder, 0.125, key)
    more = small_study(seeds=3)
    write_study(workdir / "more", more)
    shutil.copytree(
        workdir / "more" / Cell("phantom", "fixed", 2).folder, Cell("phantom", "fixed", 2).folder
    )
    summary = deliver(more)
    assert (summary.delivered, summary.already_there) == (2, 3)
    runs = stored_in(DATABASE)
    check_all_there_once(workdir, more, runs)
    after = {run.place: run.run_id for run in runs}
    replaced = {place for place in before if before[place] != after[place]}
    assert replaced == {("phantom", "fixed", 1), ("phantom", "fixed", None)}


@pytest.mark.parametrize("method", ["create_run", "log_batch", "set_terminated", "delete_run"])
@pytest.mark.parametrize("answer_lost", [False, True])
def test_a_delivery_that_breaks_at_any_call_is_completed_once(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, method: str, answer_lost: bool
) -> None:
    from mlflow import MlflowClient

    study = small_study(configurations=["fixed"], epochs=2)
    write_study(workdir, study)
    deliver(study)
    original: Callable[..., Any] = getattr(MlflowClient, method)
    for failing in (1, 2):  # a rerun is two calls of each: for the run and its configuration
        change_score(Cell("phantom", "fixed", 0).folder, failing / 10, f"key {failing}")
        calls = 0

        def broken(
            self: MlflowClient, *arguments: Any, _failing: int = failing, **named: Any
        ) -> Any:
            nonlocal calls
            calls += 1
            if calls != _failing:
                return original(self, *arguments, **named)
            if answer_lost:
                original(self, *arguments, **named)
            raise ConnectionError("the server is gone")

        monkeypatch.setattr(MlflowClient, method, broken)
        summary = deliver(study)
        monkeypatch.setattr(MlflowClient, method, original)
        assert summary.failed
        assert "the server is gone" in summary.message
        assert deliver(study).failed == 0
        check_all_there_once(workdir, study, stored_in(DATABASE))


def script(study: Study) -> list[str]:
    """Return a command that delivers ``study``, as `dmf track` does, in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from dmf.study import ReportParameters as R;"
        "from dmf.tracking import track;"
        "s = track(R.model_validate_json(sys.argv[1], strict=False)); print(s); sys.exit(s.failed)"
    )
    return [sys.executable, "-c", code, study.report_parameters().model_dump_json()]


def test_a_killed_delivery_is_completed_by_the_next(workdir: Path) -> None:
    study = small_study(seeds=5, epochs=40)
    write_study(workdir, study)
    process = subprocess.Popen(script(study), env=environment(), stdout=subprocess.DEVNULL)
    while finished_in(DATABASE) < 2:
        assert process.poll() is None, "delivered everything before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert finished_in(DATABASE) < 10
    summary = deliver(study)
    assert summary.failed == 0
    assert summary.already_there >= 2
    check_all_there_once(workdir, study, stored_in(DATABASE))


def test_a_deleted_database_is_made_and_filled_again_once_by_two_at_a_time(workdir: Path) -> None:
    study = small_study()
    write_study(workdir, study)
    deliver(study)
    DATABASE.unlink()
    processes = [
        subprocess.Popen(script(study), env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    check_all_there_once(workdir, study, stored_in(DATABASE))


def test_damaged_runs_are_named_and_hold_nothing_up(workdir: Path) -> None:
    study = small_study()
    write_study(workdir, study)
    torn, mad = Cell("phantom", "fixed", 0).folder, Cell("phantom", "cb_dice-variance", 1).folder
    (torn / "metrics.json").write_text('{"status": "comp')
    (mad / "history.csv").write_text("epoch,loss_dice\n1,much\n")
    summary = deliver(study)
    assert (summary.delivered, summary.already_there, summary.failed) == (2, 0, 2)
    assert f"{torn}/metrics.json" in summary.message
    assert f"{mad}/history.csv" in summary.message
    with pytest.raises(DmfError, match=r"history\.csv"):
        deliver(study, strict=True)


def test_values_that_are_not_finite_are_left_out(workdir: Path) -> None:
    study = small_study(configurations=["fixed"], seeds=1)
    write_study(workdir, study)
    path = Cell("phantom", "fixed", 0).folder / "history.csv"
    history = pd.read_csv(path)
    history.loc[1, "loss_dice"] = float("nan")
    history.loc[2, "loss_dice"] = float("inf")
    history.to_csv(path, index=False, na_rep="nan")
    deliver(study)
    (run,) = [run for run in stored_in(DATABASE) if run.place[2] == 0]
    assert set(run.metrics["loss/dice"]) == {1, 4}
    assert set(run.metrics["loss/iou"]) == {1, 2, 3, 4}


def test_a_stale_mlruns_folder_diverts_nothing(workdir: Path) -> None:
    study = small_study()
    write_study(workdir, study)
    stale = workdir / "mlruns/0"
    stale.mkdir(parents=True)
    (stale / "meta.yaml").write_text("experiment_id: '0'\nname: Default\n")
    deliver(study)
    check_all_there_once(workdir, study, stored_in(DATABASE))
    assert [path.name for path in workdir.rglob("mlruns/**/*")] == ["0", "meta.yaml"]
    folders = {path.name for path in workdir.iterdir()}
    assert folders == {"data", "models", "mlflow", "mlruns"}


class Trainings:
    """Runs that go on: each call lays the live copy of some epochs, or the finished folder."""

    def __init__(self, root: Path, study: Study) -> None:
        self.done = root.parent / "done"
        write_study(self.done, study)

    def show(self, configuration: str, seed: int, epochs: int, key: str | None = None) -> None:
        place = Cell("phantom", configuration, seed).folder
        live = Path(".checkpoints") / place.relative_to("models")
        live.mkdir(parents=True, exist_ok=True)
        record = json.loads((self.done / place / "run.json").read_text())
        write_json(live / "run.json", record if key is None else {**record, "key": key})
        rows = (self.done / place / "history.csv").read_text().splitlines(keepends=True)
        (live / "history.csv").write_text("".join(rows[: 1 + epochs]))

    def finish(self, configuration: str, seed: int) -> None:
        place = Cell("phantom", configuration, seed).folder
        shutil.copytree(self.done / place, place)
        shutil.rmtree(Path(".checkpoints") / place.relative_to("models"), ignore_errors=True)


def follow(study: Study, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], None]) -> Summary:
    """Follow a study in which one step happens during each wait."""
    left = iter(steps)

    def wait(seconds: float) -> None:
        next(left)()

    monkeypatch.setattr("dmf.tracking.delivery.time.sleep", wait)
    summary = deliver(study, follow=True)
    assert next(left, None) is None, "stopped following before all was finished"
    return summary


def live_run(configuration: str, seed: int) -> Stored:
    (run,) = [r for r in stored_in(DATABASE) if r.place == ("phantom", configuration, seed)]
    return run


def test_a_followed_run_grows_and_becomes_the_final_one(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(configurations=["fixed", "cb_dice-mad"], epochs=9)
    trainings = Trainings(workdir, study)
    seen: list[Stored] = []

    def look() -> None:
        seen.append(live_run("fixed", 0))

    def look_and(action: Callable[..., None], *arguments: Any) -> Callable[[], None]:
        def step() -> None:
            look()
            action(*arguments)

        return step

    def finish_others() -> None:
        trainings.finish("cb_dice-mad", 1)
        trainings.finish("fixed", 1)

    summary = follow(
        study,
        monkeypatch,
        lambda: trainings.show("fixed", 0, 2),
        look_and(trainings.show, "fixed", 0, 5),
        look_and(trainings.show, "fixed", 0, 3),  # resumed from a checkpoint
        look_and(trainings.show, "fixed", 0, 7),
        look_and(trainings.finish, "fixed", 0),
        lambda: trainings.finish("cb_dice-mad", 0),
        look_and(finish_others),
    )
    assert [len(run.metrics["loss/dice"]) for run in seen] == [2, 5, 5, 7, 9]
    assert [run.status for run in seen] == ["RUNNING"] * 4 + ["FINISHED"]
    assert seen[0].tags["status"] == "running"
    assert len({run.run_id for run in seen}) == 1
    assert summary.delivered == 4
    runs = stored_in(DATABASE)
    check_all_there_once(workdir, study, runs)
    assert seen[0].run_id in {run.run_id for run in runs}
    assert deliver(study).delivered == 0


def test_following_survives_interruption_restart_and_a_second_delivery(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(configurations=["fixed"], seeds=3, epochs=9)
    trainings = Trainings(workdir, study)

    def interrupt() -> None:
        raise KeyboardInterrupt

    def finish_and_deliver() -> None:
        trainings.finish("fixed", 0)
        assert deliver(study).delivered == 1  # the workflow's own last step

    trainings.show("fixed", 0, 4)
    follow(study, monkeypatch, lambda: trainings.show("fixed", 1, 3), interrupt)
    assert len(stored_in(DATABASE)) == 3  # two trainings and their configuration
    follow(
        study,
        monkeypatch,
        lambda: trainings.show("fixed", 1, 5, key="begun anew"),
        finish_and_deliver,
        lambda: trainings.finish("fixed", 1),
        lambda: trainings.finish("fixed", 2),
    )
    check_all_there_once(workdir, study, stored_in(DATABASE))


def test_following_outlives_a_store_that_comes_and_goes(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study(configurations=["fixed"], epochs=9)
    trainings = Trainings(workdir, study)
    connect = stores.connect

    def gone(address: str) -> Any:
        raise DmfError("nothing answers there")

    def lose() -> None:
        from mlflow import MlflowClient

        def refuse(*arguments: Any) -> None:
            raise ConnectionError("refused")

        trainings.show("fixed", 0, 6)
        monkeypatch.setattr(MlflowClient, "log_batch", refuse)
        monkeypatch.setattr("dmf.tracking.delivery.connect", gone)

    def come_back() -> None:
        monkeypatch.undo()
        monkeypatch.setattr("dmf.tracking.delivery.time.sleep", wait)
        monkeypatch.setattr("dmf.tracking.delivery.connect", connect)
        trainings.show("fixed", 0, 8)

    steps: list[Callable[[], None]] = [
        lambda: trainings.show("fixed", 0, 3),
        lose,
        lambda: trainings.show("fixed", 1, 2),
        come_back,
        lambda: trainings.finish("fixed", 0),
        lambda: trainings.finish("fixed", 1),
    ]

    def wait(seconds: float) -> None:
        os.chdir(workdir)  # which undoing the patches leaves
        steps.pop(0)()
        os.chdir(workdir)

    monkeypatch.setattr("dmf.tracking.delivery.time.sleep", wait)
    said: list[str] = []
    track(study.report_parameters(), follow=True, log=said.append)
    assert any("They could not be delivered: refused" in message for message in said)
    assert any("nothing answers there" in message for message in said)
    check_all_there_once(workdir, study, stored_in(workdir / DATABASE))

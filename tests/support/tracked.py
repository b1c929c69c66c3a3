"""What MLflow's database holds of a study, read with plain SQL, against the run folders."""

import json
import os
import sqlite3
import statistics
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

import dmf
from dmf.layout import Cell
from dmf.study import Study
from dmf.tracking import Summary, track

from synthetic import METRICS, make_study

SECTIONS = ("loss_", "batch_loss_", "weighted_", "weight_", "validation_", "test_")
Values = dict[str, dict[int, float]]  # metric → step → value


class Connection(Protocol):
    """What SQLite and PostgreSQL connections have in common."""

    def cursor(self) -> Any: ...


@dataclass
class Stored:
    """One active MLflow run, as the rows of the database tell it."""

    run_id: str
    status: str
    tags: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: Values = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str, int | None]:
        seed = self.tags.get("seed")
        return self.tags["dataset"], self.tags["configuration"], None if seed is None else int(seed)


def small_study(**changes: Any) -> Study:
    """Return a study of four short runs, or as ``changes`` say."""
    return make_study(
        **{"configurations": ["cb_dice-variance", "fixed"], "seeds": 2, "epochs": 4, **changes}
    )


def deliver(study: Study, **options: Any) -> Summary:
    """Bring ``study`` into MLflow, quietly."""
    return track(study.report_parameters(), log=lambda _: None, **options)


def environment() -> dict[str, str]:
    """Return the environment of a process that imports this package."""
    return {**os.environ, "PYTHONPATH": str(Path(dmf.__file__).parents[1])}


def stored(connection: Connection) -> list[Stored]:
    """Return all active runs; a metric that is there twice for one step is an error."""
    cursor = connection.cursor()

    def rows(query: str) -> list[tuple[Any, ...]]:
        cursor.execute(query)
        return list(cursor.fetchall())

    runs = {
        run_id: Stored(run_id, status)
        for run_id, status in rows(
            "SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"
        )
    }
    for run_id, key, value in rows("SELECT run_uuid, key, value FROM tags"):
        if run_id in runs:
            runs[run_id].tags[key] = value
    for run_id, key, value in rows("SELECT run_uuid, key, value FROM params"):
        if run_id in runs:
            runs[run_id].parameters[key] = value
    for run_id, key, step, value in rows("SELECT run_uuid, key, step, value FROM metrics"):
        if run_id in runs:
            steps = runs[run_id].metrics.setdefault(key, {})
            assert step not in steps, f"{key} has two values at step {step} of {run_id}"
            steps[step] = value
    return list(runs.values())


def stored_in(database: Path) -> list[Stored]:
    """Return all active runs of an SQLite file."""
    with closing(sqlite3.connect(database)) as connection:
        return stored(connection)


def finished_in(database: Path) -> int:
    """Return how many seeds' runs are through; 0 while there is no database."""
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        try:
            query = (
                "SELECT count(*) FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = "
            )
            query += "'seed' WHERE r.status != 'RUNNING' AND r.lifecycle_stage = 'active'"
            return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # the tables are being made


def expected_metrics(folder: Path) -> Values:
    """Return what the folder of one run should give, by a reading of its own."""
    history = pd.read_csv(folder / "history.csv")
    values: Values = {}
    for column in history.columns.drop("epoch"):
        section = next((s for s in SECTIONS if column.startswith(s)), "")
        name = f"{section[:-1]}/" * bool(section) + column.removeprefix(section)
        name = {"total": "loss/total", "gamma": "weight/gamma"}.get(name, name)
        present = history[["epoch", column]].dropna()
        values[name] = dict(zip(present["epoch"].tolist(), present[column].tolist(), strict=True))
    outcome = json.loads((folder / "metrics.json").read_text())
    if outcome["status"] == "complete":
        for metric in METRICS:
            values[f"test_{metric}"] = {0: outcome["last"]["test"][metric]}
            values[f"train/{metric}"] = {0: outcome["last"]["train"][metric]}
            for name in ("best", "settled", "recalibrated"):
                for subset in {"train", "validation", "test"} & set(outcome[name]):
                    values[f"{subset}_{name}/{metric}"] = {0: outcome[name][subset][metric]}
        values["best_epoch"] = {0: outcome["best"]["epoch"]}
        seconds = pd.read_csv(folder / "timing.csv")["seconds"].sum()
        values["training_seconds"] = {0: seconds}
    return values


def check_all_there_once(root: Path, study: Study, runs: list[Stored]) -> None:
    """Assert that ``runs`` hold every finished run below ``root``, its means, and nothing else."""
    parents = {run.place[:2]: run for run in runs if run.place[2] is None}
    seeds = {run.place: run for run in runs if run.place[2] is not None}
    assert len(parents) + len(seeds) == len(runs), "a run or configuration is there twice"
    places = [
        (dataset, configuration, seed)
        for dataset in study.grid.datasets
        for configuration in study.grid.configurations
        for seed in study.seeds
        if (root / Cell(dataset, configuration, seed).folder / "metrics.json").exists()
    ]
    assert set(seeds) == set(places)
    assert set(parents) == {place[:2] for place in places}
    for place in places:
        folder, run = root / Cell(*place).folder, seeds[place]
        assert run.metrics == expected_metrics(folder)
        assert run.tags["run_key"] == json.loads((folder / "run.json").read_text())["key"]
        assert run.tags["mlflow.parentRunId"] == parents[place[:2]].run_id
        diverged = json.loads((folder / "metrics.json").read_text())["status"] == "diverged"
        assert run.status == ("FAILED" if diverged else "FINISHED")
    for group, parent in parents.items():
        values = [
            run.metrics["test_dice"][0]
            for place, run in seeds.items()
            if place[:2] == group and "test_dice" in run.metrics
        ]
        assert parent.status == "FINISHED"
        assert parent.metrics["seeds"] == {0: len(values)}
        if values:
            assert abs(parent.metrics["test_dice_mean"][0] - statistics.fmean(values)) < 1e-12
        if len(values) > 1:
            assert abs(parent.metrics["test_dice_std"][0] - statistics.stdev(values)) < 1e-12

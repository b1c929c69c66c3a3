"""Where the numbers of the page come from: runs, commits, versions, devices, data, servers."""

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from dmf.analysis.protocol import training_length
from dmf.analysis.words import count, dataset_label, label
from dmf.layout import Cell, arrays, cells, description
from dmf.records import ArraysDescription, Description, Outcome, Record, RunRecord, trained_on
from dmf.study import ReportParameters

NOT_SAID = "not recorded"


def runs(results: pd.DataFrame, parameters: ReportParameters) -> dict[str, Any]:
    """Count the runs, and name those that are missing or diverged."""
    each = results.drop_duplicates(["dataset", "configuration", "seed"])
    counted = Counter(each["status"])
    grid = parameters.grid
    parts = (
        count(len(grid.datasets), "dataset"),
        count(len(grid.configurations), "configuration"),
        count(grid.seeds, "seed"),
    )
    absent = [
        _absence(Cell(run["dataset"], run["configuration"], run["seed"]), run["status"])
        for run in each[each["status"] != "complete"].to_dict("records")
    ]
    return {
        "total": len(each),
        "complete": counted["complete"],
        "diverged": counted["diverged"],
        "missing": counted["missing"],
        "shape": " \N{MULTIPLICATION SIGN} ".join(parts)
        + ", "
        + training_length(parameters)
        + " each",
        "absent": absent,
    }


def _absence(cell: Cell, status: str) -> str:
    """Name a run that is missing or diverged, and where it diverged."""
    if status == "diverged" and cell.metrics.exists():
        place = Outcome.read(cell.metrics).get("diverged")
        if place:
            status += f" in epoch {place['epoch']}, batch {place['batch']} ({place['loss']})"
    name = f"{dataset_label(cell.dataset)} · {label(cell.configuration)}"
    return f"{name} · seed {cell.seed}: {status}"


def facts(parameters: ReportParameters) -> list[tuple[str, str]]:
    """Return where the runs come from: commits, versions, devices; each with its number of runs."""
    found: dict[str, Counter[str]] = {}
    for cell in cells(parameters.grid):
        if cell.record.exists():
            for name, value in _origin(RunRecord.read(cell.record)).items():
                found.setdefault(name, Counter())[value] += 1
    if not found:
        return [("Runs", "their folders are not here; the numbers come from results.csv")]
    return [
        (name, next(iter(values)))
        if len(values) == 1
        else (name, "; ".join(f"{value} ({count(n, 'run')})" for value, n in values.most_common()))
        for name, values in found.items()
    ]


def _origin(run: dict[str, Any]) -> dict[str, str]:
    commit = run.get("commit") or "not under version control"
    versions = run.get("versions", {})
    return {
        "Commit": commit + (" with uncommitted changes" if run.get("dirty") else ""),
        "Training code": run.get("hashes", {}).get("code", NOT_SAID)[:16],
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()) or NOT_SAID,
        "Device": trained_on(run, "{name} ({type})") or NOT_SAID,
        "Precision": run.get("precision") or NOT_SAID,
    }


def devices(parameters: ReportParameters) -> dict[str, list[str]]:
    """Return what ran on each device, by the device's name.

    Empty unless runs that are compared, those of one set and seed, ran on different devices.
    """
    where: dict[tuple[str, int], set[str]] = {}
    found: dict[str, dict[str, None]] = {}
    for cell in cells(parameters.grid):
        name = _origin(_read_if_here(RunRecord, cell.record))["Device"]
        if name != NOT_SAID:
            where.setdefault((cell.dataset, cell.seed), set()).add(name)
            found.setdefault(name, {})[label(cell.configuration)] = None
    if all(len(names) == 1 for names in where.values()):
        return {}
    return {name: list(configurations) for name, configurations in found.items()}


def data(parameters: ReportParameters, dataset: str) -> dict[str, Any]:
    """Return origin, hash and licence of one dataset, as far as its files are here."""
    described = _read_if_here(ArraysDescription, arrays(dataset))
    source = _read_if_here(Description, description(dataset))
    origins = {"phantom": "phantom (synthetic)", "folder": "own data"}
    kind = parameters.kinds[dataset]
    return {
        "label": dataset_label(dataset),
        "origin": origins.get(kind) or source.get("address") or f"{kind}, local archive",
        "images": described.get("images", "not here"),
        "sha256": described.get("sha256", "not here"),
        "licence": source.get("licence", "not here"),
    }


def _read_if_here(record: type[Record], path: Path) -> dict[str, Any]:
    return record.read(path) if path.exists() else {}


def mlflow(parameters: ReportParameters, server: str) -> list[tuple[str, str]]:
    """Return the name and address of each data set's MLflow experiment on ``server``.

    Empty unless it is one: a database cannot be linked to.
    """
    if not server.startswith(("http://", "https://")):
        return []
    names = [f"{parameters.grid.name}/{dataset}" for dataset in parameters.grid.datasets]
    return [
        (name, f"{server}/#/experiments?experimentSearchFilter={quote(name, safe='')}")
        for name in names
    ]

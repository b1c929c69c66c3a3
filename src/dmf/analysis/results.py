"""Run folders into one long table, ``reports/results.csv``.

Every path is relative to the study's working directory. Values are in [0, 1].
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from dmf.configurations import factors
from dmf.errors import DmfError
from dmf.files import atomic_path, write_json
from dmf.layout import CURVES, MEANS, RESULTS, Cell, cells
from dmf.outcomes import EVALUATIONS, FOREGROUND_METRICS, METRICS, SUBSETS
from dmf.records import Outcome
from dmf.study import Grid

COLUMNS = [
    *("dataset", "configuration", "auxiliary", "weighting", "seed"),
    *("status", "epoch_choice", "subset", "metric", "value"),
]


def collect(grid: Grid, *, partial: bool) -> pd.DataFrame:
    """Read every run of the study into the long form of ``results.csv``.

    Diverged and missing runs are one row each, without value. Raises DmfError naming the missing
    runs unless ``partial``, and for a ``metrics.json`` that cannot be read.
    """
    planned = cells(grid)
    missing = [cell for cell in planned if not cell.metrics.exists()]
    if missing and not partial:
        raise DmfError(_name_missing(missing, len(planned)))
    rows = [row for cell in planned for row in _rows(cell)]
    return _typed(pd.DataFrame(rows, columns=COLUMNS))


def read(path: Path) -> pd.DataFrame:
    """Read a ``results.csv``; raises DmfError if it is missing or not in the long form."""
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    except FileNotFoundError:
        raise DmfError(f"{path} does not exist. Run `dmf aggregate` first.") from None
    except ValueError as error:
        raise DmfError(f"{path} is not a results table ({error}). Run `dmf aggregate`.") from None
    if list(frame.columns) != COLUMNS:
        raise DmfError(
            f"{path} has the columns {', '.join(map(str, frame.columns))} instead of "
            f"{', '.join(COLUMNS)}. Run `dmf aggregate` to write it anew."
        )
    return _typed(frame)


def write(results: pd.DataFrame, grid: Grid, folder: Path) -> None:
    """Write ``results.csv``, ``metrics.json`` (means on test, last epoch) and ``curves.csv``."""
    for path, table in ((RESULTS, results), (CURVES, curves(grid))):
        with atomic_path(folder / path.name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
    write_json(folder / MEANS.name, summary(results))


def curves(grid: Grid) -> pd.DataFrame:
    """Return the validation Dice of every epoch, the mean over the seeds, for `dvc plots`."""
    keys = ["dataset", "configuration", "epoch"]
    epochs = histories(grid)
    if "validation_dice" not in epochs:
        return pd.DataFrame(columns=[*keys, "validation_dice"])
    means = epochs.groupby(keys, sort=False)["validation_dice"].mean()
    return means.round(6).reset_index()


def summary(results: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Return dataset → configuration → {metric: mean over seeds} of the test subset, last epoch."""
    chosen = results[
        (results["subset"] == "test")
        & (results["epoch_choice"] == "last")
        & results["metric"].isin([*METRICS, *FOREGROUND_METRICS])
    ]
    means = chosen.groupby(["dataset", "configuration", "metric"], sort=False)["value"].mean()
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for row in means.dropna().reset_index().to_dict("records"):
        configurations = nested.setdefault(row["dataset"], {})
        configurations.setdefault(row["configuration"], {})[row["metric"]] = row["value"]
    return nested


def values(
    results: pd.DataFrame,
    dataset: str,
    metric: str,
    *,
    subset: str = "test",
    epoch_choice: str = "last",
) -> pd.DataFrame:
    """Return one metric as a table of seeds (rows) by configurations (columns), NaN where absent.

    Configurations keep their order in ``results``; those without any value are left out.
    """
    chosen = results[
        (results["dataset"] == dataset)
        & (results["metric"] == metric)
        & (results["subset"] == subset)
        & (results["epoch_choice"] == epoch_choice)
    ]
    table = chosen.pivot(index="seed", columns="configuration", values="value")
    table = table.sort_index()[list(dict.fromkeys(chosen["configuration"]))]
    return table.dropna(axis="columns", how="all")


def histories(grid: Grid) -> pd.DataFrame:
    """Return the epochs of all runs: ``history.csv`` with its run's names in front.

    Runs without a finished epoch are left out; columns that a configuration lacks (the auxiliary's)
    are NaN there. ``seconds`` (per epoch) is added where a run kept its ``timing.csv``. The table
    is empty if no run has one.
    """
    frames = []
    for cell in cells(grid):
        if not cell.history.exists():
            continue
        frame = _read_csv(cell.history, "epoch")
        if frame.empty:  # it diverged in its first epoch
            continue
        if cell.timing.exists():
            timing = _read_csv(cell.timing, "epoch", "seconds")[["epoch", "seconds"]]
            frame = frame.merge(timing, on="epoch", how="left")
        names = pd.DataFrame(
            {"dataset": cell.dataset, "configuration": cell.configuration, "seed": cell.seed},
            index=frame.index,
        )
        frames.append(pd.concat([names, frame], axis="columns"))
    if not frames:
        return pd.DataFrame(columns=["dataset", "configuration", "seed", "epoch"])
    return pd.concat(frames, ignore_index=True)


def _rows(cell: Cell) -> Iterator[dict[str, Any]]:
    auxiliary, weighting = factors(cell.configuration)
    run = {
        "dataset": cell.dataset,
        "configuration": cell.configuration,
        "auxiliary": auxiliary,
        "weighting": weighting,
        "seed": cell.seed,
    }
    if not cell.metrics.exists():
        yield {**run, "status": "missing"}
        return
    metrics = Outcome.read(cell.metrics)
    try:
        run["status"] = metrics["status"]
        if run["status"] != "complete":
            yield run
            return
        for choice in EVALUATIONS:
            scores = metrics[choice] if choice in ("last", "best") else metrics.get(choice, {})
            for subset in SUBSETS:
                if choice == "settled" and subset == "train":
                    continue  # training images are scored once, at the end
                for metric, value in scores[subset].items() if scores else ():
                    yield {
                        **run,
                        "epoch_choice": choice,
                        "subset": subset,
                        "metric": metric,
                        "value": float(value),
                    }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DmfError(
            f"{cell.metrics} is not the record of a run ({type(error).__name__}: {error}). "
            "Delete its folder and train the run again."
        ) from None


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Give every column its type; absent text is the empty string, absent values are NaN."""
    text = [column for column in COLUMNS if column not in ("seed", "value")]
    frame[text] = frame[text].fillna("").astype("str")
    return frame.astype({"seed": "int64", "value": "float64"})


def _read_csv(path: Path, *needed: str) -> pd.DataFrame:
    """Return a table of numbers; raises DmfError if it is none, or lacks a ``needed`` column."""
    try:
        frame = pd.read_csv(path)
        if absent := set(needed) - set(frame.columns):
            raise ValueError(f"no column {', '.join(sorted(absent))}")
        texts = frame.select_dtypes(exclude="number").columns.tolist()
        if texts and not frame.empty:
            raise ValueError(f"no numbers in column {texts[0]!r:.50}")
        return frame
    except (ValueError, OSError) as error:
        raise DmfError(
            f"{path} cannot be read ({error}). Delete its folder and train the run again."
        ) from None


def _name_missing(missing: list[Cell], total: int) -> str:
    """Name the missing runs, those of one configuration together."""
    grouped: dict[str, list[str]] = {}
    for cell in missing:
        name = f"{cell.dataset}/{cell.configuration}"
        grouped.setdefault(name, []).append(f"{cell.seed:02d}")
    named = [f"  {name}: seed {', '.join(seeds)}" for name, seeds in list(grouped.items())[:20]]
    if len(grouped) > 20:
        named.append(f"  … and {len(grouped) - 20} more configurations")
    return (
        f"{len(missing)} of {total} runs have no metrics.json under models/:\n"
        + "\n".join(named)
        + "\nTrain them (run `snakemake` again), or report on what is there with --partial."
    )

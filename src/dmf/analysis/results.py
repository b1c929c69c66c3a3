"""Run folders into one long table, ``reports/results.csv``.

Every path is relative to the study's working directory. Values are in [0, 1].
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from dmf.errors import DmfError
from dmf.files import atomic_path, read_json, write_json
from dmf.outcomes import EVALUATIONS, FOREGROUND_METRICS, METRICS, SUBSETS
from dmf.study import Grid, ReportParameters, parse_configuration, run_folder

COLUMNS = [
    "dataset",
    "configuration",
    "auxiliary",
    "weighting",
    "seed",
    "status",
    "epoch_choice",
    "subset",
    "metric",
    "value",
]
STATUSES = ("complete", "diverged", "missing")
PAPER = {"epochs": 100, "image_size": 128, "filters": [32, 64, 128, 256], "seeds": 10}


def factors(configuration: str) -> tuple[str, str]:
    """Return the (auxiliary, weighting) of a configuration's name; raises ValueError if unknown.

    The pair tells configurations apart: smoothed weightings keep their ``_ema``, and training with
    cross-entropy alone is a weighting of its own.
    """
    parsed = parse_configuration(configuration)
    if parsed.only_cross_entropy:
        return "none", "cross_entropy"
    return parsed.auxiliary, parsed.weighting + ("_ema" if parsed.smoothed else "")


def collect(grid: Grid, *, partial: bool) -> pd.DataFrame:
    """Read every run of the study into the long form of ``results.csv``.

    Diverged and missing runs are one row each, without value. Raises DmfError naming the missing
    runs unless ``partial``, and for a ``metrics.json`` that cannot be read.
    """
    runs = [
        (dataset, configuration, seed)
        for dataset in grid.datasets
        for configuration in grid.configurations
        for seed in range(grid.seeds)
    ]
    missing = [run for run in runs if not _metrics_file(*run).exists()]
    if missing and not partial:
        raise DmfError(_name_missing(missing, len(runs)))
    rows = [row for run in runs for row in _rows(*run)]
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
    for name, table in (("results.csv", results), ("curves.csv", curves(grid))):
        with atomic_path(folder / name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
    write_json(folder / "metrics.json", summary(results))


def curves(grid: Grid) -> pd.DataFrame:
    """Return the validation Dice of every epoch, the mean over the seeds, for `dvc plots`."""
    keys = ["dataset", "configuration", "epoch"]
    frames = [histories(grid, dataset) for dataset in grid.datasets]
    every = pd.concat(frames, ignore_index=True)
    if "validation_dice" not in every:
        return pd.DataFrame(columns=[*keys, "validation_dice"])
    means = every.groupby(keys, sort=False)["validation_dice"].mean()
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


def histories(grid: Grid, dataset: str) -> pd.DataFrame:
    """Return the epochs of all runs of ``dataset``: ``history.csv`` with its run's names in front.

    Runs without a history are left out; columns that a configuration lacks (the auxiliary's) are
    NaN there. ``seconds`` (per epoch) is added where a run kept its ``timing.csv``. The table is
    empty if no run has a history.
    """
    frames = []
    for configuration in grid.configurations:
        for seed in range(grid.seeds):
            folder = run_folder(dataset, configuration, seed)
            if not (folder / "history.csv").exists():
                continue
            frame = _read_csv(folder / "history.csv")
            if (folder / "timing.csv").exists():
                timing = _read_csv(folder / "timing.csv")[["epoch", "seconds"]]
                frame = frame.merge(timing, on="epoch", how="left")
            run = pd.DataFrame(
                {"dataset": dataset, "configuration": configuration, "seed": seed},
                index=frame.index,
            )
            frames.append(pd.concat([run, frame], axis="columns"))
    if not frames:
        return pd.DataFrame(columns=["dataset", "configuration", "seed", "epoch"])
    return pd.concat(frames, ignore_index=True)


def paper_dataset(parameters: ReportParameters, dataset: str) -> str | None:
    """Return which of the paper's sets (busi, busc, bus) ``dataset`` holds, or None.

    Phantom images and the user's own are never one of them, whatever they are named.
    """
    kind = parameters.kinds[dataset]
    return kind if kind in ("busi", "busc", "bus") else None


def reductions(parameters: ReportParameters) -> list[str]:
    """Say in which settings the study is smaller than the paper's; empty for the full study."""
    ours = {
        "epochs": parameters.epochs,
        "image_size": parameters.image_size,
        "filters": parameters.filters,
        "seeds": parameters.grid.seeds,
    }
    names = {"image_size": "image size", "filters": "U-Net filters", "seeds": "seeds"}
    return [
        f"{names.get(key, key)}: {value} instead of {PAPER[key]}"
        for key, value in ours.items()
        if value != PAPER[key] and not (key == "seeds" and parameters.grid.seeds > 10)
    ]


def departures(parameters: ReportParameters) -> list[str]:
    """Say in which other ways the protocol is not the paper's: preset, split, changed settings."""
    said = []
    if parameters.preset == "released":
        said.append("preset `released`: the published notebook's hard losses")
    if parameters.split.kind == "grouped":
        said.append("duplicate-grouped split (the paper's is taken to be naive)")
    if not parameters.split.per_seed:
        said.append("one split serves all seeds")
    return said + [f"`{setting}`" for setting in parameters.changed]


def _metrics_file(dataset: str, configuration: str, seed: int) -> Path:
    return run_folder(dataset, configuration, seed) / "metrics.json"


def _rows(dataset: str, configuration: str, seed: int) -> Iterator[dict[str, Any]]:
    auxiliary, weighting = factors(configuration)
    run = {
        "dataset": dataset,
        "configuration": configuration,
        "auxiliary": auxiliary,
        "weighting": weighting,
        "seed": seed,
    }
    path = _metrics_file(dataset, configuration, seed)
    if not path.exists():
        yield {**run, "status": "missing"}
        return
    metrics = read_json(path)
    try:
        run["status"] = metrics["status"]
        if run["status"] not in STATUSES:
            raise ValueError(f"unknown status {run['status']!r}")
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
            f"{path} is not the record of a run ({type(error).__name__}: {error}). "
            "Delete its folder and train the run again."
        ) from None


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Give every column its type; absent text is the empty string, absent values are NaN."""
    text = [column for column in COLUMNS if column not in ("seed", "value")]
    frame[text] = frame[text].fillna("").astype("str")
    return frame.astype({"seed": "int64", "value": "float64"})


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise DmfError(
            f"{path} cannot be read ({error}). Delete its folder and train the run again."
        ) from None


def _name_missing(missing: list[tuple[str, str, int]], total: int) -> str:
    """Name the missing runs, those of one configuration together."""
    grouped: dict[str, list[str]] = {}
    for dataset, configuration, seed in missing:
        grouped.setdefault(f"{dataset}/{configuration}", []).append(f"{seed:02d}")
    named = [f"  {name}: seed {', '.join(seeds)}" for name, seeds in list(grouped.items())[:20]]
    if len(grouped) > 20:
        named.append(f"  … and {len(grouped) - 20} more configurations")
    return (
        f"{len(missing)} of {total} runs have no metrics.json under models/:\n"
        + "\n".join(named)
        + "\nTrain them (run `snakemake` again), or report on what is there with --partial."
    )

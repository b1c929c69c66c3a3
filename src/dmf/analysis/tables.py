"""Mean ± standard deviation over seeds, in the layout of the paper's Tables 1-3.

Each table is written three times: CSV (numbers), Markdown and LaTeX (booktabs), with the best value
of a column in bold and the second best underlined (italic in Markdown).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dmf.analysis import comparisons
from dmf.analysis.published import STATISTICS
from dmf.analysis.published import published_table as published_table
from dmf.analysis.results import (
    departures,
    factors,
    paper_dataset,
    reductions,
)
from dmf.files import atomic_path, write_text
from dmf.outcomes import FOREGROUND_METRICS, METRICS
from dmf.study import ReportParameters, paper_configurations

METRIC_LABELS = {
    "dice": "Dice",
    "iou": "IoU",
    "f1": "F1-score",
    "precision": "Precision",
    "recall": "Recall",
    "cb_dice": "CB-Dice",
    "foreground_dice": "Foreground Dice",
    "foreground_iou": "Foreground IoU",
}
AUXILIARY_LABELS = {
    "tversky": "Tversky",
    "focal": "Focal",
    "cb_dice": "CB-Dice",
    "none": "No auxiliary",
}
WEIGHTING_LABELS = {
    "variance": "Variance",
    "mad": "MAD",
    "bayesian": "Bayesian",
    "fixed": "Fixed",
    "random": "Random",
    "softadapt": "SoftAdapt",
    "cov": "CoV",
    "cross_entropy": "Cross-entropy alone",
}
DATASET_LABELS = {"busi": "BUSI", "busc": "BUSC", "bus": "BUS", "phantom": "phantom"}
_SAME_NAME = {"none-fixed": "fixed"}


def label(configuration: str) -> str:
    """Return the configuration's name for people, such as ``CB-Dice + Variance``."""
    if configuration in ("fixed", "none-fixed"):
        return "Fixed weights"
    if configuration == "cross_entropy":
        return "Cross-entropy alone"
    return " + ".join(_labels(configuration))


def paper_table(
    results: pd.DataFrame,
    dataset: str,
    subset: str = "test",
    epoch_choice: str = "last",
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return the table of ``dataset``: mean, std and n per configuration and metric, in percent.

    Rows are the paper's 13 configurations in its order (whether run or not), then the others of
    ``results``; columns are (metric, mean | std | n). ``std`` is the sample standard deviation
    (n - 1), NaN for fewer than two seeds; a cell not run has mean NaN and n 0.
    """
    mine = results[results["dataset"] == dataset]["configuration"].unique()
    present = [_SAME_NAME.get(name, name) for name in mine]
    rows = list(dict.fromkeys([*paper_configurations(), *present]))
    chosen = results[
        (results["dataset"] == dataset)
        & (results["subset"] == subset)
        & (results["epoch_choice"] == epoch_choice)
        & results["metric"].isin(metrics)
    ]
    percent = chosen.assign(
        value=100 * chosen["value"], configuration=chosen["configuration"].replace(_SAME_NAME)
    )
    cells = percent.groupby(["configuration", "metric"])["value"].agg(["mean", "std", "count"])
    table = pd.DataFrame(cells.rename(columns={"count": "n"}).unstack("metric")).swaplevel(axis=1)
    columns = pd.MultiIndex.from_product([metrics, STATISTICS], names=["metric", "statistic"])
    table = table.reindex(index=pd.Index(rows, name="configuration"), columns=columns)
    counts = [column for column in columns if column[1] == "n"]
    table[counts] = table[counts].fillna(0)
    return table


def write_all(results: pd.DataFrame, parameters: ReportParameters, folder: Path) -> None:
    """Write every table of the study to ``folder`` as CSV, Markdown and LaTeX; tests as CSV."""
    _write_comparisons(results, parameters, folder)
    for dataset in parameters.grid.datasets:
        absent = _absent(results, dataset)
        for kind in _KINDS:
            if not was_evaluated(results, dataset, kind.epoch_choice):
                continue
            table = paper_table(results, dataset, kind.subset, kind.epoch_choice, kind.metrics)
            known = paper_dataset(parameters, dataset)
            published = published_table(known) if known and kind.beside_paper else None
            caption = _caption(parameters, results, dataset, kind, published is not None)
            stem = folder / (dataset + kind.suffix)
            _write_csv(wide(table, published), stem.with_suffix(".csv"), index=True)
            write_text(stem.with_suffix(".md"), markdown(table, published, caption, absent))
            write_text(
                stem.with_suffix(".tex"),
                latex(table, published, caption, f"tab:{stem.name}", absent),
            )


def was_evaluated(results: pd.DataFrame, dataset: str, epoch_choice: str) -> bool:
    """Return whether runs of ``dataset`` have that evaluation: older records lack some."""
    mine = results[results["dataset"] == dataset]
    return epoch_choice in ("last", "best") or bool((mine["epoch_choice"] == epoch_choice).any())


def _write_comparisons(results: pd.DataFrame, parameters: ReportParameters, folder: Path) -> None:
    """Write the tests of docs/statistics.md: every planned pair, and all data sets together."""
    for dataset in parameters.grid.datasets:
        found = [
            comparisons.compare(results, parameters, dataset, metric)
            for metric in (*METRICS, *FOREGROUND_METRICS)
        ]
        _write_csv(pd.concat(found, ignore_index=True), folder / f"{dataset}-comparisons.csv")
    across = comparisons.across_datasets(results, parameters)
    if len(across):
        _write_csv(across, folder / "across-datasets.csv")


def _write_csv(frame: pd.DataFrame, path: Path, *, index: bool = False) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=index, float_format="%.6g", lineterminator="\n")


def wide(table: pd.DataFrame, published: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return ``table`` with flat columns, for CSV: ``dice_mean``, ``dice_std``, ``dice_n``.

    With the paper's table, ``dice_paper_mean``, ``dice_paper_std`` and ``dice_difference`` (ours
    minus the paper's, in points) follow.
    """
    flat = pd.DataFrame(index=table.index)
    flat["auxiliary"], flat["weighting"] = zip(*map(factors, table.index), strict=True)
    for metric in table.columns.unique("metric"):
        for statistic in STATISTICS:
            flat[f"{metric}_{statistic}"] = table[(metric, statistic)]
        flat[f"{metric}_n"] = flat[f"{metric}_n"].astype("int64")
        if published is not None:
            paper = published.reindex(table.index)
            flat[f"{metric}_paper_mean"] = paper[(metric, "mean")]
            flat[f"{metric}_paper_std"] = paper[(metric, "std")]
            flat[f"{metric}_difference"] = table[(metric, "mean")] - paper[(metric, "mean")]
    return flat


def markdown(
    table: pd.DataFrame,
    published: pd.DataFrame | None,
    caption: str,
    absent: Mapping[str, str] | None = None,
) -> str:
    """Return the table as GitHub Markdown, caption first.

    A configuration without numbers says "not run", or what ``absent`` has for it.
    """
    header, rows = _cells(table, published, _MARKDOWN, absent or {})
    lines = [caption, "", _pipe(header), _pipe(["---"] * len(header)), *map(_pipe, rows)]
    return "\n".join(lines) + "\n"


def latex(
    table: pd.DataFrame,
    published: pd.DataFrame | None,
    caption: str,
    name: str,
    absent: Mapping[str, str] | None = None,
) -> str:
    r"""Return the table as a LaTeX ``table`` with booktabs rules, labelled ``name``."""
    header, rows = _cells(table, published, _LATEX, absent or {})
    frame = pd.DataFrame(rows, columns=pd.Index(header))
    text = frame.to_latex(
        index=False,
        escape=False,
        caption=_escape_latex(caption),
        label=name,
        column_format="l" * (len(header) - len(table.columns.unique("metric")))
        + "r" * len(table.columns.unique("metric")),
        position="t",
    )
    return "% needs \\usepackage{booktabs}\n" + text


@dataclass(frozen=True)
class _Kind:
    """One of the tables written for every data set."""

    suffix: str
    subset: str
    epoch_choice: str
    metrics: Sequence[str]
    beside_paper: bool = False


_KINDS = (
    _Kind("", "test", "last", METRICS, beside_paper=True),
    _Kind("-foreground", "test", "last", FOREGROUND_METRICS),
    _Kind("-train", "train", "last", (*METRICS, *FOREGROUND_METRICS)),
    _Kind("-validation", "validation", "last", (*METRICS, *FOREGROUND_METRICS)),
    _Kind("-best-epoch", "test", "best", (*METRICS, *FOREGROUND_METRICS)),
    _Kind("-settled", "test", "settled", (*METRICS, *FOREGROUND_METRICS)),
    _Kind("-recalibrated", "test", "recalibrated", (*METRICS, *FOREGROUND_METRICS)),
)

_EVALUATIONS = {
    "last": "last epoch",
    "best": "epoch of the best validation CB-Dice",
    "settled": "median over the last fifth of the epochs",
    "recalibrated": "last epoch, batch-norm statistics averaged over the training images",
}


@dataclass(frozen=True)
class _Style:
    """How a format writes a cell."""

    plus_minus: str
    minus: str
    best: Callable[[str], str]
    second: Callable[[str], str]


_MARKDOWN = _Style(" ± ", "\N{MINUS SIGN}", "**{}**".format, "_{}_".format)
_LATEX = _Style(r" $\pm$ ", "$-$", r"\textbf{{{}}}".format, r"\underline{{{}}}".format)


def _labels(configuration: str) -> tuple[str, str]:
    auxiliary, weighting = factors(configuration)
    base = weighting.removesuffix("_ema")
    smoothed = ", smoothed" if base != weighting else ""
    return AUXILIARY_LABELS[auxiliary], WEIGHTING_LABELS[base] + smoothed


def _cells(
    table: pd.DataFrame,
    published: pd.DataFrame | None,
    style: _Style,
    absent: Mapping[str, str],
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of text; with the paper's table, three rows per configuration."""
    metrics = list(table.columns.unique("metric"))
    ours = {metric: _marked(table, metric, style, absent, seeds=True) for metric in metrics}
    names = [METRIC_LABELS[metric] for metric in metrics]
    if published is None:
        header = ["Loss function", "Weighting", *names]
        rows = [[*_labels(row), *(ours[metric][row] for metric in metrics)] for row in table.index]
        return header, rows
    paper = {metric: _marked(published, metric, style, absent, seeds=False) for metric in metrics}
    means = table.xs("mean", axis=1, level="statistic")
    gaps = means - published.xs("mean", axis=1, level="statistic")
    rows = []
    for row in table.index:
        rows.append([*_labels(row), "ours", *(ours[metric][row] for metric in metrics)])
        if row in published.index:
            rows.append(["", "", "paper", *(paper[metric][row] for metric in metrics)])
            rows.append(["", "", "difference", *(_signed(gap, style) for gap in gaps.loc[row])])
    return ["Loss function", "Weighting", "", *names], rows


def _marked(
    table: pd.DataFrame, metric: str, style: _Style, absent: Mapping[str, str], *, seeds: bool
) -> dict[str, str]:
    """Return the cells of one metric, with best and second best (as printed) marked."""
    ranks = table[(metric, "mean")].round(2).rank(method="dense", ascending=False)
    marks = {1.0: style.best, 2.0: style.second} if ranks.nunique() > 1 else {}
    cells = {}
    numbers = table[[(metric, statistic) for statistic in STATISTICS]].to_numpy(dtype=float)
    for row, rank, (mean, std, n) in zip(table.index, ranks, numbers, strict=True):
        if np.isnan(mean):
            cells[row] = absent.get(row, "not run")
            continue
        text = f"{mean:.2f}" + ("" if np.isnan(std) else f"{style.plus_minus}{std:.2f}")
        text = marks.get(rank, str)(text)
        cells[row] = f"{text} ({n:.0f})" if seeds else text
    return cells


def _signed(gap: float, style: _Style) -> str:
    if np.isnan(gap):
        return ""
    return ("+" if gap >= 0 else style.minus) + f"{abs(gap):.2f}"


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape_latex(text: str) -> str:
    for character in "&%_#":
        text = text.replace(character, "\\" + character)
    return text.replace("±", r"$\pm$")


def _caption(
    parameters: ReportParameters,
    results: pd.DataFrame,
    dataset: str,
    kind: _Kind,
    beside_paper: bool,
) -> str:
    """Say what the table holds, and what is not as in the paper."""
    origins = {"phantom": " (synthetic phantom images, not patients)", "folder": " (own data)"}
    name = DATASET_LABELS.get(dataset, dataset) + origins.get(parameters.kinds[dataset], "")
    subset = "training" if kind.subset == "train" else kind.subset
    choice = _EVALUATIONS[kind.epoch_choice]
    sentences = [
        f"{name}: {subset} subset, {choice}; mean ± standard deviation over seeds in percent "
        "(number of seeds)."
    ]
    diverged = results[(results["dataset"] == dataset) & (results["status"] == "diverged")]
    if len(diverged):
        runs = zip(diverged["configuration"], diverged["seed"], strict=True)
        named = ", ".join(f"{configuration} seed {seed:02d}" for configuration, seed in runs)
        sentences.append(f"Diverged and left out: {named}.")
    if beside_paper:
        sentences.append("Differences are ours minus the paper's, in points.")
    if reduced := reductions(parameters):
        sentences.append(f"Reduced study ({'; '.join(reduced)}).")
    if others := departures(parameters):
        sentences.append(f"Not as in the paper: {'; '.join(others)}.")
    sentences.append("Best in bold, second best underlined (italic in Markdown).")
    return " ".join(sentences)


def _absent(results: pd.DataFrame, dataset: str) -> dict[str, str]:
    """Return what a cell without numbers says, for configurations that only diverged."""
    mine = results[(results["dataset"] == dataset) & (results["status"] == "diverged")]
    return {_SAME_NAME.get(name, name): "diverged" for name in mine["configuration"]}

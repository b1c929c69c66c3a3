"""Tables as the page shows them: cells that can be sorted, the paper's numbers within ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dmf.analysis import tables
from dmf.analysis.comparisons import FAMILIES, across_datasets, compare
from dmf.analysis.published import published_table
from dmf.analysis.results import paper_dataset
from dmf.outcomes import FOREGROUND_METRICS, METRICS
from dmf.study import ReportParameters


@dataclass(frozen=True)
class Cell:
    """One cell of a table, as the page shows it; ``value`` is what it is sorted by."""

    text: str
    value: str
    spread: str = ""
    mark: str = ""
    paper: str = ""
    gap: str = ""


@dataclass(frozen=True)
class Row:
    """A configuration and its cells."""

    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    title: str
    caption: str
    columns: list[str]
    rows: list[Row]
    markdown: str


_TABLES = (
    ("Test scores", "test", "last", METRICS),
    ("Foreground scores, test", "test", "last", FOREGROUND_METRICS),
    ("Training scores", "train", "last", (*METRICS, *FOREGROUND_METRICS)),
    ("Validation scores", "validation", "last", (*METRICS, *FOREGROUND_METRICS)),
    ("Test scores at the best validation epoch", "test", "best", (*METRICS, *FOREGROUND_METRICS)),
    (
        "Test scores, median over the last fifth of the epochs",
        "test",
        "settled",
        (*METRICS, *FOREGROUND_METRICS),
    ),
    (
        "Test scores with recalibrated batch norm",
        "test",
        "recalibrated",
        (*METRICS, *FOREGROUND_METRICS),
    ),
)


def all_tables(results: pd.DataFrame, parameters: ReportParameters, dataset: str) -> list[Table]:
    """Return the tables of ``dataset``, the paper's own layout first."""
    scores = [
        _table(results, parameters, dataset, *kind)
        for kind in _TABLES
        if tables.was_evaluated(results, dataset, kind[2])
    ]
    return [*scores, *_comparisons(results, parameters, dataset)]


def across(results: pd.DataFrame, parameters: ReportParameters) -> Table | None:
    """Return the table over all data sets together, None for a study of one."""
    found = across_datasets(results, parameters)
    if found.empty:
        return None
    rows = [
        Row(
            tables.label(str(one["configuration"])),
            [
                _estimate(one, "iqm", signed=False),
                _estimate(one, "gain"),
                _estimate(one, "improvement", signed=False),
                _whole(one["runs"]),
            ],
        )
        for _, one in found.iterrows()
    ]
    columns = ["Dice", "Gain over fixed weights", "Probability of improvement", "Runs"]
    caption = (
        "Interquartile means over all runs of the data sets together, with stratified bootstrap "
        "intervals; in percent and points. Descriptive: runs of redrawn splits are not independent."
    )
    return Table("Across data sets", caption, columns, rows, _markdown(columns, rows, caption))


def _comparisons(results: pd.DataFrame, parameters: ReportParameters, dataset: str) -> list[Table]:
    """Return one table of paired differences in Dice per family of planned comparisons."""
    found = compare(results, parameters, dataset)
    columns = ["Difference", "p", "Effect", "Wins", "Wilcoxon p", "Seeds needed", "Outcome"]
    made = []
    for family, pairs in found.groupby("family", sort=False):
        rows = []
        for _, one in pairs.iterrows():
            reference = str(one["reference"])
            name = tables.label(str(one["configuration"]))
            if reference != "fixed":
                name += f" against {tables.label(reference)}"
            rows.append(Row(name, _comparison_cells(one)))
        title = FAMILIES[str(family)]
        title = title[0].upper() + title[1:]
        caption = (
            f"{title}: paired differences in Dice (points, test, last epoch) with their "
            f"{parameters.report.confidence:.0%} interval and Holm-adjusted p; above means that "
            "the first is better. Seeds needed: to decide it, if the difference seen were true."
        )
        made.append(Table(title, caption, columns, rows, _markdown(columns, rows, caption)))
    return made


def standings(results: pd.DataFrame, parameters: ReportParameters) -> dict[str, dict[str, int]]:
    """Return per data set how adaptive weights fare against fixed ones in Dice: outcome, count."""
    found = {}
    for dataset in parameters.grid.datasets:
        pairs = compare(results, parameters, dataset)
        outcomes = pairs.loc[pairs["family"] == "dmf_over_fixed", "outcome"].value_counts()
        counts = {said: int(outcomes.get(name, 0)) for name, said in _ABOVE.items()}
        if any(counts.values()):
            label = tables.DATASET_LABELS.get(dataset, dataset)
            found[label] = {said: number for said, number in counts.items() if number}
    return found


_ABOVE = {
    "supported": "above",
    "contradicted": "not above",
    "inconclusive": "undecided",
    "not run": "not run",
}


def _comparison_cells(one: "pd.Series[Any]") -> list[Cell]:
    outcome = Cell(_ABOVE[one["outcome"]], "")
    if not one["n"]:
        return [Cell("", "")] * 6 + [outcome]
    return [
        _estimate(one, "difference"),
        _p_value(one["p_adjusted"]),
        _number(one["effect"], "{:+.2f}"),
        Cell(f"{one['wins']} of {one['n']}", repr(one["wins"] / one["n"])),
        _p_value(one["wilcoxon_p"]),
        Cell("", "") if pd.isna(one["seeds_needed"]) else _whole(one["seeds_needed"]),
        outcome,
    ]


def _estimate(one: "pd.Series[Any]", name: str, *, signed: bool = True) -> Cell:
    """Return a value in percent with its interval, from columns ``name``, ``low`` and ``high``."""
    low, high = ("low", "high") if name == "difference" else (f"{name}_low", f"{name}_high")
    if pd.isna(one[name]):
        return Cell("", "")
    form = "{:+.2f}" if signed else "{:.2f}"
    value, spread = _number(100 * one[name], form), ""
    if not pd.isna(one[low]):
        spread = f"[{_signed(100 * one[low], form)}, {_signed(100 * one[high], form)}]"
    return Cell(value.text, value.value, spread)


def _number(value: float, form: str) -> Cell:
    return Cell("", "") if pd.isna(value) else Cell(_signed(value, form), repr(float(value)))


def _signed(value: float, form: str) -> str:
    return form.format(value).replace("-", "\N{MINUS SIGN}")


def _p_value(p: float) -> Cell:
    if pd.isna(p):
        return Cell("no test", "")
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", repr(float(p)))


def _whole(number: float) -> Cell:
    return Cell(f"{number:.0f}", f"{number:.0f}")


def _markdown(columns: list[str], rows: list[Row], caption: str) -> str:
    """Return a table of the page as GitHub Markdown, caption first."""
    lines = [caption, "", "| Configuration | " + " | ".join(columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for row in rows:
        cells = (f"{cell.text} {cell.spread}".strip() for cell in row.cells)
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _table(
    results: pd.DataFrame,
    parameters: ReportParameters,
    dataset: str,
    title: str,
    subset: str,
    epoch_choice: str,
    metrics: Sequence[str],
) -> Table:
    """Return one table, with the paper's cells in it where it has them."""
    frame = tables.paper_table(results, dataset, subset, epoch_choice, metrics)
    known = paper_dataset(parameters, dataset)
    published = None
    if known and title == _TABLES[0][0]:
        published = published_table(known)
    if not known:
        ours = {_as_in_tables(name) for name in parameters.grid.configurations}
        frame = frame[[name in ours for name in frame.index]]
    mine = results[(results["dataset"] == dataset) & (results["status"] == "diverged")]
    diverged = {_as_in_tables(name) for name in mine["configuration"]}
    names = [str(name) for name in frame.index]
    absent = {name: "diverged" if name in diverged else "not run" for name in names}
    caption = f"{title} of {tables.DATASET_LABELS.get(dataset, dataset)}, in percent."
    if published is not None:
        caption += " Below each: the paper's number, and ours minus the paper's."
    cells = {metric: _column(frame, published, metric, absent) for metric in metrics}
    seeds = _numbers(frame, metrics[0], "n")
    rows = [
        Row(
            tables.label(name),
            [*(cells[metric][name] for metric in metrics), _whole(seeds[name])],
        )
        for name in names
    ]
    return Table(
        title,
        caption,
        [*(tables.METRIC_LABELS[metric] for metric in metrics), "Seeds"],
        rows,
        tables.markdown(frame, published, caption, absent),
    )


def _column(
    frame: pd.DataFrame, published: pd.DataFrame | None, metric: str, absent: dict[str, str]
) -> dict[str, Cell]:
    """Return the cells of one metric; best and second best as printed are marked."""
    means = _numbers(frame, metric, "mean")
    stds = _numbers(frame, metric, "std")
    theirs = {} if published is None else _numbers(published, metric, "mean")
    places = sorted({round(mean, 2) for mean in means.values() if not np.isnan(mean)}, reverse=True)
    marks = dict(zip(places, ("best", "second"), strict=False)) if len(places) > 1 else {}
    cells = {}
    for name, empty in absent.items():
        mean = means[name]
        paper = f"{theirs[name]:.2f}" if name in theirs else ""
        if np.isnan(mean):
            cells[name] = Cell(empty, "", mark="absent", paper=paper)
            continue
        spread = "" if np.isnan(stds[name]) else f"± {stds[name]:.2f}"
        gap = _signed(mean - theirs[name], "{:+.2f}") if paper else ""
        mark = marks.get(round(mean, 2), "")
        cells[name] = Cell(f"{mean:.2f}", repr(mean), spread, mark, paper, gap)
    return cells


def _numbers(frame: pd.DataFrame, metric: str, statistic: str) -> dict[str, float]:
    return {str(name): float(x) for name, x in frame[(metric, statistic)].items()}


def _as_in_tables(configuration: str) -> str:
    return "fixed" if configuration == "none-fixed" else configuration

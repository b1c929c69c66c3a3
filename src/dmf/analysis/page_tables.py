"""Tables as the page shows them: cells that can be sorted, the paper's numbers within ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dmf.analysis import tables
from dmf.analysis.figures_style import configuration_label
from dmf.analysis.results import FOREGROUND_METRICS, METRICS, paper_dataset
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
)


def all_tables(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str
) -> list[Table]:
    """Return the tables of ``dataset``, the paper's own layout first."""
    return [_table(results, parameters, dataset, *kind) for kind in _TABLES]


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
        published = tables.published_table(known)
    if not known:
        ours = ["fixed" if name == "none-fixed" else name for name in parameters.grid.configurations]
        frame = frame[[name in ours for name in frame.index]]
    mine = results[results["dataset"] == dataset]
    diverged = set(mine.loc[mine["status"] == "diverged", "configuration"])
    absent = {name: "diverged" if name in diverged else "not run" for name in frame.index}
    caption = f"{title} of {tables.DATASET_LABELS.get(dataset, dataset)}, in percent."
    if published is not None:
        caption += " Below each: the paper's number, and ours minus the paper's."
    cells = {metric: _column(frame, published, metric, absent) for metric in metrics}
    rows = [
        Row(configuration_label(name), [*(cells[metric][name] for metric in metrics), _seeds(row)])
        for name, row in frame.iterrows()
    ]
    return Table(
        title,
        caption,
        [*(tables.METRIC_LABELS[metric] for metric in metrics), "Seeds"],
        rows,
        tables.markdown(frame, published, caption, absent),
    )


def _column(
    frame: pd.DataFrame, published: pd.DataFrame | None, metric: str, absent: dict[Any, str]
) -> dict[Any, Cell]:
    """Return the cells of one metric; best and second best as printed are marked."""
    means = frame[(metric, "mean")]
    ranks = means.round(2).rank(method="dense", ascending=False)
    marks = {1.0: "best", 2.0: "second"} if ranks.nunique() > 1 else {}
    cells = {}
    for name, mean in means.items():
        paper = gap = ""
        if published is not None and name in published.index:
            theirs = published.loc[name, (metric, "mean")]
            paper = f"{theirs:.2f}"
            gap = "" if np.isnan(mean) else f"{mean - theirs:+.2f}".replace("-", "\N{MINUS SIGN}")
        if np.isnan(mean):
            cells[name] = Cell(absent[name], "", mark="absent", paper=paper)
            continue
        std = frame.loc[name, (metric, "std")]
        spread = "" if np.isnan(std) else f"± {std:.2f}"
        mark = marks.get(ranks[name], "")
        cells[name] = Cell(f"{mean:.2f}", repr(float(mean)), spread, mark, paper, gap)
    return cells


def _seeds(row: "pd.Series[Any]") -> Cell:
    n = int(row.xs("n", level="statistic").min())
    return Cell(str(n), str(n))



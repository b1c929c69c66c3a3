"""The tables of the report: one model of a table, and its forms for files and for the page.

Scores are mean ± standard deviation over seeds in the layout of the paper's Tables 1-3, with the
best of each column in bold and the second best underlined (italic in Markdown).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dmf.analysis.paper.numbers import STATISTICS, paper_table
from dmf.analysis.protocol import departures, paper_dataset, reduction_note
from dmf.analysis.verdict.comparisons import across_datasets, compare
from dmf.analysis.words import METRIC_LABELS, dataset_label, factor_labels, label, number
from dmf.configurations import factors, paper_configurations
from dmf.files import atomic_path, write_text
from dmf.outcomes import FOREGROUND_METRICS, METRICS
from dmf.study import ReportParameters


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the value that it is sorted by, and what stands beside it.

    ``spread`` is a standard deviation or an interval, ``seeds`` the number of runs behind a mean,
    ``paper`` the paper's cell, ``gap`` ours minus the paper's.
    """

    text: str = ""
    value: float | str = ""
    spread: str = ""
    mark: Literal["", "best", "second", "absent", "verdict"] = ""
    seeds: int | None = None
    paper: "Cell | None" = None
    gap: str = ""


@dataclass(frozen=True)
class Row:
    """A row: its cells, its name on the page, and its names in files, which have a column each."""

    label: str
    names: tuple[str, ...]
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table; ``heads`` are above the names of its rows, ``columns`` above the cells."""

    title: str
    caption: str
    heads: tuple[str, ...]
    columns: list[str]
    rows: list[Row]

    @property
    def beside_paper(self) -> bool:
        return any(cell.paper for row in self.rows for cell in row.cells)

    def with_seeds(self) -> "Table":
        """Return the table with the number of seeds in a column of its own, if it has any."""
        counts = [row.cells[0].seeds for row in self.rows]
        if None in counts:
            return self
        rows = [
            replace(row, cells=[*row.cells, whole(n or 0)])
            for row, n in zip(self.rows, counts, strict=True)
        ]
        return replace(self, columns=[*self.columns, "Seeds"], rows=rows)


def signed(value: float, form: str = "+.2f") -> Cell:
    """Return the cell of a number with its sign; empty for NaN."""
    return Cell() if pd.isna(value) else Cell(number(value, form), float(value))


def percentage(mean: float, std: float) -> Cell:
    """Return the cell of a mean in percent, and the standard deviation beside it unless NaN."""
    return Cell(f"{mean:.2f}", float(mean), "" if pd.isna(std) else f"± {std:.2f}")


def whole(value: float) -> Cell:
    """Return the cell of a whole number."""
    return Cell(f"{value:.0f}", f"{value:.0f}")


@dataclass(frozen=True)
class _Style:
    """How a format marks a cell, and writes ± and the minus sign."""

    best: str
    second: str
    plus_minus: str = "±"
    minus: str = "\N{MINUS SIGN}"

    def text(self, text: str) -> str:
        return text.replace("±", self.plus_minus).replace("\N{MINUS SIGN}", self.minus)

    def cell(self, cell: Cell) -> str:
        text = self.text(f"{cell.text} {cell.spread}".strip())
        text = {"best": self.best, "second": self.second}.get(cell.mark, "{}").format(text)
        return f"{text} ({cell.seeds})" if cell.seeds else text


_MARKDOWN = _Style("**{}**", "_{}_")
_LATEX = _Style(r"\textbf{{{}}}", r"\underline{{{}}}", r"$\pm$", "$-$")


def markdown(table: Table) -> str:
    """Return the table as GitHub Markdown, caption first."""
    head, *rows = _lines(table, _MARKDOWN)
    rule = ["---"] * (len(head) - len(table.columns)) + ["---:"] * len(table.columns)
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]
    return "\n".join([table.caption, "", *lines]) + "\n"


def latex(table: Table, name: str) -> str:
    r"""Return the table as a LaTeX ``table`` with booktabs rules, labelled ``name``."""
    head, *rows = _lines(table, _LATEX)
    caption = _LATEX.text(table.caption)
    for character in "&%_#":
        caption = caption.replace(character, "\\" + character)
    text = pd.DataFrame(rows, columns=pd.Index(head)).to_latex(
        index=False,
        escape=False,
        caption=caption,
        label=name,
        column_format="l" * (len(head) - len(table.columns)) + "r" * len(table.columns),
        position="t",
    )
    return "% needs \\usepackage{booktabs}\n" + text


def _lines(table: Table, style: _Style) -> list[list[str]]:
    """Return header and rows as text; the paper's numbers and the differences are own rows."""
    beside = table.beside_paper
    lines = [[*table.heads, *[""] * beside, *table.columns]]
    for row in table.rows:
        lines.append([*row.names, *["ours"] * beside, *map(style.cell, row.cells)])
        paper = [cell.paper for cell in row.cells if cell.paper]
        if paper:
            blank = [""] * len(row.names)
            gaps = [style.text(cell.gap) for cell in row.cells]
            lines.append([*blank, "paper", *map(style.cell, paper)])
            lines.append([*blank, "difference", *gaps])
    return lines


@dataclass(frozen=True)
class _Scores:
    """One of the tables of scores that every data set has."""

    suffix: str
    title: str
    subset: str
    epoch_choice: str
    metrics: Sequence[str]
    beside_paper: bool = False


_ALL = (*METRICS, *FOREGROUND_METRICS)
_SCORES = (
    _Scores("", "Test scores", "test", "last", METRICS, beside_paper=True),
    _Scores("-foreground", "Foreground scores, test", "test", "last", FOREGROUND_METRICS),
    _Scores("-train", "Training scores", "train", "last", _ALL),
    _Scores("-validation", "Validation scores", "validation", "last", _ALL),
    _Scores("-best-epoch", "Test scores at the best validation epoch", "test", "best", _ALL),
    _Scores(
        "-settled",
        "Test scores, median over the last fifth of the epochs",
        "test",
        "settled",
        _ALL,
    ),
    _Scores(
        "-recalibrated", "Test scores with recalibrated batch norm", "test", "recalibrated", _ALL
    ),
)
_EVALUATIONS = {
    "last": "last epoch",
    "best": "epoch of the best validation CB-Dice",
    "settled": "median over the last fifth of the epochs",
    "recalibrated": "last epoch, batch-norm statistics averaged over the training images",
}


def write_all(results: pd.DataFrame, parameters: ReportParameters, folder: Path) -> None:
    """Write every table of the study to ``folder`` as CSV, Markdown and LaTeX; tests as CSV."""
    for dataset in parameters.grid.datasets:
        every = (compare(results, parameters, dataset, metric) for metric in _ALL)
        _write_csv(pd.concat(every, ignore_index=True), folder / f"{dataset}-comparisons.csv")
        for kind in _evaluated(results, dataset):
            frame, paper = _numbers(results, parameters, dataset, kind)
            table = replace(
                _score_table(results, dataset, kind, frame, paper),
                caption=_file_caption(results, parameters, dataset, kind),
            )
            stem = folder / (dataset + kind.suffix)
            _write_csv(wide(frame, paper), stem.with_suffix(".csv"), index=True)
            write_text(stem.with_suffix(".md"), markdown(table))
            write_text(stem.with_suffix(".tex"), latex(table, f"tab:{stem.name}"))
    across = across_datasets(results, parameters)
    if len(across):
        _write_csv(across, folder / "across-datasets.csv")


def score_tables(results: pd.DataFrame, parameters: ReportParameters, dataset: str) -> list[Table]:
    """Return the tables of scores as the page shows them, the paper's own layout first.

    On other images than the paper's, only the configurations of the study have a row.
    """
    scores = []
    for kind in _evaluated(results, dataset):
        frame, paper = _numbers(results, parameters, dataset, kind)
        if not paper_dataset(parameters, dataset):
            frame = frame[frame.index.isin(parameters.grid.configurations)]
        scores.append(_score_table(results, dataset, kind, frame, paper))
    return scores


def mean_scores(
    results: pd.DataFrame,
    dataset: str,
    subset: str = "test",
    epoch_choice: str = "last",
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return mean, std and n per configuration and metric of ``dataset``, in percent.

    Rows are the paper's 13 configurations in its order (whether run or not), then the others of
    ``results``; columns are (metric, mean | std | n). ``std`` is the sample standard deviation
    (n - 1), NaN for fewer than two seeds; a cell not run has mean NaN and n 0.
    """
    mine = results[results["dataset"] == dataset]
    rows = list(dict.fromkeys([*paper_configurations(), *mine["configuration"]]))
    chosen = mine[
        (mine["subset"] == subset)
        & (mine["epoch_choice"] == epoch_choice)
        & mine["metric"].isin(metrics)
    ]
    percent = chosen.assign(value=100 * chosen["value"])
    cells = percent.groupby(["configuration", "metric"])["value"].agg(["mean", "std", "count"])
    table = pd.DataFrame(cells.rename(columns={"count": "n"}).unstack("metric")).swaplevel(axis=1)
    columns = pd.MultiIndex.from_product([metrics, STATISTICS], names=["metric", "statistic"])
    table = table.reindex(index=pd.Index(rows, name="configuration"), columns=columns)
    counts = [column for column in columns if column[1] == "n"]
    table[counts] = table[counts].fillna(0)
    return table


def wide(frame: pd.DataFrame, paper: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return mean scores with flat columns, for CSV: ``dice_mean``, ``dice_std``, ``dice_n``.

    With the paper's table, ``dice_paper_mean``, ``dice_paper_std`` and ``dice_difference`` (ours
    minus the paper's, in points) follow.
    """
    flat = pd.DataFrame(index=frame.index)
    flat["auxiliary"], flat["weighting"] = zip(*map(factors, frame.index), strict=True)
    theirs = None if paper is None else paper.reindex(frame.index)
    for metric in frame.columns.unique("metric"):
        for statistic in STATISTICS:
            flat[f"{metric}_{statistic}"] = frame[(metric, statistic)]
        flat[f"{metric}_n"] = flat[f"{metric}_n"].astype("int64")
        if theirs is not None:
            flat[f"{metric}_paper_mean"] = theirs[(metric, "mean")]
            flat[f"{metric}_paper_std"] = theirs[(metric, "std")]
            flat[f"{metric}_difference"] = frame[(metric, "mean")] - theirs[(metric, "mean")]
    return flat


def _write_csv(frame: pd.DataFrame, path: Path, *, index: bool = False) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=index, float_format="%.6g", lineterminator="\n")


def _evaluated(results: pd.DataFrame, dataset: str) -> list[_Scores]:
    """Return the tables whose evaluation the runs have: older records lack some."""
    there = {"last", "best", *results.loc[results["dataset"] == dataset, "epoch_choice"]}
    return [kind for kind in _SCORES if kind.epoch_choice in there]


def _numbers(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str, kind: _Scores
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the mean scores of a table, and the paper's where it has the same."""
    frame = mean_scores(results, dataset, kind.subset, kind.epoch_choice, kind.metrics)
    known = paper_dataset(parameters, dataset)
    return frame, paper_table(known) if known and kind.beside_paper else None


def _score_table(
    results: pd.DataFrame,
    dataset: str,
    kind: _Scores,
    frame: pd.DataFrame,
    paper: pd.DataFrame | None,
) -> Table:
    mine = results[results["dataset"] == dataset]
    diverged = set(mine.loc[mine["status"] == "diverged", "configuration"])
    columns = [_score_cells(frame, metric, diverged, paper) for metric in kind.metrics]
    caption = f"{kind.title} of {dataset_label(dataset)}, in percent."
    if paper is not None:
        caption += " Below each: the paper's number, and ours minus the paper's."
    rows = [
        Row(label(name), factor_labels(name), [cells[name] for cells in columns])
        for name in map(str, frame.index)
    ]
    heads = ("Loss function", "Weighting")
    return Table(kind.title, caption, heads, [METRIC_LABELS[m] for m in kind.metrics], rows)


def _score_cells(
    frame: pd.DataFrame, metric: str, diverged: set[str], paper: pd.DataFrame | None = None
) -> dict[str, Cell]:
    """Return the cells of one metric; the best and the second best, as printed, are marked."""
    theirs = {} if paper is None else _score_cells(paper, metric, set())
    numbers = frame.xs(metric, axis=1, level="metric")
    ranks = numbers["mean"].round(2).rank(method="dense", ascending=False)
    marks: Mapping[float, Any] = {1.0: "best", 2.0: "second"} if ranks.nunique() > 1 else {}
    cells = {}
    for name, rank, (mean, std, n) in zip(
        map(str, numbers.index), ranks, numbers.to_numpy(dtype=float), strict=True
    ):
        cell = Cell("diverged" if name in diverged else "not run", mark="absent", seeds=0)
        if not np.isnan(mean):
            cell = replace(percentage(mean, std), mark=marks.get(rank, ""), seeds=int(n))
        if name in theirs:
            their = replace(theirs[name], seeds=None)
            cell = replace(cell, paper=their, gap=signed(mean - float(their.value)).text)
        cells[name] = cell
    return cells


def _file_caption(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str, kind: _Scores
) -> str:
    """Say what a table that stands alone holds, and what is not as in the paper."""
    origins = {"phantom": " (synthetic phantom images, not patients)", "folder": " (own data)"}
    name = dataset_label(dataset) + origins.get(parameters.kinds[dataset], "")
    subset = "training" if kind.subset == "train" else kind.subset
    sentences = [
        f"{name}: {subset} subset, {_EVALUATIONS[kind.epoch_choice]}; mean ± standard deviation "
        "over seeds in percent (number of seeds)."
    ]
    diverged = results[(results["dataset"] == dataset) & (results["status"] == "diverged")]
    if len(diverged):
        runs = zip(diverged["configuration"], diverged["seed"], strict=True)
        named = ", ".join(f"{configuration} seed {seed:02d}" for configuration, seed in runs)
        sentences.append(f"Diverged and left out: {named}.")
    if kind.beside_paper and paper_dataset(parameters, dataset):
        sentences.append("Differences are ours minus the paper's, in points.")
    if reduced := reduction_note(parameters):
        sentences.append(reduced)
    if others := departures(parameters):
        sentences.append(f"Not as in the paper: {'; '.join(others)}.")
    sentences.append("Best in bold, second best underlined (italic in Markdown).")
    return " ".join(sentences)

"""The comparisons as tables of the page, and how adaptive weights stand after them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from dmf.analysis.tables import Cell, Row, Table, signed, whole
from dmf.analysis.verdict.comparisons import FAMILIES, across_datasets, compare
from dmf.analysis.words import dataset_label, label, number, p_value
from dmf.study import ReportParameters

# What the outcome of a comparison is called in tables: whether the first is above the second.
ABOVE = {
    "supported": "above",
    "contradicted": "not above",
    "inconclusive": "undecided",
    "not run": "not run",
}


def comparison_tables(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str
) -> list[Table]:
    """Return one table of paired differences in Dice per family of planned comparisons."""
    found = compare(results, parameters, dataset)
    columns = ["Difference", "p", "Effect", "Wins", "Wilcoxon p", "Seeds needed", "Outcome"]
    made = []
    for family, pairs in found.groupby("family", sort=False):
        rows = []
        for pair in pairs.to_dict("records"):
            name = label(pair["configuration"])
            if pair["reference"] != "fixed":
                name += f" against {label(pair['reference'])}"
            rows.append(Row(name, (name,), _comparison_cells(pair)))
        title = FAMILIES[str(family)]
        title = title[0].upper() + title[1:]
        caption = (
            f"{title}: paired differences in Dice (points, test, last epoch), their "
            f"{parameters.report.confidence:.0%} interval and Holm-adjusted p. Above: the first is "
            "better. Seeds needed: how many would decide it, if the estimates held."
        )
        made.append(Table(title, caption, ("Configuration",), columns, rows))
    return made


def across(results: pd.DataFrame, parameters: ReportParameters) -> Table | None:
    """Return the table over all data sets together, None for a study of one."""
    found = across_datasets(results, parameters)
    if found.empty:
        return None
    rows = [
        Row(
            name := label(pooled["configuration"]),
            (name,),
            [
                _estimate(pooled, "iqm", ".2f"),
                _estimate(pooled, "gain"),
                _estimate(pooled, "improvement", ".2f"),
                whole(pooled["runs"]),
            ],
        )
        for pooled in found.to_dict("records")
    ]
    columns = ["Dice", "Gain over fixed weights", "Probability of improvement", "Runs"]
    caption = (
        "Interquartile means over all runs of the data sets together, with stratified bootstrap "
        "intervals; in percent and points. Descriptive: runs of redrawn splits are not independent."
    )
    return Table("Across data sets", caption, ("Configuration",), columns, rows)


def standings(results: pd.DataFrame, parameters: ReportParameters) -> dict[str, dict[str, int]]:
    """Return per data set how adaptive weights fare against fixed ones in Dice: outcome, count."""
    found = {}
    for dataset in parameters.grid.datasets:
        pairs = compare(results, parameters, dataset)
        outcomes = pairs.loc[pairs["family"] == "dmf_over_fixed", "outcome"].value_counts()
        counts = {ABOVE[name]: int(outcomes[name]) for name in ABOVE if name in outcomes}
        if counts:
            found[dataset_label(dataset)] = counts
    return found


def _comparison_cells(pair: Mapping[Any, Any]) -> list[Cell]:
    outcome = Cell(ABOVE[pair["outcome"]])
    if not pair["n"]:
        return [Cell()] * 6 + [outcome]
    return [
        _estimate(pair, "difference"),
        _p_value(pair["p_adjusted"]),
        signed(pair["effect"]),
        Cell(f"{pair['wins']} of {pair['n']}", pair["wins"] / pair["n"]),
        _p_value(pair["wilcoxon_p"]),
        Cell() if pd.isna(pair["seeds_needed"]) else whole(pair["seeds_needed"]),
        outcome,
    ]


def _estimate(numbers: Mapping[Any, Any], name: str, form: str = "+.2f") -> Cell:
    """Return a value in percent with its interval, from columns ``name``, ``low`` and ``high``."""
    low, high = ("low", "high") if name == "difference" else (f"{name}_low", f"{name}_high")
    cell = signed(100 * numbers[name], form)
    if pd.isna(numbers[name]) or pd.isna(numbers[low]):
        return cell
    ends = (number(100 * numbers[end], form) for end in (low, high))
    return replace(cell, spread=f"[{', '.join(ends)}]")


def _p_value(p: float) -> Cell:
    return Cell(p_value(p, bare=True), "" if pd.isna(p) else float(p))

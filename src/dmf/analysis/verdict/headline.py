"""The one difference that answers a study: the recommended combination minus fixed weights.

It is read at every evaluation of :mod:`dmf.outcomes` that the runs have. If all share its sign and
its labels the answer is robust; otherwise it depends on the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dmf.analysis.verdict.comparisons import compare
from dmf.outcomes import EVALUATIONS
from dmf.study import ReportParameters

RECOMMENDED, REFERENCE = "cb_dice-variance", "fixed"


@dataclass(frozen=True)
class Exclusion:
    """A difference, and whether the interval lies clear of it."""

    what: str
    excluded: bool


@dataclass(frozen=True)
class Reading:
    """The difference in Dice at one evaluation, in [0, 1]; NaN where ``n`` is too small."""

    n: int
    difference: float
    low: float
    high: float
    outcome: str
    exclusions: tuple[Exclusion, ...]

    @property
    def character(self) -> tuple[Any, ...]:
        """Return what must be the same at every evaluation for the answer to be robust."""
        return (np.sign(self.difference), self.exclusions)


@dataclass(frozen=True)
class Headline:
    """The difference on one data set; ``paper`` is the paper's own, None for other images."""

    dataset: str
    candidate: str
    reference: str
    paper: float | None
    readings: dict[str, Reading]

    @property
    def primary(self) -> Reading:
        return self.readings[EVALUATIONS[0]]

    @property
    def is_recommended(self) -> bool:
        return self.candidate == RECOMMENDED

    @property
    def robust(self) -> bool | None:
        """Say whether all evaluations agree; None if there is only one, or no interval."""
        if len(self.readings) < 2 or np.isnan(self.primary.low):
            return None
        return len({reading.character for reading in self.readings.values()}) == 1


def headline(results: pd.DataFrame, parameters: ReportParameters, dataset: str) -> Headline | None:
    """Return the headline of ``dataset``; None if nothing there was compared with fixed weights.

    Where the recommended combination was not run, the first adaptive one of the study stands in.
    """
    found: dict[str, Mapping[Any, Any]] = {}
    for evaluation in EVALUATIONS:
        table = compare(_read_as_last(results, evaluation), parameters, dataset)
        table = table[(table["family"] == "dmf_over_fixed") & (table["n"] > 0)]
        if len(table):
            recommended = table["configuration"] == RECOMMENDED
            found[evaluation] = table.iloc[int(np.argmax(recommended))].to_dict()
    first = found.get(EVALUATIONS[0])
    if first is None:
        return None
    name, paper = first["configuration"], first["paper_difference"]
    return Headline(
        dataset,
        name,
        first["reference"],
        None if pd.isna(paper) else float(paper),
        {
            evaluation: _reading(pair, parameters.report.margin)
            for evaluation, pair in found.items()
            if pair["configuration"] == name
        },
    )


def _read_as_last(results: pd.DataFrame, evaluation: str) -> pd.DataFrame:
    """Return the results with the scores of another evaluation in the place of the last epoch's."""
    if evaluation == EVALUATIONS[0]:
        return results
    chosen = results[results["epoch_choice"].isin([evaluation, ""])]
    return chosen.assign(epoch_choice=chosen["epoch_choice"].replace(evaluation, EVALUATIONS[0]))


def _reading(pair: Mapping[Any, Any], margin: float) -> Reading:
    low, high = pair["low"], pair["high"]
    gain = "half a point" if margin == 0.005 else f"{100 * margin:g} points"
    exclusions = [
        Exclusion("zero", bool(low > 0 or high < 0)),
        Exclusion(f"a gain of {gain}", bool(high < margin)),
    ]
    if not pd.isna(pair["paper_difference"]):
        exclusions.append(Exclusion("the paper's gain", bool(pair["excludes_paper"])))
    numbers = (float(pair["difference"]), float(low), float(high))
    return Reading(int(pair["n"]), *numbers, str(pair["outcome"]), tuple(exclusions))

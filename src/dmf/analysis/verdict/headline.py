"""The one difference that answers a study: the recommended combination minus fixed weights.

It is read at every evaluation of :mod:`dmf.outcomes` that the runs have. If all share its sign and
its labels the answer is robust; otherwise it depends on the epoch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dmf.analysis.verdict.comparisons import Seeds, excludes
from dmf.analysis.verdict.statistics import Comparison
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
    exclusions: tuple[Exclusion, ...]

    @property
    def character(self) -> tuple[Any, ...]:
        """Return what must be the same at every evaluation for the answer to be robust."""
        return (np.sign(self.difference), self.exclusions)


@dataclass(frozen=True)
class Headline:
    """The difference on one data set; ``paper`` is the paper's own, None for other images.

    ``outcome`` is that of the planned comparison, which the primary evaluation decides.
    """

    dataset: str
    candidate: str
    reference: str
    outcome: str
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


def headline(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str, pairs: pd.DataFrame
) -> Headline | None:
    """Return the headline of ``dataset``; None if nothing there was compared with fixed weights.

    ``pairs`` is what :func:`~dmf.analysis.verdict.comparisons.compare` found there. Where the
    recommended combination was not run, the first adaptive one of the study stands in.
    """
    run = pairs[(pairs["family"] == "dmf_over_fixed") & (pairs["n"] > 0)]
    if not len(run):
        return None
    pair = run.iloc[int(np.argmax(run["configuration"] == RECOMMENDED))]
    paper = None if pd.isna(pair["paper_difference"]) else float(pair["paper_difference"])
    readings = {}
    for evaluation in EVALUATIONS:
        chosen = _read_as_last(results, evaluation)
        comparison = Seeds(chosen, pd.DataFrame(), parameters, dataset).contrast(
            {pair["configuration"]: 1, pair["reference"]: -1},
            "dice",
            limit=0,
            confidence=parameters.report.confidence,
        )
        if comparison is not None:
            readings[evaluation] = _reading(comparison, parameters.report.margin, paper)
    names = (pair["configuration"], pair["reference"], pair["outcome"])
    return Headline(dataset, *names, paper, readings)


def _read_as_last(results: pd.DataFrame, evaluation: str) -> pd.DataFrame:
    """Return the results with the scores of another evaluation in the place of the last epoch's."""
    chosen = results[results["epoch_choice"].isin([evaluation, ""])]
    return chosen.assign(epoch_choice=chosen["epoch_choice"].replace(evaluation, EVALUATIONS[0]))


def _reading(comparison: Comparison, margin: float, paper: float | None) -> Reading:
    low, high = comparison.low, comparison.high
    gain = "half a point" if margin == 0.005 else f"{100 * margin:g} points"
    exclusions = [
        Exclusion("zero", excludes(comparison, 0)),
        Exclusion(f"a gain of {gain}", bool(high < margin)),
    ]
    if paper is not None:
        exclusions.append(Exclusion("the paper's gain", excludes(comparison, paper)))
    return Reading(comparison.n, comparison.difference, low, high, tuple(exclusions))

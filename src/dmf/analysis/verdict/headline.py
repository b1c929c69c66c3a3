"""The one difference that answers a study: the recommended combination minus fixed weights.

It is read at every evaluation of :mod:`dmf.outcomes` that the runs have. If all four share its sign
and its labels the answer is robust; otherwise it depends on the epoch (docs/statistics.md).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dmf.analysis.protocol import paper_dataset
from dmf.analysis.verdict.comparisons import PaperNumbers, Seeds, excludes
from dmf.analysis.verdict.statistics import LEAST_SEEDS, Comparison, difference_of_effects
from dmf.outcomes import EVALUATIONS
from dmf.settings import Report
from dmf.study import ReportParameters

RECOMMENDED = "cb_dice-variance"


@dataclass(frozen=True)
class Exclusion:
    """A difference, and whether the interval lies clear of it."""

    what: str
    excluded: bool


@dataclass(frozen=True)
class Reading:
    """The difference in Dice at one evaluation, in [0, 1]; NaN where ``n`` is too small.

    Below five seeds it excludes nothing: its spread is known too badly. ``paper_p`` is the p of
    ours less the paper's, NaN where there is none.
    """

    n: int
    difference: float
    low: float
    high: float
    exclusions: tuple[Exclusion, ...]
    paper_p: float = np.nan

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
        """Say whether all evaluations agree; None if not all four are there, or five seeds.

        Those that are there may disagree before.
        """
        if np.isnan(self.primary.low):
            return None
        if len({reading.character for reading in self.readings.values()}) > 1:
            return False
        complete = set(EVALUATIONS) == set(self.readings) and self.primary.n >= LEAST_SEEDS
        return True if complete else None


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
    weights = {pair["configuration"]: 1.0, pair["reference"]: -1.0}
    how = {"limit": 0.0, "confidence": parameters.report.confidence}
    known = paper_dataset(parameters, dataset)
    paper = PaperNumbers(known).contrast(weights, "dice", **how) if known else None
    readings = {}
    for evaluation in EVALUATIONS:
        source = Seeds(results, pd.DataFrame(), parameters, dataset, evaluation)
        comparison = source.contrast(weights, "dice", **how)
        if comparison is not None:
            readings[evaluation] = _reading(comparison, parameters.report, paper)
    names = (pair["configuration"], pair["reference"], pair["outcome"])
    return Headline(dataset, *names, paper.difference if paper else None, readings)


def _reading(comparison: Comparison, report: Report, paper: Comparison | None) -> Reading:
    low, high, margin = comparison.low, comparison.high, report.margin
    exclusions: list[Exclusion] = []
    paper_p = np.nan
    if comparison.n >= LEAST_SEEDS:
        gain = "half a point" if margin == 0.005 else f"{100 * margin:g} points"
        exclusions += [
            Exclusion("zero", excludes(comparison, 0)),
            Exclusion(f"a gain of {gain}", bool(high < margin)),
        ]
        if paper is not None:
            gap = difference_of_effects(comparison, paper, confidence=report.confidence)
            exclusions.append(Exclusion("the paper's gain", excludes(gap, 0)))
            paper_p = gap.p
    return Reading(comparison.n, comparison.difference, low, high, tuple(exclusions), paper_p)

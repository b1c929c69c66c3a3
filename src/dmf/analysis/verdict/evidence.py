"""One metric of one source, and what the rules ask of it: comparisons, p values, evidence."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dmf.analysis.paper.numbers import matching
from dmf.analysis.verdict import sentences, statistics
from dmf.analysis.verdict.claim_schema import Difference, Expect
from dmf.analysis.verdict.comparisons import PaperNumbers, Source, excludes
from dmf.analysis.verdict.sentences import Sentences
from dmf.analysis.verdict.statistics import Comparison
from dmf.outcomes import FOREGROUND_METRICS, METRICS
from dmf.settings import Report

Outcome = Literal[
    "supported",
    "contradicted",
    "not reproduced at the reduced size",
    "inconclusive",
    "numbers only",
    "not run",
    "not testable",
]
Weights = dict[str, float]

ZERO, GAIN, PAPER = "zero excluded", "a gain of half a point excluded", "the paper's gain excluded"


@dataclass(frozen=True)
class Verdict:
    """How a claim fares on one source; ``detail`` holds the numbers in a few sentences.

    Numbers in ``evidence`` are in [0, 1] (or a training quantity's own unit), None if undefined.
    ``labels`` say what a difference of scores excludes, of :data:`ZERO` (with the side),
    :data:`GAIN` and :data:`PAPER`. "numbers only" stands for fewer than five seeds.
    """

    outcome: Outcome
    detail: str
    evidence: dict[str, Any]
    labels: tuple[str, ...] = ()


class Evidence:
    """The comparisons of one metric of one source, as the rules need them."""

    def __init__(
        self, source: Source, metric: str, report: Report, paper: PaperNumbers | None
    ) -> None:
        self.source = source
        self.metric = metric
        self.confidence = report.confidence
        is_score = metric in (*METRICS, *FOREGROUND_METRICS)
        # A difference of scores below the margin does not count; of training quantities any does.
        self.margin = report.margin if is_score else 0.0
        self.paper = paper if metric in METRICS else None
        self.means = source.means(metric)
        self.say = Sentences(is_score, report.confidence)
        self.fewest: float = np.inf
        """The fewest seeds behind any comparison so far."""

    @property
    def has_few_seeds(self) -> bool:
        """Whether a comparison made so far has too few seeds for a verdict."""
        return self.fewest < statistics.LEAST_SEEDS

    def run(self, patterns: Sequence[str]) -> list[str]:
        return [name for name in matching(patterns) if name in self.means.index]

    def margin_beside(self, limit: float) -> float:
        """Return the margin around 0; any other limit is the claim's own."""
        return self.margin if limit == 0 else 0.0

    def contrast(
        self, weights: Weights, limit: float = 0.0, confidence: float | None = None
    ) -> Comparison | None:
        """Compare; a level that is the same for every seed is known without an interval."""
        comparison = self.source.contrast(
            weights, self.metric, limit=limit, confidence=confidence or self.confidence
        )
        is_level = min(weights.values()) > 0
        if comparison and is_level and comparison.n > 1 and not comparison.varies:
            gap = comparison.difference
            return replace(comparison, low=gap, high=gap, p=0.0 if gap else 1.0)
        if comparison:
            self.fewest = min(self.fewest, comparison.n)
        return comparison

    def planned(self, weights: Mapping[str, Weights]) -> dict[str, Weights]:
        """Return the contrasts whose members are all part of the study, run or not."""
        members = set(self.source.planned)
        return {name: contrast for name, contrast in weights.items() if set(contrast) <= members}

    def each(
        self, weights: Mapping[str, Weights], limit: float = 0.0
    ) -> dict[str, tuple[Comparison, float]]:
        """Compare one by one; p adjusted over all that the study planned, run or not."""
        planned = {
            name: self.contrast(contrast, limit) for name, contrast in self.planned(weights).items()
        }
        adjusted = statistics.holm([np.nan if c is None else c.p for c in planned.values()])
        return {
            name: (comparison, float(p))
            for (name, comparison), p in zip(planned.items(), adjusted, strict=True)
            if comparison is not None
        }

    def directed(
        self,
        comparison: Comparison,
        p: float,
        expect: Expect,
        margin: float,
        gap: Comparison | None,
    ) -> Outcome:
        return statistics.above(
            flipped(comparison, expect),
            p,
            margin=margin,
            confidence=self.confidence,
            p_against=_p_against(comparison, gap, expect, margin),
        )

    def against(
        self,
        weights: Mapping[str, Weights],
        found: Mapping[str, tuple[Comparison, float]],
        expect: Expect,
        bar: float,
    ) -> dict[str, float]:
        """Return the p against each contrast in ``found``: below ``bar``, and below the paper's.

        By Holm over all ``weights`` that the study planned, run or not.
        """
        p_values = {name: np.nan for name in self.planned(weights)}
        for name, (comparison, _) in found.items():
            gap = self.paper_gap(weights[name], comparison)
            p_values[name] = _p_against(comparison, gap, expect, bar)
        adjusted = statistics.holm(list(p_values.values()))
        return {name: float(p) for name, p in zip(p_values, adjusted, strict=True) if name in found}

    def labels(
        self, comparison: Comparison, expect: Expect, gap: Comparison | None
    ) -> tuple[str, ...]:
        """Return what the comparison excludes; empty for training quantities and few seeds."""
        if not self.say.is_score or comparison.n < statistics.LEAST_SEEDS:
            return ()
        toward = flipped(comparison, expect)
        found = []
        if toward.low > 0 or toward.high < 0:
            found.append(f"{ZERO} ({'above' if comparison.low > 0 else 'below'})")
        if toward.high < self.margin:
            found.append(GAIN)
        if gap is not None and flipped(gap, expect).high < 0:
            found.append(PAPER)
        return tuple(found)

    def paper_gap(
        self, weights: Weights, comparison: Comparison, limit: float = 0.0
    ) -> Comparison | None:
        """Return our difference less the paper's, with the paper's own standard error."""
        if self.paper is None:
            return None
        theirs = self.paper.contrast(weights, self.metric, limit=limit, confidence=self.confidence)
        if theirs is None:
            return None
        return statistics.difference_of_effects(comparison, theirs, confidence=self.confidence)

    def bar(
        self, candidate: str, gaps: Mapping[str, tuple[Comparison, float]]
    ) -> tuple[Comparison | None, float, int, str]:
        """Return what the best must stand clear of: fixed weights, or the mean of the others.

        It is the comparison, its p, over how many comparisons p is adjusted, and the name.
        """
        if "fixed" in gaps:
            return *gaps["fixed"], len(gaps), "fixed weights"
        gap = self.contrast({candidate: 1.0, **{name: -1 / len(gaps) for name in gaps}})
        return gap, gap.p if gap else np.nan, 1, "the mean of the others"

    def not_run(self, names: Iterable[str]) -> Verdict:
        absent = [name for name in dict.fromkeys(names) if name not in self.means.index]
        finished = self.source.means("dice").index
        undefined = [name for name in absent if name in finished]
        unfinished = [name for name in absent if name not in finished]
        said = sentences.joined(
            sentences.not_run(unfinished) if unfinished else "",
            sentences.without_number(undefined) if undefined else "",
        )
        return Verdict("not run", said, {})

    def nothing_in_common(self, names: Iterable[str]) -> Verdict:
        return Verdict("inconclusive", f"No seed has finished all of {', '.join(names)}.", {})

    def why_open(self, comparison: Comparison, rule: Difference, family: int) -> str:
        """Say why a verdict is open, and how many seeds would close it."""
        if comparison.n < 2:
            return "An interval needs at least 2 seeds."
        if not comparison.varies:
            return "The differences do not vary, so there is no t test."
        if not self.source.can_grow:
            return ""
        if comparison.n < statistics.LEAST_SEEDS:
            return ""
        needed = statistics.seeds_to_decide(
            flipped(comparison, rule.expect),
            margin=self.margin_beside(rule.limit),
            confidence=self.confidence,
            comparisons=family,
            test_to_train=self.source.test_to_train,
        )
        return sentences.seeds_to_decide(needed)

    def evidence(self, comparison: Comparison, p: float, limit: float = 0.0) -> dict[str, Any]:
        numbers = {
            "difference": comparison.difference + limit,
            "low": comparison.low + limit,
            "high": comparison.high + limit,
            "p": comparison.p,
            "p_adjusted": p,
            "plain_low": comparison.plain_low + limit,
            "plain_high": comparison.plain_high + limit,
            "plain_p": comparison.plain_p,
            "effect": comparison.effect,
        }
        if comparison.n < statistics.LEAST_FOR_RANKS:
            numbers["effect"] = np.nan
        finite = {name: float(x) if np.isfinite(x) else None for name, x in numbers.items()}
        return {"n": comparison.n, "limit": limit, **finite}


def flipped(comparison: Comparison, expect: Expect) -> Comparison:
    """Return the comparison as one that is expected to lie above."""
    if expect == "above":
        return comparison
    return replace(
        comparison,
        difference=-comparison.difference,
        low=-comparison.high,
        high=-comparison.low,
        effect=-comparison.effect,
    )


def _p_against(comparison: Comparison, gap: Comparison | None, expect: Expect, bar: float) -> float:
    """Return the p against a claim: below ``bar``, and below the paper's value if it has one."""
    p = statistics.p_below(flipped(comparison, expect), bar)
    return p if gap is None else max(p, statistics.p_below(flipped(gap, expect), 0.0))


def paper_evidence(gap: Comparison | None, comparison: Comparison) -> dict[str, Any]:
    if gap is None:
        return {}
    return {
        "paper_difference": comparison.difference - gap.difference,
        "paper_gap": gap.difference,
        "paper_gap_error": gap.standard_error if np.isfinite(gap.standard_error) else None,
        "paper_gap_p": gap.p if np.isfinite(gap.p) else None,
        "excludes_paper": excludes(gap, 0.0),
    }

"""The rules that decide a claim, carried out by the same code on our runs and the paper's tables.

What "supported" and "contradicted" mean is docs/statistics.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from dmf.analysis.paper.numbers import matching
from dmf.analysis.verdict import sentences, statistics
from dmf.analysis.verdict.claim_schema import (
    Best,
    Difference,
    Every,
    Expect,
    NoTest,
    NotInferior,
    Rule,
    Spread,
)
from dmf.analysis.verdict.comparisons import PaperNumbers, Source, excludes
from dmf.analysis.verdict.sentences import Sentences, joined
from dmf.analysis.verdict.statistics import Comparison
from dmf.analysis.words import label
from dmf.configurations import factors
from dmf.outcomes import FOREGROUND_METRICS, METRICS
from dmf.settings import Report

Outcome = Literal["supported", "contradicted", "inconclusive", "not run", "not testable"]
Weights = dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """How a claim fares on one source; ``detail`` holds the numbers in one or two sentences.

    Numbers in ``evidence`` are in [0, 1] (or a training quantity's own unit), None if undefined.
    """

    outcome: Outcome
    detail: str
    evidence: dict[str, Any]


def decide(
    rule: Rule, source: Source, metric: str, report: Report, paper: PaperNumbers | None = None
) -> Verdict:
    """Carry out ``rule`` for ``metric`` on ``source``.

    With ``paper``, differences of scores are also set against the paper's own difference.
    """
    if isinstance(rule, NoTest):
        return Verdict("not testable", rule.reason.strip(), {})
    test = _Test(source, metric, report, paper)
    match rule:
        case Difference():
            return test.difference(rule)
        case Every():
            return test.every(rule)
        case Best():
            return test.best(rule)
        case NotInferior():
            return test.not_inferior(rule)
        case Spread():
            return test.spread(rule)


class _Test:
    """The rules on one metric of one source."""

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

    def difference(self, rule: Difference) -> Verdict:
        planned = [_weights(name, rule) for name in matching(rule.candidates)]
        run = [weights for weights in planned if set(weights) <= set(self.means.index)]
        if not run:
            return self.not_run(name for weights in planned for name in weights)
        weights = _mean(run)
        comparison = self.contrast(weights, rule.limit)
        if comparison is None:
            return self.nothing_in_common(weights)
        p, family = comparison.p, 1
        if rule.family:
            # The claim picks one out of many that were tested; its p pays for all of them.
            each = {name: _weights(name, rule) for name in matching(rule.family)}
            p = self.each(each, rule.limit)[rule.candidates[0]][1]
            family = len([w for w in each.values() if set(w) <= set(self.source.planned)])
        margin = self.margin_beside(rule.limit)
        outcome: Outcome = _directed(comparison, p, rule.expect, margin, self.confidence)
        is_small = outcome == "supported" and 0 < comparison.high < margin
        reason = "" if outcome != "inconclusive" else self.why_open(comparison, rule, family)
        if len(run) < len(planned):  # a part of the plan cannot decide the whole
            outcome = "inconclusive"
        evidence = self.evidence(comparison, p, rule.limit)
        is_level = rule.reference is None
        limit = self.say.level(rule.limit) if is_level else self.say.gap(rule.limit)
        detail = joined(
            f"{self.say.interval(comparison, rule.limit, level=is_level)}, "
            f"{sentences.adjusted_p(p, family)}.",
            f"The limit is {limit}." if rule.limit else "",
            "The gain is below the margin." if is_small else "",
            reason,
            "" if is_level else self.beside_paper(weights, comparison, rule.limit, evidence),
            sentences.incomplete(len(run), len(planned), "planned comparisons"),
        )
        return Verdict(outcome, detail, evidence)

    def every(self, rule: Every) -> Verdict:
        each = {name: _weights(name, rule) for name in matching(rule.candidates)}
        found = self.each(each, rule.limit)
        if not found:
            return self.not_run(name for weights in each.values() for name in weights)
        margin = self.margin_beside(rule.limit)
        outcomes = {
            name: _directed(comparison, p, rule.expect, margin, self.confidence)
            for name, (comparison, p) in found.items()
        }
        # One counterexample is enough to contradict; support needs all, run and supported.
        missing = len(each) - len(found)
        outcome: Outcome = "inconclusive"
        if "contradicted" in outcomes.values():
            outcome = "contradicted"
        elif set(outcomes.values()) == {"supported"} and not missing:
            outcome = "supported"
        counts = [
            f"{list(outcomes.values()).count(word)} {word}"
            for word in ("supported", "contradicted", "inconclusive")
        ]
        against = [label(name) for name, result in outcomes.items() if result == "contradicted"]
        detail = joined(
            f"Of {len(found)} comparisons {', '.join(counts)}.",
            f"Contradicted for {', '.join(against)}." if against else "",
            f"{missing} of {len(each)} were not run." if missing else "",
        )
        evidence = {
            name: self.evidence(comparison, p, rule.limit) | {"outcome": outcomes[name]}
            for name, (comparison, p) in found.items()
        }
        return Verdict(outcome, detail, evidence)

    def best(self, rule: Best) -> Verdict:
        candidates = self.run(rule.candidates)
        if not candidates:
            return self.not_run(matching(rule.candidates))
        candidate = max(candidates, key=lambda name: self.means[name])
        planned = [name for name in matching(rule.among) if name not in matching(rule.candidates)]
        gaps = self.each({name: {candidate: 1.0, name: -1.0} for name in planned})
        if not gaps:
            return Verdict("inconclusive", "No other configuration was run.", {})
        bar, bar_p, family, bar_name = self.bar(candidate, gaps)
        if bar is None:
            return self.nothing_in_common([candidate, *gaps])
        beaten_by = [
            name for name, (gap, p) in gaps.items() if p < 1 - self.confidence and gap.high < 0
        ]
        inferior = [name for name, (gap, _) in gaps.items() if not gap.low > -self.margin]
        ranking = self.means[[candidate, *gaps]].sort_values(ascending=False)
        rank = int((ranking > ranking[candidate]).sum()) + 1
        clear = statistics.above(bar, bar_p, margin=self.margin, confidence=self.confidence)
        missing = len(planned) - len(gaps)
        # Being highest is chance among equals: the best must also stand clear of the bar, and no
        # other may be better by more than the margin.
        outcome: Outcome = "inconclusive"
        if beaten_by:
            outcome = "contradicted"
        elif rank == 1 and clear == "supported" and not inferior and not missing:
            outcome = "supported"
        doubt = ""
        if beaten_by:
            doubt = f"Significantly above it: {', '.join(map(label, beaten_by))}."
        elif inferior:
            doubt = self.say.not_ruled_out(len(inferior), len(gaps), self.margin)
        detail = joined(
            f"{self.say.standing(candidate, len(candidates), ranking, rank)}; minus {bar_name} "
            f"{self.say.interval(bar)}, {sentences.adjusted_p(bar_p, family)}.",
            doubt,
            sentences.others_not_run(missing, len(planned)),
        )
        evidence = {
            "candidate": candidate,
            "rank": rank,
            "means": {str(name): float(mean) for name, mean in ranking.items()},
            "gaps": {name: self.evidence(gap, p) for name, (gap, p) in gaps.items()},
        }
        return Verdict(outcome, detail, evidence)

    def not_inferior(self, rule: NotInferior) -> Verdict:
        (candidate,) = rule.candidates
        if candidate not in self.means.index:
            return self.not_run([candidate])
        planned = [name for name in matching(rule.among) if name != candidate]
        gaps = self.each({name: {candidate: 1.0, name: -1.0} for name in planned})
        if not gaps:
            return Verdict("inconclusive", "No other configuration was run.", {})
        missing = len(planned) - len(gaps)
        outcome: Outcome = "inconclusive"
        if any(gap.high < -self.margin for gap, _ in gaps.values()):
            outcome = "contradicted"
        elif all(gap.low > -self.margin for gap, _ in gaps.values()) and not missing:
            outcome = "supported"
        nearest = min(gaps, key=lambda name: gaps[name][0].difference)
        detail = joined(
            f"{label(candidate)} minus the highest other, {label(nearest)}: "
            f"{self.say.interval(gaps[nearest][0])}; margin {self.say.gap(self.margin)}.",
            sentences.others_not_run(missing, len(planned)),
        )
        return Verdict(
            outcome, detail, {name: self.evidence(gap, p) for name, (gap, p) in gaps.items()}
        )

    def spread(self, rule: Spread) -> Verdict:
        names, planned = self.run(rule.among), matching(rule.among)
        if len(names) < 2:
            return self.not_run(planned)
        means = self.means[names]
        high, low = str(means.idxmax()), str(means.idxmin())
        # The two are picked because they are furthest apart: the interval holds for every pair.
        pairs = len(names) * (len(names) - 1) // 2
        simultaneous = 1 - (1 - self.confidence) / pairs
        gap = self.contrast({high: 1.0, low: -1.0}, rule.limit, simultaneous)
        if gap is None:
            return self.nothing_in_common([high, low])
        side = "above" if gap.low > 0 else "below" if gap.high < 0 else None
        outcome: Outcome = "inconclusive"
        if side and len(names) == len(planned):
            outcome = "supported" if side == rule.expect else "contradicted"
        detail = joined(
            f"{label(high)} minus {label(low)}: {self.say.interval(gap, rule.limit)}, the interval "
            f"simultaneous over {pairs} pairs; the limit is {self.say.gap(rule.limit)}.",
            sentences.incomplete(len(names), len(planned), "configurations"),
        )
        return Verdict(outcome, detail, self.evidence(gap, gap.p, rule.limit))

    # What the rules are made of

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
        return comparison

    def each(
        self, weights: Mapping[str, Weights], limit: float = 0.0
    ) -> dict[str, tuple[Comparison, float]]:
        """Compare one by one; p adjusted over all that the study planned, run or not."""
        planned = {
            name: self.contrast(contrast, limit)
            for name, contrast in weights.items()
            if set(contrast) <= set(self.source.planned)
        }
        adjusted = statistics.holm([np.nan if c is None else c.p for c in planned.values()])
        return {
            name: (comparison, float(p))
            for (name, comparison), p in zip(planned.items(), adjusted, strict=True)
            if comparison is not None
        }

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
        return Verdict("not run", sentences.not_run(absent), {})

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
        needed = statistics.seeds_to_decide(
            _flipped(comparison, rule.expect),
            margin=self.margin_beside(rule.limit),
            confidence=self.confidence,
            comparisons=family,
            test_to_train=self.source.test_to_train,
        )
        return sentences.seeds_to_decide(needed)

    def beside_paper(
        self, weights: Weights, comparison: Comparison, limit: float, evidence: dict[str, Any]
    ) -> str:
        """Set the difference against the paper's own, in words and in ``evidence``."""
        theirs = self.paper.means(self.metric) if self.paper else pd.Series(dtype=float)
        if not set(weights) <= set(theirs.index):
            return ""
        value = float(sum(weight * theirs[name] for name, weight in weights.items()))
        outside = excludes(comparison, value - limit)
        evidence |= {"paper_difference": value, "excludes_paper": outside}
        return self.say.paper_gap(value, outside, comparison)

    def evidence(self, comparison: Comparison, p: float, limit: float = 0.0) -> dict[str, Any]:
        numbers = {
            "difference": comparison.difference + limit,
            "low": comparison.low + limit,
            "high": comparison.high + limit,
            "p": comparison.p,
            "p_adjusted": p,
            "effect": comparison.effect,
        }
        finite = {name: float(x) if np.isfinite(x) else None for name, x in numbers.items()}
        return {"n": comparison.n, "limit": limit, **finite}


def _weights(name: str, rule: Difference | Every) -> Weights:
    """Return candidate minus reference as weights."""
    if rule.reference is None:
        return {name: 1.0}
    if rule.reference == "others":
        assert isinstance(rule, Difference)
        others = [other for other in matching(rule.among) if other != name]
        return {name: 1.0} | {other: -1 / len(others) for other in others}
    auxiliary, weighting = factors(name)
    return {name: 1.0, rule.reference.format(auxiliary=auxiliary, weighting=weighting): -1.0}


def _mean(parts: Sequence[Weights]) -> Weights:
    total: Weights = {}
    for part in parts:
        for name, weight in part.items():
            total[name] = total.get(name, 0.0) + weight / len(parts)
    return total


def _flipped(comparison: Comparison, expect: Expect) -> Comparison:
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


def _directed(
    comparison: Comparison, p: float, expect: Expect, margin: float, confidence: float
) -> statistics.Outcome:
    return statistics.above(_flipped(comparison, expect), p, margin=margin, confidence=confidence)

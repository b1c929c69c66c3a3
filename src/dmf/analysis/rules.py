"""How claims are decided, by the same code on our runs and on the paper's tables.

:func:`judge` carries out a rule (:mod:`dmf.analysis.vocabulary`) for one metric on one source. What
"supported" and "contradicted" mean is docs/statistics.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dmf.analysis import statistics
from dmf.analysis.comparisons import Published, Source, excludes
from dmf.analysis.results import factors
from dmf.analysis.statistics import Comparison
from dmf.analysis.tables import label
from dmf.analysis.vocabulary import (
    Best,
    Difference,
    Every,
    Expect,
    NoTest,
    NotInferior,
    Rule,
    Spread,
    matching,
)
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


def judge(
    rule: Rule, source: Source, metric: str, report: Report, published: Published | None = None
) -> Verdict:
    """Carry out ``rule`` for ``metric`` on ``source``.

    With ``published``, differences of scores are also set against the paper's own difference.
    """
    if isinstance(rule, NoTest):
        return Verdict("not testable", rule.reason.strip(), {})
    test = _Test(source, metric, report, published)
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
        self, source: Source, metric: str, report: Report, published: Published | None
    ) -> None:
        self.source = source
        self.metric = metric
        self.confidence = report.confidence
        self.performance = metric in (*METRICS, *FOREGROUND_METRICS)
        # A difference of scores below the margin does not count; of training quantities any does.
        self.margin = report.margin if self.performance else 0.0
        self.published = published
        self.means = source.means(metric)

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
            each = {name: _weights(name, rule) for name in matching(rule.family)}
            p = self.each(each, rule.limit)[rule.candidates[0]][1]
            family = len([w for w in each.values() if set(w) <= set(self.source.planned)])
        margin = self.margin if rule.limit == 0 else 0.0
        outcome: Outcome = _directed(comparison, p, rule.expect, margin, self.confidence)
        level = rule.reference is None
        detail = f"{self.interval(comparison, rule.limit, level=level)}, {_p(p, family)}."
        if rule.limit:
            detail += f" The limit is {self.level(rule.limit) if level else self.gap(rule.limit)}."
        if outcome == "supported" and 0 < comparison.high < margin:
            detail += " The gain is below the margin."
        detail += self.missing_evidence(comparison, rule.expect, margin, family, outcome)
        evidence = self.evidence(comparison, p, rule.limit)
        if self.published and not level and self.metric in METRICS:
            detail += self.beside_paper(weights, comparison, rule.limit, evidence)
        if len(run) < len(planned):
            outcome = "inconclusive"
            detail += f" Only {len(run)} of {len(planned)} planned comparisons were run."
        return Verdict(outcome, detail, evidence)

    def every(self, rule: Every) -> Verdict:
        each = {name: _weights(name, rule) for name in matching(rule.candidates)}
        found = self.each(each, rule.limit)
        if not found:
            return self.not_run(name for weights in each.values() for name in weights)
        margin = self.margin if rule.limit == 0 else 0.0
        outcomes = {
            name: _directed(comparison, p, rule.expect, margin, self.confidence)
            for name, (comparison, p) in found.items()
        }
        missing = len(each) - len(found)
        outcome: Outcome = "inconclusive"
        if "contradicted" in outcomes.values():
            outcome = "contradicted"
        elif set(outcomes.values()) == {"supported"} and not missing:
            outcome = "supported"
        words = ("supported", "contradicted", "inconclusive")
        counts = [f"{sum(one == word for one in outcomes.values())} {word}" for word in words]
        detail = f"Of {len(found)} comparisons {', '.join(counts)}."
        against = [label(name) for name, one in outcomes.items() if one == "contradicted"]
        if against:
            detail += f" Contradicted for {', '.join(against)}."
        if missing:
            detail += f" {missing} of {len(each)} were not run."
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
        beaten_by = [
            name for name, (gap, p) in gaps.items() if p < 1 - self.confidence and gap.high < 0
        ]
        inferior = [name for name, (gap, _) in gaps.items() if not gap.low > -self.margin]
        ranking = self.means[[candidate, *gaps]].sort_values(ascending=False)
        rank = int((ranking > ranking[candidate]).sum()) + 1
        if "fixed" in gaps:
            (bar, bar_p), bar_name = gaps["fixed"], "fixed weights"
        else:
            others = {name: -1 / len(gaps) for name in gaps}
            whole = self.contrast({candidate: 1.0, **others})
            if whole is None:
                return self.nothing_in_common([candidate, *gaps])
            bar, bar_p, bar_name = whole, whole.p, "the mean of the others"
        clear = statistics.above(bar, bar_p, margin=self.margin, confidence=self.confidence)
        missing = len(planned) - len(gaps)
        outcome: Outcome = "inconclusive"
        if beaten_by:
            outcome = "contradicted"
        elif rank == 1 and clear == "supported" and not inferior and not missing:
            outcome = "supported"
        first = str(ranking.index[0])
        who = label(candidate)
        if len(candidates) > 1:
            who += f" (the best of {len(candidates)} candidates)"
        detail = f"{who} is {_ordinal(rank)} of {len(ranking)}, {self.level(ranking[candidate])}"
        if rank > 1:
            detail += f" against {self.level(ranking[first])} of {label(first)}"
        holm = len(gaps) if "fixed" in gaps else 1
        detail += f"; minus {bar_name} {self.interval(bar)}, {_p(bar_p, holm)}."
        if beaten_by:
            detail += f" Significantly above it: {', '.join(map(label, beaten_by))}."
        elif inferior:
            detail += (
                f" That it is worse by {self.gap(self.margin)} is not excluded against "
                f"{len(inferior)} of {len(gaps)}."
            )
        if missing:
            detail += f" {missing} of {len(planned)} others were not run."
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
        detail = (
            f"{label(candidate)} minus the highest other, {label(nearest)}: "
            f"{self.interval(gaps[nearest][0])}; margin {self.gap(self.margin)}."
        )
        if missing:
            detail += f" {missing} of {len(planned)} others were not run."
        evidence = {name: self.evidence(gap, p) for name, (gap, p) in gaps.items()}
        return Verdict(outcome, detail, evidence)

    def spread(self, rule: Spread) -> Verdict:
        names, planned = self.run(rule.among), matching(rule.among)
        if len(names) < 2:
            return self.not_run(planned)
        means = self.means[names]
        high, low = str(means.idxmax()), str(means.idxmin())
        pairs = len(names) * (len(names) - 1) // 2
        simultaneous = 1 - (1 - self.confidence) / pairs
        gap = self.contrast({high: 1.0, low: -1.0}, rule.limit, simultaneous)
        if gap is None:
            return self.nothing_in_common([high, low])
        side = "above" if gap.low > 0 else "below" if gap.high < 0 else None
        outcome: Outcome = "inconclusive"
        if side and len(names) == len(planned):
            outcome = "supported" if side == rule.expect else "contradicted"
        detail = (
            f"{label(high)} minus {label(low)}: {self.interval(gap, rule.limit)}, the interval "
            f"simultaneous over {pairs} pairs; the limit is {self.gap(rule.limit)}."
        )
        if len(names) < len(planned):
            detail += f" Only {len(names)} of {len(planned)} configurations were run."
        return Verdict(outcome, detail, self.evidence(gap, gap.p, rule.limit))

    # What the rules are made of

    def run(self, patterns: Sequence[str]) -> list[str]:
        return [name for name in matching(patterns) if name in self.means.index]

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
            name: self.contrast(one, limit)
            for name, one in weights.items()
            if set(one) <= set(self.source.planned)
        }
        adjusted = statistics.holm([one.p if one else np.nan for one in planned.values()])
        return {
            name: (comparison, float(p))
            for (name, comparison), p in zip(planned.items(), adjusted, strict=True)
            if comparison is not None
        }

    def not_run(self, names: Iterable[str]) -> Verdict:
        absent = [name for name in dict.fromkeys(names) if name not in self.means.index]
        shown = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if absent[4:] else "")
        return Verdict("not run", f"No finished run of {shown}.", {})

    def nothing_in_common(self, names: Iterable[str]) -> Verdict:
        return Verdict("inconclusive", f"No seed has finished all of {', '.join(names)}.", {})

    def missing_evidence(
        self, comparison: Comparison, expect: Expect, margin: float, family: int, outcome: Outcome
    ) -> str:
        """Say why a verdict is open, and how many seeds would close it."""
        if outcome != "inconclusive":
            return ""
        if comparison.n < 2:
            return " One seed gives no interval: needs at least 2 seeds."
        if not comparison.varies:
            return " The differences do not vary, so there is no t test."
        if self.source.kind == "paper":
            return ""
        needed = statistics.seeds_to_decide(
            _flipped(comparison, expect),
            margin=margin,
            confidence=self.confidence,
            comparisons=family,
            test_to_train=self.source.test_to_train,
        )
        if needed is None:
            return f" Not even {statistics.MOST_SEEDS} seeds would decide it."
        return f" About {needed} seeds would decide it, if these numbers stayed."

    def beside_paper(
        self, weights: Weights, comparison: Comparison, limit: float, evidence: dict[str, Any]
    ) -> str:
        """Say whether the interval excludes the paper's own difference."""
        assert self.published is not None
        theirs = self.published.means(self.metric)
        if not set(weights) <= set(theirs.index):
            return ""
        value = float(sum(weight * theirs[name] for name, weight in weights.items()))
        outside = excludes(comparison, value - limit)
        evidence |= {"paper_difference": value, "excludes_paper": outside}
        if np.isnan(comparison.low):
            return f" The paper has {self.gap(value, sign=True)}."
        where = "outside" if outside else "inside"
        return f" The paper's {self.gap(value, sign=True)} lies {where} this interval."

    def number(self, value: float, *, sign: bool = False) -> str:
        """Return a score in percent, or a training quantity as it is."""
        plus = "+" if sign else ""
        value = 0.0 if abs(value) < statistics.NO_VARIATION else value
        text = f"{100 * value:{plus}.2f}" if self.performance else f"{value:{plus}.3g}"
        return text.replace("-", "\N{MINUS SIGN}")

    def level(self, value: float) -> str:
        return self.number(value) + (" %" if self.performance else "")

    def gap(self, value: float, *, sign: bool = False) -> str:
        return self.number(value, sign=sign) + (" points" if self.performance else "")

    def interval(self, comparison: Comparison, limit: float = 0.0, *, level: bool = False) -> str:
        """Return the difference with its interval, the limit added back."""
        count = "1 seed" if comparison.n == 1 else f"n = {comparison.n}"
        value = comparison.difference + limit
        middle = self.level(value) if level else self.gap(value, sign=True)
        if np.isnan(comparison.low):
            return f"{middle} ({count})"
        low, high = (
            self.number(end + limit, sign=not level) for end in (comparison.low, comparison.high)
        )
        return f"{middle} ({100 * self.confidence:g} % interval {low} to {high}, {count})"

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


def _p(p: float, family: int = 1) -> str:
    if np.isnan(p):
        return "no p value"
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return text + (f" after Holm over {family}" if family > 1 else "")


def _ordinal(rank: int) -> str:
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(rank if rank < 20 else rank % 10, "th")
    return f"{rank}{suffix}"

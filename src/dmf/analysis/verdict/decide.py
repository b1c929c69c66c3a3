"""The rules that decide a claim, carried out by the same code on our runs and the paper's tables.

What "supported" and "contradicted" mean is docs/statistics.md.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from dmf.analysis.paper.numbers import matching
from dmf.analysis.verdict import sentences, statistics
from dmf.analysis.verdict.claim_schema import (
    Arithmetic,
    Best,
    Difference,
    Every,
    NoTest,
    NotInferior,
    Rule,
    Spread,
)
from dmf.analysis.verdict.comparisons import PaperNumbers, Source, mean_of
from dmf.analysis.verdict.evidence import (
    Evidence,
    Outcome,
    Verdict,
    Weights,
    flipped,
    paper_evidence,
)
from dmf.analysis.verdict.sentences import joined
from dmf.analysis.words import label
from dmf.configurations import factors, parse_configuration
from dmf.settings import Report


def decide(
    rule: Rule, source: Source, metric: str, report: Report, paper: PaperNumbers | None = None
) -> Verdict:
    """Carry out ``rule`` for ``metric`` on ``source``.

    With ``paper``, differences of scores are also set against the paper's own difference.
    """
    if isinstance(rule, NoTest):
        return Verdict("not testable", rule.reason.strip(), {})
    if isinstance(rule, Arithmetic):
        return Verdict(rule.outcome, rule.reason.strip(), {})
    test = _Test(source, metric, report, paper)
    match rule:
        case Difference():
            verdict = test.difference(rule)
        case Every():
            verdict = test.every(rule)
        case Best():
            verdict = test.best(rule)
        case NotInferior():
            verdict = test.not_inferior(rule)
        case Spread():
            verdict = test.spread(rule)
    if verdict.outcome != "not run" and test.has_few_seeds:
        return replace(verdict, outcome="numbers only")
    return verdict


class _Test(Evidence):
    """The rules on one metric of one source."""

    def difference(self, rule: Difference) -> Verdict:
        planned = [_weights(name, rule) for name in matching(rule.candidates)]
        run = [weights for weights in planned if set(weights) <= set(self.means.index)]
        if not run or (len(run) < len(planned) and not self.source.can_grow):
            return self.not_run(name for weights in planned for name in weights)
        weights = mean_of(run)
        comparison = self.contrast(weights, rule.limit)
        if comparison is None:
            return self.nothing_in_common(weights)
        p, family = comparison.p, 1
        if rule.family:
            # The claim picks one out of many that were tested; its p pays for all of them.
            each = {name: _weights(name, rule) for name in matching(rule.family)}
            fewest = self.fewest
            p = self.each(each, rule.limit)[rule.candidates[0]][1]
            self.fewest = fewest  # the family's seeds are not this comparison's
            family = len(self.planned(each))
        margin = self.margin_beside(rule.limit)
        gap = None if rule.reference is None else self.paper_gap(weights, comparison, rule.limit)
        outcome = self.directed(comparison, p, rule.expect, margin, gap)
        reason = "" if outcome != "inconclusive" else self.why_open(comparison, rule, family)
        if len(run) < len(planned):  # a part of the plan cannot decide the whole
            outcome = "inconclusive"
        is_level = rule.reference is None
        labels = () if is_level or rule.limit else self.labels(comparison, rule.expect, gap)
        limit = self.say.level(rule.limit) if is_level else self.say.gap(rule.limit)
        detail = joined(
            self.say.comparison(
                comparison, sentences.adjusted_p(p, family), rule.limit, level=is_level
            ),
            f"The limit is {limit}." if rule.limit else "",
            reason,
            "" if gap is None else self.say.beside_paper(gap, comparison),
            self.say.excluded(labels) if self.say.is_score and not is_level else "",
            sentences.incomplete(len(run), len(planned), "planned comparisons"),
        )
        evidence = self.evidence(comparison, p, rule.limit) | paper_evidence(gap, comparison)
        return Verdict(outcome, detail, evidence, labels)

    def every(self, rule: Every) -> Verdict:
        each = {name: _weights(name, rule) for name in matching(rule.candidates)}
        found = self.each(each, rule.limit)
        if not found:
            return self.not_run(name for weights in each.values() for name in weights)
        margin = self.margin_beside(rule.limit)
        # All must hold: support needs no adjustment. Any may fail: to contradict does.
        against_all = self.against(each, found, rule.expect, margin)
        outcomes: dict[str, Outcome] = {
            name: statistics.above(
                flipped(comparison, rule.expect),
                comparison.p,
                margin=margin,
                confidence=self.confidence,
                p_against=against_all[name],
            )
            for name, (comparison, _) in found.items()
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
        told = [
            f"Of {len(found)} comparisons {', '.join(counts)}.",
            f"Contradicted for {', '.join(against)}." if against else "",
        ]
        if self.has_few_seeds:
            level = rule.reference is None
            numbers = [
                f"{label(name)}: {self.say.interval(comparison, rule.limit, level=level)}"
                for name, (comparison, _) in found.items()
            ]
            told = [f"{'; '.join(numbers)}."]
        detail = joined(
            *told,
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
        contrasts = {name: {candidate: 1.0, name: -1.0} for name in planned}
        gaps = self.each(contrasts)
        if not gaps:
            return Verdict("inconclusive", "No other configuration was run.", {})
        bar, bar_p, family, bar_name = self.bar(candidate, gaps)
        if bar is None:
            return self.nothing_in_common([candidate, *gaps])
        against = self.against(contrasts, gaps, "above", 0.0)
        beaten_by = [name for name, p in against.items() if p < 1 - self.confidence]
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
        if self.has_few_seeds:
            doubt = ""
        elif beaten_by:
            doubt = f"Significantly above it: {', '.join(map(label, beaten_by))}."
        elif inferior:
            doubt = self.say.not_ruled_out(len(inferior), len(gaps), self.margin)
        detail = joined(
            f"{self.say.standing(candidate, len(candidates), ranking, rank)}; minus {bar_name} "
            f"{self.say.comparison(bar, sentences.adjusted_p(bar_p, family))}",
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
        contrasts = {name: {candidate: 1.0, name: -1.0} for name in planned}
        gaps = self.each(contrasts)
        if not gaps:
            return Verdict("inconclusive", "No other configuration was run.", {})
        missing = len(planned) - len(gaps)
        outcome: Outcome = "inconclusive"
        against = self.against(contrasts, gaps, "above", -self.margin)
        if any(p < 1 - self.confidence for p in against.values()):
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
        doubt = ""
        if side == "below":  # so must all pairs: one that varies more may be further apart
            doubt = self.pair_further_apart(names, rule.limit, simultaneous)
            side = None if doubt else side
        outcome: Outcome = "inconclusive"
        if side and len(names) == len(planned):
            outcome = "supported" if side == rule.expect else "contradicted"
        detail = joined(
            f"{label(high)} minus {label(low)}: {self.say.interval(gap, rule.limit)}, the interval "
            f"simultaneous over {pairs} pairs; the limit is {self.say.gap(rule.limit)}.",
            doubt,
            sentences.incomplete(len(names), len(planned), "configurations"),
        )
        return Verdict(outcome, detail, self.evidence(gap, gap.p, rule.limit))

    def pair_further_apart(self, names: Sequence[str], limit: float, confidence: float) -> str:
        """Say which pair may differ by the limit or more; nothing if none may."""
        widest, said = -math.inf, ""
        for one, other in permutations(names, 2):
            pair = self.contrast({one: 1.0, other: -1.0}, limit, confidence)
            end, how = math.inf, "no seed in common"
            if pair is not None:
                how = self.say.interval(pair, limit)
                if pair.n >= statistics.LEAST_SEEDS:
                    # What is the same for every seed has no interval, and needs none.
                    end = pair.high if pair.varies else pair.difference
            if end >= 0 and end > widest:
                widest, said = end, f"{label(one)} minus {label(other)} may be above it: {how}."
        return said


def _weights(name: str, rule: Difference | Every) -> Weights:
    """Return candidate minus reference as weights."""
    if rule.reference is None:
        return {name: 1.0}
    if rule.reference == "others":
        assert isinstance(rule, Difference)
        others = [other for other in matching(rule.among) if other != name]
        return {name: 1.0} | {other: -1 / len(others) for other in others}
    auxiliary, weighting = factors(name)
    reference = rule.reference.format(auxiliary=auxiliary, weighting=weighting)
    return {name: 1.0, parse_configuration(reference).name: -1.0}

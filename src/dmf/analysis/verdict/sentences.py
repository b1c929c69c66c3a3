"""The words of a verdict: numbers in the unit of their metric, and the sentences around them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dmf.analysis.verdict.statistics import MOST_SEEDS, NO_VARIATION, Comparison
from dmf.analysis.words import label, number, p_value


@dataclass(frozen=True)
class Sentences:
    """What is said of one metric: scores in percent and points, training quantities as they are."""

    is_score: bool
    confidence: float

    def number(self, value: float, *, sign: bool = False) -> str:
        plus = "+" if sign else ""
        value = 0.0 if abs(value) < NO_VARIATION else value
        return number(100 * value, f"{plus}.2f") if self.is_score else number(value, f"{plus}.3g")

    def level(self, value: float) -> str:
        return self.number(value) + (" %" if self.is_score else "")

    def gap(self, value: float, *, sign: bool = False) -> str:
        return self.number(value, sign=sign) + (" points" if self.is_score else "")

    def interval(self, comparison: Comparison, limit: float = 0.0, *, level: bool = False) -> str:
        """Return a difference, or a level, with its interval; the limit is added back."""
        seeds = "1 seed" if comparison.n == 1 else f"n = {comparison.n}"
        value = comparison.difference + limit
        middle = self.level(value) if level else self.gap(value, sign=True)
        if np.isnan(comparison.low):
            return f"{middle} ({seeds})"
        low, high = (
            self.number(end + limit, sign=not level) for end in (comparison.low, comparison.high)
        )
        return f"{middle} ({100 * self.confidence:g} % interval {low} to {high}, {seeds})"

    def standing(self, candidate: str, of: int, ranking: "pd.Series[float]", rank: int) -> str:
        """Say where the best of ``of`` candidates stands among all, the highest first."""
        who = label(candidate) + (f" (the best of {of} candidates)" if of > 1 else "")
        text = f"{who} is {_ordinal(rank)} of {len(ranking)}, {self.level(ranking[candidate])}"
        if rank > 1:
            first = str(ranking.index[0])
            text += f" against {self.level(ranking[first])} of {label(first)}"
        return text

    def not_ruled_out(self, inferior: int, others: int, margin: float) -> str:
        """Say against how many others the candidate may be worse by more than the margin."""
        whom = f"{inferior} of the {others} others" if others > 1 else "the other"
        return f"Against {whom}, being {self.gap(margin)} worse cannot be ruled out."

    def comparison(
        self, comparison: Comparison, p: str, limit: float = 0.0, *, level: bool = False
    ) -> str:
        """Return a difference with both intervals, each labelled by the question it answers.

        One interval, if both are the same or it is of the course of training; none for a level
        that is the same in every run.
        """
        if level and comparison.n > 1 and not comparison.varies:
            value = self.level(comparison.difference + limit)
            return f"{value} in all {comparison.n} runs."
        plain = (comparison.plain_low, comparison.plain_high)
        one = np.isnan(plain[0]) or plain == (comparison.low, comparison.high)
        if one or not self.is_score:
            return f"{self.interval(comparison, limit, level=level)}, {p}."
        low, high = (self.number(end + limit, sign=not level) for end in plain)
        return (
            f"{self.interval(comparison, limit, level=level)}, {p}, on other images of this kind; "
            f"{low} to {high}, {p_value(comparison.plain_p)}, on these under random splits."
        )

    def beside_paper(self, gap: Comparison, comparison: Comparison) -> str:
        """Set our difference against the paper's: the difference of effects with its error."""
        theirs = self.gap(comparison.difference - gap.difference, sign=True)
        if np.isnan(gap.low):
            return f"The paper has {theirs}."
        one = np.isnan(gap.plain_p) or (gap.plain_low, gap.plain_high) == (gap.low, gap.high)
        plain = "" if one else f"; {p_value(gap.plain_p)} on these images"
        return (
            f"Ours less the paper's {theirs}: {self.number(gap.difference, sign=True)} ± "
            f"{self.number(gap.standard_error)}, {p_value(gap.p)}{plain}."
        )

    def excluded(self, labels: Sequence[str]) -> str:
        """Say what the labels of a verdict say; empty if there is none."""
        text = "; ".join(labels)
        return f"{text[0].upper()}{text[1:]}." if text else ""


def adjusted_p(p: float, family: int = 1) -> str:
    """Return p, and over how many comparisons it is adjusted."""
    holm = f" after Holm over {family}" if family > 1 and not np.isnan(p) else ""
    return p_value(p) + holm


def not_run(names: Sequence[str]) -> str:
    """Say which configurations lack a finished run, a few of them by name."""
    return f"No finished run of {_few(names)}."


def without_number(names: Sequence[str]) -> str:
    """Say which configurations have finished runs, none of which has the number."""
    return f"The finished runs of {_few(names)} have no such number."


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")


def incomplete(run: int, planned: int, what: str) -> str:
    """Say how much of the plan was run; empty if all was."""
    return f"Only {run} of {planned} {what} were run." if run < planned else ""


def others_not_run(missing: int, planned: int) -> str:
    """Say how many of the others were not run; empty if all were."""
    return f"{missing} of {planned} others were not run." if missing else ""


def seeds_to_decide(needed: tuple[int | None, int | None] | None) -> str:
    """Say how many seeds would close an open verdict."""
    match needed:
        case None:
            return ""
        case None, _:
            return f"Not even {MOST_SEEDS} seeds would decide it."
        case low, None:
            return (
                f"If the difference held, {low} seeds or more would decide it; perhaps not even "
                f"{MOST_SEEDS}."
            )
        case low, high:
            return f"If the difference held, {low} to {high} seeds would decide it."


def joined(*sentences: str) -> str:
    """Return the sentences that are not empty, as one text."""
    return " ".join(sentence for sentence in sentences if sentence)


def _ordinal(rank: int) -> str:
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(rank if rank < 20 else rank % 10, "th")
    return f"{rank}{suffix}"

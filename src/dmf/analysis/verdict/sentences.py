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

    def paper_gap(self, value: float, outside: bool, comparison: Comparison) -> str:
        """Say whether the interval excludes the paper's own difference."""
        theirs = self.gap(value, sign=True)
        if np.isnan(comparison.low):
            return f"The paper has {theirs}."
        return f"The paper's {theirs} lies {'outside' if outside else 'inside'} this interval."


def adjusted_p(p: float, family: int = 1) -> str:
    """Return p, and over how many comparisons it is adjusted."""
    holm = f" after Holm over {family}" if family > 1 and not np.isnan(p) else ""
    return p_value(p) + holm


def not_run(names: Sequence[str]) -> str:
    """Say which configurations lack a finished run, a few of them by name."""
    more = f" and {len(names) - 4} more" if names[4:] else ""
    return f"No finished run of {', '.join(names[:4])}{more}."


def incomplete(run: int, planned: int, what: str) -> str:
    """Say how much of the plan was run; empty if all was."""
    return f"Only {run} of {planned} {what} were run." if run < planned else ""


def others_not_run(missing: int, planned: int) -> str:
    """Say how many of the others were not run; empty if all were."""
    return f"{missing} of {planned} others were not run." if missing else ""


def seeds_to_decide(needed: int | None) -> str:
    """Say how many seeds would close an open verdict."""
    if needed is None:
        return f"Not even {MOST_SEEDS} seeds would decide it."
    return f"If the estimates held, about {needed} seeds would decide it."


def joined(*sentences: str) -> str:
    """Return the sentences that are not empty, as one text."""
    return " ".join(sentence for sentence in sentences if sentence)


def _ordinal(rank: int) -> str:
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(rank if rank < 20 else rank % 10, "th")
    return f"{rank}{suffix}"

"""The pre-specified tests of docs/statistics.md: pure functions of arrays.

Differences and scores are in whatever unit comes in. Undefined numbers are NaN, never an exception:
one seed has no interval, and differences that do not vary have no t test.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Outcome = Literal["supported", "contradicted", "inconclusive"]

POWER = 0.8
MOST_SEEDS = 1000
# Differences of scores in [0, 1] that vary by less than this vary by rounding alone.
NO_VARIATION = 1e-12


@dataclass(frozen=True)
class Comparison:
    """A difference of means with its uncertainty.

    ``n`` is the number of pairs (:func:`paired`) or of runs per mean (:func:`welch`), ``std`` the
    standard deviation of the paired differences (of one run, for Welch), ``effect`` the difference
    in units of ``std``, ``p`` two-sided. ``standard_error`` to ``effect`` are NaN where undefined.
    """

    n: int
    difference: float
    std: float
    standard_error: float
    degrees: float
    low: float
    high: float
    p: float
    effect: float

    @property
    def varies(self) -> bool:
        """Whether there is a spread to test against."""
        return self.n > 1 and self.std > NO_VARIATION


def paired(
    differences: ArrayLike, *, confidence: float = 0.95, test_to_train: float = 0.0
) -> Comparison:
    """Test whether paired differences have mean 0: t with the Nadeau-Bengio variance.

    The variance of the mean is std² (1/n + ``test_to_train``), with ``test_to_train`` the number of
    test over training images where each seed redraws the split (the training sets overlap, so the
    differences are correlated), and 0, the plain paired t test, where one split serves all seeds.
    Source: Nadeau and Bengio, Machine Learning 52 (2003). Raises ValueError if there is no
    difference. If all are 0 the interval is [0, 0] and p is 1; if they are equal but not 0, or
    there is only one, interval and p are NaN.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = values.size
    if n == 0:
        raise ValueError("a paired comparison needs at least one pair")
    std = float(values.std(ddof=1)) if n > 1 else np.nan
    error = std * np.sqrt(1 / n + test_to_train)
    return _comparison(n, float(values.mean()), std, float(error), n - 1, confidence)


def welch(
    means: ArrayLike,
    stds: ArrayLike,
    n: int,
    weights: ArrayLike,
    *,
    limit: float = 0.0,
    confidence: float = 0.95,
) -> Comparison:
    """Test a weighted sum of independent means less ``limit``, knowing only mean, std, n of each.

    With weights (1, -1) this is Welch's t test; in general the degrees of freedom are those of
    Welch and Satterthwaite. All means are over ``n`` runs. Raises ValueError for unequal lengths.
    """
    mean, spread, weight = (np.asarray(x, dtype=np.float64) for x in (means, stds, weights))
    if not mean.shape == spread.shape == weight.shape:
        raise ValueError("means, stds and weights must have the same length")
    parts = (weight * spread) ** 2 / n
    variance = float(parts.sum())
    squares = float((parts**2).sum())
    degrees = variance**2 * (n - 1) / squares if squares > 0 else np.nan
    std = float(np.sqrt(variance * n / (weight @ weight)))
    difference = float(weight @ mean) - limit
    return _comparison(n, difference, std, float(np.sqrt(variance)), degrees, confidence)


def _comparison(
    n: int, difference: float, std: float, error: float, degrees: float, confidence: float
) -> Comparison:
    low = high = p = effect = np.nan
    if n > 1 and std <= NO_VARIATION:
        if abs(difference) <= NO_VARIATION:
            low, high, p = difference, difference, 1.0
    elif n > 1:
        half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * error
        low, high = difference - half, difference + half
        p = float(2 * stats.t.sf(abs(difference) / error, degrees))
        effect = difference / std
    return Comparison(n, difference, std, error, degrees, low, high, p, effect)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's adjusted p values, in the order given.

    NaN (a comparison that was planned but gave no p value) counts as 1, so that a failed run never
    makes the others look better; it stays NaN in the result.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return p
    filled = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(filled, kind="stable")
    stepped = np.maximum.accumulate(filled[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return np.where(np.isnan(p), np.nan, adjusted)


def wilcoxon(differences: ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test, exact for up to 50 untied pairs.

    NaN for fewer than two pairs, 1 if no pair differs.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size < 2:
        return np.nan
    if not values.any():
        return 1.0
    return float(stats.wilcoxon(values, method="auto").pvalue)


def seeds_needed(
    distance: float,
    std: float,
    *,
    alpha: float,
    test_to_train: float = 0.0,
    power: float = POWER,
) -> int | None:
    """Return how many seeds show a true ``distance`` from 0 with the given power.

    Two-sided level ``alpha``, paired differences of standard deviation ``std``. None if more than
    a thousand would be needed, or if no number is enough: with redrawn splits the variance of the
    mean never falls below std² ``test_to_train``.
    """
    if not (std > NO_VARIATION and distance != 0):
        return None

    def found(n: int) -> bool:
        error = std * np.sqrt(1 / n + test_to_train)
        critical = stats.t.isf(alpha / 2, n - 1)
        return bool(stats.nct.sf(critical, n - 1, abs(distance) / error) >= power)

    if not found(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def above(
    comparison: Comparison, p_adjusted: float, *, margin: float, confidence: float
) -> Outcome:
    """Judge "A above B" from the comparison A - B.

    Supported if the adjusted p is below 1 - confidence and the interval lies above 0; contradicted
    if the interval lies below ``margin``, so that a difference worth having is excluded; otherwise,
    and wherever there is no interval, inconclusive.
    """
    if p_adjusted < 1 - confidence and comparison.low > 0:
        return "supported"
    if comparison.high < margin:
        return "contradicted"
    return "inconclusive"


def seeds_to_decide(
    comparison: Comparison,
    *,
    margin: float,
    confidence: float,
    comparisons: int = 1,
    test_to_train: float = 0.0,
) -> int | None:
    """Return how many seeds would decide an inconclusive "A above B", if the numbers stayed as is.

    The smaller of two: to show a difference above 0 (at the first, strictest, level of Holm's
    procedure over ``comparisons``), and to show one below ``margin``. None if neither is in reach
    (see :func:`seeds_needed`).
    """
    alpha = 1 - confidence
    routes = [(comparison.difference, alpha / comparisons), (margin - comparison.difference, alpha)]
    needed = [
        seeds_needed(distance, comparison.std, alpha=level, test_to_train=test_to_train)
        for distance, level in routes
        if distance > 0
    ]
    return min((n for n in needed if n is not None), default=None)


def interquartile_mean(scores: Sequence[NDArray[np.float64]]) -> float:
    """Return the mean of the middle half of all scores together (25 % trimmed at each end)."""
    return float(stats.trim_mean(np.concatenate(scores), 0.25))


def probability_of_improvement(
    scores: Sequence[NDArray[np.float64]], references: Sequence[NDArray[np.float64]]
) -> float:
    """Return P(a run of A scores above a run of B), averaged over data sets; ties count half."""
    shares = [
        float(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))
        for a, b in zip(scores, references, strict=True)
    ]
    return float(np.mean(shares))


def stratified_bootstrap(
    statistic: Callable[[Sequence[NDArray[np.float64]]], float],
    strata: Sequence[NDArray[np.float64]],
    *,
    resamples: int,
    confidence: float,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """Return the percentile interval of ``statistic`` when rows are redrawn within each stratum.

    ``strata`` holds one array per data set whose first axis is the seed. Percentile intervals of
    ten seeds cover less than they promise (about 90 % for 95 %), and redrawn splits are not
    independent: read them as descriptive.
    """
    draws = np.empty(resamples)
    for i in range(resamples):
        draws[i] = statistic([x[generator.integers(len(x), size=len(x))] for x in strata])
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

"""The pre-specified tests of docs/statistics.md: pure functions of arrays.

Differences and scores are in whatever unit comes in. Undefined numbers are NaN, never an exception:
one seed has no interval, and differences that do not vary have no t test.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Outcome = Literal["supported", "contradicted", "inconclusive"]

POWER = 0.8
MOST_SEEDS = 1000
LEAST_SEEDS = 5  # for a verdict: a spread of fewer seeds is too often small by luck
LEAST_FOR_RANKS = 6  # the least p of Wilcoxon's exact test is 0.0625 at five pairs
# Differences of scores in [0, 1] that vary by less than this vary by rounding alone.
NO_VARIATION = 1e-12


@dataclass(frozen=True)
class Comparison:
    """A difference of means with its uncertainty.

    ``n`` is the number of pairs (:func:`paired`) or of runs per mean (:func:`welch`), ``std`` the
    standard deviation of the paired differences (of one run, for Welch), ``effect`` the difference
    in units of ``std``, ``p`` two-sided. ``standard_error`` to ``effect`` are NaN where undefined.

    ``low``, ``high`` and ``p`` answer for other images of the kind (Nadeau-Bengio); ``plain_low``,
    ``plain_high`` and ``plain_p`` for these images under random splits. They are the same where
    nothing allows for overlapping splits.
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
    plain_low: float = np.nan
    plain_high: float = np.nan
    plain_p: float = np.nan

    @property
    def plain_error(self) -> float:
        """The standard error without allowance for overlapping splits."""
        if not self.varies:
            return self.standard_error
        plain, full = self.plain_high - self.plain_low, self.high - self.low
        return self.standard_error * plain / full

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
    return _comparison(n, float(values.mean()), std, 1 / n, test_to_train, n - 1, confidence)


def welch(
    means: ArrayLike,
    stds: ArrayLike,
    n: int,
    weights: ArrayLike,
    *,
    limit: float = 0.0,
    confidence: float = 0.95,
    test_to_train: float = 0.0,
) -> Comparison:
    """Test a weighted sum of independent means less ``limit``, knowing only mean, std, n of each.

    With weights (1, -1) this is Welch's t test; in general the degrees of freedom are those of
    Welch and Satterthwaite. All means are over ``n`` runs. ``test_to_train`` as in :func:`paired`.
    Raises ValueError for unequal lengths.
    """
    mean, spread, weight = (np.asarray(x, dtype=np.float64) for x in (means, stds, weights))
    if not mean.shape == spread.shape == weight.shape:
        raise ValueError("means, stds and weights must have the same length")
    parts = (weight * spread) ** 2 / n
    variance = float(parts.sum())
    squares = float((parts**2).sum())
    degrees = variance**2 * (n - 1) / squares if squares > 0 else np.nan
    size = float(weight @ weight)
    std = float(np.sqrt(variance * n / size))
    difference = float(weight @ mean) - limit
    return _comparison(n, difference, std, size / n, size * test_to_train, degrees, confidence)


def difference_of_effects(
    ours: Comparison, theirs: Comparison, *, confidence: float = 0.95
) -> Comparison:
    """Compare two independent effects, each with its own standard error (Welch-Satterthwaite).

    The plain interval and p are those of the plain errors of both.
    """
    both = ours, theirs
    found, plain = (
        _gap_of_effects(both, errors, confidence)
        for errors in ([one.standard_error for one in both], [one.plain_error for one in both])
    )
    return replace(found, plain_low=plain.low, plain_high=plain.high, plain_p=plain.p)


def _gap_of_effects(
    both: tuple[Comparison, Comparison], errors: Sequence[float], confidence: float
) -> Comparison:
    ours, theirs = both
    squares = [error**2 for error in errors]
    total, gap = sum(squares), ours.difference - theirs.difference
    known = bool(np.isfinite(total) and total > NO_VARIATION**2)
    degrees = np.nan
    if known:
        parts = [
            square**2 / one.degrees for square, one in zip(squares, both, strict=True) if square > 0
        ]
        degrees = total**2 / sum(parts)
    std = float(np.sqrt(total)) if known else np.nan
    return _comparison(ours.n, gap, std, 1.0, 0.0, degrees, confidence)


def p_below(comparison: Comparison, limit: float) -> float:
    """Return the p with which the difference lies below ``limit``, NaN without an interval.

    It is below 1 - confidence where the two-sided interval lies below the limit.
    """
    if np.isnan(comparison.high):
        return np.nan
    if not comparison.varies:
        return 0.0 if comparison.high < limit else 1.0
    t = (comparison.difference - limit) / comparison.standard_error
    return float(min(1.0, 2 * stats.t.cdf(t, comparison.degrees)))


def _comparison(
    n: int,
    difference: float,
    std: float,
    own: float,
    shared: float,
    degrees: float,
    confidence: float,
) -> Comparison:
    """Return the comparison of a difference with the variance std² (own + shared)."""
    error = float(std * np.sqrt(own + shared))
    if n > 1 and std <= NO_VARIATION:
        if abs(difference) > NO_VARIATION:
            return Comparison(n, difference, std, error, degrees, *[np.nan] * 4)
        same = (difference, difference, 1.0)
        return Comparison(n, difference, std, error, degrees, *same, np.nan, *same)
    if n < 2 or np.isnan(std):
        return Comparison(n, difference, std, error, degrees, *[np.nan] * 4)
    critical = float(stats.t.ppf((1 + confidence) / 2, degrees))
    ends = []
    for variance in (own + shared, own):
        sigma = float(std * np.sqrt(variance))
        p = float(2 * stats.t.sf(abs(difference) / sigma, degrees))
        ends.append((difference - critical * sigma, difference + critical * sigma, p))
    return Comparison(n, difference, std, error, degrees, *ends[0], difference / std, *ends[1])


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

    NaN for fewer than six pairs, where it cannot reach 0.05; 1 if no pair differs.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size < LEAST_FOR_RANKS:
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
    comparison: Comparison,
    p_adjusted: float,
    *,
    margin: float,
    confidence: float,
    p_against: float | None = None,
) -> Outcome:
    """Judge "A above B" from the comparison A - B.

    Supported if the adjusted p is below 1 - confidence and the interval lies above 0; contradicted
    if ``p_against`` is below 1 - confidence (by default the p of lying below ``margin``, so that a
    difference worth having is excluded); otherwise, and without an interval, inconclusive.
    """
    if p_adjusted < 1 - confidence and comparison.low > 0:
        return "supported"
    if (p_below(comparison, margin) if p_against is None else p_against) < 1 - confidence:
        return "contradicted"
    return "inconclusive"


def std_interval(std: float, n: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a standard deviation of ``n`` normal values (chi squared)."""
    tails = stats.chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], n - 1)
    low, high = std * np.sqrt((n - 1) / tails)
    return float(low), float(high)


def seeds_to_decide(
    comparison: Comparison,
    *,
    margin: float,
    confidence: float,
    comparisons: int = 1,
    test_to_train: float = 0.0,
) -> tuple[int | None, int | None] | None:
    """Return how many seeds would decide an inconclusive "A above B", if the difference stayed.

    A range, over the interval of the standard deviation; None at an end that no number of seeds in
    reach decides (see :func:`seeds_needed`), None altogether below :data:`LEAST_SEEDS`, where the
    standard deviation is known too badly. Each end is the smaller of two numbers: to show a
    difference above 0 (at the first, strictest, level of Holm's procedure over ``comparisons``),
    and to show one below ``margin``.
    """
    if comparison.n < LEAST_SEEDS or not comparison.varies:
        return None
    alpha = 1 - confidence
    routes = [(comparison.difference, alpha / comparisons), (margin - comparison.difference, alpha)]

    def least(std: float) -> int | None:
        needed = [
            seeds_needed(distance, std, alpha=level, test_to_train=test_to_train)
            for distance, level in routes
            if distance > 0
        ]
        return min((n for n in needed if n is not None), default=None)

    low, high = map(least, std_interval(comparison.std, comparison.n, confidence))
    return low, high


def random_effects(
    effects: ArrayLike, errors: ArrayLike, *, confidence: float = 0.95
) -> tuple[Comparison, float]:
    """Pool independent effects with their standard errors; return the mean and tau, its spread.

    Random effects with the variance of Paule and Mandel and the interval of Hartung and Knapp,
    whose t has as many degrees of freedom as there are effects, less one. Its standard error is
    never below that of the inverse variances, which it is where the effects differ by less than
    their errors explain. Sources: IntHout et al., BMC Medical Research Methodology 14:25 (2014);
    Röver et al., BMC Medical Research Methodology 15:99 (2015). Raises ValueError for fewer than
    two effects.
    """
    from statsmodels.stats.meta_analysis import combine_effects  # which takes seconds

    means, sigma = (np.asarray(x, dtype=np.float64) for x in (effects, errors))
    if means.size < 2:
        raise ValueError("pooling needs at least two effects")
    pooled = combine_effects(means, sigma**2, method_re="iterated", use_t=True)
    error = float(max(pooled.sd_eff_w_re_hksj, pooled.sd_eff_w_re))
    mean = float(pooled.mean_effect_re)
    found = _comparison(means.size, mean, error, 1.0, 0.0, means.size - 1, confidence)
    return found, float(np.sqrt(max(0.0, pooled.tau2)))


def interquartile_mean(scores: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean of the middle half of all scores together (25 % trimmed at each end).

    The last axis holds the runs, axes before it (resamples, say) are kept.
    """
    return np.asarray(stats.trim_mean(np.concatenate(scores, axis=-1), 0.25, axis=-1))


def probability_of_improvement(
    scores: Sequence[NDArray[np.float64]], references: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return P(a run of A scores above a run of B), averaged over data sets; ties count half.

    The last axis holds the runs, axes before it (resamples, say) are kept.
    """
    pairs = [(a[..., :, None], b[..., None, :]) for a, b in zip(scores, references, strict=True)]
    shares = [np.mean((a > b) + 0.5 * (a == b), axis=(-2, -1)) for a, b in pairs]
    return np.asarray(np.mean(shares, axis=0))


def stratified_bootstrap(
    statistic: Callable[[Sequence[NDArray[np.float64]]], NDArray[np.float64]],
    strata: Sequence[NDArray[np.float64]],
    *,
    resamples: int,
    confidence: float,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """Return the percentile interval of ``statistic`` when rows are redrawn within each stratum.

    ``strata`` holds one array per data set whose first axis is the seed. ``statistic`` gets all
    resamples at once, as a first axis before it, and returns a value for each. Percentile intervals
    of ten seeds cover less than they promise (about 90 % for 95 %), and redrawn splits are not
    independent: read them as descriptive.
    """
    rows = [[generator.integers(len(x), size=len(x)) for x in strata] for _ in range(resamples)]
    by_stratum = zip(strata, zip(*rows, strict=True), strict=True)
    draws = statistic([x[np.array(drawn)] for x, drawn in by_stratum])
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

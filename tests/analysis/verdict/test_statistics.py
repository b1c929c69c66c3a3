"""The tests of docs/statistics.md against scipy, statsmodels, enumeration and simulation."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from dmf.analysis.verdict import statistics
from dmf.analysis.verdict.statistics import Comparison

OVERLAP = 0.15 / 0.70
SAMPLES = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=3, max_size=12).filter(
    lambda values: np.std(values) > 1e-6
)


@given(SAMPLES, st.sampled_from([0.8, 0.95, 0.99]))
@settings(deadline=None, max_examples=50)
def test_paired_is_scipys_t_where_one_split_serves_all_seeds(
    values: list[float], confidence: float
) -> None:
    ours = statistics.paired(values, confidence=confidence)
    oracle = stats.ttest_1samp(values, 0)
    interval = oracle.confidence_interval(confidence)
    assert ours.p == pytest.approx(oracle.pvalue)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
    assert ours.effect == pytest.approx(np.mean(values) / np.std(values, ddof=1))


@given(SAMPLES)
@settings(deadline=None, max_examples=50)
def test_overlapping_splits_shrink_t_by_the_nadeau_bengio_factor(values: list[float]) -> None:
    ours = statistics.paired(values, test_to_train=OVERLAP)
    n = len(values)
    shrunk = stats.ttest_1samp(values, 0).statistic / np.sqrt(1 + n * OVERLAP)
    assert ours.difference / ours.standard_error == pytest.approx(shrunk)
    assert ours.p == pytest.approx(2 * stats.t.sf(abs(shrunk), n - 1))


@given(SAMPLES, SAMPLES)
@settings(deadline=None, max_examples=50)
@pytest.mark.slow
def test_welch_from_summaries_is_welch_from_the_data(a: list[float], b: list[float]) -> None:
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW  # which takes seconds

    n = min(len(a), len(b))
    x, y = np.array(a[:n]), np.array(b[:n])
    if min(x.std(), y.std()) < 1e-6:
        return
    ours = statistics.welch([x.mean(), y.mean()], [x.std(ddof=1), y.std(ddof=1)], n, [1, -1])
    oracle = stats.ttest_ind(x, y, equal_var=False)
    interval = CompareMeans(DescrStatsW(x), DescrStatsW(y)).tconfint_diff(usevar="unequal")
    assert ours.p == pytest.approx(oracle.pvalue)
    assert ours.degrees == pytest.approx(oracle.df)
    assert (ours.low, ours.high) == pytest.approx(interval)
    pooled = np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    assert ours.effect == pytest.approx((x.mean() - y.mean()) / pooled)


def test_welch_of_an_average_covers_as_promised() -> None:
    generator = np.random.default_rng(1)
    sigma, weights = np.array([0.5, 1.0, 2.0]), np.array([0.5, 0.5, -1.0])
    covered = 0
    for _ in range(1000):
        runs = generator.normal(3, sigma, (10, 3))
        found = statistics.welch(runs.mean(0), runs.std(0, ddof=1), 10, weights)
        covered += found.low <= 0 <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_welch_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="same length"):
        statistics.welch([1, 2], [1], 10, [1, -1])


@pytest.mark.parametrize(
    "p_values",
    [
        [0.04],
        [0.5, 0.01, 0.03, 0.01, 1.0, 0.0],
        np.random.default_rng(0).random(12),
        np.random.default_rng(1).random(12) ** 4,
    ],
)
@pytest.mark.slow
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    oracle = multipletests(p_values, method="holm")[1]
    assert statistics.holm(p_values) == pytest.approx(oracle)


def test_holm_counts_a_failed_comparison_against_the_others() -> None:
    adjusted = statistics.holm([0.01, np.nan, 0.02])
    assert adjusted == pytest.approx([0.03, np.nan, 0.04], nan_ok=True)
    assert statistics.holm([]).size == 0


def test_wilcoxon_is_exact() -> None:
    values = np.array([0.3, -0.1, 0.7, 0.2, 1.1, -0.4, 0.9, 0.6])
    ranks = stats.rankdata(abs(values))
    signs = np.array(list(product([-1, 1], repeat=len(values))))
    observed = abs((np.sign(values) * ranks).sum())
    assert statistics.wilcoxon(values) == pytest.approx(
        np.mean(abs(signs @ ranks) >= observed - 1e-9)
    )
    assert statistics.wilcoxon(np.arange(1.0, 11)) == pytest.approx(2 / 2**10)


@pytest.mark.parametrize(("values", "expected"), [([0.1] * 5, np.nan), ([0.0] * 6, 1.0)])
def test_wilcoxon_without_information(values: list[float], expected: float) -> None:
    assert statistics.wilcoxon(values) == pytest.approx(expected, nan_ok=True)


def test_one_seed_has_a_difference_and_nothing_else() -> None:
    found = statistics.paired([0.02])
    assert (found.n, found.difference) == (1, 0.02)
    assert np.isnan([found.low, found.high, found.p, found.effect]).all()
    assert statistics.above(found, found.p, margin=0.005, confidence=0.95) == "inconclusive"
    with pytest.raises(ValueError, match="at least one"):
        statistics.paired([])


def test_two_seeds_have_an_interval() -> None:
    found = statistics.paired([0.01, 0.02])
    assert found.low < 0.015 < found.high
    assert 0 < found.p < 1


def test_differences_that_do_not_vary() -> None:
    same = statistics.paired([0.0, 0.0, 0.0], test_to_train=OVERLAP)
    assert (same.low, same.high, same.p) == (0, 0, 1)
    assert statistics.above(same, same.p, margin=0.005, confidence=0.95) == "contradicted"
    constant = statistics.paired([0.1, 0.1, 0.1])
    assert np.isnan([constant.low, constant.p]).all()
    assert statistics.above(constant, constant.p, margin=0.005, confidence=0.95) == "inconclusive"


@pytest.mark.parametrize("effect", [0.5, 1.0, 1.53, 3.0])
@pytest.mark.slow
def test_seeds_needed_is_statsmodels_power(effect: float) -> None:
    from statsmodels.stats.power import TTestPower

    exact = TTestPower().solve_power(effect_size=effect, alpha=0.05 / 12, power=0.8)
    assert statistics.seeds_needed(effect, 1.0, alpha=0.05 / 12) == int(np.ceil(exact))


def test_seeds_needed_when_splits_overlap() -> None:
    plain = statistics.seeds_needed(2.0, 1.0, alpha=0.05)
    overlapping = statistics.seeds_needed(2.0, 1.0, alpha=0.05, test_to_train=OVERLAP)
    assert plain is not None
    assert overlapping is not None
    assert plain < overlapping
    # The mean's standard error never falls below std * sqrt(0.15 / 0.70) = 0.46 std.
    assert statistics.seeds_needed(1.0, 1.0, alpha=0.05, test_to_train=OVERLAP) is None
    assert statistics.seeds_needed(0.0, 1.0, alpha=0.05) is None
    assert statistics.seeds_needed(1.0, 0.0, alpha=0.05) is None


def comparison(n: int, difference: float, std: float, error: float) -> Comparison:
    """Return a comparison with the t interval that belongs to its standard error."""
    half = float(stats.t.ppf(0.975, n - 1)) * error
    ends = (difference - half, difference + half)
    return Comparison(n, difference, std, error, n - 1, *ends, 0.5, 0)


def test_seeds_to_decide_takes_the_shorter_way_over_the_interval_of_the_std() -> None:
    def seeds(difference: float, n: int = 10) -> tuple[int | None, int | None] | None:
        one = comparison(n, difference, 0.004, 0.001)
        return statistics.seeds_to_decide(one, margin=0.005, confidence=0.95, comparisons=12)

    # The interval of a standard deviation of ten values, from a table of chi squared.
    ends = [0.004 * np.sqrt(9 / 19.0228), 0.004 * np.sqrt(9 / 2.70039)]
    assert statistics.std_interval(0.004, 10, 0.95) == pytest.approx(ends, rel=1e-4)

    def needed(distance: float, alpha: float) -> tuple[int | None, ...]:
        return tuple(statistics.seeds_needed(distance, std, alpha=alpha) for std in ends)

    # At 0 only "below the margin" can be shown; at the margin only "above 0".
    assert seeds(0.0) == needed(0.005, 0.05)
    assert seeds(0.005) == needed(0.005, 0.05 / 12)
    assert seeds(-0.01) == needed(0.015, 0.05)
    assert seeds(0.0, n=4) is None


@given(SAMPLES, st.floats(-1, 1))
@settings(deadline=None, max_examples=50)
def test_p_below_a_limit_is_scipys_one_sided_p_twice(values: list[float], limit: float) -> None:
    ours = statistics.p_below(statistics.paired(values), limit)
    oracle = stats.ttest_1samp(values, limit, alternative="less").pvalue
    assert ours == pytest.approx(min(1.0, 2 * oracle))
    assert (ours < 0.05) == (statistics.paired(values).high < limit)


def test_two_intervals_answer_two_questions() -> None:
    values = np.random.default_rng(3).normal(0.2, 1, 8)
    both = statistics.paired(values, test_to_train=OVERLAP)
    plain = stats.ttest_1samp(values, 0)
    ends = plain.confidence_interval()
    found = (both.plain_low, both.plain_high, both.plain_p)
    assert found == pytest.approx((ends.low, ends.high, plain.pvalue))
    assert both.low < both.plain_low < both.plain_high < both.high


def test_a_difference_of_effects_is_welchs_of_four_samples() -> None:
    """Two effects, each of two independent means: the sum of four terms, by their own errors."""
    generator = np.random.default_rng(4)
    ours, theirs = generator.normal(0, 1, 7), generator.normal(2, 0.5, 10)
    found = statistics.difference_of_effects(statistics.paired(ours), statistics.paired(theirs))
    oracle = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = oracle.confidence_interval()
    assert found.p == pytest.approx(oracle.pvalue)
    assert found.degrees == pytest.approx(oracle.df)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_a_difference_of_effects_needs_both_errors() -> None:
    one = statistics.paired([0.02])
    found = statistics.difference_of_effects(one, statistics.paired([0.1, 0.2, 0.3]))
    assert found.difference == pytest.approx(-0.18)
    assert np.isnan([found.low, found.p, found.standard_error]).all()


def test_a_difference_of_effects_has_both_intervals() -> None:
    """The plain one is Welch's, whatever the other allows for."""
    generator = np.random.default_rng(5)
    ours, theirs = generator.normal(0, 1, 10), generator.normal(1, 0.5, 10)
    found = statistics.difference_of_effects(
        statistics.paired(ours, test_to_train=OVERLAP), statistics.paired(theirs)
    )
    oracle = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = oracle.confidence_interval()
    plain = (found.plain_low, found.plain_high, found.plain_p)
    assert plain == pytest.approx((interval.low, interval.high, oracle.pvalue))
    wider = np.sqrt(ours.var(ddof=1) * (1 / 10 + OVERLAP) + theirs.var(ddof=1) / 10)
    assert found.standard_error == pytest.approx(wider)
    assert found.low < found.plain_low < found.plain_high < found.high


def test_welch_allows_for_overlapping_splits() -> None:
    plain = statistics.welch([3, 1], [1, 2], 10, [1, -1])
    both = statistics.welch([3, 1], [1, 2], 10, [1, -1], test_to_train=OVERLAP)
    assert both.standard_error == pytest.approx(np.sqrt(5 * (1 / 10 + OVERLAP)))
    assert (both.plain_low, both.plain_high) == pytest.approx((plain.low, plain.high))
    assert both.degrees == plain.degrees


def test_random_effects_by_hand() -> None:
    """Equal errors have closed forms: the plain mean, and Hartung and Knapp's is Student's t."""
    effects = [0.5, 1.0, -0.2, 0.3]
    pooled, tau = statistics.random_effects(effects, [0.1] * 4)
    interval = stats.ttest_1samp(effects, 0).confidence_interval()
    assert pooled.difference == pytest.approx(np.mean(effects))
    assert (pooled.low, pooled.high) == pytest.approx((interval.low, interval.high))
    assert tau == pytest.approx(np.sqrt(np.var(effects, ddof=1) - 0.01), rel=1e-3)
    with pytest.raises(ValueError, match="at least two"):
        statistics.random_effects([0.1], [0.1])


def test_effects_that_agree_by_luck_do_not_narrow_their_interval() -> None:
    """Effects closer together than their errors explain: the error of inverse variances stays."""
    errors = np.array([0.2, 0.3, 0.6])
    pooled, tau = statistics.random_effects([0.50, 0.51, 0.49], errors)
    sigma = np.sqrt(1 / np.sum(1 / errors**2))
    assert tau == 0
    assert pooled.standard_error == pytest.approx(sigma)
    assert pooled.high - pooled.low == pytest.approx(2 * stats.t.ppf(0.975, 2) * sigma)


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.001, 0.02, 0.01, "supported"),
        (0.001, 0.004, 0.01, "supported"),  # above 0, if by less than the margin
        (0.001, 0.02, 0.20, "inconclusive"),  # not after adjustment
        (-0.01, 0.004, 0.50, "contradicted"),
        (-0.02, -0.01, 0.001, "contradicted"),
        (-0.01, 0.01, 0.50, "inconclusive"),
    ],
)
def test_verdicts_follow_the_plan(low: float, high: float, p: float, expected: str) -> None:
    error = (high - low) / 2 / float(stats.t.ppf(0.975, 9))
    one = comparison(10, (low + high) / 2, 1, error)
    assert statistics.above(one, p, margin=0.005, confidence=0.95) == expected


def correlated(
    generator: np.random.Generator, shape: tuple[int, ...], mean: float = 0.0
) -> NDArray[np.float64]:
    """Return differences (…, seeds) whose seeds correlate as those of overlapping splits do.

    Nadeau and Bengio's correlation is n_test / (n_test + n_train).
    """
    rho = 0.15 / 0.85
    shared = generator.normal(0, np.sqrt(rho), (*shape[:-1], 1))
    own = generator.normal(0, np.sqrt(1 - rho), shape)
    return np.asarray(mean + shared + own)


@pytest.mark.slow
def test_error_rate_under_the_null_with_overlapping_splits() -> None:
    draws = correlated(np.random.default_rng(2), (1000, 10))
    corrected = [statistics.paired(x, test_to_train=OVERLAP).p < 0.05 for x in draws]
    plain = [statistics.paired(x).p < 0.05 for x in draws]
    assert 0.03 <= np.mean(corrected) <= 0.07
    assert np.mean(plain) > 0.15


@pytest.mark.slow
def test_family_wise_error_of_the_twelve_comparisons() -> None:
    """All 12 share the fixed weights' runs, so they correlate; Holm holds all the same."""
    generator = np.random.default_rng(3)
    false = 0
    for _ in range(250):
        runs = correlated(generator, (13, 10))
        found = [statistics.paired(x - runs[12], test_to_train=OVERLAP) for x in runs[:12]]
        adjusted = statistics.holm([one.p for one in found])
        verdicts = [
            statistics.above(one, p, margin=0.3, confidence=0.95)
            for one, p in zip(found, adjusted, strict=True)
        ]
        false += "supported" in verdicts
    # Two-sided tests, one side of which supports: at most 2.5 %, within simulation error.
    assert false / 250 <= 0.05


@pytest.mark.slow
def test_a_gain_of_the_margin_is_seldom_contradicted() -> None:
    draws = correlated(np.random.default_rng(4), (1000, 10), mean=0.3)
    verdicts = [
        statistics.above(one, one.p, margin=0.3, confidence=0.95)
        for one in (statistics.paired(x, test_to_train=OVERLAP) for x in draws)
    ]
    assert verdicts.count("contradicted") / len(verdicts) <= 0.04


def test_interquartile_mean_ignores_a_quarter_at_each_end() -> None:
    scores = [np.array([0.0, 0.2, 0.4]), np.array([0.6, 0.8, 1.0, 100.0, -50.0])]
    assert statistics.interquartile_mean(scores) == pytest.approx((0.2 + 0.4 + 0.6 + 0.8) / 4)


def test_probability_of_improvement_is_the_mann_whitney_share() -> None:
    generator = np.random.default_rng(5)
    a, b = generator.normal(0.5, 1, 9).round(1), generator.normal(0, 1, 7).round(1)
    oracle = stats.mannwhitneyu(a, b).statistic / (9 * 7)
    assert statistics.probability_of_improvement([a], [b]) == pytest.approx(oracle)
    both = statistics.probability_of_improvement([a, b], [b, a])
    assert both == pytest.approx(0.5)


def test_statistics_of_resamples_are_those_of_each() -> None:
    a, b = np.random.default_rng(8).normal(0, 1, (2, 6, 11)).round(1)
    assert statistics.interquartile_mean([a, b]) == pytest.approx(
        [float(statistics.interquartile_mean([x, y])) for x, y in zip(a, b, strict=True)]
    )
    assert statistics.probability_of_improvement([a, b], [b, b]) == pytest.approx(
        [
            float(statistics.probability_of_improvement([x, y], [y, y]))
            for x, y in zip(a, b, strict=True)
        ]
    )


def test_bootstrap_keeps_strata_apart_and_repeats() -> None:
    strata = [np.full(5, 0.0), np.full(5, 1.0)]

    def mean(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.asarray(np.concatenate(parts, axis=-1).mean(axis=-1))

    def interval(values: list[NDArray[np.float64]], seed: int) -> tuple[float, float]:
        return statistics.stratified_bootstrap(
            mean,
            values,
            resamples=300,
            confidence=0.95,
            generator=np.random.default_rng(seed),
        )

    assert interval(strata, 0) == (0.5, 0.5)  # resampling across strata would vary
    noisy = [np.random.default_rng(6).normal(0, 1, 40), np.random.default_rng(7).normal(5, 1, 40)]
    low, high = interval(noisy, 1)
    oracle = stats.norm.interval(0.95, np.concatenate(noisy).mean(), np.sqrt(1 / 80))
    assert (low, high) == pytest.approx(oracle, abs=0.06)
    assert interval(noisy, 1) == (low, high)

"""The weights of the fusion against independent readings of the papers, and their properties."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from dmf.fusion import WEIGHTINGS, DynamicMemoryFusion

NORMALISED = ("variance", "mad", "bayesian")
Series = NDArray[np.float64]


def series(seed: int, steps: int, losses: int = 3) -> Series:
    """Falling, noisy losses on different scales, one of which is negative at times."""
    generator = np.random.default_rng(seed)
    falling = np.exp(-np.arange(steps) / generator.uniform(20, 200, (losses, 1)))
    noise = generator.normal(0, 0.1, (losses, steps))
    scale = 10.0 ** np.arange(losses)[:, None]
    values = scale * (falling + noise)
    values[0] -= 0.5
    return values


def run(fusion: DynamicMemoryFusion, values: Series) -> Series:
    """The weights of every step, (steps, K)."""
    weights = []
    for column in torch.as_tensor(values, dtype=fusion.weights.dtype).T:
        fusion(column)
        weights.append(fusion.weights.numpy().copy())
    return np.array(weights)


def reference(kind: str, values: Series, warmup: int, window: int, prior: Series) -> Series:
    """Equations 3-10, one step at a time, with NumPy and SciPy."""
    log_prior = np.log(prior)
    weights = []
    for step in range(1, values.shape[1] + 1):
        if step < warmup:
            weights.append(np.full(len(values), 1 / len(values)))
            continue
        history = values[:, max(0, step - window) : step]
        history = np.where(history >= 0, np.log1p(np.abs(history)), -np.log1p(np.abs(history)))
        low, high = history.min(1, keepdims=True), history.max(1, keepdims=True)
        scaled = (history - low) / (high - low)
        if kind == "variance":
            weight = scaled.var(1)
        else:
            weight = 1 / (stats.median_abs_deviation(scaled, axis=1) + 1e-7)
        if kind.startswith("bayesian"):
            posterior = np.log(weight) + log_prior
            posterior -= special.logsumexp(posterior)
            weight = np.exp(posterior)
            log_prior = posterior if kind == "bayesian" else log_prior
        weights.append(weight / weight.sum())
    return np.array(weights)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("warmup", "window"), [(5, 12), (8, 8), (1, 7), (50, 150)])
@pytest.mark.parametrize("weighting", NORMALISED)
def test_weights_equal_an_independent_reading_of_the_equations(
    weighting: str, warmup: int, window: int, seed: int
) -> None:
    if weighting != "variance" and warmup == 1:
        warmup = 3  # the first median deviations are 0, which NumPy cannot divide by
    elif warmup == 1:
        warmup = 2
    values = series(seed, steps=200 if window == 150 else 40)
    expected = reference(weighting, values, warmup, window, np.full(3, 1 / 3))
    double = DynamicMemoryFusion(3, weighting, warmup=warmup, window=window).double()
    np.testing.assert_allclose(run(double, values), expected, atol=1e-10)
    if weighting != "bayesian":  # whose posterior adds up the rounding of every step
        single = DynamicMemoryFusion(3, weighting, warmup=warmup, window=window)
        np.testing.assert_allclose(run(single, values), expected, atol=2e-5)


@pytest.mark.parametrize("prior_update", ["every_step", "fixed"])
def test_bayesian_prior(prior_update: str) -> None:
    values = series(4, steps=120)
    prior = np.array([0.2, 0.5, 0.3])
    fusion = DynamicMemoryFusion(
        3, "bayesian", warmup=10, window=30, priors=[2, 5, 3], prior_update=prior_update
    ).double()
    fusion.log_prior.copy_(torch.as_tensor(prior).log())  # in float64 from the start
    kind = "bayesian" if prior_update == "every_step" else "bayesian, fixed prior"
    expected = reference(kind, values, 10, 30, prior)
    np.testing.assert_allclose(run(fusion, values), expected, atol=1e-10)


def test_bayesian_does_not_underflow() -> None:
    """A loss that has lost for hundreds of steps can still win: no probability is stuck at 0."""
    fusion = DynamicMemoryFusion(2, "bayesian", warmup=2, window=10)
    wide, narrow = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0, 0.0, 1.0])
    for step in range(600):
        fusion(torch.stack((wide[step % 2], narrow[step % 4])))
    assert fusion.weights[0] == 0  # far below the smallest float32
    assert fusion.log_prior.isfinite().all()
    for step in range(1200):
        fusion(torch.stack((narrow[step % 4], wide[step % 2])))
    assert fusion.weights[0] == 1


def test_gamma_falls_once_per_step_batches() -> None:
    fusion = DynamicMemoryFusion(1, gamma0=3.0, decay=0.2, step_batches=7)
    for step in range(30):
        total = fusion(torch.ones(1), torch.tensor(2.0))
        gamma = 3.0 * math.exp(-0.2 * (step // 7))
        assert fusion.gamma.item() == pytest.approx(gamma)
        assert total.item() == pytest.approx(1 + 2 * gamma)
    fusion(torch.ones(1))
    assert fusion.gamma == 0


def test_softadapt_gives_the_value_of_its_own_test() -> None:
    # tests/test_softadapt_original_variant.py of dr-aheydari/SoftAdapt, beta = 0.1.
    values = np.array([[1, 2, 3, 4, 5], [150, 100, 50, 10, 0.1], [1500, 1000, 500, 100, 1]])
    weights = run(DynamicMemoryFusion(3, "softadapt"), values)
    np.testing.assert_allclose(weights[:4], 1 / 3)
    np.testing.assert_allclose(weights[4], [9.9343e-01, 6.5666e-03, 3.8908e-22], rtol=1e-4)


def test_coefficient_of_variation_equals_its_definition() -> None:
    values = np.abs(series(5, steps=60)) + 0.1
    weights = run(DynamicMemoryFusion(3, "cov").double(), values)
    np.testing.assert_allclose(weights[:2], 1 / 3)
    means = np.cumsum(values, axis=1) / np.arange(1, 61)
    ratios = np.concatenate((np.ones((3, 1)), values[:, 1:] / means[:, :-1]), axis=1)
    for step in range(2, 60):
        past = ratios[:, :step]
        variation = np.sqrt(past.var(1) + 1e-8) / past.mean(1)  # 1e-8 is in the authors' code
        np.testing.assert_allclose(weights[step], variation / variation.sum(), atol=1e-12)


def test_random_weights_are_softmaxed_normal_numbers() -> None:
    state = torch.get_rng_state()
    steps = run(DynamicMemoryFusion(3, "random", seed=1), np.ones((3, 2000)))
    assert torch.equal(torch.get_rng_state(), state)
    logits = np.log(steps)
    # Differences of independent standard normal numbers have variance 2; neighbours in time and
    # in the row are independent.
    for difference in (logits[:, 0] - logits[:, 1], logits[:, 1] - logits[:, 2]):
        assert stats.kstest(difference / np.sqrt(2), "norm").pvalue > 0.01
        assert abs(np.corrcoef(difference[1:], difference[:-1])[0, 1]) < 0.08
    again = run(DynamicMemoryFusion(3, "random", seed=1), np.ones((3, 5)))
    np.testing.assert_array_equal(again, steps[:5])
    others = [
        run(DynamicMemoryFusion(3, "random", seed=seed), np.ones((3, 5)))
        for seed in (0, 2, 1 + 2**32, -1)
    ]
    assert len({other.tobytes() for other in [again, *others]}) == 5


def test_fixed_weights() -> None:
    np.testing.assert_allclose(run(DynamicMemoryFusion(4, "fixed"), series(6, 60, 4)), 0.25)
    fusion = DynamicMemoryFusion(2, "fixed", fixed_weights=[3, 1])
    assert fusion(torch.tensor([1.0, 10.0])).item() == pytest.approx(0.75 + 2.5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_smoothing_is_an_exponential_moving_average(weighting: str) -> None:
    values = series(7, steps=60)
    options = {"warmup": 5, "window": 20} if weighting in NORMALISED else {}
    raw = run(DynamicMemoryFusion(3, weighting, **options).double(), values)
    smooth = run(DynamicMemoryFusion(3, weighting, smoothing=0.9, **options).double(), values)
    start = {"softadapt": 4, "cov": 2, "random": 0}.get(weighting, 4)
    expected = np.full(3, 1 / 3)
    for step, weights in enumerate(smooth):
        if step >= start:
            expected = 0.9 * expected + 0.1 * raw[step]
        np.testing.assert_allclose(weights, expected, atol=1e-7 if weighting == "random" else 1e-12)


ANY_LOSS = st.one_of(
    st.floats(width=32),  # NaN, infinite and subnormal ones included
    st.floats(0, 2, width=32),
    st.sampled_from([0.0, 1.0, 1.0, 1.0]),
)


@pytest.mark.parametrize("smoothing", [None, 0.5])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@settings(deadline=None, max_examples=25)
@given(data=st.data(), losses=st.integers(1, 4))
def test_weights_are_a_distribution_whatever_the_losses(
    weighting: str, smoothing: float | None, data: st.DataObject, losses: int
) -> None:
    rows = data.draw(st.lists(st.lists(ANY_LOSS, min_size=losses, max_size=losses), max_size=12))
    fusion = DynamicMemoryFusion(losses, weighting, warmup=2, window=5, smoothing=smoothing)
    bad = 0
    for row in rows:
        values = torch.tensor(row, requires_grad=True)
        before = fusion.weights.clone()
        total = fusion(values)
        total.backward()
        assert ((fusion.weights >= 0) & (fusion.weights <= 1)).all()
        assert fusion.weights.sum().item() == pytest.approx(1, abs=1e-5)
        if not values.isfinite().all():
            bad += 1
            assert torch.equal(fusion.weights, before)
            assert not total.isfinite()
    assert fusion.events["non_finite_loss"] == bad
    assert fusion.recorded == len(rows) - bad
    assert fusion.step == len(rows)


@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "random"])
def test_permuting_the_losses_permutes_the_weights(weighting: str) -> None:
    values = series(8, steps=60, losses=4)
    order = [2, 0, 3, 1]
    options = {"warmup": 5, "window": 20} if weighting in NORMALISED else {}
    weights = run(DynamicMemoryFusion(4, weighting, **options).double(), values)
    permuted = run(DynamicMemoryFusion(4, weighting, **options).double(), values[order])
    np.testing.assert_allclose(permuted, weights[:, order], atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(slope=st.floats(0.5, 2), shift=st.floats(0, 2), seed=st.integers(0, 1000))
@pytest.mark.parametrize("weighting", NORMALISED)
@pytest.mark.slow
def test_affine_rescaling_after_the_logarithm_changes_nothing(
    weighting: str, slope: float, shift: float, seed: int
) -> None:
    """Min-max scaling removes it, but the logarithm before it does not commute with a factor."""
    values = np.abs(series(seed, steps=30))
    rescaled = values.copy()
    rescaled[1] = np.expm1(slope * np.log1p(values[1]) + shift)
    first, second = (
        run(DynamicMemoryFusion(3, weighting, warmup=5, window=20).double(), each)
        for each in (values, rescaled)
    )
    np.testing.assert_allclose(first, second, atol=1e-8)


@pytest.mark.parametrize("weighting", ["variance", "mad"])
def test_the_scale_of_a_loss_matters_only_in_the_middle(weighting: str) -> None:
    """Min-max removes a factor before a linear, and after a logarithmic, symmetric logarithm."""
    values = np.abs(series(12, steps=30)) + 0.1
    values /= values.max()

    def change(scale: float) -> float:
        """What ten times the first loss does to the weights, if all are on this scale."""
        factor = np.array([[10.0], [1.0], [1.0]])
        first, second = (
            run(DynamicMemoryFusion(3, weighting, warmup=5, window=20).double(), scale * each)
            for each in (values, factor * values)
        )
        return float(np.abs(first - second).max())

    assert change(1e-7) < 1e-5
    assert change(1e7) < 1e-5
    assert change(1e3) > 5e-3


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), steps=st.integers(5, 30))
def test_the_loss_of_larger_normalised_variance_weighs_more(seed: int, steps: int) -> None:
    values = series(seed, steps)
    logarithm = np.sign(values) * np.log1p(np.abs(values))
    spread = logarithm.max(1, keepdims=True) - logarithm.min(1, keepdims=True)
    variances = (logarithm / spread).var(1)
    weights = run(DynamicMemoryFusion(3, "variance", warmup=5, window=30).double(), values)[-1]
    np.testing.assert_array_equal(np.argsort(weights), np.argsort(variances))


def test_coefficient_of_variation_ignores_the_scale_of_a_loss() -> None:
    values = np.abs(series(9, steps=30)) + 0.1
    scaled = values * np.array([[1000.0], [1.0], [0.001]])
    first, second = (run(DynamicMemoryFusion(3, "cov").double(), each) for each in (values, scaled))
    np.testing.assert_allclose(first, second, atol=1e-12)


def test_constant_histories_are_counted() -> None:
    constant, moving = np.full(10, 0.5), np.arange(10.0)

    def after(weighting: str, *rows: Series) -> tuple[list[float], dict[str, int]]:
        fusion = DynamicMemoryFusion(len(rows), weighting, warmup=4, window=8)
        run(fusion, np.stack(rows))
        return fusion.weights.tolist(), {k: int(v) for k, v in fusion.events.items() if v}

    assert after("variance", constant, constant) == (
        [0.5, 0.5],
        {"constant_history": 7, "uniform_fallback": 7},
    )
    weights, events = after("variance", constant, moving)
    assert weights == pytest.approx([0, 1], abs=1e-12)
    assert events == {"constant_history": 7}
    assert after("mad", constant, constant) == ([0.5, 0.5], {"constant_history": 7})
    weights, events = after("mad", constant, moving)
    assert weights == pytest.approx([1, 0], abs=1e-5)  # 1e-7 / MAD
    assert events == {"constant_history": 7}
    assert after("variance", moving, moving) == ([0.5, 0.5], {})
    assert after("variance", moving) == ([1.0], {})


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_step_leaves_no_trace_in_the_memory(weighting: str, value: float) -> None:
    values = torch.as_tensor(series(10, steps=40), dtype=torch.float32).T
    clean, struck = (DynamicMemoryFusion(3, weighting, warmup=5, window=20) for _ in range(2))
    for step, losses in enumerate(values):
        if step in (0, 4, 25):
            bad = losses.clone()
            bad[1] = value
            assert not struck(bad).isfinite()
        if weighting == "random":  # whose numbers follow the step
            clean.step.copy_(struck.step)
        assert torch.equal(struck(losses), clean(losses))
    assert struck.events["non_finite_loss"] == 3
    for name in set(dict(clean.named_buffers())) - {"step", "event_counts"}:
        assert torch.equal(getattr(struck, name), getattr(clean, name)), name


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_term_without_gradient_is_recorded_but_not_fatal(value: float) -> None:
    fusion = DynamicMemoryFusion(["data", "penalty"], "fixed")
    parameter = torch.tensor(2.0, requires_grad=True)
    dead = torch.tensor(value)
    total = fusion({"data": parameter**2, "penalty": torch.tensor(1.0)}, dead)
    total.backward()
    assert total.item() == pytest.approx(2.5)
    assert parameter.grad == 2
    assert fusion.events["non_finite_auxiliary"] == 1

    assert fusion({"data": parameter**2, "penalty": dead}).item() == pytest.approx(2)
    assert fusion.events["non_finite_loss"] == 1
    # With a gradient it is fatal, as an auxiliary and as a base loss.
    assert not fusion({"data": parameter, "penalty": dead}, dead * parameter).isfinite()
    assert not fusion({"data": parameter, "penalty": dead * parameter}).isfinite()


@pytest.mark.parametrize("weighting", [*NORMALISED, "softadapt"])
@pytest.mark.parametrize("median", ["true", "released"])
def test_gradient_with_and_without_detached_weights(weighting: str, median: str) -> None:
    options = {"warmup": 5, "window": 20, "median": median}
    fusion = DynamicMemoryFusion(3, weighting, detach=False, **options).double()
    values = torch.as_tensor(series(11, steps=31))
    for losses in values.T[:30]:
        fusion(losses)
    # The lowest values so far, on which every statistic depends through the min-max scaling.
    current = (values.amin(1) - 0.1).requires_grad_()

    # Every evaluation is the same step of a copy.
    def total(losses: Tensor) -> Tensor:
        return copy.deepcopy(fusion)(losses)

    assert torch.autograd.gradcheck(total, current)
    (through,) = torch.autograd.grad(total(current), current)

    fusion.detach = True
    fusion(current).backward()
    assert current.grad is not None
    torch.testing.assert_close(current.grad, fusion.weights)
    assert not torch.allclose(through, fusion.weights)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_gradients_through_the_weights_of_constant_histories_are_finite(weighting: str) -> None:
    fusion = DynamicMemoryFusion(2, weighting, detach=False, warmup=2, window=4)
    for _ in range(6):
        losses = torch.ones(2, requires_grad=True)
        fusion(losses).backward()
        assert losses.grad is not None
        assert losses.grad.isfinite().all()


def test_losses_by_name_in_order_and_as_a_tensor_are_the_same() -> None:
    names = ["data", "boundary", "initial"]
    by_name, in_order, stacked = (DynamicMemoryFusion(names, warmup=3, window=9) for _ in range(3))
    for a, b, c in torch.rand(12, 3, generator=torch.Generator().manual_seed(0)):
        total = by_name({"initial": c, "data": a, "boundary": b.reshape(1)})
        assert torch.equal(in_order([a, b, c]), total)
        assert torch.equal(stacked(torch.stack((a, b, c))), total)
    assert total.shape == ()
    assert DynamicMemoryFusion(2).names == ("loss_0", "loss_1")


def test_a_number_is_a_constant_loss() -> None:
    fusion = DynamicMemoryFusion(["data", "penalty", "prior"], "fixed")
    data = torch.tensor(3.0, requires_grad=True)
    total = fusion({"penalty": 2, "prior": np.float32(1), "data": data}, auxiliary=0.5)
    assert total.item() == pytest.approx(2 + 5 * 0.5)
    total.backward()
    assert data.grad is not None
    assert data.grad.item() == pytest.approx(1 / 3)
    assert fusion([1.0, 2.0, 3.0]).item() == pytest.approx(2)
    # It is made where the buffers are, in their type.
    assert fusion.double()([1.0, 2, 3], 4).dtype == torch.float64
    assert fusion.to("meta")([1.0, 2, 3], 4).is_meta


@pytest.mark.parametrize(
    ("losses", "auxiliary", "error", "message"),
    [
        ({"a": torch.ones(()), "b": None}, None, TypeError, "the loss 'b' must be .* NoneType"),
        ([torch.ones(()), "0.5"], None, TypeError, "the loss 'b' must be .* got str"),
        ([[0.5], torch.ones(())], None, TypeError, "the loss 'a' must be .* got list"),
        ([np.ones(()), torch.ones(())], None, TypeError, "the loss 'a' must be .* got ndarray"),
        ((torch.ones(()) for _ in "ab"), None, TypeError, "list or tensor, got generator"),
        ({torch.ones(())}, None, TypeError, "list or tensor, got set"),
        (np.ones(2), None, TypeError, "list or tensor, got ndarray"),
        (None, None, TypeError, "list or tensor, got NoneType"),
        ("ab", None, TypeError, "list or tensor, got str"),
        (0.5, None, TypeError, "list or tensor, got float"),
        ({"a": torch.ones(())}, None, ValueError, "expected losses named"),
        (torch.ones(3), None, ValueError, r"the losses must be of shape \(2,\), got \(3,\)"),
        ([torch.ones(())], None, ValueError, "expected 2 losses"),
        ([torch.ones(2), torch.ones(())], None, ValueError, r"the loss 'a' must be of shape \(\)"),
        (torch.ones(2, device="meta"), None, ValueError, r'the losses .* fusion.to\("meta"\)'),
        (torch.ones(2), torch.ones(3), ValueError, "the auxiliary loss must be of shape"),
        (torch.ones(2), [1.0], TypeError, "the auxiliary loss must be .* got list"),
        (torch.ones(2), torch.ones((), device="meta"), ValueError, "the auxiliary loss and the"),
    ],
)  # fmt: skip
def test_refuses_other_losses_and_changes_nothing(
    losses: object, auxiliary: object, error: type[Exception], message: str
) -> None:
    fusion = DynamicMemoryFusion(["a", "b"])
    before = copy.deepcopy(fusion.state_dict())
    with pytest.raises(error, match=message):
        fusion(losses, auxiliary)
    for name, value in fusion.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_losses_of_low_precision_are_added_in_float32() -> None:
    outside, inside = (DynamicMemoryFusion(2, "mad", warmup=3, window=9) for _ in range(2))
    for losses in torch.rand(9, 2, generator=torch.Generator().manual_seed(0)).bfloat16():
        expected = outside(losses.float(), torch.tensor(1 / 3))
        with torch.autocast("cpu", torch.bfloat16):
            total = inside(losses, torch.tensor(1 / 3))
        assert total.dtype == torch.float32
        assert torch.equal(total, expected)


def test_refuses_options_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"call fusion.float\(\)"):
        DynamicMemoryFusion(["a", "b"]).to(torch.bfloat16)(torch.ones(2))
    for options, message in (
        ({"losses": "dice"}, "a list of names in order or a number, got 'dice'"),
        ({"losses": {"a", "b"}}, "a list of names in order"),
        ({"losses": frozenset("ab")}, "a list of names in order"),
        ({"losses": {"a": 1.0, "b": 2.0}}, "a list of names in order"),
        ({"losses": ["a", "a"]}, "different strings"),
        ({"losses": [0, 1]}, "different strings"),
        ({"losses": 0}, "one or more"),
        ({"weighting": "variants"}, "unknown weighting 'variants'"),
        ({"median": "upper"}, "unknown median"),
        ({"prior_update": "never"}, "unknown prior_update"),
        ({"warmup": 200}, "warmup <= window"),
        ({"step_batches": 0}, "at least 1"),
        ({"smoothing": 1.0}, "between 0 and 1"),
        ({"priors": [1, 1, 1]}, "belong to weighting 'bayesian'"),
        ({"fixed_weights": [1, 1, 1]}, "belong to weighting 'fixed'"),
        ({"weighting": "fixed", "fixed_weights": [1, 1]}, "3 finite numbers"),
        ({"weighting": "fixed", "fixed_weights": [1, -1, 1]}, ">= 0"),
        ({"weighting": "fixed", "fixed_weights": [1, math.nan, 1]}, "3 finite numbers"),
        ({"weighting": "bayesian", "priors": [0, 0, 0]}, "not all 0"),
    ):
        with pytest.raises(ValueError, match=message):
            DynamicMemoryFusion(**options)

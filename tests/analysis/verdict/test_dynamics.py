"""What the quantities on training curves say of curves whose shape is known."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike, NDArray

from dmf.analysis.verdict import dynamics
from dmf.settings import Auxiliary

EPOCHS = 100
TIME = np.arange(EPOCHS)


def history_of(
    first_weight: ArrayLike = 1 / 3, loss: ArrayLike = 0.5, **columns: ArrayLike
) -> dynamics.History:
    """Return a run whose first weight is given; the other two share the rest."""
    first = np.broadcast_to(np.asarray(first_weight, dtype=float), EPOCHS)
    run: dict[str, ArrayLike] = {"epoch": TIME + 1}
    for name, weight in zip(
        ("cross_entropy", "iou", "dice"), (first, (1 - first) / 2, (1 - first) / 2), strict=True
    ):
        run[f"weight_{name}"] = weight
        run[f"loss_{name}"] = np.broadcast_to(np.asarray(loss, dtype=float), EPOCHS)
    return {name: np.asarray(values, dtype=float) for name, values in (run | columns).items()}


def measured(name: str, run: dynamics.History) -> float:
    return dynamics.QUANTITIES[name](run)


def test_weights_that_rise_steadily() -> None:
    run = history_of(np.linspace(0.2, 0.8, EPOCHS))
    step = 0.6 / 99
    assert measured("weight_change", run) == pytest.approx((step + step / 2 + step / 2) / 3)
    assert measured("jaggedness", run) == pytest.approx(0, abs=1e-9)
    assert measured("peak_weight", run) == pytest.approx(0.8)
    assert measured("loyalty", run) == 1
    assert measured("late_weight_range", run) == pytest.approx(19 * step * 2 / 3)


def test_weights_that_alternate() -> None:
    run = history_of(0.4 + 0.1 * (TIME % 2))
    assert measured("jaggedness", run) == pytest.approx(2, abs=0.05)
    assert measured("weight_change", run) == pytest.approx((0.1 + 0.05 + 0.05) / 3)
    assert measured("largest_weight", run) == pytest.approx(0.45)


def test_weights_that_never_move() -> None:
    run = history_of()
    assert np.isnan(measured("jaggedness", run))
    assert measured("weight_change", run) == 0


def test_early_change_looks_at_the_first_quarter() -> None:
    first = np.where(TIME < 25, 0.3, 0.3 + 0.1 * (TIME % 2))
    assert measured("early_weight_change", history_of(first)) == 0
    assert measured("weight_change", history_of(first)) > 0.05


def test_dominance_and_loyalty_of_a_preference_that_switches() -> None:
    run = history_of(np.where(TIME < 75, 0.9, 0.1))
    assert measured("largest_weight", run) == pytest.approx((0.9 + 0.45) / 2)
    assert measured("loyalty", run) == pytest.approx(0.5)


def test_losses_that_fall_and_settle() -> None:
    run = history_of(loss=0.1 + 0.7 * np.exp(-TIME / 5))
    assert measured("loss_decrease", run) > 0.7
    assert measured("late_loss_change", run) < 1e-6
    assert measured("loss_fluctuation", run) < 1e-4


def test_losses_that_still_fall_or_fluctuate() -> None:
    falling = history_of(loss=np.linspace(1, 0, EPOCHS) + 0.01)
    assert measured("late_loss_change", falling) == pytest.approx(0.1, abs=0.01)
    noisy = history_of(loss=0.5 + 0.1 * (TIME % 2))
    assert measured("loss_fluctuation", noisy) == pytest.approx(0.2 / 1.1, abs=0.01)
    assert measured("loss_decrease", noisy) == pytest.approx(0)


def test_auxiliary_and_time() -> None:
    run = history_of(gamma_by_hundred=5 * np.exp(-0.05 * TIME), seconds=np.where(TIME == 0, 60, 2))
    late = 5 * np.exp(-0.05 * TIME[-10:])
    assert measured("late_share_by_hundred", run) == pytest.approx(np.mean(late / (late + 1)))
    assert measured("log_seconds", run) == pytest.approx(np.log(2))
    assert np.isnan(measured("late_share_by_hundred", history_of()))
    assert np.isnan(measured("log_seconds", history_of()))


def test_dice_loss_of_the_first_tenth() -> None:
    run = history_of(loss_dice=TIME / 100)
    assert measured("early_dice_loss", run) == pytest.approx(0.045)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_weights_that_follow_the_spread(sign: int, expected: float) -> None:
    """The loss that zigzags most has the greatest weight, or the least."""
    zigzag = np.where(TIME % 2, 0.1, -0.1)
    run: dict[str, NDArray[np.float64]] = {"epoch": TIME.astype(float)}
    for rank, name in enumerate(("a", "b", "c")):
        run[f"loss_{name}"] = 1 + rank * zigzag
        run[f"weight_{name}"] = 1 / 3 + sign * (rank - 1) * 0.1 + TIME * 1e-6
    assert measured("weight_follows_spread", run) == pytest.approx(expected)


@pytest.mark.parametrize("counted", [1, 15, 100])
def test_gamma_is_recounted_as_the_equation_and_as_the_notebook_count(counted: int) -> None:
    steps = 15.0 * TIME
    frame = pd.DataFrame(history_of(gamma=5 * np.exp(-0.05 * steps / counted)))
    frame = frame.assign(dataset="busi", configuration="cb_dice-fixed", seed=0)
    auxiliary = Auxiliary(step_batches=counted)
    run = dynamics.by_run(frame, "busi", auxiliary)["cb_dice-fixed", 0]
    assert run["gamma_by_step"] == pytest.approx(5 * np.exp(-0.05 * steps))
    assert run["gamma_by_hundred"] == pytest.approx(5 * np.exp(-0.05 * steps / 100))


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_very_short_runs_are_undefined_or_finite_never_an_exception(epochs: int) -> None:
    run = {
        name: values[:epochs]
        for name, values in history_of(validation_dice=TIME, gamma=TIME, seconds=TIME + 1).items()
    }
    for name in dynamics.QUANTITIES:
        assert isinstance(dynamics.QUANTITIES[name](run), float)


def test_runs_are_told_apart_and_ordered_by_epoch() -> None:
    frames = []
    for configuration, seed, top in [("fixed", 0, 0.5), ("none-mad", 1, 0.7)]:
        frame = pd.DataFrame(history_of(np.linspace(0.4, top, EPOCHS)))
        if configuration == "none-mad":
            frame["gamma"] = 1.0
        frames.append(frame.assign(dataset="busi", configuration=configuration, seed=seed)[::-1])
    histories = pd.concat(frames)
    found = dynamics.by_run(histories, "busi")
    assert set(found) == {("fixed", 0), ("none-mad", 1)}
    assert "gamma" not in found["fixed", 0]
    assert found["none-mad", 1]["weight_cross_entropy"][-1] == pytest.approx(0.7)
    table = dynamics.quantity(found, "peak_weight")
    assert table.loc[1, "none-mad"] == pytest.approx(0.7)
    assert np.isnan(table.loc[0, "none-mad"])
    assert dynamics.by_run(histories, "bus") == {}
    assert dynamics.quantity({}, "peak_weight").empty
    with pytest.raises(ValueError, match="unknown quantity 'speed'"):
        dynamics.quantity(found, "speed")


def test_a_gamma_that_has_fallen_to_zero_says_nothing_of_a_slower_one() -> None:
    """exp(-0.05 t) is 0 in float32 from about the two thousandth step on."""
    gamma = 5 * np.exp(-0.05 * 29 * TIME, dtype=np.float32)
    frame = pd.DataFrame(history_of(gamma=gamma))
    frame = frame.assign(dataset="busi", configuration="cb_dice-variance", seed=0)
    (run,) = dynamics.by_run(frame, "busi", Auxiliary(step_batches=1)).values()
    assert measured("late_share_by_step", run) == 0
    assert np.isnan(measured("late_share_by_hundred", run))

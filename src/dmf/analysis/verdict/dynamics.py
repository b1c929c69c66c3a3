"""Numbers for what the paper says about the course of training, computed from ``history.csv``.

Each quantity turns the epochs of one run into one number. The definitions and the limits the claims
use (``paper/claims.yaml``) were fixed before any run was looked at. Early means the first tenth of
the epochs, late the last tenth; the second half is the epochs after the middle one.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from dmf.settings import Auxiliary

Array = NDArray[np.float64]
History = Mapping[str, Array]

SPREAD_EPOCHS = 10


def by_run(
    histories: pd.DataFrame, dataset: str, auxiliary: Auxiliary | None = None
) -> dict[tuple[str, int], History]:
    """Return the columns of each run of ``dataset``, epochs in order, by (configuration, seed).

    Columns that a run does not have (the auxiliary's, the timing) are left out. With ``auxiliary``,
    how the study counts the time of gamma, runs that have a gamma also get what it would be if time
    were counted otherwise: ``gamma_by_step`` and ``gamma_by_hundred``. It is NaN where the gamma of
    the run has fallen to 0, the least number of its precision, and time is counted more slowly.
    """
    if not len(histories):
        return {}
    mine = histories[histories["dataset"] == dataset].sort_values("epoch", kind="stable")
    found: dict[tuple[str, int], History] = {}
    for _, group in mine.groupby(["configuration", "seed"]):
        key = str(group["configuration"].iloc[0]), int(group["seed"].iloc[0])
        run = group.drop(columns=["dataset", "configuration", "seed"])
        run = run.dropna(axis="columns", how="all")
        columns = {str(name): run[name].to_numpy(dtype=np.float64) for name in run}
        if auxiliary is not None and auxiliary.gamma0 > 0 and "gamma" in columns:
            kept = columns["gamma"] / auxiliary.gamma0  # exp(-decay t)
            for name, batches in (("step", 1), ("hundred", 100)):
                power = auxiliary.step_batches / batches
                known = (kept > 0) | (power >= 1)
                columns[f"gamma_by_{name}"] = auxiliary.gamma0 * np.where(
                    known, kept**power, np.nan
                )
        found[key] = columns
    return found


def quantity(histories: Mapping[tuple[str, int], History], name: str) -> pd.DataFrame:
    """Return ``name`` for every run: seeds (rows) by configurations (columns).

    NaN where a run does not define it (weights that never change, no auxiliary loss, no timing).
    Raises ValueError for an unknown name.
    """
    if name not in QUANTITIES:
        raise ValueError(f"unknown quantity {name!r}; known: {', '.join(QUANTITIES)}")
    numbers: dict[str, dict[int, float]] = {}
    for (configuration, seed), history in histories.items():
        numbers.setdefault(configuration, {})[seed] = QUANTITIES[name](history)
    return pd.DataFrame(numbers).sort_index().dropna(axis="columns", how="all")


def definition(name: str) -> str:
    """Return the definition of a quantity in words."""
    return " ".join((QUANTITIES[name].__doc__ or "").split())


def _columns(history: History, prefix: str) -> Array:
    """Return the columns of the base losses this run has, as (epochs, losses)."""
    names = [name for name in history if name.startswith(prefix) and name != f"{prefix}auxiliary"]
    return np.column_stack([history[name] for name in names])


def _tenth(history: History) -> int:
    return max(1, round(len(history["epoch"]) / 10))


def _second_half(values: Array) -> Array:
    return values[len(values) // 2 :]


def _steps(history: History) -> Array:
    return np.diff(_columns(history, "weight_"), axis=0)


def _mean_step(steps: Array) -> float:
    return float(np.abs(steps).mean()) if steps.size else np.nan


def _weight_change(history: History) -> float:
    """Mean absolute change of a weight from one epoch to the next."""
    return _mean_step(_steps(history))


def _early_weight_change(history: History) -> float:
    """Mean absolute change of a weight per epoch over the first quarter of training."""
    return _mean_step(_steps(history)[: max(1, round(len(history["epoch"]) / 4) - 1)])


def _jaggedness(history: History) -> float:
    """Sum of the weights' |second differences| over that of their |first|: 0 straight, 2 zigzag."""
    steps = _steps(history)
    total = np.abs(steps).sum()
    return float(np.abs(np.diff(steps, axis=0)).sum() / total) if total > 0 else np.nan


def _largest_weight(history: History) -> float:
    """Mean of the largest weight over the second half of training."""
    return float(_second_half(_columns(history, "weight_")).max(axis=1).mean())


def _peak_weight(history: History) -> float:
    """The largest weight (mean of an epoch) any loss ever has."""
    return float(_columns(history, "weight_").max())


def _loyalty(history: History) -> float:
    """Share of the second half's epochs in which the same loss has the largest weight."""
    leaders = _second_half(_columns(history, "weight_")).argmax(axis=1)
    return float(np.bincount(leaders).max() / len(leaders))


def _late_weight_range(history: History) -> float:
    """Mean over losses of max - min of the weight in the last fifth of training."""
    return float(np.ptp(_columns(history, "weight_")[-2 * _tenth(history) :], axis=0).mean())


def _loss_decrease(history: History) -> float:
    """Smallest relative decrease of a base loss from early to late."""
    losses, k = _columns(history, "loss_"), _tenth(history)
    return float((1 - losses[-k:].mean(axis=0) / losses[:k].mean(axis=0)).min())


def _late_loss_change(history: History) -> float:
    """Largest change of a base loss between the last two tenths, relative to its early value."""
    losses, k = _columns(history, "loss_"), _tenth(history)
    if len(losses) < 3 * k:
        return np.nan
    change = losses[-k:].mean(axis=0) - losses[-2 * k : -k].mean(axis=0)
    return float((np.abs(change) / losses[:k].mean(axis=0)).max())


def _loss_fluctuation(history: History) -> float:
    """Largest over the base losses: standard deviation of the change per epoch in the second half,
    relative to the early value."""
    losses, k = _columns(history, "loss_"), _tenth(history)
    steps = np.diff(_second_half(losses), axis=0)
    if len(steps) < 2:
        return np.nan
    return float((steps.std(axis=0, ddof=1) / losses[:k].mean(axis=0)).max())


def _late_share(history: History, gamma: str) -> float:
    if gamma not in history:
        return np.nan
    late = history[gamma][-_tenth(history) :]
    return float((late / (late + 1)).mean())


def _late_share_by_step(history: History) -> float:
    """Late gamma over gamma plus the base weights (which sum to 1), t counted in steps (eq. 2)."""
    return _late_share(history, "gamma_by_step")


def _late_share_by_hundred(history: History) -> float:
    """Late gamma over gamma plus the base weights (which sum to 1), t counted as in the notebook,
    in hundreds of steps."""
    return _late_share(history, "gamma_by_hundred")


def _early_dice_loss(history: History) -> float:
    """Dice loss on the training images, early in training."""
    if "loss_dice" not in history:
        return np.nan
    return float(history["loss_dice"][: _tenth(history)].mean())


def _weight_follows_spread(history: History) -> float:
    """Mean over the epochs of the second half of the rank correlation, over the base losses,
    of a loss's weight with its spread over the ten epochs before (relative to its early value)."""
    losses, weights = _columns(history, "loss_"), _columns(history, "weight_")
    if losses.shape[1] < 3 or not np.ptp(weights, axis=0).any():
        return np.nan
    relative = losses / losses[: _tenth(history)].mean(axis=0)
    found = []
    for epoch in range(max(SPREAD_EPOCHS, len(losses) // 2), len(losses)):
        spread = relative[epoch - SPREAD_EPOCHS : epoch].std(axis=0)
        if np.ptp(spread) > 0 and np.ptp(weights[epoch]) > 0:
            found.append(float(stats.spearmanr(spread, weights[epoch]).statistic))
    return float(np.mean(found)) if found else np.nan


def _log_seconds(history: History) -> float:
    """Logarithm of the median seconds per epoch, the first epoch (start-up) left out."""
    if "seconds" not in history or len(history["seconds"]) < 2:
        return np.nan
    return float(np.log(np.median(history["seconds"][1:])))


QUANTITIES: dict[str, Callable[[History], float]] = {
    "weight_change": _weight_change,
    "early_weight_change": _early_weight_change,
    "jaggedness": _jaggedness,
    "largest_weight": _largest_weight,
    "peak_weight": _peak_weight,
    "loyalty": _loyalty,
    "late_weight_range": _late_weight_range,
    "loss_decrease": _loss_decrease,
    "late_loss_change": _late_loss_change,
    "loss_fluctuation": _loss_fluctuation,
    "late_share_by_step": _late_share_by_step,
    "late_share_by_hundred": _late_share_by_hundred,
    "early_dice_loss": _early_dice_loss,
    "weight_follows_spread": _weight_follows_spread,
    "log_seconds": _log_seconds,
}

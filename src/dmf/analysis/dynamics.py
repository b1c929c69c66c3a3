"""Numbers for what the paper says about the course of training, computed from ``history.csv``.

Each quantity turns the epochs of one run into one number. The definitions and the limits the claims
use (``paper/claims.yaml``) were fixed before any run was looked at. Early means the first tenth of
the epochs, late the last tenth; the second half is the epochs after the middle one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]


def quantity(histories: pd.DataFrame, dataset: str, name: str) -> pd.DataFrame:
    """Return ``name`` for every run of ``dataset``: seeds (rows) by configurations (columns).

    NaN where a run does not define it (weights that never change, no auxiliary loss, no timing).
    Raises ValueError for an unknown name.
    """
    if name not in QUANTITIES:
        raise ValueError(f"unknown quantity {name!r}; known: {', '.join(QUANTITIES)}")
    if not len(histories):
        return pd.DataFrame()
    mine = histories[histories["dataset"] == dataset]
    if not len(mine):
        return pd.DataFrame()
    numbers: dict[str, dict[Any, float]] = {}
    for (configuration, seed), epochs in mine.groupby(["configuration", "seed"], sort=False):
        ordered = epochs.sort_values("epoch")
        numbers.setdefault(str(configuration), {})[seed] = QUANTITIES[name](ordered)
    return pd.DataFrame(numbers).sort_index().dropna(axis="columns", how="all")


def _columns(epochs: pd.DataFrame, prefix: str) -> Array:
    """Return the columns of the base losses this run has, as (epochs, losses)."""
    names = [c for c in epochs if str(c).startswith(prefix) and c != f"{prefix}auxiliary"]
    return epochs[names].dropna(axis="columns", how="all").to_numpy(dtype=np.float64)


def _tenth(epochs: pd.DataFrame) -> int:
    return max(1, round(len(epochs) / 10))


def _second_half(values: Array) -> Array:
    return values[len(values) // 2 :]


def _steps(epochs: pd.DataFrame) -> Array:
    return np.diff(_columns(epochs, "weight_"), axis=0)


def _weight_change(epochs: pd.DataFrame) -> float:
    """Mean absolute change of a weight from one epoch to the next."""
    steps = _steps(epochs)
    return float(np.abs(steps).mean()) if steps.size else np.nan


def _early_weight_change(epochs: pd.DataFrame) -> float:
    """Mean absolute change of a weight per epoch over the first quarter of training."""
    return _weight_change(epochs.head(max(2, round(len(epochs) / 4))))


def _jaggedness(epochs: pd.DataFrame) -> float:
    """Sum of |second differences| over sum of |first differences|: 0 straight, 2 zigzag."""
    steps = _steps(epochs)
    total = np.abs(steps).sum()
    return float(np.abs(np.diff(steps, axis=0)).sum() / total) if total > 0 else np.nan


def _largest_weight(epochs: pd.DataFrame) -> float:
    """Mean of the largest weight over the second half of training."""
    return float(_second_half(_columns(epochs, "weight_")).max(axis=1).mean())


def _peak_weight(epochs: pd.DataFrame) -> float:
    """The largest weight (mean of an epoch) any loss ever has."""
    return float(_columns(epochs, "weight_").max())


def _loyalty(epochs: pd.DataFrame) -> float:
    """Share of the second half's epochs in which the same loss has the largest weight."""
    leaders = _second_half(_columns(epochs, "weight_")).argmax(axis=1)
    return float(np.bincount(leaders).max() / len(leaders))


def _late_weight_range(epochs: pd.DataFrame) -> float:
    """Mean over losses of max - min of the weight in the last fifth of training."""
    late = _columns(epochs, "weight_")[-2 * _tenth(epochs) :]
    return float(np.ptp(late, axis=0).mean())


def _loss_decrease(epochs: pd.DataFrame) -> float:
    """Smallest relative decrease of a base loss from early to late."""
    losses, k = _columns(epochs, "loss_"), _tenth(epochs)
    return float((1 - losses[-k:].mean(axis=0) / losses[:k].mean(axis=0)).min())


def _late_loss_change(epochs: pd.DataFrame) -> float:
    """Largest change of a base loss between the last two tenths, relative to its early value."""
    losses, k = _columns(epochs, "loss_"), _tenth(epochs)
    if len(losses) < 3 * k:
        return np.nan
    change = losses[-k:].mean(axis=0) - losses[-2 * k : -k].mean(axis=0)
    return float((np.abs(change) / losses[:k].mean(axis=0)).max())


def _loss_fluctuation(epochs: pd.DataFrame) -> float:
    """Standard deviation of a base loss's change per epoch in the second half, relative to its
    early value; the largest of the losses."""
    losses, k = _columns(epochs, "loss_"), _tenth(epochs)
    steps = np.diff(_second_half(losses), axis=0)
    if len(steps) < 2:
        return np.nan
    return float((steps.std(axis=0, ddof=1) / losses[:k].mean(axis=0)).max())


def _late_auxiliary_share(epochs: pd.DataFrame) -> float:
    """Share of the auxiliary term in the total loss, late in training."""
    if "weighted_auxiliary" not in epochs:
        return np.nan
    late = epochs.tail(_tenth(epochs))
    return float((late["weighted_auxiliary"] / late["total"]).mean())


def _late_auxiliary_weight(epochs: pd.DataFrame) -> float:
    """Late gamma over gamma plus the base weights (which sum to 1)."""
    if "gamma" not in epochs:
        return np.nan
    gamma = epochs["gamma"].tail(_tenth(epochs))
    return float((gamma / (gamma + 1)).mean())


def _early_validation_dice(epochs: pd.DataFrame) -> float:
    """Macro Dice on the validation subset, early in training."""
    return float(epochs["validation_dice"].head(_tenth(epochs)).mean())


def _log_seconds(epochs: pd.DataFrame) -> float:
    """Logarithm of the median seconds per epoch, the first epoch (start-up) left out."""
    if "seconds" not in epochs or len(epochs) < 2:
        return np.nan
    return float(np.log(epochs["seconds"].iloc[1:].median()))


QUANTITIES: dict[str, Callable[[pd.DataFrame], float]] = {
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
    "late_auxiliary_share": _late_auxiliary_share,
    "late_auxiliary_weight": _late_auxiliary_weight,
    "early_validation_dice": _early_validation_dice,
    "log_seconds": _log_seconds,
}


def definition(name: str) -> str:
    """Return the definition of a quantity in words."""
    return " ".join((QUANTITIES[name].__doc__ or "").split())

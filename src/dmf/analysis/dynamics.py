"""Numbers for what the paper says about the course of training, computed from ``history.csv``.

Each quantity turns the epochs of one run into one number. The definitions and the limits the claims
use (``paper/claims.yaml``) were fixed before any run was looked at. Early means the first tenth of
the epochs, late the last tenth; the second half is the epochs after the middle one.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
Run = Mapping[str, Array]


def runs(histories: pd.DataFrame, dataset: str) -> dict[tuple[str, int], Run]:
    """Return the columns of each run of ``dataset``, epochs in order, by (configuration, seed).

    Columns that a run does not have (the auxiliary's, the timing) are left out.
    """
    if not len(histories):
        return {}
    mine = histories[histories["dataset"] == dataset].sort_values("epoch", kind="stable")
    found: dict[tuple[str, int], Run] = {}
    for _, group in mine.groupby(["configuration", "seed"]):
        key = str(group["configuration"].iloc[0]), int(group["seed"].iloc[0])
        run = group.drop(columns=["dataset", "configuration", "seed"])
        run = run.dropna(axis="columns", how="all")
        found[key] = {str(name): run[name].to_numpy(dtype=np.float64) for name in run}
    return found


def quantity(runs: Mapping[tuple[str, int], Run], name: str) -> pd.DataFrame:
    """Return ``name`` for every run: seeds (rows) by configurations (columns).

    NaN where a run does not define it (weights that never change, no auxiliary loss, no timing).
    Raises ValueError for an unknown name.
    """
    if name not in QUANTITIES:
        raise ValueError(f"unknown quantity {name!r}; known: {', '.join(QUANTITIES)}")
    numbers: dict[str, dict[int, float]] = {}
    for (configuration, seed), run in runs.items():
        numbers.setdefault(configuration, {})[seed] = QUANTITIES[name](run)
    return pd.DataFrame(numbers).sort_index().dropna(axis="columns", how="all")


def definition(name: str) -> str:
    """Return the definition of a quantity in words."""
    return " ".join((QUANTITIES[name].__doc__ or "").split())


def _columns(run: Run, prefix: str) -> Array:
    """Return the columns of the base losses this run has, as (epochs, losses)."""
    names = [name for name in run if name.startswith(prefix) and name != f"{prefix}auxiliary"]
    return np.column_stack([run[name] for name in names])


def _tenth(run: Run) -> int:
    return max(1, round(len(run["epoch"]) / 10))


def _second_half(values: Array) -> Array:
    return values[len(values) // 2 :]


def _steps(run: Run) -> Array:
    return np.diff(_columns(run, "weight_"), axis=0)


def _mean_step(steps: Array) -> float:
    return float(np.abs(steps).mean()) if steps.size else np.nan


def _weight_change(run: Run) -> float:
    """Mean absolute change of a weight from one epoch to the next."""
    return _mean_step(_steps(run))


def _early_weight_change(run: Run) -> float:
    """Mean absolute change of a weight per epoch over the first quarter of training."""
    return _mean_step(_steps(run)[: max(1, round(len(run["epoch"]) / 4) - 1)])


def _jaggedness(run: Run) -> float:
    """Sum of the weights' |second differences| over that of their |first|: 0 straight, 2 zigzag."""
    steps = _steps(run)
    total = np.abs(steps).sum()
    return float(np.abs(np.diff(steps, axis=0)).sum() / total) if total > 0 else np.nan


def _largest_weight(run: Run) -> float:
    """Mean of the largest weight over the second half of training."""
    return float(_second_half(_columns(run, "weight_")).max(axis=1).mean())


def _peak_weight(run: Run) -> float:
    """The largest weight (mean of an epoch) any loss ever has."""
    return float(_columns(run, "weight_").max())


def _loyalty(run: Run) -> float:
    """Share of the second half's epochs in which the same loss has the largest weight."""
    leaders = _second_half(_columns(run, "weight_")).argmax(axis=1)
    return float(np.bincount(leaders).max() / len(leaders))


def _late_weight_range(run: Run) -> float:
    """Mean over losses of max - min of the weight in the last fifth of training."""
    return float(np.ptp(_columns(run, "weight_")[-2 * _tenth(run) :], axis=0).mean())


def _loss_decrease(run: Run) -> float:
    """Smallest relative decrease of a base loss from early to late."""
    losses, k = _columns(run, "loss_"), _tenth(run)
    return float((1 - losses[-k:].mean(axis=0) / losses[:k].mean(axis=0)).min())


def _late_loss_change(run: Run) -> float:
    """Largest change of a base loss between the last two tenths, relative to its early value."""
    losses, k = _columns(run, "loss_"), _tenth(run)
    if len(losses) < 3 * k:
        return np.nan
    change = losses[-k:].mean(axis=0) - losses[-2 * k : -k].mean(axis=0)
    return float((np.abs(change) / losses[:k].mean(axis=0)).max())


def _loss_fluctuation(run: Run) -> float:
    """Largest over the base losses: standard deviation of the change per epoch in the second half,
    relative to the early value."""
    losses, k = _columns(run, "loss_"), _tenth(run)
    steps = np.diff(_second_half(losses), axis=0)
    if len(steps) < 2:
        return np.nan
    return float((steps.std(axis=0, ddof=1) / losses[:k].mean(axis=0)).max())


def _late_auxiliary_weight(run: Run) -> float:
    """Late gamma over gamma plus the base weights (which sum to 1)."""
    if "gamma" not in run:
        return np.nan
    gamma = run["gamma"][-_tenth(run) :]
    return float((gamma / (gamma + 1)).mean())


def _early_validation_dice(run: Run) -> float:
    """Macro Dice on the validation subset, early in training."""
    return float(run["validation_dice"][: _tenth(run)].mean())


def _log_seconds(run: Run) -> float:
    """Logarithm of the median seconds per epoch, the first epoch (start-up) left out."""
    if "seconds" not in run or len(run["seconds"]) < 2:
        return np.nan
    return float(np.log(np.median(run["seconds"][1:])))


QUANTITIES: dict[str, Callable[[Run], float]] = {
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
    "late_auxiliary_weight": _late_auxiliary_weight,
    "early_validation_dice": _early_validation_dice,
    "log_seconds": _log_seconds,
}

"""The mixed model against the analysis of variance that balanced runs have in closed form."""

import numpy as np
import pandas as pd
import pytest

from dmf.analysis.verdict.mixed import ADAPTIVE_MEAN, mixed_model

NAMES = ["fixed", "none-mad", "cb_dice-variance", "cb_dice-fixed"]
SEEDS = 7


def runs(machines: int) -> list[pd.DataFrame]:
    """Return percent scores: a seed's effect, one of seed and configuration, and rounding."""
    generator = np.random.default_rng(0)
    seed, cell = generator.normal(0, 1, (SEEDS, 1)), generator.normal(0, 0.6, (SEEDS, len(NAMES)))
    return [
        pd.DataFrame(
            80 + machine + seed + cell + generator.normal(0, 0.3, cell.shape), columns=NAMES
        )
        for machine in range(machines)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("machines", [1, 2])
def test_balanced_runs_are_a_two_way_analysis_of_variance(machines: int) -> None:
    tables = runs(machines)
    found = mixed_model({f"m{i}": table for i, table in enumerate(tables)})
    found = found.set_index("configuration")
    mean = sum(table.to_numpy() for table in tables) / machines
    centred = mean - mean.mean(0) - mean.mean(1, keepdims=True) + mean.mean()
    degrees = (SEEDS - 1) * (len(NAMES) - 1)
    residual = (centred**2).sum() / degrees
    for column, name in enumerate(NAMES[1:], 1):
        row = found.loc[name]
        assert row["difference"] == pytest.approx((mean[:, column] - mean[:, 0]).mean(), abs=1e-6)
        assert row["standard_error"] == pytest.approx(np.sqrt(2 * residual / SEEDS), rel=1e-3)
        assert row["degrees"] == degrees
    # The mean of two columns less a third: half the variance, plus one.
    both = found.loc[ADAPTIVE_MEAN]
    assert both["difference"] == pytest.approx((mean[:, 1:3].mean(1) - mean[:, 0]).mean(), abs=1e-6)
    assert both["standard_error"] == pytest.approx(np.sqrt(1.5 * residual / SEEDS), rel=1e-3)


def test_without_a_reference_or_a_second_seed_there_is_nothing_to_fit() -> None:
    (table,) = runs(1)
    for lacking in (table.drop(columns="fixed"), table[["fixed"]], table[:1]):
        assert mixed_model({"this": lacking}).empty
    assert mixed_model({}).empty

"""What the normalisation of the fusion does to the scale of a loss (eqs. 9 and 10)."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.fusion import DynamicMemoryFusion, min_max, symmetric_log

STEPS = 40


def histories(seed: int) -> torch.Tensor:
    """Return three falling, noisy losses near 1, (losses, steps)."""
    generator = np.random.default_rng(seed)
    falling = np.exp(-np.arange(STEPS) / generator.uniform(10, 60, (3, 1)))
    return torch.as_tensor(falling + generator.uniform(0.1, 0.3, (3, STEPS)))


def last_weights(losses: torch.Tensor) -> torch.Tensor:
    fusion = DynamicMemoryFusion(3, weighting="variance", warmup=10, window=30).double()
    for column in losses.T:
        fusion(column)
    return fusion.weights


@given(st.integers(0, 50), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=25)
def test_min_max_alone_takes_a_factor_away(seed: int, factor: float) -> None:
    losses = histories(seed)
    scaled, _ = min_max(factor * losses)
    torch.testing.assert_close(scaled, min_max(losses)[0])


@given(st.integers(0, 50))
@settings(deadline=None, max_examples=25)
def test_the_symmetric_logarithm_brings_the_scale_back(seed: int) -> None:
    """A loss that falls over decades has another weight in another unit."""
    losses = histories(seed)
    losses[0] = torch.exp(-torch.arange(STEPS) / (4 + seed / 25))
    small, large = losses.clone(), losses.clone()
    small[0] /= 1000
    large[0] *= 1000
    before, after = (min_max(symmetric_log(x))[0].var(1) for x in (small, large))
    torch.testing.assert_close(after[1:], before[1:])
    assert after[0] > 1.2 * before[0]
    assert (last_weights(large) - last_weights(small)).abs().max() > 0.02

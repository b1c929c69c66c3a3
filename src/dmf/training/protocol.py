"""Which images a step sees, how they are turned, and at what rate: from seed and step alone.

Nothing here keeps a state, so that a resumed run needs no generator's.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmf.settings import Training

Indices = npt.NDArray[np.int64]

# The symmetries of the square as sums of these: a quarter turn is a transposition and a flip.
LEFT_RIGHT, TOP_BOTTOM, TRANSPOSED = 1, 2, 4
_SYMMETRIES = {"flips": 4, "flips_and_turns": 8}


def batch_order(seed: int, epoch: int, images: int) -> Indices:
    """Return the order in which epoch ``epoch`` (from 1) visits the images, a permutation."""
    return np.random.default_rng([seed, epoch]).permutation(images)


def batch_lengths(images: int, training: Training) -> list[int]:
    """Return the number of images of each batch of an epoch."""
    count = -(-images // training.batch_size)
    if training.batches == "equal":
        return [len(part) for part in np.array_split(np.arange(images), count)]
    return [training.batch_size] * (count - 1) + [images - (count - 1) * training.batch_size]


def total_steps(batches: int, training: Training) -> int:
    """Return the number of steps of a training of ``batches`` batches an epoch."""
    return training.steps or training.epochs * batches


def learning_rate(step: int, steps: int, batches: int, training: Training) -> float:
    """Return the rate of step ``step`` (from 0) of ``steps``, with ``batches`` steps an epoch."""
    schedule, share = training.schedule, 1.0
    if schedule.kind == "linear":
        share = min(1.0, (steps - step) / (schedule.epochs * batches))
    elif schedule.kind == "polynomial":
        share = (1 - step / steps) ** schedule.power
    return training.learning_rate * share


def symmetries(seed: int, epoch: int, images: int, training: Training) -> Indices | None:
    """Return the symmetry of each image that epoch ``epoch`` visits, in that order.

    A symmetry is a sum of `LEFT_RIGHT`, `TOP_BOTTOM` and `TRANSPOSED`; None without augmentation.
    """
    if training.augmentation == "none":
        return None
    # A third number keeps these draws apart from those of the order.
    draws = np.random.default_rng([seed, epoch, 1])
    return draws.integers(_SYMMETRIES[training.augmentation], size=images)


def turned(pictures: Tensor, symmetry: Tensor) -> Tensor:
    """Return square pictures (N, ..., S, S), each under its symmetry, (N,).

    Nothing waits for the device, so that it can be captured in a CUDA graph.
    """
    bits = symmetry.view(-1, *[1] * (pictures.ndim - 1))
    pictures = torch.where((bits & TRANSPOSED) != 0, pictures.transpose(-1, -2), pictures)
    pictures = torch.where((bits & LEFT_RIGHT) != 0, pictures.flip(-1), pictures)
    return torch.where((bits & TOP_BOTTOM) != 0, pictures.flip(-2), pictures)

"""Phantom images: repeatable, physically sound, and as varied as clinical sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dmf.data.phantom import STEERING, PhantomImage, envelope, generate

SERIES = 160


@pytest.fixture(scope="module")
def series() -> list[PhantomImage]:
    return [generate(index, seed=11, size=64) for index in range(SERIES)]


def homogeneous(
    focus: float = 20.0, seed: int = 0, steering: Sequence[float] = (0.0,)
) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    strength = np.ones((256, 256))
    return envelope(strength, extent=40.0, focus=focus, steering=steering, rng=rng)


def correlation_length(field: npt.NDArray[np.float32], axis: int) -> float:
    """Inverse of the spectral width of the intensity along `axis`, in samples (the grain)."""
    intensity = field**2 - (field**2).mean()
    power = np.abs(np.fft.rfft(intensity, axis=axis)) ** 2
    power = power.mean(axis=1 - axis)
    frequency = np.fft.rfftfreq(field.shape[axis])
    return float(1 / np.sqrt((power * frequency**2).sum() / power.sum()))


@pytest.mark.slow
def test_image_depends_on_seed_and_index_only(series: list[PhantomImage]) -> None:
    for index in (150, 3, 57):  # any order, without the images before
        again = generate(index, seed=11, size=64)
        np.testing.assert_array_equal(again.image, series[index].image)
        np.testing.assert_array_equal(again.mask, series[index].mask)
        assert again.lesion == series[index].lesion


@pytest.mark.slow
def test_seeds_and_indices_give_different_images(series: list[PhantomImage]) -> None:
    assert len({image.image.tobytes() for image in series}) == SERIES
    other = generate(3, seed=12, size=64)
    assert not np.array_equal(other.image, series[3].image)


def test_global_random_state_is_neither_read_nor_written() -> None:
    np.random.seed(5)
    state = str(np.random.get_state())
    first = generate(0, seed=1, size=32)
    assert str(np.random.get_state()) == state
    np.random.seed(6)
    np.testing.assert_array_equal(first.image, generate(0, seed=1, size=32).image)


@settings(deadline=None, max_examples=40)
@given(index=st.integers(0, 10**6), seed=st.integers(0, 2**40), size=st.integers(32, 256))
def test_any_size_gives_an_image_and_a_mask_that_is_not_empty(
    index: int, seed: int, size: int
) -> None:
    image, mask, lesion = generate(index, seed=seed, size=size)
    assert image.dtype == np.uint8
    assert mask.dtype == np.bool_
    assert image.shape == mask.shape == (size, size)
    assert 0 < mask.sum() < 0.6 * size**2
    assert image.std() > 10
    assert lesion in ("benign", "malignant")


def test_sizes_show_the_same_breast() -> None:
    for index in range(5):
        large, small = generate(index, seed=2, size=256), generate(index, seed=2, size=64)
        reduced = cv2.resize(large.image, (64, 64), interpolation=cv2.INTER_AREA)
        assert np.abs(reduced.astype(int) - small.image).max() <= 1
        share = large.mask.reshape(64, 4, 64, 4).mean((1, 3))
        np.testing.assert_array_equal(share >= 0.5, small.mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": -1}, "not -1 and 0"),
        ({"seed": -3}, "not 0 and -3"),
        ({"size": 31}, "32 to 256 pixels, not 31"),
        ({"size": 257}, "32 to 256 pixels, not 257"),
        ({"malignant_share": 1.5}, r"in \[0, 1\], not 1.5"),
    ],
)
def test_values_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(**{"index": 0, "seed": 0, **options})


def test_single_look_speckle_is_fully_developed() -> None:
    speckle = np.stack([homogeneous(seed=seed) for seed in range(6)])
    # Burckhardt 1978: the mean of a Rayleigh variable is 1.913 times its standard deviation.
    assert speckle.mean() / speckle.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), abs=0.05)
    assert (speckle**2).mean() == pytest.approx(1, abs=0.03)
    independent = speckle[:, 6::12, 10::20].ravel()  # samples several cells apart
    assert stats.kstest(independent, "rayleigh", args=(0, np.sqrt(0.5))).pvalue > 0.01


def test_power_is_even_up_to_the_borders() -> None:
    power = np.mean([homogeneous(seed=seed) ** 2 for seed in range(12)], axis=0)
    np.testing.assert_allclose(power.mean(axis=1).reshape(16, 16).mean(axis=1), 1, atol=0.12)
    np.testing.assert_allclose(power.mean(axis=0).reshape(16, 16).mean(axis=1), 1, atol=0.12)
    for border in (power[:2], power[-2:], power[:, :2], power[:, -2:]):
        assert border.mean() == pytest.approx(1, abs=0.2)


def test_envelope_scales_with_the_strength_of_the_scatterers() -> None:
    strength = np.ones((256, 256))
    strength[:, 128:] = 10 ** (-12 / 20)
    echo = envelope(strength, extent=40.0, focus=20.0, rng=np.random.default_rng(0))
    left, right = (echo[:, :112] ** 2).mean(), (echo[:, 144:] ** 2).mean()
    assert 10 * np.log10(left / right) == pytest.approx(12, abs=1)


def test_speckle_is_finest_at_the_focus_and_finer_along_the_beam_than_across() -> None:
    echo = homogeneous(focus=5.0)
    shallow, deep = echo[:64], echo[-64:]
    assert correlation_length(deep, axis=1) > 1.8 * correlation_length(shallow, axis=1)
    assert correlation_length(deep, axis=0) == pytest.approx(
        correlation_length(shallow, axis=0), rel=0.15
    )
    assert correlation_length(shallow, axis=1) > correlation_length(shallow, axis=0)


def test_compounding_of_steered_looks_weakens_speckle() -> None:
    single, compounded = homogeneous(), homogeneous(steering=STEERING)
    gain = (compounded.mean() / compounded.std()) / (single.mean() / single.std())
    # Independent looks gain the root of their number (Trahey et al. 1986); these nearly are.
    assert 1.5 < gain < 1.01 * np.sqrt(len(STEERING))


@pytest.mark.slow
def test_class_shares(series: list[PhantomImage]) -> None:
    malignant = sum(image.lesion == "malignant" for image in series)
    assert stats.binomtest(malignant, SERIES, 1 / 3).pvalue > 0.01
    assert {generate(i, seed=0, size=32, malignant_share=0).lesion for i in range(8)} == {"benign"}
    assert {generate(i, seed=0, size=32, malignant_share=1).lesion for i in range(8)} == {
        "malignant"
    }


@pytest.mark.slow
def test_foreground_shares_resemble_clinical_sets(series: list[PhantomImage]) -> None:
    share = {
        kind: np.array([image.mask.mean() for image in series if image.lesion == kind])
        for kind in ("benign", "malignant")
    }
    assert np.mean([image.mask.mean() for image in series]) == pytest.approx(0.09, abs=0.02)
    assert share["benign"].mean() == pytest.approx(0.07, abs=0.02)
    assert share["malignant"].mean() == pytest.approx(0.15, abs=0.04)
    low, high = np.quantile(np.concatenate(list(share.values())), [0.05, 0.95])
    assert low < 0.02
    assert high > 0.2


@pytest.mark.slow
def test_benign_lesions_are_wider_than_tall_and_smoother(series: list[PhantomImage]) -> None:
    ratio: dict[str, list[float]] = {"benign": [], "malignant": []}
    solidity: dict[str, list[float]] = {"benign": [], "malignant": []}
    for _, mask, lesion in series:
        width, height = mask.any(axis=0).sum(), mask.any(axis=1).sum()
        ratio[lesion].append(width / height)
        points = np.argwhere(mask)
        hull = cv2.convexHull(points.astype(np.int32))
        filled = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), hull[..., ::-1], 1)
        solidity[lesion].append(mask.sum() / filled.sum())
    assert np.median(ratio["benign"]) > 1.2 > np.median(ratio["malignant"])
    assert np.mean(np.array(ratio["malignant"]) < 1) > 0.2
    assert np.median(solidity["benign"]) > 0.95 > 0.93 > np.median(solidity["malignant"])


@pytest.mark.slow
def test_lesions_are_darker_than_what_surrounds_them(series: list[PhantomImage]) -> None:
    contrast = []
    for image, mask, _ in series:
        grown = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        contrast.append(image[grown & ~mask].mean() - image[mask].mean())
    assert np.mean(contrast) == pytest.approx(50, abs=15)  # grey levels
    assert np.mean(np.array(contrast) > 0) > 0.97
    # Some are faint: neither a threshold nor a small network should find them all.
    assert np.quantile(contrast, 0.1) < 25


@pytest.mark.slow
def test_no_threshold_segments_the_lesions(series: list[PhantomImage]) -> None:
    best = 0.0
    truth = np.stack([image.mask for image in series])
    grey = np.stack([image.image for image in series])
    for threshold in range(5, 120, 5):
        dark = grey < threshold
        best = max(best, 2 * (dark & truth).sum() / (dark.sum() + truth.sum()))
    assert best < 0.4

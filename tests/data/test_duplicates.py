"""Duplicates: copies that were cropped, rescaled or marked are found, other images are not."""

from functools import cache
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.data import phantom, raw
from dmf.data.duplicates import aligned_correlation, candidates, find, fingerprint, groups

from sets import scan

Grey = npt.NDArray[np.uint8]


@cache
def speckle(n: int) -> Grey:
    """Return one of a series of simulated images, which look alike as real ones do."""
    return phantom.generate(n, seed=5, size=256, malignant_share=0.3).image


def changed(image: Grey, how: str) -> Grey:
    """Return a copy as they are found in real sets."""
    height, width = image.shape
    if how == "cropped":
        return image[height // 8 :, : -width // 6]
    if how == "rescaled":
        return cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    if how == "enlarged part":
        part = image[20 : int(0.8 * height), 30 : int(0.85 * width)]
        return cv2.resize(part, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC)
    if how == "marked":
        copy = image.copy()
        cv2.putText(copy, "LT 3", (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
        cv2.line(copy, (60, 120), (150, 170), 255, 1)
        return copy
    if how == "brighter":
        return np.clip(1.2 * image.astype(float) + 10, 0, 255).astype(np.uint8)
    if how == "compressed":
        return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0)
    raise ValueError(how)


@pytest.mark.parametrize(
    "how", ["cropped", "rescaled", "enlarged part", "marked", "brighter", "compressed"]
)
@pytest.mark.parametrize("structure", ["speckle", "scan"])
def test_copies_are_found(how: str, structure: str) -> None:
    picture = speckle(0) if structure == "speckle" else scan(3, 300, 400)
    images = [*map(speckle, range(1, 8)), picture, changed(picture, how)]
    prints = [fingerprint(image) for image in images]
    assert (len(images) - 2, len(images) - 1) in candidates(prints)
    assert aligned_correlation(prints[-2], prints[-1]) > 0.9
    assert aligned_correlation(prints[-1], prints[-2]) > 0.9


def test_other_images_are_not_found() -> None:
    prints = [fingerprint(speckle(n)) for n in range(12)]
    assert find(prints, [str(n) for n in range(len(prints))], threshold=0.5).empty


def test_equal_text_in_two_images_does_not_make_them_duplicates() -> None:
    marked = [changed(image, "marked") for image in map(speckle, range(4))]
    prints = [fingerprint(image) for image in marked]
    assert all(aligned_correlation(a, b) < 0.9 for a, b in combinations(prints, 2))


def test_images_without_structure_do_no_harm() -> None:
    blank = [
        np.zeros((50, 60), np.uint8),
        np.full((60, 50), 9, np.uint8),
        np.zeros((1, 1), np.uint8),
    ]
    prints = [fingerprint(image) for image in blank]
    hashes = [raw.hash_pixels(image) for image in blank]
    assert find(prints, hashes, 0.5).empty
    twice = find([*prints, prints[0]], [*hashes, hashes[0]], 0.5)
    assert twice.to_dict("records") == [
        {"first": 0, "second": 3, "kind": "exact", "correlation": 1.0}
    ]


def test_the_threshold_decides_and_exact_copies_are_told_apart() -> None:
    images = [speckle(0), speckle(1), speckle(0), changed(speckle(0), "marked")]
    prints = [fingerprint(image) for image in images]
    hashes = [raw.hash_pixels(image) for image in images]
    pairs = find(prints, hashes, 0.8)
    assert pairs[["first", "second", "kind"]].to_numpy().tolist() == [
        [0, 2, "exact"],
        [0, 3, "near"],
        [2, 3, "near"],
    ]
    assert find(prints, hashes, 0.9999)["kind"].tolist() == ["exact"]


@settings(deadline=None, max_examples=50)
@given(
    links=st.lists(
        st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda p: p[0] < p[1]), max_size=25
    )
)
def test_groups_are_the_connected_images_numbered_in_order(links: list[tuple[int, int]]) -> None:
    numbers = groups(20, pd.DataFrame(links, columns=["first", "second"]))
    together = {n: {n} for n in range(20)}
    for first, second in links:
        union = together[first] | together[second]
        for n in union:
            together[n] = union
    for a, b in combinations(range(20), 2):
        assert (numbers[a] == numbers[b]) == (b in together[a])
    first_seen = list(dict.fromkeys(numbers.tolist()))
    assert first_seen == list(range(len(first_seen)))


def test_the_result_does_not_depend_on_chance() -> None:
    images = [*map(speckle, range(3)), changed(speckle(0), "cropped")]
    results = []
    for seed in (1, 2):
        cv2.setRNGSeed(seed)
        prints = [fingerprint(image) for image in images]
        results.append(find(prints, list("abcd"), 0.5).to_dict("list"))
    assert results[0] == results[1]
    assert results[0]["first"] == [0]


def test_a_thousand_equal_frames_are_a_chain() -> None:
    frame, other = fingerprint(speckle(0)), fingerprint(changed(speckle(0), "marked"))
    pairs = find([frame] * 1000 + [other], ["same"] * 1000 + ["other"], 0.8)
    assert len(pairs) == 1000
    assert (pairs["kind"] == "exact").sum() == 999
    assert set(groups(1001, pairs)) == {0}

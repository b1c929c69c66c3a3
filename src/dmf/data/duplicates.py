"""Exact and near duplicates: the same scan, cropped, rescaled or marked differently.

Thumbnails and global perceptual hashes miss crops. Local features do not: SIFT key points of two
copies agree one by one, wherever the frame was cut. Three steps, all deterministic:

1. **Candidates.** Every descriptor is turned into words of 32 bits, by comparing pairs of its
   components (locality-sensitive hashing); images that share many words are candidates. No pair of
   images is compared in vain, so that a set is searched in seconds.
2. **Alignment.** The matched key points of a candidate pair give the shift, scale and rotation that
   lay one image over the other (RANSAC).
3. **Decision.** Where they overlap, the aligned images must correlate above the threshold.

Sources: D. Lowe, "Distinctive image features from scale-invariant keypoints", Int. J. Comput. Vis.
60(2), 2004 (SIFT); M. Fischler and R. Bolles, "Random sample consensus", Comm. ACM 24(6), 1981;
A. Pawłowska et al., letter on BUSI, Data in Brief 48, 109247, 2023 (its duplicates, also found by
geometric alignment).
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

Image = npt.NDArray[np.uint8]

SIDE = 192  # pixels of the longer side that images are reduced to
KEY_POINTS = 200  # of each image, the strongest
BITS, TABLES = 32, 12  # of the words
VOTES = 8  # words two images must share to be candidates
INLIERS = 8  # key points that must agree on one alignment
TOLERANCE = 3.0  # pixels between aligned key points that agree
SPELT_OUT = 10  # equal images of which every pair is listed; more are linked as a chain
OVERLAP = 0.25  # share of the smaller image that must be covered


class Fingerprint(NamedTuple):
    """A reduced image (uint8, at most SIDE x SIDE), its key points (float32, K x 2: x, y, in
    pixels) and their SIFT descriptors (uint8, K x 128)."""

    image: Image
    points: npt.NDArray[np.float32]
    descriptors: Image


def fingerprint(image: Image) -> Fingerprint:
    """Return what is compared of a grey image (uint8, H x W); about 60 kB."""
    scale = SIDE / max(image.shape)
    size = [max(8, round(side * scale)) for side in image.shape[::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    points, descriptors = cv2.SIFT.create(KEY_POINTS).detectAndCompute(small, None)
    if descriptors is None:  # nothing in it stands out
        descriptors = np.empty((0, 128), dtype=np.float32)
    return Fingerprint(
        small,
        np.array([point.pt for point in points], dtype=np.float32).reshape(-1, 2),
        descriptors.astype(np.uint8),
    )


def candidates(fingerprints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Return the pairs (first < second) of images that share at least VOTES words."""
    descriptors = np.vstack([f.descriptors for f in fingerprints])
    owner = np.repeat(np.arange(len(fingerprints)), [len(f.descriptors) for f in fingerprints])
    generator = np.random.Generator(np.random.PCG64(0))
    votes = sparse.csr_array((len(fingerprints),) * 2, dtype=np.int32)
    for _ in range(TABLES):
        first, second = generator.integers(0, 128, (2, BITS))
        bits = descriptors[:, first] > descriptors[:, second]
        words = bits @ (1 << np.arange(BITS, dtype=np.int64))
        known, column = np.unique(words, return_inverse=True)
        holds = sparse.csr_array(
            (np.ones(len(owner), dtype=np.int32), (owner, column)),
            shape=(len(fingerprints), len(known)),
        )
        holds.sum_duplicates()
        holds.data[:] = 1
        votes = votes + sparse.triu(holds @ holds.T, k=1, format="csr")
    pairs = votes.tocoo()
    enough = pairs.data >= VOTES
    return sorted(zip(pairs.row[enough].tolist(), pairs.col[enough].tolist(), strict=True))


def aligned_correlation(one: Fingerprint, other: Fingerprint) -> float:
    """Return how well two images correlate where they overlap once aligned, 0 if they do not align.

    The images are smoothed a little first, so that interpolation does not count.
    """
    matcher = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True)
    matches = matcher.match(
        one.descriptors.astype(np.float32), other.descriptors.astype(np.float32)
    )
    if len(matches) < INLIERS:
        return 0.0
    here = one.points[[match.queryIdx for match in matches]]
    there = other.points[[match.trainIdx for match in matches]]
    transform, inliers = cv2.estimateAffinePartial2D(
        here, there, method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE
    )
    if transform is None or int(inliers.sum()) < INLIERS:
        return 0.0
    size = other.image.shape[::-1]
    inside = cv2.warpAffine(np.full_like(one.image, 255), transform, size) == 255
    area = min(one.image.size * abs(np.linalg.det(transform[:, :2])), other.image.size)
    if np.count_nonzero(inside) < OVERLAP * area or area < OVERLAP * SIDE:
        return 0.0
    moved = cv2.GaussianBlur(cv2.warpAffine(one.image, transform, size), (0, 0), 1)[inside]
    fixed = cv2.GaussianBlur(other.image, (0, 0), 1)[inside]
    if moved.std() == 0 or fixed.std() == 0:
        return 0.0
    return float(np.corrcoef(moved, fixed)[0, 1])


def find(
    fingerprints: Sequence[Fingerprint], hashes: Sequence[str], threshold: float
) -> pd.DataFrame:
    """Return the pairs of duplicates: first, second (positions), kind and correlation.

    `kind` is `exact` where the hashes of the pixels are equal, else `near`: the aligned images
    correlate above `threshold`. Of more than SPELT_OUT equal images, each is paired with the next
    one only, and the first alone is compared with others: a thousand blank frames are no million
    pairs.
    """
    positions = pd.Series(range(len(hashes))).groupby(list(hashes))
    rows = [
        (first, second, "exact", 1.0)
        for _, same in positions
        for first, second in (combinations(same, 2) if len(same) <= SPELT_OUT else pairwise(same))
    ]
    compared = sorted(
        place
        for _, same in positions
        for place in (same if len(same) <= SPELT_OUT else same.iloc[:1])
    )
    for first, second in candidates([fingerprints[place] for place in compared]):
        one, other = compared[first], compared[second]
        if hashes[one] == hashes[other]:
            continue
        correlation = aligned_correlation(fingerprints[one], fingerprints[other])
        if correlation > threshold:
            rows.append((one, other, "near", round(correlation, 4)))
    return pd.DataFrame(sorted(rows), columns=["first", "second", "kind", "correlation"])


def groups(n: int, pairs: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return a group number for each of `n` images: images that pairs link share one.

    Groups are numbered from 0 in the order of their first images.
    """
    links = sparse.csr_array((np.ones(len(pairs)), (pairs["first"], pairs["second"])), shape=(n, n))
    _, labels = connected_components(links, directed=False)
    return pd.factorize(labels)[0].astype(np.int64)

"""Exact and near duplicate images, as groups."""

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

Image = npt.NDArray[np.uint8]
SIDE = 48


def fingerprint(image: Image) -> npt.NDArray[np.float32]:
    """Return the standardised 48 x 48 thumbnail of a grey image as a unit vector."""
    thumbnail = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    vector = thumbnail.astype(np.float32).ravel()
    vector -= vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def group(fingerprints: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.int64]:
    """Return a group number per image: images that correlate above `threshold` share one."""
    alike = fingerprints @ fingerprints.T > threshold
    _, labels = connected_components(alike, directed=False)
    return np.asarray(labels, dtype=np.int64)

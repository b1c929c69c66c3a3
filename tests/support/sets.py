"""Small sets in the layouts that the published ones have, made of structured random images."""

import io
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Grey = npt.NDArray[np.uint8]


@cache
def scan(seed: int, height: int = 96, width: int = 128) -> Grey:
    """Return a grey image with structure at several scales, unlike that of any other seed."""
    generator = np.random.default_rng(seed)
    image = np.zeros((height, width))
    for cells in (6, 12, 24, 48):
        coarse = generator.normal(size=(cells, cells)) / np.sqrt(cells)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image -= image.min()
    return np.round(255 * image / image.max()).astype(np.uint8)


def ellipse(height: int = 96, width: int = 128, x: float = 0.5, y: float = 0.5) -> Grey:
    """Return a mask of 0 and 255."""
    rows, columns = np.mgrid[:height, :width]
    inside = ((columns / width - x) / 0.2) ** 2 + ((rows / height - y) / 0.2) ** 2 < 1
    return np.where(inside, 255, 0).astype(np.uint8)


def png(image: npt.NDArray[np.generic], mode: str | None = None) -> bytes:
    """Return an image as a PNG file, converted to a Pillow mode if one is named."""
    picture = Image.fromarray(image)
    stream = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(stream, "PNG")
    return stream.getvalue()


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a zip archive and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def busi(
    benign: int = 12, malignant: int = 8, top: str = "Dataset_BUSI_with_GT/"
) -> dict[str, bytes]:
    """Return the members of an archive like BUSI's: RGB images, mode-1 masks, one RGBA, normals."""
    members = {}
    for lesion, count in (("benign", benign), ("malignant", malignant), ("normal", 2)):
        for n in range(1, count + 1):
            stem = f"{top}{lesion}/{lesion} ({n})"
            members[f"{stem}.png"] = png(scan(hash_of(lesion) + n), "RGB")
            empty = lesion == "normal"
            mask = np.zeros((96, 128), np.uint8) if empty else ellipse(x=0.3)
            members[f"{stem}_mask.png"] = png(mask, "RGB" if empty else "1")
    members[f"{top}benign/benign (2)_mask_1.png"] = png(ellipse(x=0.8), "RGBA")
    members[f"{top}malignant/malignant (1)_mask_1.png"] = png(ellipse(x=0.8), "1")
    members[f"{top}malignant/malignant (1)_mask_2.png"] = png(ellipse(y=0.8), "1")
    return members


def hash_of(text: str) -> int:
    """Return a number that depends on a text alone."""
    return 1000 * sum(map(ord, text))


def two_folders(top: str, count: int = 12, mask_name: str = "{}") -> dict[str, bytes]:
    """Return the members of an archive with `images` and `masks`, 128 x 128, as BUSC and BUS."""
    members = {}
    for n in range(1, count + 1):
        members[f"{top}images/{n}.png"] = png(scan(n, 128, 128))
        members[f"{top}masks/{mask_name.format(n)}.png"] = png(ellipse(128, 128))
    return members

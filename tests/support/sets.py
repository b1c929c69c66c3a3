"""Small sets in the layouts that the published ones have, made of structured random images."""

import io
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dmf.settings import FolderSource

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


def bus_bra() -> dict[str, bytes]:
    """Twelve images of six patients, in two views."""
    rows = ["ID,Case,Histology,Pathology,BBOX"]
    members = {}
    for n in range(1, 7):
        for view in ("l", "r"):
            name = f"{n:04d}-{view}"
            members[f"BUSBRA/Images/bus_{name}.png"] = png(scan(n + 50 * (view == "r")))
            members[f"BUSBRA/Masks/mask_{name}.png"] = png(ellipse(x=n / 10), "1")
            rows.append(f'bus_{name},{n},x,{"benign" if n < 5 else "malignant"},"[1,2,3,4]"')
    members["BUSBRA/bus_data.csv"] = "\n".join(rows).encode()
    members["BUSBRA/5-fold-cv.csv"] = b"ID,kFold\n"
    return members


def breast() -> dict[str, bytes]:
    """Twelve images with a tumour, one of them with another finding, and one without any mask."""
    top = "BrEaST-Lesions_USG-images_and_masks/"
    members = {top + "case045.png": png(scan(45), "RGBA")}
    mask = np.repeat(ellipse()[..., None], 4, axis=2)
    for n in range(1, 13):
        members[f"{top}case{n:03d}.png"] = png(scan(n), "RGBA")
        members[f"{top}case{n:03d}_tumor.png"] = png(mask)
    members[f"{top}case003_other1.png"] = png(mask)
    return members


def udiat() -> dict[str, bytes]:
    """Twelve images, masks of the same names in another folder."""
    members = {"BUS/DatasetB.txt": b"x"}
    for n in range(1, 13):
        members[f"BUS/original/{n:06d}.png"] = png(scan(n))
        members[f"BUS/GT/{n:06d}.png"] = png(ellipse())
    return members


def bus_uclm() -> dict[str, bytes]:
    """Four patients with three images each; masks in green, red, and black for no finding."""
    top = "BUS-UCLM Breast ultrasound lesion segmentation dataset/BUS-UCLM/"
    colours = {"Benign": (0, 255, 0), "Malignant": (255, 0, 0), "Normal": (0, 0, 0)}
    rows = ["Image;Resolution;Label;Doppler"]
    members = {}
    for number, patient in enumerate(("ALWI", "CHCO", "FLBA", "HESN")):
        for n, (label, colour) in enumerate(colours.items()):
            name = f"{patient}_{n:03d}.png"
            members[f"{top}images/{name}"] = png(scan(10 * number + n), "RGB")
            members[f"{top}masks/{name}"] = png(
                np.where(ellipse()[..., None] > 0, np.array(colour, dtype=np.uint8), 0)
            )
            rows.append(f"{name};128x96;{label};No")
    members[f"{top}INFO.csv"] = "\r\n".join(rows).encode("utf-8-sig")
    return members


def stu() -> dict[str, bytes]:
    """Twelve images with masks beside them, four times as large, with other prefixes."""
    members = {"README.md": b"x"}
    for n in range(1, 13):
        members[f"Hospital/Test_Image_{n}.png"] = png(scan(n, 128, 128), "RGB")
        members[f"Hospital/mask_{n}.png"] = png(np.minimum(ellipse(512, 512, x=n / 20), 254))
    return members


def lay(folder: Path, members: dict[str, bytes]) -> Path:
    """Write a set as a folder."""
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def own(**settings: Any) -> FolderSource:
    """Return a set of one's own with these settings."""
    return FolderSource.model_validate({"kind": "folder", "archive": "x", **settings})

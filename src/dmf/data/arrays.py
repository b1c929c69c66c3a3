"""`data/filtered/<set>.npz` and `.json`: a whole set as arrays, with a hash that names them."""

import csv
import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmf.errors import DmfError
from dmf.files import atomic_path, write_json
from dmf.layout import FILTERED
from dmf.outcomes import SUBSETS
from dmf.records import ArraysDescription

Images = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

TEXTS = ("ids", "lesions")
IMAGES = ("originals", "filtered", "masks")


@dataclass(frozen=True, eq=False)
class Arrays:
    """A data set, ready to train on.

    `originals` and `filtered` are grey images, uint8 (N, H, W) in 0..255; `masks` are class
    indices, uint8 (N, H, W) in 0..`classes` - 1; `ids` and `lesions` have N entries.
    """

    dataset: str
    ids: list[str]
    lesions: list[str]
    originals: Images
    filtered: Images
    masks: Images
    classes: int
    synthetic: bool

    @cached_property
    def sha256(self) -> str:
        """The hash of the contents, independent of how and where they are stored."""
        digest = hashlib.sha256()
        for name in TEXTS:
            digest.update(f"{name} {len(self.ids)}\n".encode())
            digest.update("\0".join(getattr(self, name)).encode())
        for name in IMAGES:
            values = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {values.shape}\n".encode())
            digest.update(values.data)
        return digest.hexdigest()


def write_arrays(arrays: Arrays, parameters: dict[str, Any], folder: Path = FILTERED) -> Path:
    """Write `<dataset>.npz`, then the `<dataset>.json` that describes it; return its path."""
    path = folder / f"{arrays.dataset}.json"
    with atomic_path(path.with_suffix(".npz")) as temporary:
        np.savez(
            temporary,
            ids=np.array(arrays.ids, dtype=np.str_),
            lesions=np.array(arrays.lesions, dtype=np.str_),
            originals=arrays.originals,
            filtered=arrays.filtered,
            masks=arrays.masks,
        )
    _, height, width = arrays.masks.shape
    description = {
        "dataset": arrays.dataset,
        "images": len(arrays.ids),
        "classes": arrays.classes,
        "height": height,
        "width": width,
        "sha256": arrays.sha256,
        "synthetic": arrays.synthetic,
        "parameters": parameters,
    }
    write_json(path, description)
    return path


def read_arrays(path: Path) -> Arrays:
    """Read the arrays that the JSON file `path` describes.

    Raises DmfError if the arrays are missing, damaged, or not those that were described.
    """
    description = ArraysDescription.read(path)
    stored = path.with_suffix(".npz")
    remedy = f"Delete {path} and run the filter step again."
    try:
        with np.load(stored, allow_pickle=False) as file:
            contents = {name: file[name] for name in TEXTS + IMAGES}
    except FileNotFoundError:
        raise DmfError(
            f"{stored}, the arrays that {path} describes, is missing. {remedy}"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise DmfError(f"{stored} is damaged ({error}). {remedy}") from None
    try:
        arrays = Arrays(
            dataset=description["dataset"],
            classes=description["classes"],
            synthetic=description["synthetic"],
            **{name: contents[name].tolist() for name in TEXTS},
            **{name: contents[name] for name in IMAGES},
        )
        expected = description["sha256"]
        counts = {len(contents[name]) for name in TEXTS + IMAGES}
        dimensions = [contents[name].ndim for name in TEXTS + IMAGES]
        if len(counts) != 1 or dimensions != [1, 1, 3, 3, 3]:
            raise TypeError("not one id, image and mask each")
    except (KeyError, TypeError) as error:
        raise DmfError(f"{path} does not describe arrays ({error!r}). {remedy}") from None
    if arrays.sha256 != expected:
        raise DmfError(
            f"{stored} does not hold the arrays that {path} describes (their hash is "
            f"{arrays.sha256[:12]}, not {expected[:12]}). {remedy}"
        )
    return arrays


def read_subsets(split: Path, arrays: Arrays) -> dict[str, Indices]:
    """Return the places in `arrays` of each subset's images, in order, as the file `split` says.

    It stands here, not beside the writer, because a training pays for every import, and this needs
    no pandas. Raises DmfError unless the split names every image once, or if a subset is empty.
    """
    remedy = (
        f"Make the split again: snakemake --cores all --forcerun split -- split_{arrays.dataset}"
    )
    places = {name: index for index, name in enumerate(arrays.ids)}
    members: dict[str, list[int]] = {name: [] for name in SUBSETS}
    with split.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            place = places.pop(row["id"], None)
            if place is None or row["subset"] not in members:
                raise DmfError(
                    f"{split}: image {row['id']!r} in subset {row['subset']!r} is not part of the "
                    f"filtered {arrays.dataset}, or named twice. {remedy}"
                )
            members[row["subset"]].append(place)
    if places:
        raise DmfError(
            f"{split} leaves out {len(places)} images of the filtered {arrays.dataset}, such as "
            f"{next(iter(places))!r}. {remedy}"
        )
    for name, indices in members.items():
        if not indices:
            raise DmfError(f"{split}: the {name} subset is empty; use more images")
    return {name: np.array(sorted(indices)) for name, indices in members.items()}

"""`data/raw/<set>`: grey images, masks and a manifest, the same whatever the source was."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from dmf import layout
from dmf.data import duplicates
from dmf.data.patients import by_numbering
from dmf.errors import DmfError
from dmf.files import reason, sha256_json
from dmf.records import Description

Image = npt.NDArray[np.uint8]

COLUMNS: dict[str, type] = {
    "id": str,
    "class": str,
    "sha256": str,
    "height": int,
    "width": int,
    "masks": int,
    "foreground": float,
    "group": int,
    "mask_sha256": str,
    "source": str,
}
PATIENT = "patient"  # the last column, where patients are known


def hash_pixels(image: Image) -> str:
    """Return the SHA-256 of an image's height, width and decoded pixels."""
    height, width = image.shape
    digest = hashlib.sha256(f"{height}x{width}\n".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def grey_levels(classes: int) -> Image:
    """Return the grey value of each class in `masks/`: index * 255 // (classes - 1)."""
    return (np.arange(classes) * 255 // (classes - 1)).astype(np.uint8)


class RawWriter:
    """Writes one set into `folder`, image by image, so that memory never holds the set.

    Images may be added in any order, and by several threads.
    """

    def __init__(self, folder: Path, *, classes: int) -> None:
        self._folder = folder
        self._levels = grey_levels(classes)
        self._images: list[tuple[dict[str, Any], duplicates.Fingerprint]] = []
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)

    @property
    def count(self) -> int:
        """How many images were written."""
        return len(self._images)

    def add(
        self,
        identifier: str,
        lesion: str,
        image: Image,
        mask: Image,
        *,
        masks: int,
        source: str,
        patient: str = "",
    ) -> None:
        """Write a grey image and its mask of class indices (both uint8, H x W)."""
        _write_png(self._folder / "images" / f"{identifier}.png", image)
        _write_png(self._folder / "masks" / f"{identifier}.png", self._levels[mask])
        row = {
            "id": identifier,
            "class": lesion,
            "sha256": hash_pixels(image),
            "height": image.shape[0],
            "width": image.shape[1],
            "masks": masks,
            "foreground": round(np.count_nonzero(mask) / mask.size, 6),
            "mask_sha256": hash_pixels(mask),
            "source": source,
            PATIENT: patient,
        }
        self._images.append((row, duplicates.fingerprint(image)))

    def finish(self, threshold: float, frames_per_lesion: int | None = None) -> dict[str, Any]:
        """Write `manifest.csv` and `duplicates.csv`; return what sums the set up.

        Images are near duplicates if, aligned, they correlate above `threshold`. Where so many
        frames of each lesion are said to follow one another, and the duplicates agree, the lesion
        stands in the column patient.
        """
        self._images.sort(key=lambda image: str(image[0]["id"]))
        rows, fingerprints = zip(*self._images, strict=True)
        manifest = pd.DataFrame(rows)
        pairs = duplicates.find(fingerprints, manifest["sha256"].tolist(), threshold)
        manifest["group"] = duplicates.groups(len(manifest), pairs)
        lesions = None
        if frames_per_lesion is not None:
            lesions = by_numbering(manifest["id"].tolist(), pairs, frames_per_lesion)
            manifest[PATIENT] = lesions or manifest[PATIENT]
        columns = [*COLUMNS, *([PATIENT] if (manifest[PATIENT] != "").any() else [])]
        for name in ("first", "second"):
            pairs[name] = manifest["id"].to_numpy()[pairs[name]]
        for name, table in (("manifest", manifest[columns]), ("duplicates", pairs)):
            table.to_csv(self._folder / f"{name}.csv", index=False, lineterminator="\n")
        members = manifest.groupby("group").agg(images=("id", "size"), classes=("class", "nunique"))
        several = members[members["images"] > 1]
        return {
            "images": len(manifest),
            "classes": len(self._levels),
            **({} if frames_per_lesion is None else {"lesions_by_numbering": lesions is not None}),
            "contents_sha256": sha256_json(
                manifest[["id", "sha256", "mask_sha256"]].to_dict("list")
            ),
            "duplicates": {
                "method": "equal pixels, or aligned by SIFT and correlating above the threshold",
                "threshold": threshold,
                "pairs": pairs["kind"].value_counts().to_dict(),
                "groups": len(several),
                "images": int(several["images"].sum()),
                "groups_of_mixed_classes": int((several["classes"] > 1).sum()),
            },
        }


def read_manifest(dataset: str) -> pd.DataFrame:
    """Return `manifest.csv` with its columns typed, and the patients, "" where unknown.

    Raises DmfError if it is missing or damaged.
    """
    path = layout.manifest(dataset)
    try:
        manifest = pd.read_csv(path, dtype={**COLUMNS, PATIENT: str}, keep_default_na=False)
    except FileNotFoundError:
        raise DmfError(
            f"{path} does not exist. Download the set first: dmf download {dataset}, with the "
            "study's --overlay if it has one"
        ) from None
    except ValueError as error:
        raise DmfError(
            f"{path} is damaged ({error}). Delete {path.parent} and download again."
        ) from None
    if PATIENT not in manifest:
        manifest[PATIENT] = ""
    if list(manifest.columns) != [*COLUMNS, PATIENT] or manifest.empty:
        raise DmfError(
            f"{path} is not a manifest with the columns {', '.join(COLUMNS)}. "
            f"Delete {path.parent} and download again."
        )
    for identifier in manifest["id"]:
        if not re.fullmatch(r"[\w-][\w.-]*", identifier):
            raise DmfError(
                f"{path} names the image {identifier!a}, which is no plain name. "
                f"Delete {path.parent} and download again."
            )
    return manifest


def read_description(dataset: str) -> dict[str, Any]:
    """Return `manifest.json`: kind, classes, licence, citation, address, problems and so on."""
    return Description.read(layout.description(dataset))


def read_images(
    dataset: str, manifest: pd.DataFrame, classes: int
) -> Iterator[tuple[Image, Image]]:
    """Yield each image and its mask of class indices (uint8, H x W), in the manifest's order.

    Raises DmfError naming the file that is missing, or whose pixels are not those downloaded.
    """
    index_of = np.full(256, 255, dtype=np.uint8)
    index_of[grey_levels(classes)] = np.arange(classes)
    folder = layout.RAW / dataset
    columns = (manifest[name].tolist() for name in ("id", "sha256", "mask_sha256"))
    for identifier, *expected in zip(*columns, strict=True):
        paths = [folder / name / f"{identifier}.png" for name in ("images", "masks")]
        image = _read_png(paths[0], folder)
        mask = index_of[_read_png(paths[1], folder)]
        for path, pixels, sha256 in zip(paths, (image, mask), expected, strict=True):
            if hash_pixels(pixels) != sha256:
                raise DmfError(
                    f"{path} is not the image that was downloaded (its "
                    f"pixels differ from manifest.csv). Delete {folder} and download again."
                )
        yield image, mask


def _write_png(path: Path, image: Image) -> None:
    try:
        encoded, content = cv2.imencode(".png", image)
        if not encoded:
            raise DmfError(f"{path} could not be encoded as a PNG.")
        path.write_bytes(content.tobytes())
    except OSError as error:
        raise DmfError(
            f"{path} could not be written ({reason(error)}). Free some space, check the "
            "permissions, or shorten the names in the set; then run the same command again."
        ) from error


def _read_png(path: Path, folder: Path) -> Image:
    if not path.is_file():
        raise DmfError(f"{path} is missing. Delete {folder} and download again.")
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise DmfError(f"{path} cannot be read. Delete {folder} and download again.")
    return image.astype(np.uint8, copy=False)

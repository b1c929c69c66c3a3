"""Image files in, masks and overlays out."""

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dmf.data import raw
from dmf.data.filtering import prepare
from dmf.data.pairing import SUFFIXES
from dmf.data.pixels import read_grey
from dmf.errors import DmfError
from dmf.files import reason, sha256_file, write_bytes
from dmf.training.inference import read_model

# Okabe-Ito, in OpenCV's order blue, green, red; one per foreground class.
COLOURS = ((0, 94, 213), (178, 114, 0), (115, 158, 0), (167, 121, 204), (66, 228, 240))
KINDS = ("mask", "overlay")
RECORD = "predictions.csv"
COLUMNS = ["file", "sha256", "image", "model"]


@dataclass(frozen=True)
class Job:
    """An image, and where its results go without their endings `_mask.png` and `_overlay.png`."""

    image: Path
    stem: Path

    def targets(self) -> list[Path]:
        """Return the files that will be written."""
        return [self.stem.with_name(f"{self.stem.name}_{kind}.png") for kind in KINDS]


def predict_files(
    named: Sequence[Path],
    model_file: Path,
    folder: Path,
    *,
    grey_range: tuple[int, int] | None = None,
    transparent_ground: int = 0,
) -> Iterator[Path]:
    """Write a mask and an overlay of each image, at the image's own size; yield their paths.

    `named` are images, and folders, in which all images are taken. In `folder` the results lie as
    the images do below the deepest folder that all those named have in common. Images are filtered
    and resized as the model's training images were; how 16 bits and what is transparent are read
    (:func:`dmf.data.pixels.read_grey`) should be as in training too. Masks have the grey values of
    the masks in `data/raw` (:func:`dmf.data.raw.grey_levels`).

    Raises DmfError, before anything is written, if two results would meet, or if one would replace
    a file that was not written here: `predictions.csv` in `folder` lists the hashes of those that
    were. Raises it as well for an unreadable image.
    """
    model = read_model(model_file)
    record = Record(folder, sha256_file(model_file))
    jobs = _jobs(named, folder, record)
    record.check(jobs)
    for job in jobs:
        grey = read_grey(job.image, grey_range=grey_range, transparent_ground=transparent_ground)
        _, filtered, _ = prepare(grey, np.zeros_like(grey), model.description.preprocessing)
        # Probabilities, not labels, are enlarged: their boundary is smooth.
        probabilities = model.logits(filtered[None]).softmax(1)[0].numpy().transpose(1, 2, 0)
        large = cv2.resize(probabilities, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
        labels = large.argmax(2).astype(np.uint8)
        levels = raw.grey_levels(model.description.classes)[labels]
        for target, picture in zip(job.targets(), (levels, overlay(grey, labels)), strict=True):
            content = cv2.imencode(".png", picture)[1].tobytes()
            record.add(target, content, job.image)
            write_bytes(target, content)
            yield target


def overlay(grey: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the image (H, W) as BGR (H, W, 3) with each class tinted and outlined."""
    picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    for index in range(1, int(labels.max()) + 1):
        colour = COLOURS[(index - 1) % len(COLOURS)]
        inside = (labels == index).astype(np.uint8)
        tinted = (0.7 * picture[inside > 0] + 0.3 * np.array(colour)).astype(np.uint8)
        picture[inside > 0] = tinted
        outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, max(1, round(max(grey.shape) / 400)))
    return picture.astype(np.uint8, copy=False)


class Record:
    """`predictions.csv`: which files of a folder were written here, and with what contents.

    A file counts as written here as long as its contents are noted: those noted last or, where a
    full disk or a kill came before they were written, earlier ones. One that was edited since is
    the user's.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self._folder, self._model = folder, model
        self._path = folder / RECORD
        self._hashes: dict[str, set[str]] = {}
        if not self._path.exists():
            return
        try:
            with self._path.open(encoding="utf-8", newline="") as stream:
                reader = csv.DictReader(stream)
                for row in reader:
                    self._hashes.setdefault(row["file"], set()).add(row["sha256"])
                known = reader.fieldnames == COLUMNS
        except (OSError, ValueError, KeyError, csv.Error):
            known = False
        if not known:
            raise DmfError(
                f"{self._path} is not the list that dmf predict writes. Move it away, or choose "
                "another folder with --output."
            )

    def wrote(self, path: Path) -> bool:
        """Tell whether a file is one that was written here, unchanged."""
        folder, absolute = os.path.abspath(self._folder), os.path.abspath(path)
        if os.path.commonpath([folder, absolute]) != folder:
            return False
        noted = self._hashes.get(Path(absolute).relative_to(folder).as_posix(), set())
        is_file = path.is_file() and not path.is_symlink()
        return bool(noted) and is_file and sha256_file(path) in noted

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise DmfError for the targets that are there and were not written here."""
        targets = [target for job in jobs for target in job.targets()]
        strange = [path for path in targets if os.path.lexists(path) and not self.wrote(path)]
        if strange:
            more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
            raise DmfError(
                f"{strange[0]}{more} would be replaced, but dmf predict did not write it, or it "
                "was changed since. Choose another folder with --output, or move it away. Nothing "
                "was written."
            )

    def add(self, target: Path, content: bytes, image: Path) -> None:
        """Note a file before it is written: a kill in between leaves nothing unaccounted for."""
        name = target.relative_to(self._folder).as_posix()
        row = (name, hashlib.sha256(content).hexdigest(), str(image), self._model)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                if not stream.tell():
                    writer.writerow(COLUMNS)
                writer.writerow(row)
        except OSError as error:
            raise DmfError(
                f"{self._path}: could not be written ({reason(error)}). Free some space, "
                "check the permissions, or choose another folder with --output."
            ) from None


def _jobs(named: Sequence[Path], folder: Path, record: Record) -> list[Job]:
    """Return what is to be done, sorted; raises DmfError if two results would meet."""
    images: dict[Path, Path] = {}
    for path in named:
        if not path.exists():
            raise DmfError(f"{path} does not exist. Correct the path.")
        for image in _images_in(path, record) if path.is_dir() else [path]:
            images.setdefault(Path(os.path.abspath(image)), image)
    parents = [path if path.is_dir() else path.parent for path in named]
    common = os.path.commonpath([os.path.abspath(parent) for parent in parents])
    jobs = [
        Job(image, folder / absolute.relative_to(common).with_suffix(""))
        for absolute, image in sorted(images.items())
    ]
    first: dict[str, Path] = {}
    for job in jobs:
        for target in job.targets():
            # Some file systems do not tell upper from lower case.
            other = first.setdefault(str(target).casefold(), job.image)
            if other != job.image:
                raise DmfError(
                    f"{other} and {job.image} would both be written to {target}. Rename one, or "
                    "segment one after the other into different folders (--output). Nothing was "
                    "written."
                )
    return jobs


def _images_in(folder: Path, record: Record) -> list[Path]:
    """Return the images at any depth of a folder, but for results of earlier calls.

    Raises DmfError if there is none.
    """
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.casefold() in SUFFIXES
        and path.is_file()
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        and not record.wrote(path)
    ]
    if not found:
        raise DmfError(f"{folder} holds no image ({', '.join(SUFFIXES)}). Name another folder.")
    return found

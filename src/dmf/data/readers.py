"""Finds the images and masks of a set in a folder of any nesting, pairs them and reads them."""

import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from dmf.errors import DmfError
from dmf.settings import ArchiveSource, Reading

Image = npt.NDArray[np.uint8]
Source = ArchiveSource | Reading

FORMATS = ("PNG", "BMP", "JPEG", "TIFF")
SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
BUSI_CLASSES = ("benign", "malignant")
BUSI_IGNORED = "normal"
LESION = "lesion"  # the class of images whose set does not tell
THRESHOLD = 127  # grey values above it are foreground, where nothing else is said
LARGEST = 64_000_000  # pixels of one image; more is taken for a decompression bomb


@dataclass(frozen=True)
class Problem:
    """What is wrong with one image of a set; `file` is relative to the set's folder."""

    kind: str
    file: str
    detail: str


class UnusableError(DmfError):
    """One image or mask cannot be used."""

    def __init__(self, kind: str, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.kind, self.path, self.detail = kind, path, detail


@dataclass(frozen=True)
class Pair:
    """An image file, the mask files that belong to it, its class, and its patient if known."""

    identifier: str
    lesion: str
    image: Path
    masks: tuple[Path, ...]
    patient: str = ""


@dataclass(frozen=True)
class Spelling:
    """What the stems of images and masks have around the name that they share."""

    image_prefix: str = ""
    mask_prefix: str = ""
    mask_suffix: str = ""

    def name_of_image(self, stem: str) -> str:
        """Return the name in the stem of an image."""
        return stem.removeprefix(self.image_prefix)

    def name_of_mask(self, stem: str) -> str | None:
        """Return the name in the stem of a mask; None if it is not spelt as a mask is."""
        prefix, suffix = re.escape(self.mask_prefix), re.escape(self.mask_suffix)
        number = r"(_\d+)?" if suffix else ""
        match = re.fullmatch(rf"{prefix}(.+?){suffix}{number}", stem)
        return match[1] if match else None


BUSI_SPELLING = Spelling(mask_suffix="_mask")


@dataclass
class Found:
    """The pairs in a folder, how they were paired, what is wrong and what was left aside."""

    folder: Path
    pairs: list[Pair] = field(default_factory=list)
    pairing: str = "stem"
    problems: list[Problem] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)

    def complain(self, kind: str, path: Path, detail: str) -> None:
        """Note a problem with the file at `path`."""
        self.problems.append(Problem(kind, path.relative_to(self.folder).as_posix(), detail))

    def leave_over(self, masks: Iterable[Iterable[Path]]) -> None:
        """Note the masks that belong to no image."""
        for path in chain.from_iterable(masks):
            self.complain("mask without image", path, "no image belongs to this mask")


def find_pairs(folder: Path, source: Source) -> Found:
    """Return the pairs in `folder`, sorted by identifier, with the problems found on the way.

    `busi` looks for folders named benign and malignant; `busc` and `bus` for the one place that
    holds an images and a masks folder; `folder` for what its parameters name. Raises DmfError if
    these are missing, ambiguous or cannot be paired, or if two images would share a name.
    """
    files = sorted(path for path in folder.rglob("*") if _is_image(path, folder))
    if not isinstance(source, Reading):
        if source.kind == "busi":
            return _checked(_busi(folder, files))
        images, masks = _find_siblings(folder, files)
        return _checked(_pair_folders(folder, files, images, masks, Spelling()))
    ignored: Counter[str] = Counter()
    for pattern in source.leave_out:
        ignored[pattern] = sum(fnmatch(path.name, pattern) for path in files)
        files = [path for path in files if not fnmatch(path.name, pattern)]
    spelling = Spelling(source.image_prefix, source.mask_prefix, source.mask_suffix)
    home = _find_folder(folder, files, source.images)
    if source.masks is None:
        found = Found(folder)
        _pair_beside(found, home, files, spelling)
    else:
        masks = _find_folder(folder, files, source.masks)
        found = _pair_folders(folder, files, home, masks, spelling)
    found.ignored |= ignored
    return _checked(found)


def read_pair(pair: Pair, source: Source) -> tuple[Image, Image]:
    """Return the grey image and its mask of class indices, both uint8 (H, W).

    Several masks are joined: a pixel belongs to the highest class any of them gives it (for two
    classes that is OR). Raises UnusableError if a file cannot be decoded, if sizes differ, if the
    mask holds values that are no class, or if no pixel is foreground.
    """
    image = read_grey(pair.image)
    mask = np.zeros_like(image)
    brightest = 0
    for path in pair.masks:
        values = read_grey(path)
        if isinstance(source, Reading) and source.resize_masks:
            values = _as_large(values, image)
        if values.shape != image.shape:
            sizes = " and ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (values, image))
            raise UnusableError("size mismatch", path, f"mask and image differ in size: {sizes}")
        brightest = max(brightest, int(values.max()))
        mask = np.maximum(mask, _classes_of(values, path, source))
    if not mask.any():
        raise UnusableError(
            "empty mask",
            pair.masks[0],
            f"no pixel of the mask is foreground (largest value {brightest}, "
            f"mask_threshold {_threshold(source)})",
        )
    return image, mask


def read_grey(path: Path) -> Image:
    """Return the image at `path` as 8-bit grey, uint8 (H, W); colour becomes luma (ITU-R 601-2).

    The content decides, not the file's suffix. Raises UnusableError if the file is no PNG, BMP,
    JPEG or TIFF, is damaged (checksums included), huge, or holds more than 8 bits or one frame.
    """
    try:
        content = path.read_bytes()
        PillowImage.open(io.BytesIO(content), formats=FORMATS).verify()
        with PillowImage.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > LARGEST:
                detail = f"{image.width}x{image.height} pixels are more than {LARGEST} in all"
                raise UnusableError("unreadable", path, detail)
            if getattr(image, "n_frames", 1) > 1:
                raise UnusableError("unreadable", path, "holds several frames, not one image")
            if image.mode.startswith(("I", "F")):
                detail = "holds more than 8 bits per pixel; convert it to 8 bits first"
                raise UnusableError("unreadable", path, detail)
            return np.asarray(image.convert("L"))
    except UnusableError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        reason = "no image" if isinstance(error, UnidentifiedImageError) else error
        raise UnusableError("unreadable", path, f"cannot be read ({reason})") from None


def _as_large(values: Image, image: Image) -> Image:
    """Return a mask at the size of its image, if they have the same shape to a pixel or two."""
    height, width = image.shape
    if abs(values.shape[0] * width - values.shape[1] * height) > max(height, width):
        return values
    resized = PillowImage.fromarray(values).resize((width, height), PillowImage.Resampling.NEAREST)
    return np.asarray(resized)


def _classes_of(values: Image, path: Path, source: Source) -> Image:
    """Return the class index of every grey value of a mask."""
    if not isinstance(source, Reading) or source.class_values is None:
        return (values > _threshold(source)).astype(np.uint8)
    index_of = np.full(256, 255, dtype=np.uint8)
    for index, of_class in enumerate(source.values_of_classes()):
        index_of[[value for value in of_class if isinstance(value, int)]] = index
    classes = index_of[values]
    if (classes == 255).any():
        seen = ", ".join(map(str, np.unique(values)[:10]))
        raise UnusableError(
            "unknown class",
            path,
            f"mask holds the grey values {seen}, but class_values are {source.class_values}",
        )
    return classes


def _threshold(source: Source) -> int:
    return THRESHOLD if source.mask_threshold is None else source.mask_threshold


def _busi(folder: Path, files: list[Path]) -> Found:
    """Pair `<class>/<stem>.png` with `<class>/<stem>_mask.png`, `_mask_1.png` and so on."""
    homes: dict[str, set[Path]] = defaultdict(set)
    for path in files:
        homes[path.parent.name.casefold()].add(path.parent)
    found = Found(folder)
    for lesion in BUSI_CLASSES:
        if len(homes[lesion]) != 1:
            raise DmfError(
                f"a set of kind busi needs one folder named {lesion!r} with images; "
                f"found {len(homes[lesion])}.{_listing(folder, files)}"
            )
        _pair_beside(found, homes[lesion].pop(), files, BUSI_SPELLING, lesion)
    normal = [path for path in files if path.parent.name.casefold() == BUSI_IGNORED]
    images, _ = _apart(normal, BUSI_SPELLING)
    if images:
        found.ignored[BUSI_IGNORED] = len(images)
    return found


def _pair_beside(
    found: Found, home: Path, files: list[Path], spelling: Spelling, lesion: str | None = None
) -> None:
    """Pair images in `home` with the masks beside them, which are spelt as masks are."""
    images, masks = _apart(_inside(home, files), spelling)
    for image in images:
        own = masks.pop((image.parent, spelling.name_of_image(image.stem).casefold()), [])
        found.pairs.append(_pair(home, image, own, lesion))
    found.leave_over(masks.values())


def _apart(
    files: Iterable[Path], spelling: Spelling
) -> tuple[list[Path], dict[tuple[Path, str], list[Path]]]:
    """Tell images from masks by their spelling; masks are keyed by folder and name."""
    images, masks = [], defaultdict(list)
    for path in files:
        stem = spelling.name_of_mask(path.stem)
        if stem is None:
            images.append(path)
        else:
            masks[path.parent, stem.casefold()].append(path)
    return images, masks


def _pair_folders(
    folder: Path, files: list[Path], images_in: Path, masks_in: Path, spelling: Spelling
) -> Found:
    """Pair the files of two folders by stem, else by the numbers in it, else by sorted order."""
    found = Found(folder)
    masks = {
        path: _key(masks_in, path, spelling.name_of_mask(path.stem) or path.stem)
        for path in _inside(masks_in, files)
    }
    images = {
        path: _key(images_in, path, spelling.name_of_image(path.stem))
        for path in _inside(images_in, files)
        if path not in masks
    }
    if not images or not masks:
        raise DmfError(
            f"{images_in.name} holds {len(images)} images and {masks_in.name} {len(masks)} masks: "
            f"nothing to pair.{_listing(folder, files)}"
        )
    if not set(images.values()) & set(masks.values()):
        images, masks, found.pairing = _other_keys(images, masks)
    belonging = defaultdict(list)
    for path, key in masks.items():
        belonging[key].append(path)
        if len(belonging[key]) > 1 and not spelling.mask_suffix:
            raise DmfError(_double(belonging[key], folder))
    for image, key in images.items():
        found.pairs.append(_pair(images_in, image, belonging.pop(key, [])))
    found.leave_over(belonging.values())
    return found


def _other_keys(
    images: dict[Path, str], masks: dict[Path, str]
) -> tuple[dict[Path, str], dict[Path, str], str]:
    """Give images and masks without a stem in common other keys: their numbers, or their rank."""
    by_number = [{path: _numbers(key) for path, key in side.items()} for side in (images, masks)]
    sets = [set(side.values()) for side in by_number]
    if sets[0] == sets[1] and "" not in sets[0] and len(sets[0]) == len(images) == len(masks):
        return by_number[0], by_number[1], "number"
    if len(images) == len(masks):
        ranked = [
            {path: f"{rank:09d}" for rank, path in enumerate(sorted(side, key=_natural))}
            for side in (images, masks)
        ]
        return ranked[0], ranked[1], "sorted order"
    some = " and ".join(f"{min(side).parent.name}/{min(side).name}" for side in (images, masks))
    raise DmfError(
        f"{len(images)} images and {len(masks)} masks cannot be paired: no names agree ({some}), "
        "and the counts differ. Give each mask its image's name, or set mask_suffix."
    )


def _pair(home: Path, image: Path, masks: list[Path], lesion: str | None = None) -> Pair:
    """Name an image after its path below `home`; the first folder there is its class."""
    parts = image.relative_to(home).with_suffix("").parts
    identifier = re.sub(r"[^\w.-]+", "_", "_".join(parts)).strip("_.")
    return Pair(identifier, lesion or (parts[0] if len(parts) > 1 else LESION), image, tuple(masks))


def _checked(found: Found) -> Found:
    """Refuse images that would share a name, on any file system; sort, leave out the unmasked."""
    seen: dict[str, Path] = {}
    for pair in found.pairs:
        first = seen.setdefault(pair.identifier.casefold(), pair.image)
        if first != pair.image:
            raise DmfError(_double([first, pair.image], found.folder))
        if not pair.masks:
            found.complain("missing mask", pair.image, "no mask belongs to this image")
    found.pairs = sorted((p for p in found.pairs if p.masks), key=lambda p: p.identifier)
    return found


def _double(paths: list[Path], folder: Path) -> str:
    names = " and ".join(path.relative_to(folder).as_posix() for path in paths)
    return (
        f"{names} have the same name but for case, suffix or special characters, so it is not "
        "clear which one counts. Rename or remove one."
    )


def _find_siblings(folder: Path, files: list[Path]) -> tuple[Path, Path]:
    """Return the images and the masks folder that lie side by side, wherever that is."""
    homes = {path.parent for path in files}
    named = {(home.parent, home.name.casefold()): home for home in homes}
    parents = [parent for parent, name in named if name == "images" and (parent, "masks") in named]
    if len(parents) != 1:
        raise DmfError(
            "there must be one place where a folder `images` and a folder `masks` lie side by "
            f"side; found {len(parents)}.{_listing(folder, files)}"
        )
    return named[parents[0], "images"], named[parents[0], "masks"]


def _find_folder(folder: Path, files: list[Path], name: str) -> Path:
    """Return the folder called `name` (one or several parts) at any depth; `.` is the whole set."""
    wanted = [part.casefold() for part in Path(name).parts]
    if not wanted:
        return Path(os.path.commonpath([path.parent for path in files])) if files else folder
    homes = {home for path in files for home in path.parents if home.is_relative_to(folder)}
    matches = [
        home
        for home in homes
        if [part.casefold() for part in home.relative_to(folder).parts][-len(wanted) :] == wanted
    ]
    if len(matches) != 1:
        raise DmfError(
            f"there must be one folder named {name!r} with images; found {len(matches)}."
            f"{_listing(folder, files)}"
        )
    return matches[0]


def _listing(folder: Path, files: list[Path]) -> str:
    """Say where images were found, to help with naming the right folder."""
    homes = sorted({path.parent.relative_to(folder).as_posix() for path in files})
    shown = ", ".join(homes[:8]) + (f" and {len(homes) - 8} more" if len(homes) > 8 else "")
    return f" Folders with images: {shown}." if homes else f" It holds no {', '.join(SUFFIXES)}."


def _is_image(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return not hidden and path.suffix.casefold() in SUFFIXES and path.is_file()


def _inside(folder: Path, files: Iterable[Path]) -> list[Path]:
    return [path for path in files if path.is_relative_to(folder)]


def _key(folder: Path, path: Path, name: str) -> str:
    return (path.relative_to(folder).parent / name).as_posix().casefold()


def _numbers(key: str) -> str:
    return "/".join(str(int(number)) for number in re.findall(r"\d+", key))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts 2 before 10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part.casefold())
        for part in re.split(r"(\d+)", path.as_posix())
    ]

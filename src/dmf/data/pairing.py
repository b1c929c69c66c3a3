"""Finds the images and masks of a set in a folder of any nesting, and tells which belong together.

Nothing is guessed. Names decide: as they are, then without the word that a folder's names share,
then by all their numbers and letters. Order counts only where names hold one number and nothing
else, and all numbers differ by the same. What has no partner is a problem of the set.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product, takewhile
from pathlib import Path

from dmf.errors import DmfError
from dmf.settings import ArchiveSource, FolderSource, Reading

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
BUSI_IGNORED = "normal"
LESION = "lesion"  # the class of images whose set does not tell
Source = ArchiveSource | FolderSource

# How the sets of the paper are laid out.
LAYOUTS = {
    "busi": Reading(class_folders=["benign", "malignant"], masks=None, mask_suffix="_mask"),
    # Their images may be cut close to the lesion.
    "busc": Reading(largest_lesion=0.95),
    "bus": Reading(largest_lesion=0.95),
}
# What further masks of an image have behind the suffix: _mask1, _mask_1, _mask-1, _mask (1).
FURTHER = r"([ _-]?(\d+|\(\d+\)))?"

Tokens = tuple[str | int, ...]
Name = tuple[str, str]  # the folder below the home, and the stem without prefix and suffix
Keys = dict[Name, tuple[str, Tokens]]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one image of a set; `file` is relative to the set's folder."""

    kind: str
    file: str
    detail: str


@dataclass(frozen=True)
class Pair:
    """An image file, the mask files that belong to it, and the class of the image."""

    identifier: str
    lesion: str
    image: Path
    masks: tuple[Path, ...]


@dataclass
class Found:
    """The pairs in a folder, how they were paired, what is wrong and what was left aside."""

    folder: Path
    pairs: list[Pair] = field(default_factory=list)
    pairing: str = "stem"
    problems: list[Problem] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def complain(self, kind: str, path: Path, detail: str) -> None:
        """Note a problem with the file at `path`."""
        self.problems.append(Problem(kind, path.relative_to(self.folder).as_posix(), detail))


def reading_of(source: Source) -> Reading:
    """Return how the images and masks of a source are found, paired and read."""
    if isinstance(source, FolderSource):
        return source
    return LAYOUTS[source.kind].model_copy(update={"mask_threshold": source.mask_threshold})


def find_pairs(folder: Path, source: Source) -> Found:
    """Return the pairs in `folder`, sorted by identifier, with the problems found on the way.

    Raises DmfError if the folders that the source names are missing or ambiguous, if no image can
    be paired, or if two images would share a name.
    """
    reading = reading_of(source)
    found = Found(folder)
    files = _files(found, reading.leave_out)
    rest = set(files)
    if reading.class_folders:
        for name in reading.class_folders:
            home = _one(_named(folder, files, name), name, folder, files)
            rest -= _pair_home(found, _inside(home, files), home, None, reading, name)
        for path in rest:
            if _bare(path, reading.mask_prefix, reading.mask_suffix, FURTHER) is None:
                found.ignored[path.parent.name.casefold()] += 1
    else:
        images, masks = _homes(folder, files, reading)
        rest -= _pair_home(found, files, images, masks, reading)
        if rest:
            found.ignored["in other folders"] = len(rest)
    return _checked(found, reading)


def _files(found: Found, leave_out: list[str]) -> list[Path]:
    """Return the images below the folder, and count what is left aside."""
    patterns = [_plain(pattern) for pattern in leave_out]
    files = []
    for home, folders, names in os.walk(found.folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        links = [name for name in folders if Path(home, name).is_symlink()]
        found.ignored.update({"links to folders": len(links)} if links else {})
        for name in filter(lambda name: not _hidden(name), names):
            path = Path(home, name)
            below = path.relative_to(found.folder).as_posix()
            if any(fnmatchcase(_plain(text), p) for text in (name, below) for p in patterns):
                found.ignored["by leave_out"] += 1
            elif path.suffix.casefold() not in SUFFIXES:
                found.ignored[f"{path.suffix.casefold() or 'other'} files, which are not read"] += 1
            elif not path.is_file():
                found.ignored["broken links"] += 1
            elif not below.isprintable():  # bytes that are not UTF-8 are not printable either
                raise DmfError(
                    f"{below!a} in {found.folder} has a name with characters that cannot be "
                    "printed. Rename it."
                )
            else:
                files.append(path)
    return sorted(files)


def _pair_home(
    found: Found,
    files: list[Path],
    images_in: Path,
    masks_in: Path | None,
    reading: Reading,
    lesion: str | None = None,
) -> set[Path]:
    """Pair images with the masks of a folder, or with those beside them; return what was looked at.

    What lies in `masks_in` is a mask; without it, what has the prefix and suffix of a mask.
    """
    images: dict[Name, list[Path]] = defaultdict(list)
    masks: dict[Name, list[Path]] = defaultdict(list)
    affixed = (reading.mask_prefix, reading.mask_suffix, FURTHER if reading.mask_suffix else "")
    looked_at = set(_inside(images_in, files)) | set(_inside(masks_in or images_in, files))
    for path in sorted(looked_at):
        is_mask = masks_in is not None and path.is_relative_to(masks_in)
        stem = _bare(path, *affixed) if is_mask or masks_in is None else None
        if stem is not None:
            masks[_below(masks_in or images_in, path), stem].append(path)
        elif not is_mask and (stem := _bare(path, reading.image_prefix, reading.image_suffix)):
            images[_below(images_in, path), stem].append(path)
        else:
            found.complain(
                "unknown name",
                path,
                "has not the prefix and suffix that image_prefix, image_suffix, mask_prefix and "
                "mask_suffix tell; correct them, or name it in leave_out",
            )
    if not images or not masks:
        raise DmfError(
            f"{images_in.name} holds {len(images)} images and "
            f"{masks_in.name if masks_in else 'beside them there are'} {len(masks)} masks: nothing "
            f"to pair. Check image_prefix, image_suffix, mask_prefix and mask_suffix."
            f"{_listing(found.folder, files)}"
        )
    for paths in images.values() if reading.mask_suffix else [*images.values(), *masks.values()]:
        if len(paths) > 1:
            raise DmfError(_double(paths, found.folder))
    partner, keys = _partners(found, images, masks, beside=masks_in is None)
    unclear = _unclear(partner, images, masks, keys, beside=masks_in is None)
    for name, (image,) in images.items():
        if name in unclear:
            stray = unclear[name].relative_to(found.folder).as_posix()
            found.complain(
                "unclear mask",
                image,
                f"{stray} may be a further mask of this image, but its name does not say so; "
                "rename it, or name it in leave_out",
            )
        else:
            own = masks[partner[name]] if name in partner else []
            found.pairs.append(_pair(images_in, image, own, lesion))
    for name in masks.keys() - partner.values():
        for path in masks[name]:
            found.complain("mask without image", path, "no image belongs to this mask")
    return looked_at


def _partners(
    found: Found, images: Iterable[Name], masks: Iterable[Name], *, beside: bool
) -> tuple[dict[Name, Name], tuple[Keys, Keys]]:
    """Return the mask name of each image name that has one, and the keys that told."""
    sides = (sorted(images), sorted(masks))
    same = {name: name for name in set(sides[0]) & set(sides[1])}
    plain = (_keys(sides[0]), _keys(sides[1]))
    if same or beside:
        return same, plain
    for pairing, keys in _attempts(sides):
        owners = [{key: name for name, key in side.items()} for side in keys]
        unique = all(len(o) == len(side) for o, side in zip(owners, keys, strict=True))
        common = owners[0].keys() & owners[1].keys()
        if unique and common:
            found.pairing = pairing
            return {owners[0][key]: owners[1][key] for key in common}, keys
    ranked = _by_order(sides)
    if ranked:
        found.pairing = "sorted order"
        return ranked, plain
    some = " and ".join("/".join(filter(None, side[0])) for side in sides)
    raise DmfError(
        f"{len(sides[0])} images and {len(sides[1])} masks cannot be paired: neither their names "
        f"nor the numbers in them agree ({some}). Give each mask its image's name, or say what the "
        "names have more: image_prefix, image_suffix, mask_prefix, mask_suffix."
    )


def _attempts(sides: tuple[list[Name], list[Name]]) -> Iterator[tuple[str, tuple[Keys, Keys]]]:
    """Yield the keys to try: all numbers and letters, then without the words that names share.

    A word is left out at one end only: what is left at the other may tell left from right.
    """
    for folders in (True, False):
        plain = (_keys(sides[0], folders=folders), _keys(sides[1], folders=folders))
        yield "number", plain
        for ends in product(("", "first", "last"), repeat=2):
            yield (
                "shared words left out",
                (_shortened(plain[0], ends[0]), _shortened(plain[1], ends[1])),
            )


def _keys(names: Iterable[Name], *, folders: bool = True) -> Keys:
    return {(home, stem): (home if folders else "", _tokens(stem)) for home, stem in names}


def _shortened(keys: Keys, end: str) -> Keys:
    """Return the keys without the words that all have at one end; numbers always stay."""
    order = -1 if end == "last" else 1
    tokens = [key[::order] for _, key in keys.values()]
    if not end or len(tokens) < 2:
        return keys
    columns = zip(*tokens, strict=False)
    shared = takewhile(lambda c: isinstance(c[0], str) and len(set(c)) == 1, columns)
    count = min(len(list(shared)), min(map(len, tokens)) - 1)
    return {n: (home, key[::order][count:][::order]) for n, (home, key) in keys.items()}


def _by_order(sides: tuple[list[Name], list[Name]]) -> dict[Name, Name]:
    """Pair by rank where all names are one number, and all pairs differ by the same."""
    ranked = []
    for side in sides:
        keys = _shortened(_keys(side, folders=False), "first")
        numbers = {key: name for name, (_, key) in keys.items() if len(key) == 1}
        if len(numbers) != len(side) or any(isinstance(key[0], str) for key in numbers):
            return {}
        ranked.append([(int(key[0]), numbers[key]) for key in sorted(numbers)])
    differences = {mask[0] - image[0] for image, mask in zip(*ranked, strict=False)}
    if len(ranked[0]) != len(ranked[1]) or len(differences) != 1 or len(ranked[0]) < 2:
        return {}
    return {image[1]: mask[1] for image, mask in zip(*ranked, strict=True)}


def _unclear(
    partner: dict[Name, Name],
    images: dict[Name, list[Path]],
    masks: dict[Name, list[Path]],
    keys: tuple[Keys, Keys],
    *,
    beside: bool,
) -> dict[Name, Path]:
    """Return the images whose name a file without a partner continues: it may be their mask."""
    paired = {keys[0][name]: name for name in partner}
    strays = {keys[1][name]: masks[name] for name in masks.keys() - set(partner.values())}
    if beside:
        strays |= {keys[0][name]: images[name] for name in images.keys() - partner.keys()}
    unclear = {}
    for (home, tokens), paths in strays.items():
        for end in range(len(tokens) - 1, 0, -1):
            if (home, tokens[:end]) in paired:
                unclear[paired[home, tokens[:end]]] = paths[0]
                break
    return unclear


def _pair(home: Path, image: Path, masks: list[Path], lesion: str | None = None) -> Pair:
    """Name an image after its path below `home`; the first folder there is its class."""
    parts = image.relative_to(home).with_suffix("").parts
    name = unicodedata.normalize("NFC", "_".join(parts))
    identifier = re.sub(r"[^\w.-]+", "_", name).strip("_.")
    return Pair(identifier, lesion or (parts[0] if len(parts) > 1 else LESION), image, tuple(masks))


def _checked(found: Found, reading: Reading) -> Found:
    """Refuse images that would share a name, on any file system; sort, leave out the unmasked."""
    seen: dict[str, Path] = {}
    for pair in found.pairs:
        first = seen.setdefault(pair.identifier.casefold(), pair.image)
        if first != pair.image:
            raise DmfError(_double([first, pair.image], found.folder))
        if not pair.masks and reading.without_lesion == "leave_out":
            found.ignored["without a mask"] += 1
        elif not pair.masks:
            found.complain("missing mask", pair.image, "no mask belongs to this image")
    found.pairs = sorted((p for p in found.pairs if p.masks), key=lambda p: p.identifier)
    return found


def _double(paths: list[Path], folder: Path) -> str:
    names = " and ".join(path.relative_to(folder).as_posix() for path in paths)
    return (
        f"{names} have the same name but for case, suffix or special characters, so it is not "
        "clear which one counts. Rename or remove one."
    )


def _homes(folder: Path, files: list[Path], reading: Reading) -> tuple[Path, Path | None]:
    """Return the folders of images and masks: where there are several, those side by side."""
    images = _named(folder, files, reading.images)
    if reading.masks is None:
        return _one(images, reading.images, folder, files), None
    masks = _named(folder, files, reading.masks)
    if len(images) > 1 or len(masks) > 1:
        beside = [(i, m) for i, m in product(images, masks) if i.parent == m.parent]
        if len(beside) != 1:
            raise DmfError(
                f"there must be one place where a folder {reading.images!r} and a folder "
                f"{reading.masks!r} lie side by side; found {len(beside)}."
                f"{_listing(folder, files)}"
            )
        return beside[0]
    return (
        _one(images, reading.images, folder, files),
        _one(masks, reading.masks, folder, files),
    )


def _named(folder: Path, files: list[Path], name: str) -> list[Path]:
    """Return the folders called `name` (one or several parts), at any depth; `.` is the set."""
    wanted = [_plain(part) for part in Path(name).parts]
    if not wanted:
        return [Path(os.path.commonpath([path.parent for path in files])) if files else folder]
    homes = {home for path in files for home in path.parents if home.is_relative_to(folder)}
    return sorted(
        home
        for home in homes
        if [_plain(part) for part in home.relative_to(folder).parts][-len(wanted) :] == wanted
    )


def _one(homes: list[Path], name: str, folder: Path, files: list[Path]) -> Path:
    if len(homes) != 1:
        raise DmfError(
            f"there must be one folder named {name!r} with images; found {len(homes)}."
            f"{_listing(folder, files)}"
        )
    return homes[0]


def _listing(folder: Path, files: list[Path]) -> str:
    """Say where images were found, to help with naming the right folder."""
    homes = sorted({path.parent.relative_to(folder).as_posix() for path in files})
    shown = ", ".join(homes[:8]) + (f" and {len(homes) - 8} more" if len(homes) > 8 else "")
    return f" Folders with images: {shown}." if homes else f" It holds no {', '.join(SUFFIXES)}."


def _inside(folder: Path, files: Iterable[Path]) -> list[Path]:
    return [path for path in files if path.is_relative_to(folder)]


def _below(folder: Path, path: Path) -> str:
    return _plain(path.parent.relative_to(folder).as_posix())


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _plain(text: str) -> str:
    """Return a text so that neither case nor the Unicode form of its accents counts."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _bare(path: Path, prefix: str, suffix: str, further: str = "") -> str | None:
    """Return the stem without prefix and suffix (and what is further behind it); None without."""
    pattern = f"{re.escape(_plain(prefix))}(.+?){re.escape(_plain(suffix))}{further}"
    match = re.fullmatch(pattern, _plain(path.stem), flags=re.DOTALL)
    return match[1] if match else None


def _tokens(stem: str) -> Tokens:
    """Return the numbers and the words of a name: `us_012-l` gives us, 12, l."""
    found = re.findall(r"\d+|[^\W\d_]+", stem)
    return tuple(int(token) if token.isdecimal() else token for token in found)

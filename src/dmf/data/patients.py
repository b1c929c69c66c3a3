"""Whose image it is: class and patient from a table, from the names, or from a numbering."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dmf.data.pairing import Found, Pair
from dmf.data.tables import read_table
from dmf.errors import DmfError
from dmf.settings import Subjects, Table

LINKED = 0.5  # share of duplicates, and of lesions, that a numbering must explain


def describe_pairs(found: Found, subjects: Subjects, root: Path) -> None:
    """Give every pair its class and patient, as the set's table and names say.

    Images of a class that is ignored are left out and counted. An image that the table does not
    name, or whose patient the pattern does not find, is a problem and left out. Raises DmfError if
    the table is missing, damaged, or names an image twice in different ways.
    """
    if subjects.table is not None:
        _take_table(found, subjects.table, root)
    if subjects.patient_pattern is not None:
        named = [_with_patient(found, pair, subjects.patient_pattern) for pair in found.pairs]
        found.pairs = [pair for pair in named if pair is not None]


def by_numbering(ids: Sequence[str], pairs: pd.DataFrame, frames: int) -> list[str] | None:
    """Return a name of the lesion of each image, where frame follows frame; None if not so.

    The last numbers in `ids` must be 1 to N, `frames` for each lesion. `pairs` (positions `first`
    and `second`) are duplicates that were found by content: most of them must be frames of one
    lesion by that numbering, and most lesions must have such a pair.
    """
    found = [re.findall(r"\d+", identifier) for identifier in ids]
    numbers = np.array([int(numbers[-1]) if numbers else 0 for numbers in found])
    if len(numbers) % frames or sorted(numbers) != list(range(1, len(numbers) + 1)):
        return None
    lesion = (numbers - 1) // frames
    first, second = (lesion[pairs[name].to_numpy(dtype=int)] for name in ("first", "second"))
    together = first[first == second]
    lesions = len(numbers) // frames
    if len(together) < LINKED * len(pairs) or len(set(together)) < LINKED * lesions:
        return None
    return [f"lesion-{index + 1:03d}" for index in lesion]


def _take_table(found: Found, table: Table, root: Path) -> None:
    path = _find_table(found.folder, table.file, root)
    columns = [c for c in (table.image, table.lesion, table.patient) if c is not None]
    rows: dict[str, dict[str, str]] = {}
    for row in read_table(path, columns):
        if rows.setdefault(_key(row[table.image]), row) != row:
            raise DmfError(f"{path}: {row[table.image]} is named twice. Remove one of the rows.")
    ignored = {name.casefold() for name in table.ignored}
    counts: Counter[str] = Counter()
    kept: list[Pair] = []
    left_out: set[str] = set()
    for image, pair in _images(found):
        mine = rows.get(_key(image.name))
        if mine is None:
            if pair is not None:
                found.complain("not in the table", image, f"{path.name} has no row for this image")
            continue
        lesion = mine[table.lesion].casefold() if table.lesion else ""
        if lesion in ignored:
            counts[lesion] += 1
            left_out.add(image.relative_to(found.folder).as_posix())
        elif pair is not None:
            patient = mine[table.patient] if table.patient else pair.patient
            kept.append(replace(pair, lesion=lesion or pair.lesion, patient=patient))
    found.pairs = kept
    found.problems = [problem for problem in found.problems if problem.file not in left_out]
    found.ignored.update(counts)


def _images(found: Found) -> list[tuple[Path, Pair | None]]:
    """Return every image with its pair; those without a mask have none."""
    unpaired = [found.folder / p.file for p in found.problems if p.kind == "missing mask"]
    return [*((pair.image, pair) for pair in found.pairs), *((path, None) for path in unpaired)]


def _with_patient(found: Found, pair: Pair, pattern: str) -> Pair | None:
    match = re.search(pattern, pair.image.stem)
    if match is None:
        detail = f"patient_pattern {pattern!r} finds no patient in this name"
        found.complain("unknown patient", pair.image, detail)
        return None
    return replace(pair, patient=match[1])


def _find_table(folder: Path, name: str, root: Path) -> Path:
    """Return the file called `name` in the set, at any depth, else below `root`."""
    wanted = Path(name).parts
    inside = [path for path in folder.rglob("*") if path.parts[-len(wanted) :] == wanted]
    if len(inside) > 1:
        places = ", ".join(path.relative_to(folder).as_posix() for path in sorted(inside)[:4])
        raise DmfError(f"several files are called {name}: {places}. Name one with its folders.")
    beside = root / Path(name).expanduser()
    if not inside and not beside.is_file():
        raise DmfError(
            f"the table {name} is neither in the set nor {beside}. Correct table.file, or leave "
            "the table out."
        )
    return inside[0] if inside else beside


def _key(name: str) -> str:
    """Return what an image is known by: its name without folders and suffix, in any case."""
    stem = re.sub(r"\.(png|bmp|jpe?g|tiff?)$", "", re.split(r"[/\\]", name)[-1], flags=re.I)
    return unicodedata.normalize("NFC", stem).casefold()

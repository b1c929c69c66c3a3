"""Train, validation and test subsets: stratified, reproducible everywhere, optionally leak-free.

What belongs together is a block: images that duplicates or a patient link, directly or through
others.

Order comes from hashes of the seed and the image's name, not from a generator: it is the same on
every platform and with every version of every library, and does not depend on the order of files.
"""

import hashlib
from collections import Counter, defaultdict
from itertools import combinations
from math import floor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from dmf import layout
from dmf.data import raw
from dmf.data.tables import read_table
from dmf.errors import DmfError, Log
from dmf.files import atomic_path
from dmf.outcomes import SUBSETS
from dmf.settings import Split

FITS = 0.05  # how far the shares of a given split may be from the fractions that are set
Room = dict[str, Counter[str]]  # how many images of a class (first key) a subset still takes


def write_split(dataset: str, seed: int, split: Split, log: Log = print) -> None:
    """Write `data/splits/<dataset>/seed-NN.csv` (id, subset), in the order of the manifest.

    Raises DmfError as :func:`subsets_of` does, and if the set is missing.
    """
    manifest = raw.read_manifest(dataset)
    subsets = subsets_of(dataset, manifest, seed, split)
    path = split.path(dataset, seed)
    if path is not None and (separated := separated_pairs(manifest, subsets)):
        log(
            f"note: {path} puts {separated} pairs of images of the same patient or duplicate group "
            "into different subsets"
        )
    with atomic_path(layout.split(dataset, seed)) as temporary:
        subsets.to_csv(temporary, lineterminator="\n")


def subsets_of(dataset: str, manifest: pd.DataFrame, seed: int, split: Split) -> pd.Series:
    """Return the subset of every image in the run of `seed`, indexed by id.

    A given split is read from its file and checked. Raises DmfError if the set is too small to fill
    every subset, or if the file is not a split of it.
    """
    path = split.path(dataset, seed)
    if path is not None:
        return _given(path, manifest, split)
    try:
        return assign(manifest, seed if split.per_seed else 0, split)
    except ValueError as error:
        raise DmfError(f"{dataset}: {error}") from None


def assign(manifest: pd.DataFrame, seed: int, split: Split) -> pd.Series:
    """Return the subset of every image, indexed by id; raises ValueError if one would be empty.

    `manifest` has the columns id, class and group, and patient where it is known. The sizes are the
    fractions of the whole set, rounded by largest remainder (647 images: 453, 97, 97), and every
    class is divided in the same proportions, to within one image.

    `naive` ignores what belongs together. `grouped` never separates a block: blocks of several
    images are placed first, single images then fill what is left. The sizes stay exact unless the
    blocks are too large for them.
    """
    lesions = dict(zip(manifest["id"], manifest["class"], strict=True))
    shuffled = sorted(lesions, key=lambda identifier: _digest(f"{seed}/{identifier}"))
    room = _quotas(shuffled, lesions, split)
    subsets: dict[str, str] = {}
    if split.kind == "grouped":
        group_of = dict(zip(manifest["id"], blocks(manifest), strict=True))
        groups = defaultdict(list)
        for identifier in shuffled:
            groups[group_of[identifier]].append(identifier)
        several = [members for members in groups.values() if len(members) > 1]
        subsets = _place_groups(several, lesions, room, seed, split)
    for identifier in shuffled:
        if identifier not in subsets:
            left = room[lesions[identifier]]
            subset = max(SUBSETS, key=left.__getitem__)
            left[subset] -= 1
            subsets[identifier] = subset
    for subset in SUBSETS:
        if subset not in subsets.values():
            raise ValueError(
                f"{len(manifest)} images in {len(set(blocks(manifest)))} groups (of duplicates "
                f"and patients) leave the {subset} subset empty. Use more images, a larger "
                "fraction, or split.kind: naive."
            )
    return pd.Series(subsets, name="subset").reindex(manifest["id"])


def blocks(manifest: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return a number for each image: those that a patient or duplicates link have the same."""
    images = np.arange(len(manifest))
    links = [(images, pd.factorize(manifest["group"])[0])]
    if "patient" in manifest:
        patients = pd.factorize(manifest["patient"])[0]
        known = (manifest["patient"] != "").to_numpy()
        links.append((images[known], patients[known] + len(manifest)))
    first, second = (np.concatenate(side) for side in zip(*links, strict=True))
    size = 3 * len(manifest)  # images, groups, patients
    graph = sparse.csr_array((np.ones(len(first)), (first, second + len(manifest))), (size, size))
    _, labels = connected_components(graph, directed=False)
    return pd.factorize(labels[: len(manifest)])[0].astype(np.int64)


def leaked_images(manifest: pd.DataFrame, subsets: pd.Series) -> int:
    """Return how many test images have one of their block outside the test subset."""
    return _with_sibling(manifest, subsets, ("train", "validation"))


def leaked_from_training(manifest: pd.DataFrame, subsets: pd.Series) -> int:
    """Return how many test images have one of their block in the training subset."""
    return _with_sibling(manifest, subsets, ("train",))


def separated_pairs(manifest: pd.DataFrame, subsets: pd.Series) -> int:
    """Return how many pairs of images of one block lie in two subsets."""
    subset = manifest["id"].map(subsets)
    return sum(
        first != second
        for _, members in subset.groupby(blocks(manifest))
        for first, second in combinations(members, 2)
    )


def _with_sibling(manifest: pd.DataFrame, subsets: pd.Series, where: tuple[str, ...]) -> int:
    subset, block = manifest["id"].map(subsets).to_numpy(), blocks(manifest)
    return int(np.isin(block[subset == "test"], block[np.isin(subset, where)]).sum())


def _given(path: Path, manifest: pd.DataFrame, split: Split) -> pd.Series:
    """Read a split of one's own; raises DmfError unless it names every image once, and fits."""
    subsets: dict[str, str] = {}
    wrong: dict[str, list[str]] = defaultdict(list)
    known = set(manifest["id"])
    for row in read_table(path, ("id", "subset")):
        identifier, subset = row["id"], row["subset"]
        if identifier not in known:
            wrong["not images of the set"].append(identifier)
        elif identifier in subsets:
            wrong["named twice"].append(identifier)
        elif subset not in SUBSETS:
            wrong[f"in no subset of {', '.join(SUBSETS)}"].append(f"{identifier} ({subset})")
        subsets[identifier] = subset
    wrong["missing"] = sorted(known - subsets.keys())
    lines = [
        f"  {len(names)} {what}: {', '.join(names[:3])}" for what, names in wrong.items() if names
    ]
    if lines:
        raise DmfError(
            f"{path} is not a split of this set:\n"
            + "\n".join(lines)
            + f"\nName each image once, as the column id of its manifest.csv does (such as "
            f"{manifest['id'].iloc[0]})."
        )
    for name in SUBSETS:
        wanted = getattr(split, name)
        share = sum(subset == name for subset in subsets.values()) / len(subsets)
        if abs(share - wanted) > FITS:
            raise DmfError(
                f"{path} puts {share:.0%} of the images into {name}, but split.{name} is {wanted}, "
                "which the statistics go by. Set the fractions to those of the file."
            )
    return pd.Series(subsets, name="subset").rename_axis("id").reindex(manifest["id"])


def _quotas(shuffled: list[str], lesions: dict[str, str], split: Split) -> Room:
    """Return how many images of each class go to each subset.

    All images are lined up so that every class is spread evenly, and the line is cut twice.
    """
    sizes = Counter(lesions.values())
    ranks: Counter[str] = Counter()
    line = []
    for identifier in shuffled:
        lesion = lesions[identifier]
        line.append(((ranks[lesion] + 0.5) / sizes[lesion], lesion))
        ranks[lesion] += 1
    line.sort()
    fractions = (split.train, split.validation, split.test)
    room: Room = {lesion: Counter() for lesion in sizes}
    start = 0
    for subset, count in zip(SUBSETS, _whole_counts(fractions, len(line)), strict=True):
        for _, lesion in line[start : start + count]:
            room[lesion][subset] += 1
        start += count
    return room


def _place_groups(
    groups: list[list[str]], lesions: dict[str, str], room: Room, seed: int, split: Split
) -> dict[str, str]:
    """Place whole groups, taking their images out of `room`; return the subset of each image.

    Each stratum (a class, or a mixture of classes) is lined up and cut in proportion, starting at a
    random place of the line taken as a ring: over the seeds, every group visits every subset as
    often as its fraction says (systematic sampling). Where a group does not fit, the subset with
    most room takes it.
    """
    strata = defaultdict(list)
    for members in groups:
        classes = {lesions[identifier] for identifier in members}
        strata["mixed" if len(classes) > 1 else classes.pop()].append(members)
    subsets: dict[str, str] = {}
    for stratum, several in sorted(strata.items()):
        total = sum(map(len, several))
        position = int(_digest(f"{seed}//{stratum}"), 16) / 16**64
        for members in several:
            centre = (position + len(members) / total / 2) % 1
            position += len(members) / total
            if centre < split.train:
                subset = SUBSETS[0]
            else:
                subset = SUBSETS[1 if centre < split.train + split.validation else 2]
            needed = Counter(lesions[identifier] for identifier in members)
            left = {s: min(room[c][s] - n for c, n in needed.items()) for s in SUBSETS}
            if left[subset] < 0:
                subset = max(SUBSETS, key=left.__getitem__)
            for lesion, count in needed.items():
                room[lesion][subset] -= count
            subsets |= dict.fromkeys(members, subset)
    return subsets


def _whole_counts(fractions: tuple[float, ...], total: int) -> list[int]:
    """Return whole numbers with the sum `total`, by largest remainder, the first on ties."""
    shares = [round(fraction * total, 9) for fraction in fractions]
    counts = [floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

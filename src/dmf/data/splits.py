"""Train, validation and test subsets: stratified, reproducible everywhere, optionally leak-free.

Order comes from hashes of the seed and the image's name, not from a generator: it is the same on
every platform and with every version of every library, and does not depend on the order of files.
"""

import hashlib
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from dmf.data import raw
from dmf.errors import DmfError
from dmf.files import atomic_path
from dmf.study import SUBSETS, Split, split_file

MIXED = "(mixed)"


def write_split(dataset: str, seed: int, split: Split) -> None:
    """Write `data/splits/<dataset>/seed-NN.csv` (id, subset), in the order of the manifest.

    Raises DmfError if the set is missing or too small to fill every subset.
    """
    manifest = raw.read_manifest(dataset)
    try:
        subsets = assign(manifest, seed if split.per_seed else 0, split)
    except ValueError as error:
        raise DmfError(f"{dataset}: {error}") from None
    with atomic_path(split_file(dataset, seed)) as temporary:
        subsets.to_csv(temporary, lineterminator="\n")


def assign(manifest: pd.DataFrame, seed: int, split: Split) -> pd.Series:
    """Return the subset of every image (indexed by id); raises ValueError if one would be empty.

    `manifest` has the columns id, class and group. The sizes are the fractions of the whole set,
    rounded by largest remainder (647 images: 453, 97, 97), and every class is divided in the same
    proportions, to within one image.

    `naive` ignores the groups. `grouped` never separates a group: groups of several images are
    placed first, by systematic sampling from a random start within each stratum (a class, or all
    groups of mixed classes), so that over the seeds each group visits each subset in proportion;
    single images then fill what is left. The sizes are exact unless the groups are too large.
    """
    images = manifest.assign(order=_shuffled(manifest["id"], seed)).sort_values("order")
    room = _quotas(images, split)
    if split.kind == "grouped":
        size = images.groupby("group")["id"].transform("size")
        subsets = _place_groups(images[size > 1], room, seed, split)
        images = images[size == 1]
    else:
        subsets = {}
    for row in images[["id", "class"]].itertuples(index=False):
        subset = str(room.loc[row[1]].idxmax())
        subsets[row[0]] = subset
        room.loc[row[1], subset] -= 1
    assigned = manifest["id"].map(subsets)
    missing = [subset for subset in SUBSETS if subset not in set(assigned)]
    if missing:
        raise ValueError(
            f"{len(manifest)} images in {manifest['group'].nunique()} duplicate groups leave the "
            f"{missing[0]} subset empty. Use more images, larger fractions, or split.kind: naive."
        )
    return pd.Series(assigned.to_numpy(), index=manifest["id"], name="subset")


def leaked_images(manifest: pd.DataFrame, subsets: pd.Series) -> int:
    """Return how many test images have a duplicate in the training or validation subset."""
    subset = manifest["id"].map(subsets)
    elsewhere = set(manifest.loc[subset != "test", "group"])
    return int(manifest.loc[subset == "test", "group"].isin(elsewhere).sum())


def leaked_pairs(manifest: pd.DataFrame, subsets: pd.Series) -> int:
    """Return how many pairs of duplicates the split separates into two subsets."""
    subset = manifest["id"].map(subsets)
    return sum(
        first != second
        for _, members in subset.groupby(manifest["group"])
        for first, second in combinations(members, 2)
    )


def _quotas(images: pd.DataFrame, split: Split) -> pd.DataFrame:
    """Return how many images of each class (rows) go to each subset (columns).

    All images are lined up so that every class is spread evenly, and the line is cut twice.
    """
    rank = images.groupby("class").cumcount()
    count = images.groupby("class")["id"].transform("size")
    line = images["class"].iloc[np.lexsort((images["class"], (rank + 0.5) / count))]
    sizes = _round_to_sum(
        [split.train * len(line), split.validation * len(line), split.test * len(line)]
    )
    labels = np.repeat(SUBSETS, sizes)
    return pd.crosstab(line.to_numpy(), labels).reindex(columns=list(SUBSETS), fill_value=0)


def _place_groups(
    images: pd.DataFrame, room: pd.DataFrame, seed: int, split: Split
) -> dict[str, str]:
    """Place whole groups, taking their images out of `room`; return the subset of each image."""
    subsets: dict[str, str] = {}
    groups = [members for _, members in images.groupby("group", sort=False)]
    strata: dict[str, list[pd.DataFrame]] = {}
    for members in groups:
        classes = set(members["class"])
        strata.setdefault(classes.pop() if len(classes) == 1 else MIXED, []).append(members)
    cuts = np.cumsum([split.train, split.validation])
    for stratum, groups in strata.items():
        total = sum(map(len, groups))
        before = 0
        start = _fraction(f"{seed}/{stratum}")
        for members in groups:
            position = (start + (before + len(members) / 2) / total) % 1
            before += len(members)
            needed = members["class"].value_counts()
            wanted = SUBSETS[int(np.searchsorted(cuts, position, side="right"))]
            left = room.loc[needed.index].sub(needed, axis=0).min()
            subset = wanted if left[wanted] >= 0 else str(left.idxmax())
            room.loc[needed.index, subset] -= needed
            subsets |= dict.fromkeys(members["id"], subset)
    return subsets


def _shuffled(identifiers: Iterable[str], seed: int) -> list[str]:
    return [_digest(f"{seed}/{identifier}") for identifier in identifiers]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fraction(text: str) -> float:
    return int(_digest(text)[:12], 16) / 16**12


def _round_to_sum(shares: list[float]) -> list[int]:
    """Round to whole numbers with the same sum, by largest remainder, the first on ties."""
    whole = np.floor(np.round(shares, 9)).astype(int)
    short = round(sum(shares)) - whole.sum()
    remainder = np.round(shares, 9) - whole
    whole[np.argsort(-remainder, kind="stable")[:short]] += 1
    return [int(value) for value in whole]

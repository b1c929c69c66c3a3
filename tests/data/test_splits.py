"""Splits: exact sizes, stratified, the same everywhere, and groups that stay together."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.data import raw
from dmf.data.splits import (
    assign,
    blocks,
    leaked_from_training,
    leaked_images,
    separated_pairs,
    write_split,
)
from dmf.errors import DmfError
from dmf.layout import RAW
from dmf.outcomes import SUBSETS
from dmf.settings import Split

KINDS = ("naive", "grouped")


def a_set(groups: list[list[str]]) -> pd.DataFrame:
    """Return a manifest of groups, each given as the classes of its images."""
    rows = [(lesion, g) for g, group in enumerate(groups) for lesion in group]
    frame = pd.DataFrame(rows, columns=["class", "group"])
    frame["id"] = [f"{lesion}_{n}" for n, lesion in enumerate(frame["class"])]
    return frame


def like_busi() -> pd.DataFrame:
    """Return a manifest with BUSI's classes and about its duplicates, some of mixed classes."""
    pairs = [["benign"] * 2] * 70 + [["malignant"] * 2] * 20 + [["benign"] * 3] * 12
    pairs += (
        [["malignant"] * 5]
        + [["benign", "malignant"]] * 4
        + [["benign", "benign", "malignant"]] * 2
    )
    used = Counter(lesion for group in pairs for lesion in group)
    singles = [["benign"]] * (437 - used["benign"]) + [["malignant"]] * (210 - used["malignant"])
    return a_set(pairs + singles)


def split(kind: str, train: float = 0.7, validation: float = 0.15) -> Split:
    test = round(1 - train - validation, 9)
    return Split.model_validate(
        {"kind": kind, "train": train, "validation": validation, "test": test}
    )


sets = st.lists(
    st.lists(st.sampled_from(["benign", "malignant"]), min_size=1, max_size=4),
    min_size=30,
    max_size=120,
).map(a_set)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_busi_is_divided_exactly_and_in_proportion(kind: str, seed: int) -> None:
    manifest = like_busi()
    subsets = assign(manifest, seed, split(kind))
    assert subsets.index.tolist() == manifest["id"].tolist()
    assert subsets.value_counts().to_dict() == {"train": 453, "validation": 97, "test": 97}
    table = pd.crosstab(manifest["class"].to_numpy(), subsets.to_numpy())
    for lesion, size in (("benign", 437), ("malignant", 210)):
        for subset, fraction in zip(SUBSETS, (0.7, 0.15, 0.15), strict=True):
            assert abs(table.loc[lesion, subset] - fraction * size) < 1


@pytest.mark.parametrize("seed", range(5))
def test_grouped_never_separates_and_naive_does(seed: int) -> None:
    manifest = like_busi()
    grouped = assign(manifest, seed, split("grouped"))
    assert separated_pairs(manifest, grouped) == 0
    assert leaked_images(manifest, grouped) == 0
    naive = assign(manifest, seed, split("naive"))
    assert separated_pairs(manifest, naive) > 0
    assert leaked_images(manifest, naive) > 0


def test_leaks_are_counted() -> None:
    manifest = a_set([["x", "x", "x"], ["x"], ["x", "x"]])
    subsets = pd.Series(["test", "train", "test", "test", "test", "test"], index=manifest["id"])
    assert leaked_images(manifest, subsets) == 2
    assert separated_pairs(manifest, subsets) == 2


def with_patients(manifest: pd.DataFrame, every: int) -> pd.DataFrame:
    """Give each run of ``every`` images one patient, but for the last 10 images."""
    patients = [f"p{place // every}" for place in range(len(manifest))]
    patients[-10:] = [""] * 10
    return manifest.assign(patient=patients)


def test_blocks_are_what_patients_and_duplicates_link() -> None:
    """Against links followed by hand."""
    manifest = a_set([["x", "x"], ["x"], ["x"], ["x"], ["x"], ["x"]])
    manifest["patient"] = ["a", "b", "b", "", "", "a", "c"]
    assert blocks(manifest).tolist() == [0, 0, 0, 1, 2, 0, 3]
    assert blocks(manifest.drop(columns="patient")).tolist() == manifest["group"].tolist()
    assert blocks(manifest.assign(patient="")).tolist() == manifest["group"].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_in_two_subsets_of_a_grouped_split(seed: int) -> None:
    manifest = with_patients(like_busi(), 3)
    known = manifest["patient"] != ""
    for kind, most in (("grouped", 1), ("naive", 3)):
        subset = assign(manifest, seed, split(kind)).to_numpy()
        by_patient = pd.Series(subset)[known].groupby(manifest["patient"][known]).nunique()
        assert by_patient.max() == most
        by_group = pd.Series(subset).groupby(manifest["group"]).nunique()
        assert (by_group.max() == 1) == (kind == "grouped")


def test_without_patients_a_split_is_what_it_was() -> None:
    manifest = like_busi()
    for kind in KINDS:
        before = assign(manifest, 0, split(kind))
        assert assign(manifest.assign(patient=""), 0, split(kind)).equals(before)


def test_leaks_into_training_are_told_from_those_elsewhere() -> None:
    manifest = a_set([["x"], ["x"], ["x"], ["x"], ["x"]]).assign(patient=["a", "a", "b", "b", ""])
    subsets = pd.Series(["test", "train", "test", "validation", "test"], index=manifest["id"])
    assert leaked_images(manifest, subsets) == 2
    assert leaked_from_training(manifest, subsets) == 1
    assert separated_pairs(manifest, subsets) == 2


@settings(deadline=None, max_examples=25)
@given(manifest=sets, seed=st.integers(0, 99), kind=st.sampled_from(KINDS))
def test_every_image_once_groups_whole_sizes_right(
    manifest: pd.DataFrame, seed: int, kind: str
) -> None:
    subsets = assign(manifest, seed, split(kind))
    assert subsets.index.tolist() == manifest["id"].tolist()
    assert set(subsets) == set(SUBSETS)
    if kind == "grouped":
        assert separated_pairs(manifest, subsets) == 0
    largest = manifest.groupby("group").size().max() if kind == "grouped" else 1
    for subset, fraction in zip(SUBSETS, (0.7, 0.15, 0.15), strict=True):
        assert abs((subsets == subset).sum() - fraction * len(manifest)) < 1 + 2 * largest


@settings(deadline=None, max_examples=25)
@given(manifest=sets, seed=st.integers(0, 99), kind=st.sampled_from(KINDS), order=st.randoms())
def test_the_order_of_files_does_not_matter(
    manifest: pd.DataFrame, seed: int, kind: str, order: Callable[[], float]
) -> None:
    shuffled = manifest.sample(frac=1, random_state=order.randrange(2**32))  # type: ignore[attr-defined]
    expected = assign(manifest, seed, split(kind)).sort_index()
    assert assign(shuffled, seed, split(kind)).sort_index().equals(expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_over_the_seeds_every_image_visits_every_subset_as_often_as_its_share(kind: str) -> None:
    """Also images of large and of mixed groups: none is always kept for training."""
    groups = (
        [["a"] * 2] * 10 + [["b"] * 3] * 4 + [["a"] * 5] + [["a", "b"]] * 3 + [["a"], ["b"]] * 20
    )
    manifest = a_set(groups)
    seeds = 300
    tested = np.mean(
        [assign(manifest, seed, split(kind)) == "test" for seed in range(seeds)], axis=0
    )
    size = manifest.groupby("group")["id"].transform("size")
    mixed = manifest.groupby("group")["class"].transform("nunique") > 1
    for chosen in (size == 1, size == 2, size == 3, size == 5, mixed):
        # Images of one group move together: the groups are what is independent.
        independent = seeds * manifest.loc[chosen, "group"].nunique()
        tolerance = 4 * np.sqrt(0.15 * 0.85 / independent) + 0.01
        assert abs(tested[chosen.to_numpy()].mean() - 0.15) < tolerance
    assert tested.min() > 0


def test_the_same_split_everywhere() -> None:
    """Fixed here once and for all: a change of this list changes every result of the project."""
    manifest = a_set([["benign"]] * 8 + [["malignant"] * 2, ["benign", "malignant"]])
    expected = {
        "naive": "train validation train test train train validation test train validation train "
        "test",
        "grouped": "train validation train test train train train test train train validation "
        "validation",
    }
    for kind, text in expected.items():
        subsets = assign(manifest, 3, split(kind, 0.5, 0.25))
        assert " ".join(subsets) == text


def test_seeds_give_different_splits() -> None:
    manifest = like_busi()
    texts = {" ".join(assign(manifest, seed, split("naive"))) for seed in range(10)}
    assert len(texts) == 10


def test_groups_too_large_for_the_sizes_stay_whole() -> None:
    """Frames of ten films: no subset can have its exact size."""
    manifest = a_set([["lesion"] * 17] * 10)
    subsets = assign(manifest, 0, split("grouped"))
    assert separated_pairs(manifest, subsets) == 0
    assert set(subsets) == set(SUBSETS)
    assert 6 * 17 <= (subsets == "train").sum() <= 8 * 17


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="leave the validation subset empty"):
        assign(a_set([["x"]] * 3), 0, split("naive", 0.9, 0.05))
    with pytest.raises(ValueError, match=r"30 images in 1 groups.*split.kind: naive"):
        assign(a_set([["x"] * 30]), 0, split("grouped"))


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Return a manifest that lies in data/raw/mine."""
    monkeypatch.chdir(tmp_path)
    manifest = like_busi().assign(
        sha256="0", height=1, width=1, masks=1, foreground=0.1, mask_sha256="0", source="x"
    )
    (RAW / "mine").mkdir(parents=True)
    manifest[list(raw.COLUMNS)].to_csv(RAW / "mine" / "manifest.csv", index=False)
    return manifest


def test_the_file(stored: pd.DataFrame) -> None:
    write_split("mine", 3, split("grouped"))
    written = pd.read_csv("data/splits/mine/seed-03.csv")
    assert written.columns.tolist() == ["id", "subset"]
    assert written["id"].tolist() == stored["id"].tolist()
    assert written["subset"].tolist() == assign(stored, 3, split("grouped")).tolist()


def test_adding_a_seed_changes_no_other_file(stored: pd.DataFrame) -> None:
    write_split("mine", 0, split("naive"))
    before = Path("data/splits/mine/seed-00.csv").read_bytes()
    write_split("mine", 1, split("naive"))
    write_split("mine", 0, split("naive"))
    assert Path("data/splits/mine/seed-00.csv").read_bytes() == before
    assert Path("data/splits/mine/seed-01.csv").read_bytes() != before


def test_one_split_for_every_seed(stored: pd.DataFrame) -> None:
    once = Split(per_seed=False)
    for seed in (0, 7):
        write_split("mine", seed, once)
    first, other = (Path(f"data/splits/mine/seed-{n:02d}.csv").read_bytes() for n in (0, 7))
    assert first == other


def test_a_set_that_was_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DmfError, match=r"data/raw/busi/manifest.csv does not exist"):
        write_split("busi", 0, Split())
    assert not Path("data").exists()


@pytest.mark.parametrize("text", ["", "id,class\na,b\n", "id,class,sha256\n", "\0\0"])
def test_a_damaged_manifest(text: str, stored: pd.DataFrame) -> None:
    (RAW / "mine" / "manifest.csv").write_text(text)
    with pytest.raises(DmfError, match=r"mine/manifest.csv is (damaged|not a manifest)"):
        write_split("mine", 0, Split())


# A split of one's own


def give(text: str, encoding: str = "utf-8", **changes: object) -> Split:
    Path("own-mine-3.csv").write_bytes(text.encode(encoding))
    values = {"kind": "given", "file": "own-{dataset}-{seed}.csv", **changes}
    return Split.model_validate(values)


def own(manifest: pd.DataFrame, separator: str = ",") -> list[str]:
    subsets = assign(manifest, 5, split("grouped"))
    lines = [f"{name}{separator}{subset}" for name, subset in reversed(list(subsets.items()))]
    return [f"id{separator}subset", *lines]


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig")])
def test_a_given_split_is_taken(separator: str, encoding: str, stored: pd.DataFrame) -> None:
    said: list[str] = []
    write_split("mine", 3, give("\r\n".join(own(stored, separator)), encoding), said.append)
    written = Path("data/splits/mine/seed-03.csv").read_bytes()
    write_split("mine", 5, split("grouped"))
    assert written == Path("data/splits/mine/seed-05.csv").read_bytes()
    assert said == []


def test_a_given_split_that_separates_siblings_is_taken_with_a_note(stored: pd.DataFrame) -> None:
    lines = own(stored)
    lines[1:] = [line.rsplit(",", 1)[0] + f",{SUBSETS[n % 3]}" for n, line in enumerate(lines[1:])]
    said: list[str] = []
    thirds = {"train": 0.34, "validation": 0.33, "test": 0.33}
    write_split("mine", 3, give("\n".join(lines), **thirds), said.append)
    assert "pairs of images of the same patient or duplicate group" in said[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda lines: lines[:-1], r"1 missing: "),
        (lambda lines: [*lines, lines[1]], r"1 named twice: "),
        (lambda lines: [*lines, "x,train"], r"1 not images of the set: x\n.*such as benign_0"),
        (lambda lines: [*lines[:-1], lines[-1].split(",")[0] + ",val"], r"in no subset of train"),
        (lambda lines: ["name,subset", *lines[1:]], r"header with the columns id, subset"),
        (
            lambda lines: [line.replace("train", "test") for line in lines],
            r"puts 0% of the images into train, but split.train is 0.7",
        ),
    ],
)
def test_a_given_split_is_checked(
    change: Callable[[list[str]], list[str]], match: str, stored: pd.DataFrame
) -> None:
    given = give("\n".join(change(own(stored))))
    with pytest.raises(DmfError, match=rf"(?s)own-mine-3.csv.*{match}"):
        write_split("mine", 3, given)
    assert not Path("data/splits").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "given"},
        {"file": "x.csv"},
        {"kind": "given", "file": "x.csv"},
        {"kind": "given", "file": "{seed}.csv", "per_seed": False},
    ],
)
def test_a_split_and_its_file_belong_together(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"belong together|in its name"):
        Split.model_validate(values)


def test_the_file_is_the_project_s_wherever_the_study_works() -> None:
    given = Split.model_validate({"kind": "given", "file": "own/{dataset}-{seed}.csv"})
    assert given.seen_from(Path("/project")).path("busi", 7) == Path("/project/own/busi-7.csv")
    assert Split().seen_from(Path("/project")) == Split()
    assert Split().path("busi", 7) is None

"""Classes and patients from tables, from names and from a numbering."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dmf.data.pairing import Found, Pair
from dmf.data.patients import by_numbering, describe_pairs
from dmf.errors import DmfError
from dmf.settings import Subjects

TABLE: dict[str, Any] = {"file": "t.csv", "image": "ID", "lesion": "Kind", "patient": "Case"}


def found(folder: Path, *names: str) -> Found:
    """Return pairs as `find_pairs` does; a name with `-` has no mask."""
    pairs = [Pair(n, "lesion", folder / "in" / f"{n}.png", (folder / "m.png",)) for n in names]
    result = Found(folder, pairs=[pair for pair in pairs if "-" not in pair.identifier])
    for pair in pairs:
        if "-" in pair.identifier:
            result.complain("missing mask", pair.image, "no mask belongs to this image")
    return result


def told(result: Found) -> dict[str, tuple[str, str]]:
    return {pair.identifier: (pair.lesion, pair.patient) for pair in result.pairs}


def test_a_table_tells_class_and_patient(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    text = "\ufeffCase;Kind;ID\n7;Benign;A_1.PNG\n7;Malignant;a_2\n8;Normal;a_3\n9;normal;a-4\n"
    (tmp_path / "deep" / "t.csv").write_text(text, encoding="utf-8")
    result = found(tmp_path, "a_1", "a_2", "a_3", "a-4")
    subjects = Subjects.model_validate({"table": TABLE | {"ignored": ["normal"]}})
    describe_pairs(result, subjects, tmp_path / "elsewhere")
    assert told(result) == {"a_1": ("benign", "7"), "a_2": ("malignant", "7")}
    assert (result.problems, result.ignored) == ([], {"normal": 2})


def test_a_table_may_lie_beside_the_project(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "t.csv").write_text("Case,ID\n7,a_1\n")
    table = {"file": "t.csv", "image": "ID", "patient": "Case"}
    result = found(tmp_path / "set", "a_1")
    describe_pairs(result, Subjects.model_validate({"table": table}), tmp_path)
    assert told(result) == {"a_1": ("lesion", "7")}
    with pytest.raises(DmfError, match=r"t.csv is neither in the set nor"):
        describe_pairs(result, Subjects.model_validate({"table": table}), tmp_path / "set")


def test_what_a_table_leaves_open_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Case,Kind,ID\n7,Benign,a_1\n8,Benign,b\n")
    result = found(tmp_path, "a_1", "a_2", "a-3")
    describe_pairs(result, Subjects.model_validate({"table": TABLE}), tmp_path)
    assert told(result) == {"a_1": ("benign", "7")}
    assert [(p.kind, p.file) for p in result.problems] == [
        ("missing mask", "in/a-3.png"),
        ("not in the table", "in/a_2.png"),
    ]


def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Case,Kind,ID\n7,Benign,a_1\n7,Benign,a_1\n8,Benign,A_1\n")
    with pytest.raises(DmfError, match="A_1 is named twice"):
        describe_pairs(found(tmp_path, "a_1"), Subjects.model_validate({"table": TABLE}), tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "t.csv").write_text("Case,Kind,ID\n7,Benign,a_1\n")
    with pytest.raises(DmfError, match=r"several files are called t.csv: other/t.csv, t.csv"):
        describe_pairs(found(tmp_path, "a_1"), Subjects.model_validate({"table": TABLE}), tmp_path)


def test_names_tell_patients(tmp_path: Path) -> None:
    result = found(tmp_path, "ABCD_1", "ABCD_2", "EFGH_1", "x")
    describe_pairs(result, Subjects(patient_pattern=r"^(\w{4})_"), tmp_path)
    assert [pair.patient for pair in result.pairs] == ["ABCD", "ABCD", "EFGH"]
    assert [(p.kind, p.file) for p in result.problems] == [("unknown patient", "in/x.png")]


@pytest.mark.parametrize("pattern", ["(", "abc", "(a)(b)"])
def test_a_pattern_without_its_group_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is no regular expression|must have one group"):
        Subjects(patient_pattern=pattern)


def pairs_of(groups: list[list[int]]) -> pd.DataFrame:
    rows = [(a, b) for group in groups for a, b in pairwise(group)]
    return pd.DataFrame(rows, columns=["first", "second"])


def test_a_numbering_counts_where_duplicates_agree() -> None:
    numbers = np.random.default_rng(0).permutation(np.arange(1, 21))
    ids = [f"us{n}" for n in numbers]
    place = {n: i for i, n in enumerate(numbers)}
    fives = [[place[5 * k + j] for j in range(1, 6)] for k in range(4)]
    lesions = by_numbering(ids, pairs_of(fives), 5)
    assert lesions is not None
    assert [lesions[i] for i in fives[2]] == ["lesion-003"] * 5
    assert len(set(lesions)) == 4
    # Shuffled: what resembles does not follow one another.
    across = [[place[k], place[k + 5], place[k + 10], place[k + 15]] for k in range(1, 6)]
    assert by_numbering(ids, pairs_of(across), 5) is None
    assert by_numbering(ids, pairs_of(fives[:1]), 5) is None
    assert by_numbering(ids, pairs_of([]), 5) is None


@pytest.mark.parametrize("ids", [["a"] * 5, ["1", "2", "3"], ["0", "1", "2", "3", "4"]])
def test_other_names_are_no_numbering(ids: list[str]) -> None:
    assert by_numbering(ids, pairs_of([[0, 1, 2]]), 5) is None

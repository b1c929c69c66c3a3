"""CSV files as spreadsheets save them."""

from pathlib import Path

import pytest

from dmf.data.tables import read_table
from dmf.errors import DmfError

ROWS = [{"id": "a", "subset": "train"}, {"id": "b", "subset": "test, or not"}]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_spelling_reads_the_same(
    separator: str, encoding: str, ending: str, tmp_path: Path
) -> None:
    lines = [
        separator.join(("subset", "more", "id ")),
        separator.join(("train", "1", "a")),
        "",
        separator.join(('"test, or not"', '"x;\t,|"', " b ")),
    ]
    path = tmp_path / "t.csv"
    path.write_bytes(ending.join([*lines, ""]).encode(encoding))
    assert read_table(path, ("id", "subset")) == ROWS


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "must have a header with the columns id, subset; it has none"),
        (b"name,subset\na,train\n", "id, subset; it has name, subset"),
        (b"a,train\nb,test\n", "must have a header"),
        ("id,subset\nä,train\n".encode("cp1252"), "is not UTF-8. Save it"),
        (b"id,subset\na,train,x\n", "line 2: 3 cells, but the header has 2"),
        (b"id,id,subset\na,b,train\n", "the column id is there twice"),
        (b'id,subset\n"a,train\n', "must have a header"),
    ],
)
def test_what_is_no_such_table_is_refused(content: bytes, match: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DmfError, match=rf"t.csv.*{match}"):
        read_table(path, ("id", "subset"))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DmfError, match=r"gone.csv cannot be read \(No such file"):
        read_table(tmp_path / "gone.csv", ("id",))

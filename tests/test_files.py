"""Files are whole or not there, and what the system refuses is told in its own words."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dmf import files
from dmf.errors import DmfError


def test_a_refused_change_of_mode_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CIFS, gvfs and some FUSE mounts refuse it."""

    def refused(*given: Any, **options: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    monkeypatch.setattr(Path, "chmod", refused)
    files.write_text(tmp_path / "new/a.txt", "content")
    assert (tmp_path / "new/a.txt").read_text() == "content"
    assert os.listdir(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "Ask the owner"),
        (errno.EROFS, "work in a copy elsewhere"),
        (errno.EIO, "Check the folder"),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "mkstemp", "replace"])
def test_what_the_system_refuses_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str, call: str
) -> None:
    def refused(*given: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    module = {"mkdir": os, "mkstemp": files.tempfile, "replace": os}[call]
    monkeypatch.setattr(module, call, refused)
    with pytest.raises(DmfError) as told:
        files.write_text(tmp_path / "new/a.txt", "content")
    for part in (str(tmp_path / "new"), os.strerror(number), remedy, "nothing was half-written"):
        assert part in str(told.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_where_a_folder_must_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DmfError, match=r"data.*Move away the file"):
        files.write_text(tmp_path / "data/raw/a.txt", "content")


def test_a_lock_is_waited_for_or_given_up(tmp_path: Path) -> None:
    path = tmp_path / "locks/a.lock"
    with files.locked(path):
        with pytest.raises(files.Timeout), files.locked(path, timeout=0):
            pass
        said: list[str] = []
        with pytest.raises(files.Timeout), files.locked(path, timeout=0.1, waiting=said.append):
            pass
        assert said == ["a.lock"]
    with files.locked(path, timeout=0):
        pass


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "valid JSON .*line 1"),
        (b"[" * 100_000, "nested too deeply"),
        ('"ü"'.encode("utf-16"), "UTF-16"),
        (b'{\n"\xe9": 1}', "byte 0xe9 in line 2"),
    ],
)
def test_what_is_no_json_is_named_with_the_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DmfError, match=rf"a\.json is not .*{reason}"):
        files.read_json(path)


def test_a_folder_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path, tmp_path / "pipe.json", Path("/dev/zero")):
        with pytest.raises(DmfError, match="a folder or a device"):
            files.read_json(path)

"""Archives that are nested, hostile or broken."""

import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.data.archives import Limits, unpack
from dmf.errors import DmfError

from sets import scan, write_zip

MEMBERS = {"top/images/1.png": b"one", "top/masks/1.png": b"two", "readme.txt": b"three"}


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(archive: Path, match: str, limits: Limits | None = None) -> None:
    """Check that an archive is refused, by name, and that nothing of it is left."""
    before = contents(archive.parent)
    with pytest.raises(DmfError, match=match) as caught:
        unpack(archive, archive.parent / "out", *([limits] if limits else []))
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (archive.parent / "out").exists()
    assert contents(archive.parent) == before


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_the_content_tells_the_kind(mode: str, tmp_path: Path) -> None:
    archive = tmp_path / "set.data"  # no suffix that helps
    if mode == "zip":
        write_zip(archive, MEMBERS)
    else:
        write_tar(archive, MEMBERS, mode)
    unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == MEMBERS


def test_archives_inside_archives_are_unpacked_and_office_documents_are_not(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"images/1.png": b"one"}).read_bytes()
    middle = write_tar(tmp_path / "middle.tgz", {"inner.zip": inner}, "w:gz").read_bytes()
    archive = write_zip(tmp_path / "outer.zip", {"a/middle.tgz": middle, "labels.xlsx": inner})
    unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == {
        "a/middle.tgz.unpacked/inner.zip.unpacked/images/1.png": b"one",
        "labels.xlsx": inner,
    }


@pytest.mark.parametrize(
    "name",
    ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "..\\evil.png", "C:\\evil.png", "a/.."],
)
def test_paths_that_leave_the_folder(name: str, tmp_path: Path) -> None:
    refused(write_zip(tmp_path / "slip.zip", MEMBERS | {name: b"evil"}), "outside the target")
    refused(write_tar(tmp_path / "slip.tar", MEMBERS | {name: b"evil"}), "outside the target")


@settings(deadline=None, max_examples=50)
@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "a", "b", "\\", "/", "C:", "x.png", " ", "...", "~"]),
        min_size=1,
        max_size=6,
    ),
    joint=st.sampled_from(["/", "\\", ""]),
)
def test_no_name_ever_writes_outside(
    parts: list[str], joint: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    archive = write_zip(home / "a.zip", {joint.join(parts): b"x"})
    try:
        unpack(archive, home / "out" / "deep")
    except DmfError:
        assert not (home / "out" / "deep").exists()
    else:
        assert all(
            p.is_relative_to(home / "out" / "deep") for p in home.glob("out/**/*") if p.is_file()
        )
    assert sorted(p.name for p in home.iterdir()) in (["a.zip"], ["a.zip", "out"])


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip(kind: int, tmp_path: Path) -> None:
    member = zipfile.ZipInfo("link.png")
    member.create_system = 3
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        file.writestr(member, "/etc/passwd")
    refused(tmp_path / "link.zip", "link or a device")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo("link.png")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "link.tar", "w") as file:
        file.addfile(member)
    refused(tmp_path / "link.tar", "link or a device")


def test_names_that_differ_only_by_case(tmp_path: Path) -> None:
    refused(write_zip(tmp_path / "case.zip", {"a/x.png": b"1", "A/X.png": b"2"}), "same file")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as file:
        file.writestr("x.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("x.png", b"2")
    refused(tmp_path / "twice.zip", "same file")


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    bomb = write_zip(tmp_path / "bomb.zip", {"zeros.bmp": bytes(20 * 2**20)})
    refused(bomb, "archive bomb", Limits(harmless=2**20))


def test_a_nested_bomb_counts_as_one(tmp_path: Path) -> None:
    limits = Limits(harmless=2**20)
    inner = write_zip(tmp_path / "inner.zip", {"zeros": bytes(900 * 2**10)}).read_bytes()
    names = {f"{n}.zip": inner for n in range(4)}
    refused(write_zip(tmp_path / "nest.zip", names), "archive bomb", limits)


def test_a_lie_about_the_size_does_not_help_a_bomb(tmp_path: Path) -> None:
    """The central directory claims 10 bytes; what counts is what comes out."""
    path = write_zip(tmp_path / "lie.zip", {"zeros": bytes(5 * 2**20)})
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = content.index(magic) + offset
        content[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(content)
    refused(path, "damaged", Limits(harmless=2**20))


def test_too_many_files(tmp_path: Path) -> None:
    many = {f"{n}.png": b"" for n in range(30)}
    refused(write_zip(tmp_path / "many.zip", many), "more than 20 files", Limits(files=20))


def test_scans_are_no_bomb(tmp_path: Path) -> None:
    """Uncompressed pictures and their masks stay well inside the limits."""
    members = {f"images/{n}.bmp": scan(n, 512, 512).tobytes() for n in range(5)}
    members |= {f"masks/{n}.bmp": np.zeros((512, 512), np.uint8).tobytes() for n in range(5)}
    archive = write_zip(tmp_path / "scans.zip", members)
    unpack(archive, tmp_path / "out", Limits(harmless=0, ratio=10))
    assert len(contents(tmp_path / "out")) == 10


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<!DOCTYPE html><html>Log in", "a web page"),
        (b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"", "empty"),
        (b"hello world", "hello"),
    ],
)
def test_what_is_no_archive_is_named(content: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(content)
    refused(tmp_path / "set.zip", found)


def test_an_encrypted_archive(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "locked.zip", {"a.png": b"secret"})
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(magic) + offset] |= 1
    path.write_bytes(content)
    refused(path, "encrypted")


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.8])
def test_truncation_is_noticed(mode: str, keep: float, tmp_path: Path) -> None:
    members = {f"{n}.png": scan(n).tobytes() for n in range(4)}
    path = tmp_path / "cut.zip"
    if mode == "zip":
        write_zip(path, members)
    else:
        write_tar(path, members, mode)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    refused(path, "damaged|could not be unpacked")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "flip.zip", {"1.png": scan(1).tobytes()})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(path, "damaged")


def test_a_missing_archive(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.zip", "does not exist")

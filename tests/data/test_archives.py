"""Archives that are nested, hostile or broken."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import subprocess
import sys
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

COMPRESSIONS = ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress))
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
    refused(tmp_path / "twice.zip", "'x.png' twice")


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


def test_inner_files_that_are_no_archives_stay_files(tmp_path: Path) -> None:
    members = {f"a/labels.csv{s}": compress(b"id,class\n1,2\n") for s, compress in COMPRESSIONS}
    members |= {"a/broken.csv.gz": b"\x1f\x8bnothing", "a/notes.zip": b"no archive"}
    tar = write_tar(tmp_path / "inner.tar", {"1.png": b"one"}).read_bytes()
    archive = write_zip(tmp_path / "set.zip", members | {"b/masks.xz": lzma.compress(tar)})
    unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == members | {"b/masks.xz.unpacked/1.png": b"one"}


def test_damage_names_the_member(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "flip.zip", {"a.png": b"whole", "b/c.png": scan(1).tobytes()})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(path, r"member 'b/c\.png' is damaged.*download it again")
    outer = write_zip(tmp_path / "outer.zip", {"deep/flip.zip": bytes(content)})
    refused(outer, r"inner archive 'deep/flip\.zip', its member 'b/c\.png' is damaged")


def test_a_damaged_header_inside_a_tar_is_not_its_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {f"{n}.png": bytes(512) for n in range(4)})
    content = bytearray(path.read_bytes())
    content[2 * 1024 + 3] ^= 1  # the header of the third member
    path.write_bytes(content)
    refused(path, "damaged")


@pytest.mark.parametrize(("method", "name"), [(9, "deflate64"), (98, "ppmd"), (77, "method 77")])
def test_compression_that_python_cannot_read(method: int, name: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.png": b"content"})
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        at = content.index(magic) + offset
        content[at : at + 2] = struct.pack("<H", method)
    path.write_bytes(content)
    refused(path, f"'a.png' is compressed with {name}, which Python cannot read. Unpack it")


def test_repeated_members_of_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for content in (b"1", b"2"):
            member = tarfile.TarInfo("a.png")
            member.size = 1
            file.addfile(member, io.BytesIO(content))
    refused(tmp_path / "x.tar", "'a.png' twice")


def test_names_in_two_unicode_forms_are_one_file(tmp_path: Path) -> None:
    refused(write_zip(tmp_path / "x.zip", {"é.png": b"1", "e\u0301.png": b"2"}), "same file")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\x1b]0;OWNED\x07.png", "cannot be printed"),
        ("a\nerror: all is well.png", "cannot be printed"),
        ("d/" * 40 + "x.png", "at most 1024 in 32"),
        ("x" * 1100, "at most 1024 in 32"),
        ("x" * 300, "name too long"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_are_refused(kind: str, name: str, reason: str, tmp_path: Path) -> None:
    write = write_zip if kind == "zip" else write_tar
    archive = write(tmp_path / "x.zip", {"good.png": b"1", name: b"2"})
    refused(archive, f"(?i){reason}")


def test_a_tar_with_names_that_are_not_utf_8(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "x.tar", "w", encoding="latin1", format=tarfile.GNU_FORMAT
    ) as file:
        file.addfile(tarfile.TarInfo("müller.png"))
    refused(tmp_path / "x.tar", "not in UTF-8")


def extended(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def hostile(path: Path, kind: str) -> Path:
    """Write an archive that costs little to send and much to read."""
    if kind in ("pax header", "long name"):
        header = extended(tarfile.XHDTYPE if kind == "pax header" else b"L", 100 * 2**20)
        with bz2.open(path, "wb") as stream:
            stream.write(header)
            for _ in range(100):
                stream.write(bytes(2**20))
    elif kind == "folders":
        with tarfile.open(path, "w:bz2") as file:
            for n in range(100):
                file.addfile(tarfile.TarInfo(f"{n}/" + "d/" * 28 + "x"))
    elif kind == "folder members":
        with bz2.open(path, "wb") as stream:
            stream.write(extended(tarfile.DIRTYPE, 0) * 20_000)
    elif kind == "depth":
        inner = tarfile.TarInfo("d/" * 1900 + "x")
        with tarfile.open(path, "w") as file:
            file.addfile(inner)
    else:  # a directory of 300,000 entries
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x", b"")
        content = path.read_bytes()
        start = content.index(b"PK\x01\x02")
        entry, end = content[start:-22], content[-22:]
        end = end[:8] + struct.pack("<HHLL", 9, 9, 100_000 * 60, start) + end[20:]
        path.write_bytes(content[:start] + entry.ljust(60, b"\0") * 100_000 + end)
    return path


@pytest.mark.parametrize(
    "kind", ["pax header", "long name", "folders", "folder members", "depth", "directory"]
)
def test_refusing_hostile_archives_costs_little(kind: str, tmp_path: Path) -> None:
    """Neither memory (measured in a process of its own) nor disk, nor much time."""
    archive = hostile(tmp_path / "x.bin", kind)
    limits = "Limits(files=10_000, folders=500)"
    program = f"""
import resource, sys
from pathlib import Path
from dmf.data.archives import Limits, unpack
from dmf.errors import DmfError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    unpack(Path({str(archive)!r}), Path({str(tmp_path / "out")!r}), {limits})
except DmfError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    mebibytes = int(done.stdout.split()[0]) / 1024
    assert "is refused" in done.stdout
    assert mebibytes < 40
    assert os.listdir(tmp_path) == ["x.bin"]


def test_whatever_goes_wrong_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(tmp_path / "x.zip", MEMBERS)
    for error in (RecursionError(), MemoryError(), KeyboardInterrupt()):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("dmf.data.archives._is_archive", fail)
        with pytest.raises((type(error), DmfError)):
            unpack(archive, tmp_path / "out")
        assert os.listdir(tmp_path) == ["x.zip"]


def test_a_folder_of_its_own_is_no_empty_name_and_an_empty_name_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        top = tarfile.TarInfo(".")
        top.type = tarfile.DIRTYPE
        file.addfile(top)
        file.addfile(tarfile.TarInfo("./a.png"))
    unpack(tmp_path / "x.tar", tmp_path / "out")
    assert contents(tmp_path / "out") == {"a.png": b""}
    shutil.rmtree(tmp_path / "out")
    refused(write_tar(tmp_path / "y.tar", {".": b"1"}), "empty")

"""Unpacks archives that nobody vouches for: zip and tar, also inside one another.

Nothing is written outside the target folder, no link is made, and no more is written than an honest
archive of images could hold.
"""

import bz2
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from dmf.errors import DmfError
from dmf.files import reason

MEBIBYTE = 2**20
NESTING = 3  # archives inside archives
NESTED = (".zip", ".tar", ".tgz", ".tbz2", ".txz")
COMPRESSED = (".gz", ".bz2", ".xz")  # of a tar, or of any other file
EXTENSION = MEBIBYTE  # the longest header of a tar that extends another
DEPTH, LONGEST_NAME = 32, 1024  # folders and characters of a member's name
ENTRY = 128  # bytes of a zip's directory that a file may take on average
CHUNK = MEBIBYTE

# How a file begins, and what it is. A tar without compression says so further in.
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
TAR = (257, b"ustar")
STRANGERS = {
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"\x89PNG": "a PNG image",
    b"PK\x07\x08": "one part of a divided zip",
}


@dataclass(frozen=True)
class Limits:
    """The most an archive may unpack to, nested archives included.

    `ratio` is unpacked over packed size, and counts once more than `harmless` bytes are unpacked:
    scans compress badly, so that an archive of them stays far below it.
    """

    files: int = 200_000
    folders: int = 20_000
    size: int = 16 * 1024 * MEBIBYTE
    ratio: int = 100
    harmless: int = 256 * MEBIBYTE


LIMITS = Limits()
DOWNLOAD_AGAIN = "Delete it and download it again"


class _Budget:
    """What is left of the limits of one archive."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self._limits = limits
        self._size = self._read = self._files = self._folders = 0
        packed = archive.stat().st_size
        self._allowed = min(limits.size, max(limits.harmless, limits.ratio * packed))

    def members(self, count: int = 1) -> None:
        self._files += count
        if self._files > self._limits.files:
            raise _RefusedError(f"it holds more than {self._limits.files} files")

    def folder(self) -> None:
        self._folders += 1
        if self._folders > self._limits.folders:
            raise _RefusedError(f"it holds more than {self._limits.folders} folders")

    def directory(self, size: int, entries: int) -> None:
        """Refuse the directory of a zip before it is read into memory."""
        if max(entries, size // ENTRY) > self._limits.files:
            raise _RefusedError(f"it holds more than {self._limits.files} files")

    def written(self, count: int) -> None:
        self._size += count
        self._check()

    def read(self, count: int) -> None:
        """Count what comes out of a compressed tar: headers and fillings cost too."""
        self._read += count
        self._check()

    def _check(self) -> None:
        if max(self._size, self._read) > self._allowed:
            raise _RefusedError(
                f"it unpacks to more than {self._allowed // MEBIBYTE} MiB, which no honest archive "
                "of its size does (an archive bomb)"
            )


class _RefusedError(Exception):
    """Why an archive is not unpacked."""


class _DamagedError(_RefusedError):
    """It may have been a sound archive once."""


class _Counted:
    """A stream that counts what is read of it."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        self._budget.read(len(chunk))
        return chunk


class _Header(tarfile.TarInfo):
    """A header that refuses to be extended without end: tarfile reads extensions whole."""

    def _proc_member(self, file: tarfile.TarFile) -> tarfile.TarInfo:
        extends = self.type in tarfile.GNU_TYPES or self.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if extends and self.type != tarfile.GNUTYPE_SPARSE and self.size > EXTENSION:
            raise _RefusedError(f"it has a header of {self.size} bytes (an archive bomb)")
        proceed: tarfile.TarInfo = super()._proc_member(file)  # type: ignore[misc]
        return proceed


def format_of(path: Path) -> str | None:
    """Return `zip` or `tar` by how the file begins, or None."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(ZIP):
        return "zip"
    offset, magic = TAR
    if head.startswith(tuple(OPENERS)) or head[offset:].startswith(magic):
        return "tar"
    return None


def describe(path: Path) -> str:
    """Say what a file is that is no zip or tar archive."""
    with path.open("rb") as stream:
        head = stream.read(512).lstrip()
    for magic, name in STRANGERS.items():
        if head.startswith(magic):
            return name
    return "empty" if not head else f"unknown (it begins with {head[:8]!r})"


def unpack(
    archive: Path, folder: Path, limits: Limits = LIMITS, *, if_damaged: str = DOWNLOAD_AGAIN
) -> None:
    """Unpack `archive` into the new folder `folder`, and archives found in it beside themselves.

    The kind is told by content. Raises DmfError, and leaves no folder, for anything but zip and
    tar; for damaged or encrypted archives; for members that would leave the folder, are links or
    devices, or differ from another one only by case; and for archive bombs. ``if_damaged`` is the
    remedy that the message names for a damaged one.
    """
    if not archive.is_file():
        raise DmfError(f"{archive} does not exist or is not a file. Correct the path.")
    try:
        budget = _Budget(archive, limits)
        _unpack(archive, folder, budget)
        for _ in range(NESTING):
            nested = [path for path in sorted(folder.rglob("*")) if _is_archive(path)]
            for path in nested:
                inner = path.with_name(path.name + ".unpacked")
                try:
                    _unpack(path, inner, budget)
                except _RefusedError as refusal:
                    name = path.relative_to(folder).as_posix()
                    raise type(refusal)(f"in its inner archive {name!r}, {refusal}") from None
                path.unlink()
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _told(archive, error, if_damaged) from error


def _told(archive: Path, error: BaseException, if_damaged: str) -> BaseException:
    """Return what the user is told of an error."""
    match error:
        case _DamagedError():
            return DmfError(f"{archive} is refused: {error}. {if_damaged}.")
        case _RefusedError():
            return DmfError(f"{archive} is refused: {error}.")
        case MemoryError():
            return DmfError(f"{archive} is refused: it needs more memory than there is.")
        case OSError():
            return DmfError(f"{archive} could not be unpacked ({reason(error)}).")
    return error


def _is_archive(path: Path) -> bool:
    # By suffix too: office documents are zip archives that nobody means to open.
    suffixes = [suffix.casefold() for suffix in path.suffixes[-2:]]
    if not suffixes or suffixes[-1] not in NESTED + COMPRESSED or not path.is_file():
        return False
    named = suffixes[-1] in NESTED or suffixes[:1] == [".tar"]
    return format_of(path) is not None and (named or _begins_as_tar(path))


def _begins_as_tar(path: Path) -> bool:
    """Look inside a compressed file: a table or a scan in it is no archive."""
    try:
        with _decompressed(path) as stream:
            tarfile.TarInfo.frombuf(stream.read(512), "utf-8", "surrogateescape")
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        return False
    return True


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        head = file.read(6)
    opener: Any = next((o for magic, o in OPENERS.items() if head.startswith(magic)), open)
    stream: IO[bytes] = opener(path, "rb")
    return stream


def _unpack(archive: Path, folder: Path, budget: _Budget) -> None:
    with _damage_named("it"):
        match format_of(archive):
            case "zip":
                members = _zip_members(archive, budget)
            case "tar":
                members = _tar_members(archive, budget)
            case _:
                raise _RefusedError(
                    f"its content is {describe(archive)}, not a zip or tar archive. If it was "
                    "downloaded by hand, download it again; if it is of another kind, repack it"
                )
        seen: dict[str, str] = {}
        folders = {PurePosixPath(".")}
        folder.mkdir(parents=True)
        for name, stream in members:
            path = _safe(name)
            if not path.parts:
                raise _RefusedError(f"a member's name, {name!r}, is empty")
            _refuse_twins(path, name, seen, folder)
            for parent in path.parents:
                if parent not in folders:
                    folders.add(parent)
                    budget.folder()
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out, _damage_named(f"its member {name!r}"):
                while chunk := stream.read(CHUNK):
                    budget.written(len(chunk))
                    out.write(chunk)


def _refuse_twins(path: PurePosixPath, name: str, seen: dict[str, str], folder: Path) -> None:
    first = seen.get(key := unicodedata.normalize("NFC", str(path)).casefold())
    if first == name:
        raise _RefusedError(
            f"it holds {name!r} twice, so that it is not clear which is right. Unpack it yourself "
            "and give the folder"
        )
    if first is not None or (folder / path).exists():
        raise _RefusedError(
            f"{first or str(path)!r} and {name!r} would be the same file where case does not count"
        )
    seen[key] = name


def _zip_members(archive: Path, budget: _Budget) -> Iterator[tuple[str, IO[bytes]]]:
    with archive.open("rb") as stream:
        # The record that zipfile is about to believe; what it says is read into memory at once.
        end = zipfile._EndRecData(stream)  # type: ignore[attr-defined]
    if end:
        budget.directory(size=end[5], entries=end[4])
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            budget.members()
            if member.is_dir():
                _safe(member.filename)
                continue
            mode = stat.S_IFMT(member.external_attr >> 16)
            if mode not in (0, stat.S_IFREG):
                raise _RefusedError(f"{member.filename!r} is a link or a device, not a file")
            if member.flag_bits & 0x1:
                raise _RefusedError(
                    f"{member.filename!r} is encrypted. Unpack it yourself and give the folder"
                )
            with _damage_named(f"its member {member.filename!r}"):
                try:
                    content = file.open(member)
                except NotImplementedError:
                    raise _RefusedError(_unreadable_method(member)) from None
            with content:
                yield member.filename, content


def _unreadable_method(member: zipfile.ZipInfo) -> str:
    names: dict[int, str] = zipfile.compressor_names  # type: ignore[attr-defined]
    method = names.get(member.compress_type, f"method {member.compress_type}")
    return (
        f"{member.filename!r} is compressed with {method}, which Python cannot read. Unpack it "
        "with another program, such as 7-Zip, and give the folder"
    )


def _tar_members(archive: Path, budget: _Budget) -> Iterator[tuple[str, IO[bytes]]]:
    with (
        _decompressed(archive) as stream,
        tarfile.open(
            fileobj=_Counted(stream, budget),  # type: ignore[call-overload]
            mode="r|",
            tarinfo=_Header,
        ) as file,
    ):
        while (member := file.next()) is not None:
            file.members.clear()  # it would keep them all
            budget.members()
            if member.isdir():
                _safe(member.name)
                continue
            content = file.extractfile(member) if member.isreg() else None
            if content is None:
                raise _RefusedError(f"{member.name!r} is a link or a device, not a file")
            with content:
                yield member.name, content
        # What follows the last member is filling. Anything else is a member with a damaged header,
        # and only the end of a compressed stream says whether it is whole.
        while chunk := file.fileobj.read(CHUNK):
            if chunk.strip(b"\0"):
                raise _DamagedError("it is damaged (something follows its last readable member)")


def _safe(name: str) -> PurePosixPath:
    """Return the path of a member inside the folder; refuse one that would leave it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name) or "\0" in name:
        raise _RefusedError(f"{name!r} would be written outside the target folder")
    if len(name) > LONGEST_NAME or len(path.parts) > DEPTH:
        raise _RefusedError(
            f"{name[:60]!r}... has {len(name)} characters in {len(path.parts)} folders; at most "
            f"{LONGEST_NAME} in {DEPTH} are unpacked"
        )
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise _RefusedError(
            f"{name!a} has characters that cannot be printed, or is not in UTF-8. Unpack it "
            "yourself, rename the file and give the folder"
        )
    return path


@contextmanager
def _damage_named(what: str) -> Iterator[None]:
    """Turn whatever a damaged archive makes the decoders raise into one reason."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        gzip.BadGzipFile,
        lzma.LZMAError,
        EOFError,
        UnicodeError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        IndexError,
    ) as error:
        raise _DamagedError(f"{what} is damaged or incomplete ({error})") from None

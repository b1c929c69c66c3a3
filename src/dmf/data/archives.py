"""Unpacks archives that nobody vouches for: zip and tar, also inside one another.

Nothing is written outside the target folder, no link is made, and no more is written than an honest
archive of images could hold.
"""

import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from dmf.errors import DmfError

MEBIBYTE = 2**20
NESTING = 3  # archives inside archives
NESTED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz")
CHUNK = MEBIBYTE

# How a file begins, and what it is. A tar without compression says so further in.
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
COMPRESSED_TAR = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
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
    size: int = 16 * 1024 * MEBIBYTE
    ratio: int = 100
    harmless: int = 256 * MEBIBYTE


LIMITS = Limits()
DOWNLOAD_AGAIN = "Delete it and download it again"


class _Budget:
    """What is left of the limits of one archive."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self._limits = limits
        self._size = self._files = 0
        packed = archive.stat().st_size
        self._allowed = min(limits.size, max(limits.harmless, limits.ratio * packed))

    def file(self) -> None:
        self._files += 1
        if self._files > self._limits.files:
            raise _RefusedError(f"it holds more than {self._limits.files} files")

    def bytes(self, count: int) -> None:
        self._size += count
        if self._size > self._allowed:
            raise _RefusedError(
                f"it unpacks to more than {self._allowed // MEBIBYTE} MiB, which no honest archive "
                "of its size does (an archive bomb)"
            )


class _RefusedError(Exception):
    """Why an archive is not unpacked."""


class _DamagedError(_RefusedError):
    """It may have been a sound archive once."""


def format_of(path: Path) -> str | None:
    """Return `zip` or `tar` by how the file begins, or None."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(ZIP):
        return "zip"
    offset, magic = TAR
    if head.startswith(COMPRESSED_TAR) or head[offset:].startswith(magic):
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
                _unpack(path, inner, budget)
                path.unlink()
    except _RefusedError as reason:
        shutil.rmtree(folder, ignore_errors=True)
        remedy = f" {if_damaged}." if isinstance(reason, _DamagedError) else ""
        raise DmfError(f"{archive} is refused: {reason}.{remedy}") from None
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DmfError(f"{archive} could not be unpacked ({error.strerror or error}).") from error


def _is_archive(path: Path) -> bool:
    # By suffix too: office documents are zip archives that nobody means to open.
    return path.suffix.casefold() in NESTED and path.is_file() and format_of(path) is not None


def _unpack(archive: Path, folder: Path, budget: _Budget) -> None:
    with _damage_named(archive):
        match format_of(archive):
            case "zip":
                members = _zip_members(archive)
            case "tar":
                members = _tar_members(archive, budget)
            case _:
                raise _RefusedError(
                    f"its content is {describe(archive)}, not a zip or tar archive. If it was "
                    "downloaded by hand, download it again; if it is of another kind, repack it"
                )
        seen: dict[str, str] = {}
        folder.mkdir(parents=True)
        for name, stream in members:
            path = _safe(name)
            first = seen.setdefault(str(path).casefold(), name)
            if first != name or (folder / path).exists():
                raise _RefusedError(
                    f"{first!r} and {name!r} would be the same file where case does not count"
                )
            budget.file()
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                while chunk := stream.read(CHUNK):
                    budget.bytes(len(chunk))
                    out.write(chunk)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
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
            with file.open(member) as stream:
                yield member.filename, stream


def _tar_members(archive: Path, budget: _Budget) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as file:
        for member in file:
            if member.isdir():
                _safe(member.name)
                continue
            stream = file.extractfile(member) if member.isreg() else None
            if stream is None:
                raise _RefusedError(f"{member.name!r} is a link or a device, not a file")
            with stream:
                yield member.name, stream
        # Only the end of a compressed stream, beyond the last member, says whether it is whole.
        while file.fileobj and (chunk := file.fileobj.read(CHUNK)):
            budget.bytes(len(chunk))


def _safe(name: str) -> PurePosixPath:
    """Return the path of a member inside the folder; refuse one that would leave it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name) or "\0" in name:
        raise _RefusedError(f"{name!r} would be written outside the target folder")
    return path


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
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
    ) as error:
        raise _DamagedError(f"it is damaged or incomplete ({error})") from None

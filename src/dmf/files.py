"""Files that are either whole or not there, and their hashes; what the system refuses, in words."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dmf.errors import DmfError, Log

MOST_BYTES = 1 << 28  # of a text that is read at once; the records of a study hold kilobytes

_NOT_YOURS = "Ask the owner of the folder, or work in a copy of your own"
# What helps, by what the system says.
_REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some of your quota",
    errno.EACCES: _NOT_YOURS,
    errno.EPERM: _NOT_YOURS,
    errno.EROFS: "It is on a read-only file system: work in a copy elsewhere",
    errno.ENAMETOOLONG: "Use shorter names",
    errno.EMFILE: "Allow more open files (`ulimit -n`)",
    errno.ENOTDIR: "Move away the file that stands where a folder must be",
    errno.EEXIST: "Move away the file that stands where a folder must be",
    errno.EISDIR: "Move away the folder that stands where a file must be",
}


def refusal(path: Path, error: OSError, *, done: str = "written") -> DmfError:
    """Return that ``path`` could not be written, with the system's own reason and what helps."""
    remedy = _REMEDIES.get(error.errno or 0, "Check the folder")
    kept = "; nothing was half-written" if done == "written" else ""
    return DmfError(
        f"{path}: could not be {done} ({reason(error)}). {remedy}, then run the same command "
        f"again{kept}."
    )


def reason(error: OSError) -> str:
    """Return the system's own words."""
    return error.strerror or str(error) or type(error).__name__


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise DmfError, with reason and remedy, where the system refuses what makes ``path``."""
    try:
        yield
    except OSError as error:
        raise refusal(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if need be; raises DmfError if the system refuses."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it to ``path`` if the block succeeds.

    The temporary name keeps the suffix, so that writers which look at it (images, figures) work.
    Nothing is left behind if the block fails. Raises DmfError if the system refuses.
    """
    make_folder(path.parent)
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            # mkstemp's 0600 would hide results from colleagues. Some network file systems refuse
            # any change of modes; they have their own idea of who may read.
            with suppress(OSError):
                temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, timeout: float = -1, waiting: Log | None = None) -> Iterator[None]:
    """Let one process at a time into the block, by a lock file; the kernel frees it at a death.

    ``waiting`` is called with nothing but the path's name if another process is in it. Raises
    filelock's Timeout after ``timeout`` seconds (never, if negative), and DmfError if the system
    refuses the file.
    """
    make_folder(path.parent)
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0 if waiting else timeout)
        except Timeout:
            if waiting is None:
                raise
            waiting(path.name)
            lock.acquire(timeout=timeout)
    except Timeout:  # an OSError too
        raise
    except OSError as error:
        raise refusal(path, error) from error
    try:
        yield
    finally:
        lock.release()


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` in one step."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON in one step; NaN is refused with ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_text(path: Path, remedy: str) -> str:
    """Return a UTF-8 text; raises DmfError with the reason if it cannot be read."""
    try:
        if path.exists():
            if not path.is_file():  # a device or a pipe would be read for ever
                raise DmfError(f"{path} is a folder or a device, not a file. {remedy}")
            if path.stat().st_size > MOST_BYTES:
                raise DmfError(f"{path} is larger than {MOST_BYTES >> 20} MiB. {remedy}")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DmfError(f"{path} cannot be read ({reason(error)}). {remedy}") from None
    except UnicodeDecodeError as error:
        raise DmfError(f"{path} is not UTF-8 text ({_encoding(error)}). {remedy}") from None


def _encoding(error: UnicodeDecodeError) -> str:
    """Return what another encoding the bytes seem to be of, or which byte is none of UTF-8."""
    if error.object[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "it begins as UTF-16 does"
    line = error.object.count(b"\n", 0, error.start) + 1
    return f"byte 0x{error.object[error.start]:02x} in line {line}"


def read_json(path: Path) -> Any:
    """Read JSON; raises DmfError naming the file if it is missing or damaged."""
    if not path.exists():
        raise DmfError(f"{path} does not exist. Run the step that makes it first.")
    again = "Delete it and run again."
    text = read_text(path, again)
    try:
        return json.loads(text)
    except RecursionError:
        raise DmfError(f"{path} is not valid JSON (nested too deeply). {again}") from None
    except ValueError as error:
        raise DmfError(f"{path} is not valid JSON ({error}). {again}") from None


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of ``value`` (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

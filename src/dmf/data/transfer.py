"""Fetches one file over HTTP: resumable, with retries, time-outs and a progress bar."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from dmf.errors import DmfError
from dmf.files import read_json, write_json

LARGEST = 16 * 2**30  # bytes of one file
CHUNK = 16 * 1024  # bytes; less than this is lost when a connection breaks off
LONGEST_WAIT = 60.0  # seconds, whatever the server asks for
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # answers that may change if asked again


class TransferError(Exception):
    """Why a file could not be fetched, in words for the user."""


class CertificateError(TransferError):
    """The server's certificate could not be verified."""


class _InterruptedError(Exception):
    """A failure that another try may mend; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Policy:
    """How patient a transfer is, in seconds, and the most bytes that it takes.

    It gives up after `attempts` failures in a row, none of which brought the file further. Between
    them it waits `back_off`, doubled each time, or as long as the server says.
    """

    attempts: int = 5
    connect: float = 10.0
    read: float = 30.0
    back_off: float = 1.0
    largest: int = LARGEST
    sleep: Callable[[float], None] = time.sleep


PATIENT = Policy()


def fetch(
    address: str, target: Path, *, policy: Policy = PATIENT, verify_certificate: bool = True
) -> None:
    """Fetch `address` to `target`, which appears only when it is complete.

    What has arrived is kept in `<target>.part` and continued by a later call, if the server can
    prove (ETag or Last-Modified) that the file is still the same. Raises CertificateError for a bad
    certificate, TransferError if the server refuses, keeps failing, or the disk is too small.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(address, target, policy, verify_certificate)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(target.name, total=None)

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        failures, furthest = 0, transfer.size
        while True:
            try:
                transfer.attempt(show)
                break
            except _InterruptedError as failure:
                failures = 1 if transfer.size > furthest else failures + 1
                furthest = max(furthest, transfer.size)
                if failures >= policy.attempts:
                    raise TransferError(f"{failure} ({failures} tries in a row)") from None
                wait = max(failure.wait, policy.back_off * 2 ** (failures - 1))
                policy.sleep(min(wait, LONGEST_WAIT))
    transfer.finish()


class _Transfer:
    """The part of a file that has arrived, and the note that says of which version it is."""

    def __init__(self, address: str, target: Path, policy: Policy, verify: bool) -> None:
        self._address, self._target, self._policy, self._verify = address, target, policy, verify
        self._part = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self._part.stat().st_size if self._part.is_file() else 0

    def finish(self) -> None:
        os.replace(self._part, self._target)
        self._note.unlink(missing_ok=True)

    def attempt(self, show: Callable[[int, int | None], None]) -> None:
        """Ask for what is missing; raises _InterruptedError where asking again makes sense."""
        headers = {"Accept-Encoding": "identity"}
        version = self._version()
        if version is not None and self.size:
            headers |= {"Range": f"bytes={self.size}-", "If-Range": version}
        try:
            with (
                requests.Session() as session,
                session.get(
                    self._address,
                    headers=headers,
                    stream=True,
                    timeout=(self._policy.connect, self._policy.read),
                    verify=self._verify,
                    hooks={"response": stay_secure},
                ) as response,
            ):
                self._receive(response, show)
        except requests.exceptions.SSLError as error:
            raise CertificateError(
                f"its certificate cannot be verified ({_cause(error)})"
            ) from None
        except requests.exceptions.Timeout:
            raise _InterruptedError("no answer in time") from None
        except requests.exceptions.ConnectionError as error:
            text = "no answer in time" if "timed out" in str(error) else "no connection"
            raise _InterruptedError(f"{text} ({_cause(error)})") from None
        except requests.exceptions.ChunkedEncodingError:
            raise _InterruptedError(f"the connection broke off after {self.size} bytes") from None
        except requests.exceptions.RequestException as error:
            raise TransferError(f"the address cannot be asked ({_cause(error)})") from None

    def _receive(
        self, response: requests.Response, show: Callable[[int, int | None], None]
    ) -> None:
        status, done = response.status_code, self.size
        if status == 416:  # the part is not a part of this file
            self._part.unlink(missing_ok=True)
            raise _InterruptedError("the server cannot continue the file")
        if status in TRANSIENT:
            delay = response.headers.get("Retry-After", "")
            wait = float(_whole(delay) or 0)
            raise _InterruptedError(f"the server answers {_answer(response)}", wait)
        if status not in (200, 206):
            raise TransferError(f"the server answers {_answer(response)}")
        if status == 200:
            done = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            self._part.unlink(missing_ok=True)
            raise _InterruptedError("the server continues at the wrong place")
        length = response.headers.get("Content-Length", "")
        expected = _whole(length)
        total = None if expected is None else done + expected
        free = shutil.disk_usage(self._target.parent).free
        if total is not None and total - done > free:
            raise TransferError(f"{total - done} bytes are missing, but the disk has {free} free")
        if total is not None and total > self._policy.largest:
            raise TransferError(f"the file has {total} bytes, more than {self._policy.largest}")
        self._remember(response)
        with self._part.open("ab" if done else "wb") as part:
            # Bytes as they are sent: a server may claim an encoding that turns 1 MB into 1 GB.
            for chunk in self._sent(response):
                done += len(chunk)
                if done > self._policy.largest:
                    part.truncate(0)
                    raise TransferError(f"it sends more than {self._policy.largest} bytes")
                part.write(chunk)
                show(done, total)
        if total is not None and done != total:
            raise _InterruptedError(f"the connection broke off after {done} of {total} bytes")

    def _sent(self, response: requests.Response) -> Iterator[bytes]:
        try:
            yield from response.raw.stream(CHUNK, decode_content=False)
        except urllib3.exceptions.ProtocolError as error:
            raise requests.exceptions.ChunkedEncodingError(error) from None
        except urllib3.exceptions.ReadTimeoutError as error:
            raise requests.exceptions.Timeout(error) from None
        except urllib3.exceptions.SSLError as error:
            raise requests.exceptions.SSLError(error) from None

    def _remember(self, response: requests.Response) -> None:
        """Note the version of the file: only a strong validator may be used to continue it."""
        tag = response.headers.get("ETag", "")
        version = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        write_json(self._note, {"address": self._address, "version": version})

    def _version(self) -> str | None:
        try:
            note = read_json(self._note)
        except DmfError:
            return None
        version = note.get("version") if note.get("address") == self._address else None
        return version if isinstance(version, str) else None


def stay_secure(response: requests.Response, *_: object, **__: object) -> None:
    """Refuse to be led from https to an address that anybody on the way could answer."""
    target = response.headers.get("Location", "")
    secure = urlsplit(urljoin(response.url, target)).scheme == "https"
    if response.is_redirect and response.url.startswith("https:") and not secure:
        raise TransferError("it redirects from https to an address without encryption")


def _whole(text: str) -> int | None:
    """Return the number in a header, or None: servers send anything."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _answer(response: requests.Response) -> str:
    """Return status and reason, without what would move the cursor of a terminal."""
    reason = "".join(c for c in str(response.reason or "") if c.isprintable())[:80]
    return f"{response.status_code} {reason}".strip()


def _cause(error: Exception) -> str:
    """Return the last link of a chain of errors, which is the one that says something."""
    text = str(error.args[0] if error.args else error)
    return text.rsplit("Caused by ", 1)[-1].strip("()'\"")[:160]

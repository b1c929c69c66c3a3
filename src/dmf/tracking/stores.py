"""Where MLflow keeps its runs: the address, whether it answers, and how to look at it."""

import logging
import os
import re
import socket
import sqlite3
import ssl
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dmf.errors import DmfError
from dmf.files import make_folder, writing
from dmf.layout import ARTIFACTS, DATABASE

if TYPE_CHECKING:
    from mlflow import MlflowClient

PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
SECONDS_TO_ANSWER = 5

ALWAYS = {"MLFLOW_DISABLE_TELEMETRY": "true"}
UNLESS_SET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # A request repeated after a lost answer would create a run twice; the next delivery repeats
    # what is missing.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
# Where a connection is refused, the reason is the last thing that a chain of errors says.
_CAUSES = {
    "database is locked": "another process holds the database for long",
    "readonly database": "you may not write the database, its -wal or its -shm file",
    "unable to open database file": "you may not open the database, or its folder is missing",
}


def tracking_uri(uri: str | None = None) -> str:
    """Return the address of the store: ``uri``, `MLFLOW_TRACKING_URI`, or the study's own database.

    The study's own is SQLite by its absolute path, so that neither the working directory of a later
    command nor a stale `mlruns` folder diverts it. Raises DmfError unless the address is a server
    (http, https) or a database (sqlite, postgresql, mysql, mssql).
    """
    found = uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    if not found:
        return f"sqlite:///{DATABASE.absolute()}"
    scheme = found.split(":", 1)[0].split("+", 1)[0]
    if scheme not in {"http", "https", "sqlite", *PORTS} or "://" not in found:
        raise DmfError(
            f"{public(found)!r} (MLFLOW_TRACKING_URI) is no MLflow server or database. Give "
            "http://HOST:PORT, sqlite:////ABSOLUTE/PATH.db or postgresql://HOST/DATABASE, "
            f"or unset it to use {DATABASE}."
        )
    if not found.startswith("sqlite") and not _is_readable(found):
        raise DmfError(
            "MLFLOW_TRACKING_URI cannot be read: write the characters @, / and : of its password "
            "as %40, %2F and %3A."
        )
    return found.rstrip("/")


def _is_readable(address: str) -> bool:
    """Return whether host and password can be told apart: else half a password becomes a host."""
    before = address.partition("?")[0]
    try:
        parts = urlsplit(before)
        return before.count("@") == parts.netloc.count("@") <= 1 and parts.port != 0
    except ValueError:
        return False


def cause(error: BaseException) -> str:
    """Return in one line why MLflow failed, without passwords.

    MLflow and SQLAlchemy wrap what the database said; their own first line often says nothing.
    """
    while error.__cause__ is not None or getattr(error, "orig", None) is not None:
        error = getattr(error, "orig", None) or error.__cause__ or error
    lines = str(error).strip().splitlines() or [type(error).__name__]
    known = [said for text in lines for words, said in _CAUSES.items() if words in text]
    return public(f"{lines[0]} ({known[0]})" if known else lines[0])


def is_server(address: str) -> bool:
    """Return whether ``address`` is an MLflow server rather than a database."""
    return address.startswith(("http://", "https://"))


def public(text: str) -> str:
    """Return ``text`` without the user names and passwords of the addresses in it.

    A password may hold any character but a space, `/` and `@` included, and a database's may stand
    in its query: all before the last `@` of an address goes, and so does what follows a `?`.
    """
    return re.sub(r"(?<!sqlite)(://)(?:[^\s'\"]*@)?([^\s'\"?]*)(?:\?[^\s'\"]*)?", r"\1\2", text)


def may_hold_runs(address: str) -> bool:
    """Return False if ``address`` is an SQLite file that does not exist (any more)."""
    file = _sqlite_file(address)
    return file is None or file.exists()


def connect(address: str) -> "MlflowClient":
    """Return a client of ``address``; a new database is initialised.

    Raises DmfError within seconds if nothing answers there, and whatever MLflow raises.
    """
    _check_reachable(address)
    file = _sqlite_file(address)
    if file is not None and not file.exists():
        make_folder(file.parent)
        for left_by_a_deleted_one in ("-wal", "-shm"):
            Path(f"{file}{left_by_a_deleted_one}").unlink(missing_ok=True)
        with writing(file):
            # SQLite's own 0644 would lock colleagues out, whatever the umask allows them.
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o666))
        with closing(sqlite3.connect(file)) as database:
            # Kept by the file: pages read while runs arrive, and a commit syncs the disk once.
            database.execute("PRAGMA journal_mode = WAL")
    os.environ.update(ALWAYS)
    for name, value in UNLESS_SET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # what goes wrong is raised, and told by the caller
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(address)


def server_command(uri: str | None = None, *, port: int = 5000) -> list[str]:
    """Return the command that serves the user interface of a database on 127.0.0.1.

    One worker and no job execution (:func:`server_environment`) keep it small. Raises DmfError if
    ``uri`` is itself a server, or if the port is taken.
    """
    address = tracking_uri(uri)
    if is_server(address):
        raise DmfError(f"{public(address)} is a running MLflow server: open it in a browser.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DmfError(
                f"port {port} cannot be used ({error.strerror}). Stop what uses it, or name "
                f"another one: --port {port + 1}"
            ) from None
    options = {
        "--artifacts-destination": str(ARTIFACTS.absolute()),
        "--workers": "1",
        "--host": "127.0.0.1",
        "--port": str(port),
    }
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *(x for pair in options.items() for x in pair),
    ]


def server_environment(uri: str | None = None, *, port: int = 5000) -> dict[str, str]:
    """Return the environment for :func:`server_command`: no telemetry, no job workers.

    The database's address, which may hold a password, is in it: every user of a machine sees the
    arguments of a command. Names of this machine alone are answered to, so that no page of somebody
    else's can read the runs through the browser.
    """
    return {
        **os.environ,
        **ALWAYS,
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(uri),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _sqlite_file(address: str) -> Path | None:
    match = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", address)
    return Path(match[1]) if match else None


def _check_reachable(address: str) -> None:
    """Raise DmfError if nothing answers at ``address``: MLflow itself would try for minutes."""
    parts = urlsplit(address)
    try:
        if is_server(address):
            url = public(address) + "/health"
            context = ssl._create_unverified_context()  # certificates are for MLflow to judge
            urllib.request.urlopen(url, timeout=SECONDS_TO_ANSWER, context=context).close()
        elif parts.hostname:
            port = parts.port or PORTS[parts.scheme.split("+", 1)[0]]
            socket.create_connection((parts.hostname, port), SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError as error:
        if error.code in (502, 503, 504):
            raise DmfError(f"it does not answer (HTTP status {error.code})") from None
    except OSError as error:
        raise DmfError(f"nothing answers there ({getattr(error, 'reason', error)})") from None

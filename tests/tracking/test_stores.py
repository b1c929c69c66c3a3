"""Where runs go, what an unreachable place does, and what a training never loads."""

import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from dmf.errors import DmfError
from dmf.tracking import server_command, server_environment, stores, tracking_uri

from mlflow_server import free_port
from synthetic import write_study
from tracked import deliver, environment, small_study


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_an_unreachable_store_is_told_without_mlflow_or_credentials(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    study = small_study()
    write_study(workdir, study)
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:secret@127.0.0.1:{port}/x")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    summary = deliver(study)
    assert (summary.delivered, summary.failed) == (0, 4)
    assert f"{scheme}://127.0.0.1:{port}/x" in summary.message
    assert "nothing answers there" in summary.message
    assert "`dmf track` delivers the rest" in summary.message
    tracked = Path("mlflow/tracked.json").read_text()
    assert "secret" not in summary.message + tracked
    with pytest.raises(DmfError, match="nothing answers there"):
        deliver(study, strict=True)


def test_a_server_that_never_answers_is_given_up(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study()
    write_study(workdir, study)
    monkeypatch.setattr(stores, "SECONDS_TO_ANSWER", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        summary = deliver(study, uri=f"http://127.0.0.1:{mute.getsockname()[1]}")
    assert summary.failed == 4
    assert "timed out" in summary.message


def test_the_address_is_absolute_or_the_users(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri() == f"sqlite:///{workdir}/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000/")
    assert tracking_uri() == "http://team:5000"
    assert tracking_uri("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
    for wrong in ("./mlruns", "file:///tmp/mlruns", "databricks", "htp://team"):
        with pytest.raises(DmfError, match="no MLflow server or database"):
            tracking_uri(wrong)


def test_the_user_interface_is_light_and_refuses_a_taken_port(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = server_command(port=free_port())
    assert command[command.index("--workers") + 1] == "1"
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert server_environment()["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DmfError, match=f"port {port} cannot be used"):
            server_command(port=port)
    with pytest.raises(DmfError, match="http://team:5000 is a running MLflow server"):
        server_command("http://team:5000")


def test_a_delivery_beside_another_leaves_the_runs_to_it(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study()
    write_study(workdir, study)
    monkeypatch.setattr("dmf.tracking.delivery.LOCK_SECONDS", 0.1)
    with FileLock("mlflow/.lock"):
        summary = deliver(study)
        with pytest.raises(DmfError, match="another delivery is still at work here"):
            deliver(study, strict=True)
    assert (summary.delivered, summary.already_there, summary.failed) == (0, 0, 4)
    assert "4 not delivered" in summary.message
    assert Path("mlflow/tracked.json").exists()

    deliver(study)
    with FileLock("mlflow/.lock"):  # what is there already is nothing to fail for
        summary = deliver(study, strict=True)
    assert (summary.delivered, summary.already_there, summary.failed) == (0, 4, 0)


@pytest.mark.slow
def test_no_module_of_the_package_imports_mlflow() -> None:
    code = (
        "import importlib, pkgutil, sys, dmf\n"
        "names = [m.name for m in pkgutil.walk_packages(dmf.__path__, 'dmf.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "assert 'dmf.training.train' in names and 'dmf.training.engine' in names, names\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'mlflow']\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host:1/db", "postgresql://host:1/db"),
        ("postgresql://me:se/cret@host/db", "postgresql://host/db"),
        ("postgresql://me:se@cret@host/db", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        ("http://me:secret@host/prefix", "http://host/prefix"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
    ],
)
def test_no_password_is_shown_whatever_characters_it_holds(address: str, shown: str) -> None:
    assert stores.public(f"at {address} no") == f"at {shown} no"


@pytest.mark.parametrize(
    "address",
    ["postgresql://me:se/cret@h/db", "postgresql://me:se@cret@h/db", "http://me:5/cret@h:5000"],
)
def test_an_address_whose_password_would_become_a_host_is_refused(address: str) -> None:
    with pytest.raises(DmfError, match="%40, %2F and %3A") as refused:
        tracking_uri(address)
    assert "cret" not in str(refused.value)


def test_no_other_user_sees_the_servers_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """All see the arguments of a command. And no other name than this machine's is answered to."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1/db")
    port = free_port()
    assert "secret" not in " ".join(server_command(port=port))
    environment = server_environment(port=port)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@127.0.0.1/db"
    assert environment["MLFLOW_SERVER_ALLOWED_HOSTS"] == f"127.0.0.1:{port},localhost:{port}"


def test_the_cause_of_a_failure_is_told_not_its_wrapping() -> None:
    inner = sqlite3.OperationalError("database is locked")
    try:
        raise RuntimeError("(raised as a result of Query-invoked autoflush; ...)\nmore") from inner
    except RuntimeError as error:
        said = stores.cause(error)
    assert said == "database is locked (another process holds the database for long)"
    assert stores.cause(ValueError("no postgresql://me:secret@h/db")) == "no postgresql://h/db"


def test_a_new_database_is_as_open_as_the_umask_allows(workdir: Path) -> None:
    """Colleagues of a shared folder deliver into it too, where the umask says so."""
    before = os.umask(0o002)
    try:
        stores.connect(tracking_uri())
    finally:
        os.umask(before)
    assert Path("mlflow/mlflow.db").stat().st_mode & 0o777 == 0o664

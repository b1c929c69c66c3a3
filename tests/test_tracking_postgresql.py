"""Deliveries to an MLflow server over PostgreSQL, which is stopped in between."""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dmf.tracking import Summary, track
from mlflow_server import Server, free_port
from tracked import check_all_there_once, stored

from synthetic import make_study, write_study


def _find(name: str) -> str | None:
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


class PostgreSQL:
    """A database cluster in a folder of its own; PostgreSQL refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        self.uri = f"postgresql://mlflow@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-D", str(folder / "data"), "-U", "mlflow", "-A", "trust", "-N")

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -F"
        log = str(self.folder / "log")
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-l", log, "-w", "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def _run(self, name: str, *arguments: str) -> None:
        program = _find(name)
        assert program is not None
        subprocess.run(
            [program, *arguments],
            check=True,
            user=self.user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )


@pytest.fixture
def postgresql() -> Iterator[PostgreSQL]:
    if _find("initdb") is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="dmf-postgresql-"))
    database = PostgreSQL(folder)
    database.start()
    try:
        yield database
    finally:
        try:
            database.stop()
        finally:
            shutil.rmtree(folder)


def test_a_team_server_whose_database_stops_holds_every_metric_once_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql: PostgreSQL
) -> None:
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2-binary is not installed")
    monkeypatch.chdir(tmp_path)
    study = make_study(configurations=["cb_dice-variance", "fixed"], seeds=6, epochs=60)
    write_study(tmp_path, study)

    def finished() -> int:
        with closing(psycopg2.connect(postgresql.uri)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'")
            return int(cursor.fetchone()[0])

    said: list[Summary] = []

    def deliver(**options: Any) -> None:
        said.append(track(study.report_parameters(), report=lambda _: None, **options))

    server = Server(postgresql.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    try:
        server.start(tmp_path / "server.log")
        delivery = threading.Thread(target=deliver)
        delivery.start()
        while finished() < 3 and delivery.is_alive():
            time.sleep(0.02)
        postgresql.stop()
        delivery.join()
        assert 0 < said[0].failed <= 12
        assert "Nothing is lost" in said[0].message

        postgresql.start()
        deliver()
        assert (said[1].failed, said[1].delivered + said[1].already_there) == (0, 12)
        assert said[1].already_there >= 3
    finally:
        server.kill()
    with closing(psycopg2.connect(postgresql.uri)) as connection:
        check_all_there_once(tmp_path, study, stored(connection))

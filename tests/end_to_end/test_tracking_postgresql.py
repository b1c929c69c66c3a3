"""Deliveries to an MLflow server over PostgreSQL; database and server are stopped in between."""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dmf.layout import Cell
from dmf.tracking import Summary, track

from mlflow_server import Server, free_port
from synthetic import make_study, write_study
from tracked import check_all_there_once, stored


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


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


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

    def epochs_shown() -> int:
        with closing(psycopg2.connect(postgresql.uri)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM metrics WHERE key = 'loss/total' AND run_uuid IN "
                "(SELECT run_uuid FROM runs WHERE status = 'RUNNING'"
                " AND lifecycle_stage = 'active' AND name LIKE 'cb_dice%')"
            )
            return int(cursor.fetchone()[0])

    def show(configuration: str, epochs: int) -> None:
        """Lay the live copy of a training of seed 6 that has come so far."""
        place = Cell("phantom", configuration, 6).folder
        live = tmp_path / ".checkpoints" / place.relative_to("models")
        live.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "done" / place / "run.json", live)
        rows = (tmp_path / "done" / place / "history.csv").read_text().splitlines(keepends=True)
        (live / "history.csv").write_text("".join(rows[: 1 + epochs]))

    said: list[Summary] = []

    def deliver(**options: Any) -> None:
        said.append(track(study.report_parameters(), log=lambda _: None, **options))

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

        # A seed more, followed while it trains; now the server itself is killed in between.
        study = make_study(configurations=["cb_dice-variance", "fixed"], seeds=7, epochs=60)
        write_study(tmp_path / "done", study)
        delivery = threading.Thread(target=deliver, kwargs={"follow": True, "interval": 0.2})
        show("cb_dice-variance", 20)
        delivery.start()
        wait(lambda: epochs_shown() == 20)
        server.kill()
        show("cb_dice-variance", 40)
        show("fixed", 10)
        time.sleep(1)
        server.start(tmp_path / "restarted.log")
        wait(lambda: epochs_shown() == 40)
        for configuration in study.grid.configurations:
            place = Cell("phantom", configuration, 6).folder
            shutil.copytree(tmp_path / "done" / place, tmp_path / place)
        delivery.join(120)
        assert not delivery.is_alive()
        assert said[2].failed == 0
    finally:
        server.kill()
    with closing(psycopg2.connect(postgresql.uri)) as connection:
        check_all_there_once(tmp_path, study, stored(connection))

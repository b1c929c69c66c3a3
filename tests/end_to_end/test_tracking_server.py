"""Deliveries to a real MLflow server that is killed and started again."""

import re
import sqlite3
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from dmf.tracking import Summary, track

from mlflow_server import Server
from synthetic import make_study, write_study
from tracked import check_all_there_once, finished_in, stored_in


def test_a_server_killed_while_runs_arrive_holds_every_metric_once_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also: curves delivered straight into a database are served after the study was moved."""
    first, workdir = tmp_path / "first", tmp_path / "moved"
    first.mkdir()
    monkeypatch.chdir(first)
    phantom = make_study(configurations=["fixed"], seeds=1, epochs=3)
    write_study(first, phantom)
    assert track(phantom.report_parameters(), log=lambda _: None).delivered == 1
    first.rename(workdir)
    monkeypatch.chdir(workdir)

    database = workdir / "mlflow/mlflow.db"
    study = make_study(
        {"busi": "busi"}, configurations=["cb_dice-variance", "fixed"], seeds=8, epochs=60
    )
    write_study(workdir, study)
    server = Server(f"sqlite:///{database}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    said: list[Summary] = []

    def deliver() -> None:
        said.append(track(study.report_parameters(), log=lambda _: None))

    try:
        server.start(tmp_path / "server.log")
        (run,) = [run for run in stored_in(database) if run.place[2] == 0]
        curve = server.get(f"/get-artifact?path=training_curve.svg&run_uuid={run.run_id}")
        assert b"phantom/fixed/seed-00" in curve

        delivery = threading.Thread(target=deliver)
        delivery.start()
        while finished_in(database) < 1 + 3 and delivery.is_alive():
            time.sleep(0.01)
        server.kill()
        delivery.join()
        there = finished_in(database) - 1
        assert 3 <= there < 16
        assert 0 < said[0].failed <= 16
        assert "Nothing is lost" in said[0].message

        server.start(tmp_path / "restarted.log")
        deliver()
        assert (said[1].failed, said[1].delivered + said[1].already_there) == (0, 16)
        assert said[1].already_there == there
        page = workdir / "reports/index.html"
        page.parent.mkdir()
        page.write_text("the report")
        deliver()
        with closing(sqlite3.connect(database)) as connection:
            query = "SELECT experiment_id, value FROM experiment_tags WHERE key LIKE '%note%'"
            notes = [note for _, note in connection.execute(query) if "BUSI" in note]
        (address,) = re.findall(r"\[report\]\((.*?)\)", notes[0])
        with urllib.request.urlopen(server.uri + address) as answer:
            assert answer.read() == b"the report"
        for run in stored_in(database):
            if run.place[0] == "busi" and run.place[2] is not None:
                name = f"path=training_curve.svg&run_uuid={run.run_id}"
                assert run.tags["folder"].encode().split(b"/", 1)[1] in server.get(
                    f"/get-artifact?{name}"
                )
    finally:
        server.kill()
    runs = [run for run in stored_in(database) if run.place[0] == "busi"]
    check_all_there_once(workdir, study, runs)

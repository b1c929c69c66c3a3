"""Snakemake killed without warning in the middle of a study, and the documented way on."""

import os
import signal
import subprocess
import time
from pathlib import Path

from project import Project

COMMAND = ("snakemake", "--cores", "1", "--", "train_phantom")


class Study(Project):
    """A study of two trainings, one after the other."""

    def start(self) -> subprocess.Popen[bytes]:
        """Start it in a process group of its own."""
        return subprocess.Popen(
            COMMAND,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def log(self, run: str) -> str:
        path = self.folder / f"logs/train/{run}.log"
        return path.read_text() if path.exists() else ""

    def second_says(self, words: str) -> str:
        """Wait until one run is finished and another says ``words``; return that one."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            finished = self.runs()
            for live in self.folder.glob(".checkpoints/phantom/*/seed-00"):
                run = "/".join(live.parts[-3:])
                if len(finished) == 1 and run not in finished and words in self.log(run):
                    return run
            time.sleep(0.02)
        raise AssertionError(f"no second training says {words!r}")


def test_the_documented_way_on_repeats_nothing_and_gives_the_same_bits(tmp_path: Path) -> None:
    """First Snakemake and its training are killed together, then Snakemake alone is."""
    study = Study.copy(
        tmp_path,
        study={"configurations": ["fixed", "cb_dice-variance"]},
        training={"epochs": 40},
    )
    snakemake = study.start()
    second = study.second_says("epoch 5/40")
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    finished = study.runs()

    refused = study.run(*COMMAND, check=False)
    assert refused.returncode != 0
    assert "--unlock" in refused.stdout
    study.run("snakemake", "--unlock")
    snakemake = study.start()
    assert study.second_says("continuing after epoch") == second
    snakemake.kill()
    snakemake.wait()

    study.run("snakemake", "--unlock")
    study.run(*COMMAND)
    assert "adopted" in study.log(second)  # its training had gone on without Snakemake
    assert study.trained_since(finished) == {second}

    (study.folder / "models").rename(study.folder / "models.killed")
    study.run(*COMMAND)
    for run in study.runs():
        for file in ("history.csv", "metrics.json", "model.safetensors", "best.safetensors"):
            killed = (study.folder / "models.killed" / run / file).read_bytes()
            assert killed == (study.folder / "models" / run / file).read_bytes(), (run, file)

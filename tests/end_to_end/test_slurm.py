"""The slurm profile on a real SLURM: what is asked for, and trainings that are cut off."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from dmf.cluster import check, read
from dmf.errors import DmfError

from conftest import REPOSITORY
from project import Project
from slurm import Slurm, missing

CONFIGURATIONS = ["fixed", "cb_dice-variance", "none-mad"]
# These GPUs do not compute: ask for them, and train on the CPU all the same.
SNAKEMAKE = [
    *("snakemake", "--profile", "profiles/slurm", "--config", "execution={device: cpu}"),
    *("--slurm-init-seconds-before-status-checks", "1", "--", "train_phantom"),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="dmf-slurm-", ignore_cleanup_errors=True) as folder:
        started = Slurm(Path(folder))
        try:
            try:
                started.start()
            except RuntimeError as error:
                pytest.skip(f"SLURM does not start: {error}")
            yield started
        finally:
            started.stop()


def fill_in(folder: Path, **values: str | int | None) -> Path:
    """Do with site.yaml what it asks people to do; return its path."""
    text = (REPOSITORY / "profiles/slurm/site.yaml").read_text()
    text, count = re.subn(r"^# (\w+: +\w+)", r"\1", text, flags=re.MULTILINE)
    assert count == 4
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(text), **values}))
    return path


def wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


def trainings(folder: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Return the processes that train in ``folder``, and their environments, by configuration."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_text().split("\0")
            if words[2:4] == ["train", "phantom"] and os.readlink(process / "cwd") == str(folder):
                pairs = (process / "environ").read_text().split("\0")
                variables = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
                found[words[4]] = int(process.name), variables
    return found


def test_trainings_that_slurm_cuts_off_continue_to_the_same_bits(
    slurm: Slurm, tmp_path: Path
) -> None:
    """One of two allocations is preempted, the other cancelled, then their node is lost.

    And while it is, Snakemake is killed without warning. SLURM goes on, and so does Snakemake.
    """
    project = Project.copy(
        tmp_path,
        study={"configurations": CONFIGURATIONS},
        training={"epochs": 20},
        execution={"checkpoint_seconds": 1000},  # only what a signal saves is saved
    )
    project.snakemake("--", "filter_phantom", "split_phantom")
    fill_in(project.folder / "profiles/slurm", trainings=2, mem_mb=1000, status_command="squeue")
    environment = slurm.environment()

    def hold_two(words: str) -> dict[str, dict[str, str]]:
        """Stop two trainings as soon as they say ``words``; SLURM wakes what it ends."""
        held: dict[str, dict[str, str]] = {}

        def both() -> bool:
            for name, (process, variables) in trainings(project.folder).items():
                log = project.folder / f"logs/train/phantom/{name}/seed-00.log"
                if name not in held and words in log.read_text():
                    os.kill(process, signal.SIGSTOP)
                    held[name] = variables
            return len(held) == 2

        wait(both, f"two trainings say {words!r}")
        return held

    with (project.folder / "log").open("wb") as log:
        snakemake = subprocess.Popen(
            SNAKEMAKE,
            cwd=project.folder,
            env=project.environment(**environment),
            stdout=log,
            stderr=log,
        )
    try:
        held = hold_two("epoch 3/20")
        jobs = {name: variables["SLURM_JOB_ID"] for name, variables in held.items()}
        assert len(set(jobs.values())) == 2
        for job in map(slurm.job, jobs.values()):
            assert (job["Partition"], job["TresPerNode"]) == ("gpu", "gres:gpu:1")
            assert (job["NumCPUs"], job["MinMemoryNode"]) == ("1", "1000M")
        limits = [slurm.job(number)["TimeLimit"] for number in jobs.values()]
        assert sorted(limits) == ["00:30:00", "01:00:00"]
        assert {variables["CUDA_VISIBLE_DEVICES"] for variables in held.values()} == {"0", "1"}
        assert all('"device":"cpu"' in variables["DMF_EXECUTION"] for variables in held.values())

        def restarts() -> list[int]:
            return sorted(int(slurm.job(number)["Restarts"]) for number in jobs.values())

        slurm.ask(
            "sbatch",
            "--partition=urgent",
            "--gres=gpu:1",
            "--mem=100",
            "--wrap=true",
            "--output=/dev/null",
        )
        wait(lambda: restarts() == [0, 1], "one is preempted")
        (kept,) = (n for n in jobs.values() if slurm.job(n)["Restarts"] == "0")
        slurm.ask("scancel", kept)
        held = hold_two("continuing after epoch")
    finally:
        snakemake.kill()
        snakemake.wait()
    lost = [variables["SLURM_JOB_ID"] for variables in held.values()]
    before = {number: int(slurm.job(number)["Restarts"]) for number in lost}
    slurm.lose_node()
    wait(lambda: all(int(slurm.job(n)["Restarts"]) > before[n] for n in lost), "it is requeued")
    wait(lambda: not slurm.jobs(), "SLURM has run all")
    finished = project.runs()
    assert len(finished) == 3
    project.run("snakemake", "--unlock")
    project.snakemake("--", "train_phantom")
    assert project.runs() == finished

    (project.folder / "models").rename(project.folder / "models.cluster")
    project.snakemake("--", "train_phantom")
    for name in CONFIGURATIONS:
        for file in ("history.csv", "metrics.json", "model.safetensors", "best.safetensors"):
            here, there = (
                project.folder / models / "phantom" / name / "seed-00" / file
                for models in ("models", "models.cluster")
            )
            assert here.read_bytes() == there.read_bytes(), here


def test_missing_values_of_a_site_are_named_before_anything_is_submitted(tmp_path: Path) -> None:
    project = Project.copy(tmp_path)
    done = project.snakemake("--profile", "profiles/slurm", "-n", check=False)
    assert done.returncode == 1
    error = "error: profiles/slurm/site.yaml: not a valid site:\n"
    assert error + "  account: missing; this key is needed\n" in done.stdout


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partition": "nope"}, "partition = 'nope': this cluster has gpu, urgent"),
        ({"cpu_partition": "cpu"}, "cpu_partition = 'cpu': this cluster has gpu, urgent"),
        ({"trainings": 30}, "these trainings take 900 minutes one after the other, but partition "
                            "gpu allows 600"),
        ({"account": "lab"}, "account = 'lab' .*`sacctmgr .*accounting"),
        ({"status_command": "sacct"}, "status_command = 'sacct': `sacct .* disabled"),
        ({"gres": "gpu:a100:1"}, "--gres=gpu:a100:1 .* node configuration is not available"),
        ({"mem_mb": 17000}, "--mem=17000 .* node configuration is not available"),
        ({"constraint": "fast"}, "--constraint=fast .* Invalid feature"),
    ],
)  # fmt: skip
def test_values_that_the_cluster_refuses_are_named(
    values: dict[str, str | int],
    message: str,
    slurm: Slurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in slurm.environment().items():
        monkeypatch.setenv(name, value)
    accepted = read(fill_in(tmp_path, status_command="squeue"))
    assert check(accepted) == 600
    before = slurm.jobs()
    with pytest.raises(DmfError, match=message):
        check(read(fill_in(tmp_path, **{"status_command": "squeue", **values})))
    assert slurm.jobs() == before

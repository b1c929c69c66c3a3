"""Device slots: never two trainings on one, and none lost."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmf.errors import DmfError
from dmf.settings import Execution
from dmf.training.devices import device_names, lease, slot_folder, visible_devices

# Waits for a slot of the devices it is given, as `dmf train` does, and says which one it holds.
SLURM_JOB = """
import os, sys, time
from dmf.settings import Execution
from dmf.training.devices import device_names, lease
with lease(device_names(Execution(device="cuda")), 1) as name:
    print(os.environ["SLURM_JOB_ID"], name, flush=True)
    time.sleep(60)
"""

HOLDER = """
import sys, time
from pathlib import Path
from dmf.training.devices import lease
folder, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
with lease(["0", "1"], 2, folder) as name:
    with log.open("a") as stream:
        stream.write(f"start {name}\\n")
    time.sleep(seconds)
    with log.open("a") as stream:
        stream.write(f"end {name}\\n")
"""


@pytest.mark.parametrize(
    ("environment", "files", "expected"),
    [
        ({}, [], []),
        ({}, ["nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"], ["0", "2", "10"]),
        ({"CUDA_VISIBLE_DEVICES": "3,1"}, ["nvidia0"], ["3", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a/7/0"}, [], ["MIG-a/7/0"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["nvidia0"], []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ["nvidia0"], []),
    ],
)  # fmt: skip
def test_visible_devices(
    environment: dict[str, str], files: list[str], expected: list[str], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert visible_devices(environment, tmp_path) == expected


def test_execution_decides_between_cpu_and_cuda() -> None:
    two = {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert device_names(Execution(device="cpu"), two) == []
    assert device_names(Execution(device="auto"), two) == ["0", "1"]
    with pytest.raises(DmfError, match=r"execution\.device = 'cuda'.*no NVIDIA device"):
        device_names(Execution(device="cuda"), {"CUDA_VISIBLE_DEVICES": ""})


def test_devices_fill_evenly(tmp_path: Path) -> None:
    with lease(["0", "1"], 2, tmp_path) as a, lease(["0", "1"], 2, tmp_path) as b:
        assert {a, b} == {"0", "1"}
        with lease(["0", "1"], 2, tmp_path) as c, lease(["0", "1"], 2, tmp_path) as d:
            assert {c, d} == {"0", "1"}


def test_many_jobs_never_exceed_the_slots(tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [
        subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "slots"), str(log), "0.2"])
        for _ in range(9)
    ]
    assert [job.wait() for job in jobs] == [0] * 9
    held = {"0": 0, "1": 0}
    lines = log.read_text().splitlines()
    assert len(lines) == 18
    for line in lines:
        event, name = line.split()
        held[name] += 1 if event == "start" else -1
        assert held[name] <= 2


def test_a_killed_job_frees_its_slot(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "slots"), str(log), "60"]
    jobs = [subprocess.Popen(command) for _ in range(4)]
    deadline = time.monotonic() + 30
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(jobs[0].pid, signal.SIGKILL)
    jobs[0].wait()
    with lease(["0", "1"], 2, tmp_path / "slots") as name:
        assert name in ("0", "1")
    for job in jobs[1:]:
        job.kill()
        job.wait()


def slurm_job(number: int, device: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SLURM_JOB],
        env={
            **os.environ,
            "TMPDIR": str(folder),
            "SLURM_JOB_ID": str(number),
            "CUDA_VISIBLE_DEVICES": device,
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def test_jobs_of_slurm_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """SLURM gave each of them a GPU: two see theirs as number 0, the third by its real number."""
    jobs = [slurm_job(*given, tmp_path) for given in ((7, "0"), (8, "0"), (9, "1"))]
    try:
        said = [job.stdout.readline().split() for job in jobs if job.stdout]
        assert said == [["7", "0"], ["8", "0"], ["9", "1"]]
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_trainings_of_one_slurm_job_share_its_device(tmp_path: Path) -> None:
    """Also after a kill: the second takes the slot when, and only when, the first is gone."""
    first = slurm_job(7, "0", tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline().split() == ["7", "0"]
    second = slurm_job(7, "0", tmp_path)
    assert second.stdout is not None
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(2)
        assert select.select([second.stdout], [], [], 0) == ([], [], [])
        first.kill()
        assert second.stdout.readline().split() == ["7", "0"]
    finally:
        for job in (first, second):
            job.kill()
            job.communicate()


def test_slots_outside_slurm_are_shared_by_all_studies_of_a_user() -> None:
    assert slot_folder({}) == slot_folder({"CUDA_VISIBLE_DEVICES": "0"})
    assert slot_folder({"SLURM_JOB_ID": "7"}) != slot_folder({})

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
from dmf.training import devices
from dmf.training.cards import Card, query
from dmf.training.devices import (
    describe,
    device_names,
    lease,
    resolve,
    slot_folder,
    slots_per_device,
    visible_devices,
)

# Waits for a slot of the devices it is given, as `dmf train` does, and says which one it holds.
SLURM_JOB = """
import os, sys, time
from dmf.settings import Execution
from dmf.training import devices
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


GPU, OTHER = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-0a1b2c3d-0000-4106-c12f-20bd9faed9f6"


@pytest.mark.parametrize(
    ("value", "files", "expected"),
    [
        (None, [], []),
        (None, ["nvidiactl", "nvidia-uvm", "nvidia-caps"], []),
        (None, ["nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"], ["0", "1", "2"]),
        (None, ["nvidia3", "nvidiactl"], ["0"]),  # a container: CUDA counts from 0
        ("3,1", ["nvidia0"], ["3", "1"]),
        (" 3 , 01,1", [], ["3", "1"]),
        (GPU, ["nvidia0"], [GPU]),
        (f"{GPU},{OTHER}", [], [GPU, OTHER]),
        ("MIG-a/7/0", [], ["MIG-a/7/0"]),
        # Hidden by a scheduler or a person.
        ("", ["nvidia0"], []),
        ("-1", ["nvidia0"], []),
        ("NoDevFiles", ["nvidia0"], []),
        # CUDA ignores what is invalid, and all that follows.
        ("1,-1,0", [], ["1"]),
        ("1,,0", [], ["1"]),
        (f"1,{GPU}", [], ["1"]),
        (f"{GPU},1", [], [GPU]),
        (f"{GPU},MIG-a", [], [GPU]),
    ],
)
def test_visible_devices(
    value: str | None, files: list[str], expected: list[str], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert visible_devices(environment, tmp_path) == expected


def nvidia_smi(folder: Path, *rows: str, status: int = 0) -> dict[str, str]:
    """Return an environment in which `nvidia-smi` prints ``rows``."""
    program = folder / "bin/nvidia-smi"
    program.parent.mkdir()
    lines = "".join(f"echo '{row}'\n" for row in rows)
    program.write_text(f"#!/bin/sh\n{lines}exit {status}\n")
    program.chmod(0o755)
    return {"PATH": str(program.parent)}


def test_windows_shows_its_devices_by_one_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dxg").touch()
    windows = tmp_path / "wsl"
    monkeypatch.setattr("dmf.training.cards.WSL_FOLDER", str(windows))
    assert visible_devices({}, tmp_path) == []  # of another maker than NVIDIA
    windows.mkdir()
    (windows / "libcuda.so.1").touch()
    assert visible_devices({}, tmp_path) == ["0"]
    two = nvidia_smi(tmp_path, f"{GPU}, 8192, Default, [N/A]", f"{OTHER}, 8192, Default, [N/A]")
    assert visible_devices(two, tmp_path) == ["0", "1"]
    assert visible_devices({**two, "CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []


def test_what_nvidia_smi_says(tmp_path: Path) -> None:
    rows = (
        f"{GPU}, 81559, Default, Disabled",
        f"{OTHER}, 16384, Exclusive_Process, [N/A]",
        f"{OTHER}, 81559, Default, Enabled",  # the memory is that of all instances together
        f"{OTHER}, [N/A], Default, [N/A]",
        "No devices were found",
    )
    assert query(nvidia_smi(tmp_path, *rows)) == [
        Card(GPU, 81559, False),
        Card(OTHER, 16384, True),
        Card(OTHER, None, False),
        Card(OTHER, None, False),
    ]


def test_nvidia_smi_may_be_missing_or_fail(tmp_path: Path) -> None:
    assert query({"PATH": str(tmp_path)}) == []
    assert query(nvidia_smi(tmp_path, f"{GPU}, 81559, Default, Disabled", status=9)) == []


H100, T4 = Card(GPU, 81559, False), Card(OTHER, 15360, False)
SMALL = Card(OTHER, 6144, False)
ALONE = Card(OTHER, 81559, True)
UNKNOWN = Card(GPU, None, False)


@pytest.mark.parametrize(
    ("cores", "threads", "names", "found", "expected"),
    [
        (64, 1, ["0"], [H100], 8),
        (64, 1, ["0"], [SMALL], 4),
        (16, 1, ["0", "1", "2", "3"], [H100] * 4, 4),
        (16, 4, ["0", "1"], [H100] * 2, 2),
        (2, 1, ["0"], [H100], 2),
        (1, 1, ["0", "1"], [H100] * 2, 1),
        (64, 1, ["0"], [Card(GPU, 900, False)], 1),
        (64, 1, ["0"], [ALONE], 1),
        # Nothing is known, or only of the whole card.
        (64, 1, ["0"], [], 2),
        (64, 1, ["0"], [UNKNOWN], 2),
        (64, 1, ["MIG-a"], [H100], 2),
        # CUDA's numbers are not nvidia-smi's: the smallest card decides, unless a name says which.
        (64, 1, ["0"], [H100, SMALL], 4),
        (64, 1, [GPU], [H100, SMALL], 8),
        (64, 1, [GPU[:12]], [H100, ALONE], 8),
        (64, 1, [GPU, OTHER], [H100, T4, ALONE], 1),
    ],
)
def test_slots_follow_from_cores_and_memory(
    cores: int,
    threads: int,
    names: list[str],
    found: list[Card],
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dmf.training.devices.cores", lambda: cores)
    assert slots_per_device(Execution(threads=threads), names, found) == expected
    assert slots_per_device(Execution(threads=threads, slots=5), names, found) == 5


def test_slots_are_resolved_once_and_mean_nothing_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmf.training.devices.cores", lambda: 6)
    environment = nvidia_smi(tmp_path, f"{GPU}, 81559, Default, Disabled")
    monkeypatch.setenv("PATH", environment["PATH"])
    resolved = resolve(Execution(), ["0", "1"])
    assert resolved.slots == 3
    passed_on = Execution.model_validate_json(resolved.model_dump_json())
    monkeypatch.setattr("dmf.training.devices.cores", lambda: 1)  # a job sees fewer
    assert slots_per_device(passed_on, ["0", "1"]) == 3
    assert resolve(Execution(), []).slots == "auto"
    for wrong in (0, -1, True, "many", 2.0):
        with pytest.raises(ValueError, match="neither auto nor a number of 1 or more"):
            Execution.model_validate({"slots": wrong})


def test_where_trainings_run_in_words() -> None:
    assert describe([], 0) == "the CPU"
    assert describe(["0"], 8) == "GPU 0 (8 at a time)"
    assert describe(["0", "1"], 2) == "GPU 0, 1 (2 at a time on each)"


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


def test_locks_of_different_names_are_different_files(tmp_path: Path) -> None:
    names = ["MIG-a/7/0", "MIG-a_7_0", "../0", "0"]
    for name in names:
        with lease([name], 1, tmp_path) as held:
            assert held == name
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(names)
    assert {path.parent for path in files} == {tmp_path}


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_folder_of_slots_that_is_another_users_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes it first in a shared /tmp would else hold every slot."""
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(DmfError, match="Set TMPDIR"), lease(["0"], 1, tmp_path):
        pass


def test_a_long_wait_for_a_slot_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SECONDS_UNTIL_SAID", 0)

    class Told(Exception):  # noqa: N818 - ends the wait
        pass

    def say(line: str) -> None:
        raise Told(line)

    with (
        lease(["0"], 1, tmp_path),
        pytest.raises(Told, match=f"1 slots of GPU 0 .*{tmp_path}"),
        lease(["0"], 1, tmp_path, log=say),
    ):
        pass

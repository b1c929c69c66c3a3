"""Which device a training may use: at most `slots` trainings share one GPU.

A slot is a file lock, so the kernel frees it when its process ends, however it ends. Nothing here
imports torch: the workflow asks for the number of devices before any training starts.
"""

import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dmf.errors import DmfError
from dmf.settings import Execution

POLL_SECONDS = 0.2


def visible_devices(
    environment: Mapping[str, str] = os.environ, device_folder: Path = Path("/dev")
) -> list[str]:
    """Return the names of the NVIDIA devices this process may use, none on other machines.

    `CUDA_VISIBLE_DEVICES` is honoured, also when it is empty, as a scheduler sets it.
    """
    if "CUDA_VISIBLE_DEVICES" in environment:
        names = environment["CUDA_VISIBLE_DEVICES"].split(",")
        return [name.strip() for name in names if name.strip() not in ("", "-1")]
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in device_folder.glob("nvidia*"))
    return sorted((match[1] for match in found if match), key=int)


def device_names(execution: Execution, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the devices a study may use under ``execution``: none means the CPU.

    Raises DmfError if `execution.device` asks for CUDA and there is none.
    """
    if execution.device == "cpu":
        return []
    names = visible_devices(environment)
    if execution.device == "cuda" and not names:
        raise DmfError(
            "execution.device = 'cuda', but no NVIDIA device is visible. Use auto or cpu, or check "
            "the driver and CUDA_VISIBLE_DEVICES."
        )
    return names


def slot_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of this machine's slot locks, shared by all studies of a user.

    A job of SLURM has a folder of its own: nobody else may use its devices, and where they are
    confined every job calls its first one 0.
    """
    job = environment.get("SLURM_JOB_ID")
    name = f"dmf-device-slots-{os.getuid()}" + (f"-slurm-{job}" if job else "")
    return Path(tempfile.gettempdir()) / name


@contextmanager
def lease(names: Sequence[str], slots: int, folder: Path | None = None) -> Iterator[str]:
    """Hold one slot of one of the devices ``names`` while the block runs; yield the device's name.

    Waits until a slot is free. Devices fill evenly: no device gets a second training while another
    has none.
    """
    folder = folder or slot_folder()
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for slot in range(slots):
            for name in names:
                lock = FileLock(folder / f"{name.replace('/', '_')}.{slot}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                try:
                    yield name
                finally:
                    lock.release()
                return
        time.sleep(POLL_SECONDS)

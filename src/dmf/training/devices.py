"""Which device a training may use, and how many trainings share one GPU.

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
from urllib.parse import quote

from filelock import FileLock, Timeout

from dmf.errors import DmfError, Log
from dmf.files import make_folder
from dmf.settings import Execution
from dmf.training import cards

POLL_SECONDS = 0.2
SECONDS_UNTIL_SAID = 10
# `slots: auto`: beyond eight, one GPU computes without a pause; see docs/cluster.md.
MOST_SLOTS = 8
SLOTS_IF_MEMORY_IS_UNKNOWN = 2
SLOT_MEMORY_MB = 1500  # 700 of the paper's training, and as much again for CUDA and its libraries


def visible_devices(
    environment: Mapping[str, str] = os.environ, device_folder: Path = Path("/dev")
) -> list[str]:
    """Return the names of the NVIDIA devices this process may use, none on other machines.

    They are those that `CUDA_VISIBLE_DEVICES` takes. Where that is set it decides, also when it is
    empty, as a scheduler sets it. Elsewhere they are CUDA's own numbers, from 0: a container that
    is given /dev/nvidia3 alone knows it as 0.
    """
    if "CUDA_VISIBLE_DEVICES" in environment:
        return _named(environment["CUDA_VISIBLE_DEVICES"])
    nodes = (re.fullmatch(r"nvidia\d+", path.name) for path in device_folder.glob("nvidia*"))
    count = sum(1 for node in nodes if node)
    if not count and (device_folder / "dxg").exists():
        count = _devices_of_windows(environment)
    return [str(number) for number in range(count)]


def _named(value: str) -> list[str]:
    """Return the devices that a value of CUDA_VISIBLE_DEVICES names, by the rules of CUDA.

    An invalid entry ends the list, and so does one of another form than the first (numbers, GPU-,
    MIG-). A device that is named twice counts once.
    """
    names: list[str] = []
    for entry in map(str.strip, value.split(",")):
        number = re.match(r"\+?(\d+)", entry)  # what follows the digits does not count
        name = str(int(number[1])) if number else entry
        form = _form(name)
        if form not in ("number", "GPU-", "MIG-") or form != _form((*names, name)[0]):
            break
        names.append(name)
    return list(dict.fromkeys(names))


def _form(name: str) -> str:
    return "number" if name.isdigit() else name[:4]


def _devices_of_windows(environment: Mapping[str, str]) -> int:
    """Return how many NVIDIA devices WSL2 has: its one node stands for GPUs of every maker."""
    return len(cards.query(environment)) or int(Path(cards.WSL_FOLDER, "libcuda.so.1").exists())


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


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slots_per_device(
    execution: Execution, names: Sequence[str], found: Sequence[cards.Card] | None = None
) -> int:
    """Return how many trainings share each of the devices ``names``.

    `auto` follows from what a training needs, a core of the host for each of its threads and
    memory of the GPU. ``found`` replaces what `nvidia-smi` says.
    """
    if execution.slots != "auto":
        return execution.slots
    found = cards.query() if found is None else found
    # CUDA's numbers need not be those of nvidia-smi: then the smallest card decides for all.
    used = [card for card in found if card.uuid.startswith(tuple(names))] or found
    if any(card.exclusive for card in used):
        return 1
    memory = [card.memory_mb for card in used if card.memory_mb is not None]
    if memory and len(memory) == len(used) and not any(name.startswith("MIG-") for name in names):
        by_memory = min(memory) // SLOT_MEMORY_MB
    else:
        by_memory = SLOTS_IF_MEMORY_IS_UNKNOWN
    by_cores = cores() // (execution.threads * len(names))
    return max(1, min(MOST_SLOTS, by_memory, by_cores))


def resolve(execution: Execution, names: Sequence[str]) -> Execution:
    """Return ``execution`` with the number that `slots: auto` stands for on the devices ``names``.

    The workflow passes it on, so that each training counts the slots as the workflow does.
    """
    if not names:
        return execution
    return execution.model_copy(update={"slots": slots_per_device(execution, names)})


def describe(names: Sequence[str], slots: int) -> str:
    """Return in words where trainings run: "the CPU", or the devices and how many share each."""
    if not names:
        return "the CPU"
    return f"GPU {', '.join(names)} ({slots} at a time{' on each' if len(names) > 1 else ''})"


def slot_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of this machine's slot locks, shared by all studies of a user.

    A job of SLURM has a folder of its own: nobody else may use its devices, and where they are
    confined every job calls its first one 0.
    """
    job = environment.get("SLURM_JOB_ID")
    name = f"dmf-device-slots-{os.getuid()}" + (f"-slurm-{job}" if job else "")
    return Path(tempfile.gettempdir()) / name


@contextmanager
def lease(
    names: Sequence[str], slots: int, folder: Path | None = None, log: Log | None = None
) -> Iterator[str]:
    """Hold one slot of one of the devices ``names`` while the block runs; yield the device's name.

    Waits until a slot is free. Devices fill evenly: no device gets a second training while another
    has none. ``log`` is told of a long wait. Raises DmfError if the folder of the locks is another
    user's, or cannot be made.
    """
    folder = folder or slot_folder()
    make_folder(folder)
    if folder.stat().st_uid != os.getuid():
        raise DmfError(
            f"{folder}: this folder for your slots belongs to somebody else. Set TMPDIR to a "
            "folder of your own."
        )
    begin, said = time.monotonic(), False
    while True:
        for slot in range(slots):
            for name in names:
                lock = FileLock(folder / f"{quote(name, safe='')}.{slot}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                try:
                    yield name
                finally:
                    lock.release()
                return
        if log and not said and time.monotonic() - begin > SECONDS_UNTIL_SAID:
            taken = f"{slots * len(names)} slots of {describe(names, slots)} are taken"
            log(f"waiting: the {taken} (locks in {folder})")
            said = True
        time.sleep(POLL_SECONDS)

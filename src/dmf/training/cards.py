"""What `nvidia-smi` says about the GPUs of this machine, without torch and without CUDA."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

FIELDS = ("uuid", "memory.total", "compute_mode", "mig.mode.current")
WSL_FOLDER = "/usr/lib/wsl/lib"  # where Windows puts its driver's files, in WSL2
TIMEOUT_SECONDS = 30.0  # a broken driver can keep nvidia-smi waiting for ever


@dataclass(frozen=True)
class Card:
    """One GPU. ``memory_mb`` is None where it is unknown, or divided into MIG instances."""

    uuid: str
    memory_mb: int | None
    exclusive: bool


def query(environment: Mapping[str, str] = os.environ) -> list[Card]:
    """Return the GPUs of this machine, the hidden ones too.

    Empty where there is no `nvidia-smi`, or where it fails: an answer is a help, never needed.
    """
    command = shutil.which("nvidia-smi", path=f"{environment.get('PATH', '')}:{WSL_FOLDER}")
    if command is None:
        return []
    try:
        done = subprocess.run(
            [command, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines()]
    return [_card(*row) for row in rows if len(row) == len(FIELDS)]


def _card(uuid: str, memory: str, mode: str, mig: str) -> Card:
    known = memory.isdigit() and mig != "Enabled"
    return Card(uuid, int(memory) if known else None, mode == "Exclusive_Process")

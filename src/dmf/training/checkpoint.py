"""Checkpoints of a run that is still training, under `.checkpoints/`.

Each is a safetensors file and a JSON file that names its hash; the JSON is written last, so a
checkpoint is whole or not there. The two newest are kept: if one is damaged, the other serves.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise

from dmf.errors import Log
from dmf.files import sha256_file, write_bytes, write_json

KEPT = 2


@dataclass
class Progress:
    """How far a run has come, besides the tensors.

    ``epochs`` are finished ones; ``history`` and ``timing`` hold their rows; ``settling`` the
    scores by subset of each of the last fifth of the epochs; ``best_epoch`` is the earliest of the
    highest validation CB-Dice, or 0; ``devices`` says from which epoch on which device trained;
    ``seconds`` went into the epoch that is not finished.
    """

    epochs: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    timing: list[dict[str, float]] = field(default_factory=list)
    settling: list[dict[str, dict[str, float]]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -1.0
    devices: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def save(
    folder: Path,
    key: str,
    progress: Progress,
    state: dict[str, torch.Tensor],
    best: dict[str, torch.Tensor],
) -> None:
    """Write a checkpoint and drop all but the newest ``KEPT``."""
    number = int(_newest_first(folder)[0].stem) + 1 if _newest_first(folder) else 0
    tensors = {f"state.{name}": value for name, value in state.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    path = folder / f"{number:06d}.safetensors"
    write_bytes(path, serialise(tensors))
    record = {"key": key, "sha256": sha256_file(path), "progress": asdict(progress)}
    write_json(path.with_suffix(".json"), record)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load(
    folder: Path, key: str, log: Log = print
) -> tuple[Progress, dict[str, torch.Tensor], dict[str, torch.Tensor]] | None:
    """Return progress, state and best weights of the newest sound checkpoint of run ``key``.

    Damaged checkpoints are reported and passed over; those of another key (other parameters, data
    or code) are of no use. None if there is nothing to continue from.
    """
    for path in _newest_first(folder):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            tensors_path = path.with_suffix(".safetensors")
            if record["key"] != key:
                continue
            if sha256_file(tensors_path) != record["sha256"]:
                raise ValueError("its bytes do not match their hash")
            tensors = load_file(tensors_path)
            progress = Progress(**record["progress"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log(f"checkpoint {path} is damaged ({error}); trying the one before it")
            continue
        state = _strip(tensors, "state.")
        return progress, state, _strip(tensors, "best.")
    return None


def discard(folder: Path) -> None:
    """Remove a run's checkpoints; the folders above them may be those of trainings that start."""
    shutil.rmtree(folder, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.json"), reverse=True)


def _strip(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}

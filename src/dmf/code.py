"""Which source files shape the result of each step, and their hash.

Snakemake and DVC rerun a step when its files change; a run key holds the hash of the training's.
The command line, `study.py`, `settings.py` and what only moves files around are not among them.
"""

import hashlib
from pathlib import Path

STEP_FILES = {
    "download": [
        "data/archives.py",
        "data/duplicates.py",
        "data/origins.py",
        "data/phantom.py",
        "data/raw.py",
        "data/readers.py",
        "data/sources.py",
        "data/transfer.py",
    ],
    "filter": ["data/arrays.py", "data/filtering.py", "data/raw.py"],
    "split": ["data/splits.py"],
    "train": [
        "convolution.py",
        "fusion.py",
        "losses.py",
        "metrics.py",
        "training/engine.py",
        "unet.py",
    ],
    "aggregate": ["analysis/results.py"],
    "card": ["data/cards.py"],
    "report": ["analysis"],
}

_PACKAGE = Path(__file__).parent


def step_files(step: str) -> list[Path]:
    """Return the files of ``step``, sorted, relative to the package."""
    files: set[Path] = set()
    for name in STEP_FILES[step]:
        path = _PACKAGE / name
        found = path.rglob("*") if path.is_dir() else [path]
        files |= {
            f.relative_to(_PACKAGE) for f in found if f.is_file() and "__pycache__" not in f.parts
        }
    return sorted(files)


def code_hash(step: str) -> str:
    """Return the SHA-256 of the names and bytes of the files of ``step``."""
    digest = hashlib.sha256()
    for path in step_files(step):
        content = (_PACKAGE / path).read_bytes()
        digest.update(f"{path.as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()

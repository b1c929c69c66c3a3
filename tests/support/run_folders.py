"""Complete run folders with true keys and hashes, without a training."""

from pathlib import Path

from dmf.files import sha256_file, write_json
from dmf.layout import Cell
from dmf.study import Study
from dmf.training.run_record import Run

MODELS = ("model.safetensors", "best.safetensors")


def write_inputs(run: Run) -> None:
    """Write what the key of ``run`` needs of data and split, in the current folder."""
    write_json(run.cell.arrays, {"sha256": "0" * 64})
    run.cell.split.parent.mkdir(parents=True, exist_ok=True)
    run.cell.split.write_text("id,subset\n")


def write_run(study: Study, seed: int, *, text: str = "") -> Run:
    """Write a run of configuration `fixed` and what it needs; ``text`` is in each of its files."""
    run = Run(Cell("phantom", "fixed", seed), study.run_parameters("fixed"))
    write_inputs(run)
    run.cell.folder.mkdir(parents=True, exist_ok=True)
    for name in ("history.csv", *MODELS):
        (run.cell.folder / name).write_text(f"{name} {text}")
    write_record(run)
    return run


def write_record(run: Run, *more: str) -> None:
    """Write `run.json` and `metrics.json`, which also name the files ``more``."""
    outcome = {"status": "complete", "epochs": run.parameters.training.epochs}
    names = ("history.csv", *MODELS, *more)
    write_json(
        run.cell.folder / "run.json",
        {
            "key": run.key(),
            "parameters": run.parameters.model_dump(),
            "hashes": run.hashes(),
            "files": {name: sha256_file(run.cell.folder / name) for name in names},
            "outcome": outcome,
        },
    )
    write_json(run.cell.folder / "metrics.json", outcome)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below ``folder`` with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

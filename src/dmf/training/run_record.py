"""Which result a run folder holds: its key, its provenance, and whether it is complete.

`models/<set>/<configuration>/seed-NN/` is complete when its `run.json` is there and names the
hashes of the files beside it. `metrics.json`, which Snakemake and DVC know of, repeats the outcome
and is written last. Nothing here imports torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmf.errors import DmfError
from dmf.files import read_json, sha256_file, sha256_json
from dmf.layout import BEST_MODEL, COUNTS, HISTORY, LAST_MODEL, RECORD, Cell, cells
from dmf.provenance import code_hash, code_version, versions
from dmf.records import RunRecord
from dmf.study import RunParameters, Study

MODELS = (LAST_MODEL, BEST_MODEL)


@dataclass(frozen=True)
class Run:
    """One training: its place in the study, what shapes it, and the key of its result."""

    cell: Cell
    parameters: RunParameters

    def hashes(self) -> dict[str, str]:
        """Return the hashes of data, split and code.

        Raises DmfError if an input is missing or does not say its hash.
        """
        split, arrays, dataset = self.cell.split, self.cell.arrays, self.cell.dataset
        if not split.exists():
            raise DmfError(
                f"{split} does not exist. The study's `snakemake` command makes it: target "
                f"split_{dataset}."
            )
        match read_json(arrays):
            case {"sha256": str(sha256)}:
                return {
                    "arrays": sha256,
                    "split": sha256_file(split),
                    "code": code_hash("train"),
                }
        raise DmfError(
            f"{arrays} names no sha256: it is damaged. Delete it; the study's `snakemake` "
            "command makes it again."
        )

    def key(self) -> str:
        """Return the run key: the hash of everything that the result follows from.

        Raises DmfError as :meth:`hashes` does.
        """
        return sha256_json(
            {"seed": self.cell.seed, "parameters": key_parameters(self.parameters), **self.hashes()}
        )

    def provenance(self, key: str, *, initial_weights: str, batch_order: str) -> dict[str, Any]:
        """Return what the record of the run says of where its result comes from."""
        return {
            "key": key,
            "dataset": self.cell.dataset,
            "configuration": self.cell.configuration,
            "seed": self.cell.seed,
            "parameters": self.parameters.model_dump(),
            "hashes": {
                **self.hashes(),
                "initial_weights": initial_weights,
                "batch_order": batch_order,
            },
            **code_version(),
            "versions": versions(),
        }


def runs(study: Study) -> list[Run]:
    """Return every run of the study, in the order of its cells."""
    return [Run(cell, study.run_parameters(cell.configuration)) for cell in cells(study.grid)]


def key_parameters(parameters: RunParameters) -> dict[str, Any]:
    """Return what a run key holds of ``parameters``: all that is not at its default.

    So a new option, whose default is what was always done, makes no old run foreign. The price: the
    default of an option that shapes a run must never change afterwards, or old runs would be
    adopted as what they are not. Another value belongs into params.yaml;
    tests/training/test_run_record.py holds the defaults. What the values mean is the code's
    business, and its hash is in the key as well; what the machine makes of `precision: auto` is
    not, so that a study moves between machines.
    """
    return parameters.model_dump(mode="json", exclude_defaults=True)


def complete_record(
    folder: Path, key: str | None = None, *, models: bool = True
) -> dict[str, Any] | None:
    """Return the record of a complete run folder, or None; whatever lies there, nothing is raised.

    Complete means: `run.json` is there, has ``key`` (any, if None), names the files that such an
    outcome has and no others, and each has the hash it names. Without ``models`` the weights may be
    missing, as they are in what is published.
    """
    record = read_record(folder)
    if record is None or key not in (None, record["key"]):
        return None
    finished = record["outcome"]["status"] == "complete"
    required = {HISTORY, *(MODELS if finished else ())}
    if not required <= record["files"].keys() <= {*required, COUNTS}:
        return None
    checked = {n: value for n, value in record["files"].items() if models or n not in MODELS}
    try:
        # A device or a pipe would be read for ever.
        sound = all(
            (folder / name).is_file() and sha256_file(folder / name) == value
            for name, value in checked.items()
        )
    except OSError:
        return None
    return record if sound else None


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a run folder, of whatever parameters, or None if it is unreadable.

    A run that still goes on has none: its outcome is missing.
    """
    try:
        return RunRecord.read(folder / RECORD)
    except DmfError:
        return None


def same_parameters(run: Run, record: dict[str, Any]) -> bool:
    """Return whether a record has the parameters of ``run``, as a run key holds them."""
    try:
        recorded = RunParameters.model_validate(record.get("parameters"))
    except ValueError:
        return False
    return key_parameters(recorded) == key_parameters(run.parameters)


def misfits(run: Run, record: dict[str, Any]) -> list[str]:
    """Return what of a record is not what ``run`` would train with; empty if the key fits.

    Raises DmfError if an input of ``run`` is missing or damaged.
    """
    if record["key"] == run.key():
        return []
    found = []
    if not same_parameters(run, record):
        found.append("parameters")
    hashes = record.get("hashes")
    recorded = hashes if isinstance(hashes, dict) else {}
    names = {"arrays": "data", "split": "split", "code": "code"}
    found += [names[n] for n, value in run.hashes().items() if recorded.get(n) != value]
    return found or ["key"]

"""Run folders in MLflow's terms: metrics, parameters and tags of finished and running trainings."""

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmf.errors import DmfError
from dmf.files import read_json, sha256_file
from dmf.layout import HISTORY, RECORD, Cell
from dmf.outcomes import EVALUATIONS, SUBSETS
from dmf.records import Outcome, RunRecord, trained_on

Row = dict[str, float]
Point = tuple[int, int, Mapping[str, float]]  # time in ms since 1970, step, metrics

# MLflow's user interface folds metrics by what stands before a slash.
_SECTIONS = re.compile(r"^(loss|weighted|weight|validation|test|batch_loss)_")
_PLACES = {"total": "loss/total", "gamma": "weight/gamma"}


def live_key(cell: Cell) -> str | None:
    """Return the run key of the training that goes on in ``cell``, or None."""
    if cell.metrics.exists() or not (cell.live_folder / HISTORY).exists():
        return None
    try:
        key: str = read_json(cell.live_folder / RECORD)["key"]
    except DmfError:
        return None  # it has just ended and taken its live copy away
    return key


@dataclass(frozen=True)
class Finished:
    """A finished run; ``version`` changes with its key and its numbers."""

    cell: Cell
    record: dict[str, Any]
    outcome: dict[str, Any]
    version: str

    @classmethod
    def read(cls, cell: Cell) -> "Finished":
        """Read the folder of a finished run; raises DmfError if it is damaged."""
        run, metrics = cell.record, cell.metrics
        record, outcome = RunRecord.read(run), Outcome.read(metrics)
        for path, value, names in (
            (run, record, {"key", "parameters", "hashes"}),
            (metrics, outcome, {"status", "last", "best"}),
        ):
            if not isinstance(value, dict) or not names <= set(value):
                raise DmfError(
                    f"{path} is not the record of a run. Delete {cell.folder} and train it again."
                )
        return cls(cell, record, outcome, f"{record['key']}-{sha256_file(metrics)[:12]}")

    @property
    def diverged(self) -> bool:
        return bool(self.outcome["status"] != "complete")

    def history(self) -> list[Row]:
        """Return the rows of `history.csv`, one per epoch."""
        return read_rows(self.cell.history)

    def span(self) -> tuple[int, int]:
        """Return when the training began and ended, in ms since 1970.

        The record says when it ended, or in an older study its date; `timing.csv` says how long it
        took, breaks aside.
        """
        end = self.record.get("ended") or self.cell.record.stat().st_mtime
        return round(1000 * (end - sum(self.seconds()))), round(1000 * end)

    def times(self, epochs: int) -> list[int]:
        """Return when each epoch ended, in ms since 1970."""
        _, end = self.span()
        seconds = (self.seconds() + [0.0] * epochs)[:epochs]
        return [round(end - 1000 * sum(seconds[i + 1 :])) for i in range(epochs)]

    def seconds(self) -> list[float]:
        """Return how long each epoch took; empty if that was not kept."""
        return [row.get("seconds", 0.0) for row in read_rows(self.cell.timing)]

    def metrics(self) -> dict[str, float]:
        """Return the pooled metrics of every evaluation; none if the run diverged.

        Outside any section, and thus first, are those of the test subset, `test_dice`, and
        `best_epoch` and `training_seconds`; then `train/dice`, `validation/dice`, and
        `test_best/dice` and so on for the other evaluations of `dmf.outcomes`.
        """
        if self.diverged:
            return {}
        last, best = self.outcome["last"], self.outcome["best"]
        places = {"test_": last["test"], "train/": last["train"], "validation/": last["validation"]}
        for name in EVALUATIONS[1:]:
            scores = self.outcome.get(name) or {}
            places |= {f"{s}_{name}/": scores[s] for s in SUBSETS if s in scores}
        found = {
            place + name: value
            for place, scores in places.items()
            for name, value in scores.items()
            if not name.startswith(("image_", "batch_"))
        }
        seconds = self.seconds()
        timed = {"training_seconds": sum(seconds)} if seconds else {}
        return found | {"best_epoch": best["epoch"]} | timed

    def parameters(self) -> dict[str, str]:
        """Return the parameters as `section.key` → text; what is not set is left out."""
        return _flatten(self.record["parameters"])

    def tags(self) -> dict[str, str]:
        """Return where the run comes from and how it ended."""
        record = self.record
        tags = {
            "status": self.outcome["status"],
            "synthetic": text(self.outcome.get("synthetic")),
            "run_key": record["key"],
            "version": self.version,
            "commit": text(record.get("commit")),
            "uncommitted_changes": text(record.get("dirty")),
            "folder": self.cell.folder.as_posix(),
            "device": text(trained_on(record)),
            "precision": text(record.get("precision")),
        }
        tags |= {f"{name}_sha256": text(value) for name, value in record["hashes"].items()}
        tags |= {f"{name}_version": text(v) for name, v in record.get("versions", {}).items()}
        if record.get("commit"):
            tags["mlflow.source.git.commit"] = record["commit"]
        if self.outcome.get("diverged"):
            where = self.outcome["diverged"]
            tags["diverged_at"] = ", ".join(f"{name} {value}" for name, value in where.items())
        return tags


def read_rows(path: Path) -> list[Row]:
    """Read a table of numbers by epoch; empty if there is no such file.

    Raises DmfError if it is not such a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(stream)
            ]
        if any("epoch" not in row for row in rows):
            raise ValueError("a row without epoch")
    except FileNotFoundError:
        return []
    except (OSError, TypeError, ValueError) as error:
        raise DmfError(
            f"{path} is not a table of numbers ({error}). Delete {path.parent} and train it again."
        ) from None
    return rows


def epoch_metrics(row: Row) -> dict[str, float]:
    """Return a row of `history.csv` by section: `loss_dice` becomes `loss/dice`.

    Values that are not finite are left out.
    """
    return {
        _PLACES.get(name) or _SECTIONS.sub(r"\1/", name): value
        for name, value in row.items()
        if name != "epoch" and math.isfinite(value)
    }


def text(value: Any) -> str:
    """Return ``value`` as MLflow keeps it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, part in value.items():
        if isinstance(part, Mapping):
            flat |= _flatten(part, f"{prefix}{key}.")
        elif part is not None:
            flat[prefix + key] = text(part)
    return flat

"""One run from its inputs to its folder: adopt it, continue it, or train it.

`models/<set>/<configuration>/seed-NN/` is complete when its `run.json` is there and names the
hashes of the files beside it. `metrics.json`, which Snakemake and DVC know of, repeats the outcome
and is written last.
"""

import csv
import importlib.metadata
import io
import json
import os
import platform
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dmf.code import code_hash
from dmf.errors import DmfError
from dmf.files import (
    read_json,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
    write_text,
)
from dmf.settings import Execution
from dmf.study import SUBSETS, RunParameters, run_folder, split_file
from dmf.training import devices

if TYPE_CHECKING:
    import torch

    from dmf.data.arrays import Arrays
    from dmf.training.checkpoint import Progress
    from dmf.training.engine import Engine


TIMING_COLUMNS = ("epoch", "seconds", "images_per_second")


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop and has saved a checkpoint; ``signal`` says by what."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


@dataclass(frozen=True)
class Run:
    """One cell of the study: where its inputs and outputs are, and the key of its result."""

    dataset: str
    configuration: str
    seed: int
    parameters: RunParameters

    @property
    def folder(self) -> Path:
        return run_folder(self.dataset, self.configuration, self.seed)

    @property
    def live_folder(self) -> Path:
        return Path(".checkpoints") / self.folder.relative_to("models")

    @property
    def arrays_file(self) -> Path:
        return Path("data/filtered") / f"{self.dataset}.json"

    @property
    def split_file(self) -> Path:
        return split_file(self.dataset, self.seed)

    def hashes(self) -> dict[str, str]:
        """Return the hashes of data, split and code; raises DmfError if an input is missing."""
        split = self.split_file
        if not split.exists():
            raise DmfError(f"{split} does not exist. Make it with: snakemake split_{self.dataset}")
        return {
            "arrays": read_json(self.arrays_file)["sha256"],
            "split": sha256_file(split),
            "code": code_hash("train"),
        }

    def key(self) -> str:
        """Return the run key: the hash of everything that the result follows from."""
        return sha256_json(
            {"seed": self.seed, "parameters": self.parameters.model_dump(), **self.hashes()}
        )


def train(run: Run, execution: Execution, report: Callable[[str], None] = print) -> str:
    """Make the folder of ``run`` complete; return "adopted", "complete" or "diverged".

    A second process that wants the same run waits for the first and adopts its result.
    Raises DmfError for missing or damaged inputs and exhausted resources, Interrupted on SIGTERM
    or SIGINT after a checkpoint was saved.
    """
    with _alone(run, report):
        key = run.key()
        record = complete_record(run.folder, key)
        if record is not None:
            write_json(run.folder / "metrics.json", record["outcome"])
            report(f"{run.folder}: already complete for these parameters, data and code; adopted")
            return "adopted"
        names = devices.device_names(execution)
        if not names:
            return _train_on("cpu", run, key, execution, report)
        with devices.lease(names, execution.slots) as name:
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return _train_on("cuda", run, key, execution, report)


def complete_record(folder: Path, key: str | None = None) -> dict[str, Any] | None:
    """Return the record of a complete run folder, or None.

    Complete means: `run.json` is there, has ``key`` (any, if None), and every file it names has the
    hash it names.
    """
    try:
        record: dict[str, Any] = read_json(folder / "run.json")
        if key is not None and record["key"] != key:
            return None
        sound = all(sha256_file(folder / n) == value for n, value in record["files"].items())
        return record if sound and "outcome" in record else None
    except (DmfError, OSError, KeyError):
        return None


def _train_on(
    device_type: str, run: Run, key: str, execution: Execution, report: Callable[[str], None]
) -> str:
    # cuBLAS reads this when CUDA starts; without it deterministic mode refuses to multiply.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from dmf.data.arrays import read_arrays
    from dmf.training import checkpoint, engine

    device = torch.device(device_type)
    precision = engine.resolve_precision(run.parameters.training.precision, device)
    engine.configure(device, execution.threads, precision)
    arrays = read_arrays(run.arrays_file)
    subsets = _read_subsets(run, arrays)
    with _memory_errors_explained(run):
        runner = engine.Engine(
            run.parameters,
            arrays.filtered,
            arrays.masks,
            arrays.classes,
            subsets["train"],
            seed=run.seed,
            device=device,
            precision=precision,
        )
        record = _provenance(run, key, runner, precision, execution, arrays.synthetic)
        write_json(run.live_folder / "run.json", record)
        found = checkpoint.load(run.live_folder, key, report)
        progress = checkpoint.Progress()
        best: dict[str, torch.Tensor] = {}
        if found is not None:
            progress, state, best = found
            runner.load_state(state)
            report(f"{run.folder}: continuing after epoch {progress.epochs}")
        report(
            f"{run.folder}: {len(subsets['train'])} training images, {device.type} {precision}, "
            f"{execution.threads} threads"
        )
        outcome = _loop(
            run, key, runner, progress, best, subsets, arrays.synthetic, execution, report
        )
    weights = {"model.safetensors": runner.weights(), "best.safetensors": best}
    _publish(run, record, outcome, progress, _history_columns(runner), weights, arrays.classes)
    checkpoint.discard(run.live_folder)
    status: str = outcome["status"]
    return status


def _loop(
    run: Run,
    key: str,
    runner: "Engine",
    progress: "Progress",
    best: "dict[str, torch.Tensor]",
    subsets: dict[str, Any],
    synthetic: bool,
    execution: Execution,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Train to the last epoch; returns the outcome. ``progress`` and ``best`` are updated."""
    from dmf.metrics import FOREGROUND_METRICS, METRICS
    from dmf.training import checkpoint

    epochs = run.parameters.training.epochs
    columns = _history_columns(runner)

    def save() -> None:
        checkpoint.save(run.live_folder, key, progress, runner.state(), best)

    def outcome(status: str, **parts: Any) -> dict[str, Any]:
        return {
            "status": status,
            "epochs": progress.epochs,
            "synthetic": synthetic,
            "last": None,
            "best": None,
            "diverged": None,
            **parts,
        }

    started = time.perf_counter()
    done_before = progress.epochs
    with _signals() as stopped:
        for epoch in range(progress.epochs + 1, epochs + 1):
            begin = time.perf_counter()
            steps = runner.run_epoch(epoch, lambda: stopped() is not None)
            if steps is None:
                save()
                number = stopped()
                assert number is not None
                raise Interrupted(number)
            divergence = steps.first_divergence()
            if divergence is not None:
                batch, loss = divergence
                where = f"epoch {epoch}, batch {batch}"
                report(f"{run.folder}: diverged in {where}: {loss} is not finite")
                found = {"epoch": epoch, "batch": batch, "loss": loss}
                return outcome("diverged", diverged=found)
            scores = runner.evaluate(subsets["validation"])
            means = steps.means()
            row = {"epoch": float(epoch), **means, "events": float(runner.events)}
            row |= {f"validation_{name}": scores[name] for name in METRICS + FOREGROUND_METRICS}
            seconds = time.perf_counter() - begin
            progress.epochs = epoch
            progress.history.append(row)
            rate = len(subsets["train"]) / seconds
            progress.timing.append(
                {"epoch": float(epoch), "seconds": seconds, "images_per_second": rate}
            )
            if scores["cb_dice"] > progress.best_score:
                progress.best_score, progress.best_epoch = scores["cb_dice"], epoch
                best.clear()
                best.update(runner.weights())
            write_text(run.live_folder / "history.csv", _csv(columns, progress.history))
            elapsed = time.perf_counter() - started
            left = elapsed / (epoch - done_before) * (epochs - epoch)
            report(
                f"{run.folder}: epoch {epoch}/{epochs}  loss {means['total']:.4f}  "
                f"validation dice {scores['dice']:.4f}  {rate:.0f} images/s  {left:.0f} s left"
            )
            if epoch % execution.checkpoint_epochs == 0 or epoch == epochs:
                save()

    def scored(epoch: int) -> dict[str, Any]:
        return {"epoch": epoch, **{name: runner.evaluate(subsets[name]) for name in SUBSETS}}

    last, final = scored(epochs), runner.weights()
    runner.load_weights(best)
    chosen = scored(progress.best_epoch)
    runner.load_weights(final)
    return outcome("complete", last=last, best=chosen)


def _publish(
    run: Run,
    record: dict[str, Any],
    outcome: dict[str, Any],
    progress: "Progress",
    columns: tuple[str, ...],
    weights: "dict[str, dict[str, torch.Tensor]]",
    classes: int,
) -> None:
    """Write the run folder; `run.json` makes it complete, `metrics.json` declares it."""
    from safetensors.torch import save as serialise

    folder = run.folder
    (folder / "metrics.json").unlink(missing_ok=True)
    files = ["history.csv"]
    write_text(folder / "history.csv", _csv(columns, progress.history))
    write_text(folder / "timing.csv", _csv(TIMING_COLUMNS, progress.timing))
    model = run.parameters.model
    # One entry: safetensors writes several in an order that changes from call to call.
    description = {
        "filters": model.filters,
        "classes": classes,
        "momentum": model.batch_norm_momentum,
        "preprocessing": read_json(run.arrays_file)["parameters"],
        "key": record["key"],
    }
    metadata = {"dmf": json.dumps(description)}
    for name, tensors in weights.items():
        (folder / name).unlink(missing_ok=True)
        if outcome["status"] == "complete":
            write_bytes(folder / name, serialise(tensors, metadata))
            files.append(name)
    hashes = {name: sha256_file(folder / name) for name in files}
    write_json(folder / "run.json", {**record, "files": hashes, "outcome": outcome})
    write_json(folder / "metrics.json", outcome)


def _read_subsets(run: Run, arrays: "Arrays") -> dict[str, Any]:
    import numpy as np

    places = {name: index for index, name in enumerate(arrays.ids)}
    members: dict[str, list[int]] = {name: [] for name in SUBSETS}
    with run.split_file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["id"] not in places or row["subset"] not in members:
                raise DmfError(
                    f"{run.split_file}: image {row['id']!r} in subset {row['subset']!r} is not "
                    f"part of {run.arrays_file}. Make the split again: snakemake --forcerun "
                    f"split -- split_{run.dataset}"
                )
            members[row["subset"]].append(places[row["id"]])
    for name, indices in members.items():
        if not indices:
            raise DmfError(f"{run.split_file}: the {name} subset is empty; use more images")
    return {name: np.array(sorted(indices)) for name, indices in members.items()}


def _provenance(
    run: Run, key: str, runner: "Engine", precision: str, execution: Execution, synthetic: bool
) -> dict[str, Any]:
    import hashlib

    import torch

    from dmf.training.engine import batch_order

    orders = hashlib.sha256()
    for epoch in range(1, run.parameters.training.epochs + 1):
        orders.update(batch_order(run.seed, epoch, len(runner.train)).tobytes())
    cuda = runner.device.type == "cuda"
    commit = _git("rev-parse", "HEAD")
    return {
        "key": key,
        "dataset": run.dataset,
        "configuration": run.configuration,
        "seed": run.seed,
        "parameters": run.parameters.model_dump(),
        "hashes": {
            **run.hashes(),
            "initial_weights": runner.initial_weights,
            "batch_order": orders.hexdigest(),
        },
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "numpy")},
        },
        "device": {
            "type": runner.device.type,
            "name": torch.cuda.get_device_name() if cuda else processor(),
            "cuda": torch.version.cuda if cuda else None,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": execution.threads,
        },
        "precision": precision,
        "synthetic": synthetic,
    }


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _history_columns(runner: "Engine") -> tuple[str, ...]:
    from dmf.metrics import FOREGROUND_METRICS, METRICS

    validation = (f"validation_{name}" for name in METRICS + FOREGROUND_METRICS)
    return ("epoch", *runner.columns, "events", *validation)


def _csv(columns: tuple[str, ...], rows: list[dict[str, float]]) -> str:
    """Return rows as CSV text; numbers read back to the same bits, whole epochs as integers."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    whole = ("epoch", "events")
    writer.writerows({k: int(v) if k in whole else repr(v) for k, v in row.items()} for row in rows)
    return text.getvalue()


@contextmanager
def _alone(run: Run, report: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time work on a run."""
    name = "--".join(run.folder.parts[1:]) + ".lock"
    path = Path(".checkpoints/locks") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"{run.folder}: another process trains this run; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _signals() -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the signal that asked to stop, or None."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {n: signal.signal(n, receive) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _memory_errors_explained(run: Run) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        short_of_memory = (
            isinstance(error, MemoryError)
            or type(error).__name__ == "OutOfMemoryError"
            or "allocate memory" in text
        )
        if not short_of_memory:
            raise
        raise DmfError(
            f"{run.folder}: out of memory. Lower training.batch_size (now "
            f"{run.parameters.training.batch_size}), model.filters or data.image_size; on a shared "
            f"GPU lower execution.slots. ({text.splitlines()[0] if text else 'MemoryError'})"
        ) from error

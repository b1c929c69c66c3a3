"""One run from its inputs to its folder: adopt it, continue it, or train it."""

import csv
import hashlib
import io
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from types import FrameType
from typing import TYPE_CHECKING, Any

from dmf.errors import DmfError, Log
from dmf.files import locked, read_json, sha256_file, write_bytes, write_json, write_text
from dmf.layout import BEST_MODEL, COUNTS, HISTORY, LAST_MODEL, LIVE, METRICS_FILE, RECORD, TIMING
from dmf.outcomes import EVALUATIONS, FOREGROUND_METRICS, METRICS, SUBSETS
from dmf.provenance import processor
from dmf.settings import Execution
from dmf.training import devices, probe
from dmf.training.failures import device_errors_explained
from dmf.training.run_record import Run, complete_record

if TYPE_CHECKING:
    import torch

    from dmf.data.arrays import Arrays
    from dmf.training.engine import Engine, EpochRecord
    from dmf.training.protocol import Indices


TIMING_COLUMNS = ("epoch", "seconds", "images_per_second")
HISTORY_SECONDS = 1.0  # at least between two writings of the live history.csv


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop and has saved a checkpoint; ``signal`` says by what."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


def train(run: Run, execution: Execution, log: Log = print) -> str:
    """Make the folder of ``run`` complete; return "adopted", "complete" or "diverged".

    A second process that wants the same run waits for the first and adopts its result.
    Raises DmfError for missing or damaged inputs and exhausted resources, Interrupted on SIGTERM
    or SIGINT after a checkpoint was saved.
    """
    with _alone(run, log):
        key = run.key()
        record = complete_record(run.cell.folder, key)
        if record is not None:
            write_json(run.cell.metrics, record["outcome"])
            log(f"{run.cell.folder}: already complete for these parameters, data and code; adopted")
            return "adopted"
        names = devices.device_names(execution)
        if not names:
            return _train_on(None, run, key, execution, log)
        slots = devices.slots_per_device(execution, names)
        with devices.lease(names, slots, log=log) as name:
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return _train_on(name, run, key, execution, log)


def _train_on(gpu: str | None, run: Run, key: str, execution: Execution, log: Log) -> str:
    # cuBLAS reads this when CUDA starts; without it deterministic mode refuses to multiply.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from dmf.data.arrays import read_arrays, read_subsets
    from dmf.training import engine

    wanted = run.parameters.training.precision
    if gpu is not None:
        for warning in probe.check(probe.examine(), [gpu], wanted):
            log(f"warning: {warning}")
    arrays = read_arrays(run.cell.arrays)
    subsets = read_subsets(run.cell.split, arrays)
    preprocessing = read_json(run.cell.arrays)["parameters"]
    if run.key() != key:  # while it waited for its place
        raise DmfError(
            f"{run.cell.arrays} or {run.cell.split} was made again meanwhile. Repeat the command: "
            "it trains with what is there now."
        )
    device = torch.device("cpu" if gpu is None else "cuda")
    with device_errors_explained(run.cell.folder, run.parameters.training.batch_size):
        precision = engine.resolve_precision(wanted, device)
        engine.configure(device, execution.threads, precision)
        runner = engine.Engine(
            run.parameters,
            arrays.filtered,
            arrays.masks,
            arrays.classes,
            subsets["train"],
            seed=run.cell.seed,
            device=device,
            precision=precision,
        )
        trainer = Trainer(run, key, runner, subsets, arrays, preprocessing, execution, log)
        origin = run.provenance(
            key,
            initial_weights=runner.initial_weights,
            batch_order=_batch_order(run.cell.seed, runner),
        )
        record = {**origin, "synthetic": arrays.synthetic}
        trainer.resume(_device(runner, precision, execution), record)
        outcome = trainer.fit()
    trainer.write(record, outcome)
    status: str = outcome["status"]
    return status


class Trainer:
    """The training of one run, from where it stands to its folder.

    Args:
        run: which run, and where its files are.
        key: its run key.
        engine: network, losses, fusion and optimiser, at their start.
        subsets: indices of the images of each subset.
        arrays: the data set.
        preprocessing: what its images went through, for the model files.
        execution: where and how it runs.
        log: takes a line of progress.
    """

    def __init__(
        self,
        run: Run,
        key: str,
        engine: "Engine",
        subsets: "Mapping[str, Indices]",
        arrays: "Arrays",
        preprocessing: "Mapping[str, Any]",
        execution: Execution,
        log: Log,
    ) -> None:
        from dmf.training.checkpoint import Progress

        self.run = run
        self.cell = run.cell
        self.key = key
        self.engine = engine
        self.subsets = subsets
        self.arrays = arrays
        self.preprocessing = preprocessing
        self.execution = execution
        self.log = log
        self.progress = Progress()
        self.best: dict[str, torch.Tensor] = {}
        self.columns = _history_columns(engine)
        self._counts: list[tuple[str, torch.Tensor]] = []
        self._saved, self._shown = time.perf_counter(), -math.inf
        self._settled_from = engine.epochs - -(-engine.epochs // 5) + 1

    def resume(self, device: dict[str, Any], record: dict[str, Any]) -> None:
        """Go on from the newest sound checkpoint, if there is one; add the devices to ``record``.

        Raises DmfError if the checkpoint was trained in another precision or kind of device.
        """
        from dmf.training import checkpoint

        found = checkpoint.load(self.cell.live_folder, self.key, self.log)
        if found is not None:
            self.progress, state, self.best = found
            before = self.progress.devices[-1]
            if any(before[part] != device[part] for part in ("type", "precision")):
                raise DmfError(
                    f"{self.cell.live_folder}: trained up to epoch {self.progress.epochs} on "
                    f"{before['type']} in {before['precision']}; here it would go on on "
                    f"{device['type']} in {device['precision']}, and the result would be of "
                    "neither. Continue where it began, or delete the folder to start again."
                )
            self.engine.load_state(state)
            self.log(f"{self.cell.folder}: continuing after epoch {self.progress.epochs}")
        devices = self.progress.devices
        if not devices or {**devices[-1], **device} != devices[-1]:
            devices.append({"from_epoch": self.progress.epochs + 1, **device})
        record["device"] = {name: value for name, value in device.items() if name != "precision"}
        record["precision"] = device["precision"]
        if len(devices) > 1:
            record["devices"] = devices
        write_json(self.cell.live_folder / RECORD, record)
        self.log(
            f"{self.cell.folder}: {len(self.subsets['train'])} training images, {device['type']} "
            f"{device['precision']}, {self.execution.threads} threads"
        )

    def fit(self) -> dict[str, Any]:
        """Train to the last epoch and score the run; returns the outcome.

        Raises Interrupted after a checkpoint if a signal asks to stop.
        """
        started, done_before = time.perf_counter(), self.progress.epochs
        with _signals() as stopped:
            for epoch in range(done_before + 1, self.engine.epochs + 1):
                begin = time.perf_counter() - self.progress.seconds
                steps = self.engine.run_epoch(epoch, lambda: stopped() is not None)
                if steps is None:
                    self.progress.seconds = time.perf_counter() - begin
                    self._save()
                    number = stopped()
                    assert number is not None
                    raise Interrupted(number)
                divergence = steps.first_divergence()
                if divergence is not None:
                    batch, loss = divergence
                    where = f"epoch {epoch}, batch {batch}"
                    self.log(f"{self.cell.folder}: diverged in {where}: {loss} is not finite")
                    found = {"epoch": epoch, "batch": batch, "loss": loss}
                    return self._outcome("diverged", diverged=found)
                row = self._finish_epoch(epoch, steps, begin)
                now = time.perf_counter()
                left = (now - started) / (epoch - done_before) * (self.engine.epochs - epoch)
                rate = self.progress.timing[-1]["images_per_second"]
                self.log(
                    f"{self.cell.folder}: epoch {epoch}/{self.engine.epochs}  "
                    f"loss {row['total']:.4f}  validation dice {row['validation_dice']:.4f}  "
                    f"{rate:.0f} images/s  {left:.0f} s left"
                )
                due = now - self._saved >= self.execution.checkpoint_seconds
                if due or now - self._shown >= HISTORY_SECONDS:
                    write_text(self.cell.live_folder / HISTORY, self._history())
                    self._shown = now
                if due or epoch == self.engine.epochs:
                    self._save()
        return self._scored()

    def write(self, record: dict[str, Any], outcome: dict[str, Any]) -> None:
        """Write the run folder; `run.json` makes it complete, `metrics.json` declares it."""
        from safetensors.torch import save as serialise

        from dmf.training import checkpoint

        folder, model = self.cell.folder, self.run.parameters.model
        for name in (METRICS_FILE, LAST_MODEL, BEST_MODEL, COUNTS):
            (folder / name).unlink(missing_ok=True)
        write_text(folder / HISTORY, self._history())
        write_text(folder / TIMING, _csv(TIMING_COLUMNS, self.progress.timing))
        files = [HISTORY]
        if outcome["status"] == "complete":
            # One entry: safetensors writes several in an order that changes from call to call.
            description = {
                "filters": model.filters,
                "classes": self.arrays.classes,
                "momentum": model.batch_norm_momentum,
                "skip_connections": model.skip_connections,
                "preprocessing": self.preprocessing,
                "key": self.key,
            }
            metadata = {"dmf": json.dumps(description)}
            weights = {LAST_MODEL: self.engine.weights(), BEST_MODEL: self.best}
            for name, tensors in weights.items():
                write_bytes(folder / name, serialise(tensors, metadata))
            write_text(folder / COUNTS, self._test_counts())
            files += [*weights, COUNTS]
        hashes = {name: sha256_file(folder / name) for name in files}
        end = {"ended": round(time.time(), 3), "files": hashes, "outcome": outcome}
        write_json(folder / RECORD, {**record, **end})
        write_json(folder / METRICS_FILE, outcome)
        checkpoint.discard(self.cell.live_folder)

    def _finish_epoch(self, epoch: int, steps: "EpochRecord", begin: float) -> dict[str, float]:
        """Score the validation subset and note the epoch; returns its row of `history.csv`."""
        progress = self.progress
        scores = {"validation": self.engine.evaluate(self.subsets["validation"])}
        if epoch >= self._settled_from:
            scores["test"] = self.engine.evaluate(self.subsets["test"])
            progress.settling.append(scores)
        row = {"epoch": float(epoch), **steps.means(), "events": float(self.engine.events)}
        for subset, values in scores.items():
            row |= {f"{subset}_{name}": values[name] for name in METRICS + FOREGROUND_METRICS}
        seconds = time.perf_counter() - begin
        progress.epochs, progress.seconds = epoch, 0.0
        progress.history.append(row)
        progress.timing.append(
            {
                "epoch": float(epoch),
                "seconds": seconds,
                "images_per_second": float(steps.images.sum()) / seconds,
            }
        )
        if scores["validation"]["cb_dice"] > progress.best_score:
            progress.best_score, progress.best_epoch = scores["validation"]["cb_dice"], epoch
            self.best = self.engine.weights()
        return row

    def _scored(self) -> dict[str, Any]:
        """Return the outcome of a complete run, in every evaluation of `dmf.outcomes`."""
        epochs, settling = self.engine.epochs, self.progress.settling
        last = self._evaluation("last", epochs)
        with self.engine.recalibrated():
            recalibrated = self._evaluation("recalibrated", epochs)
        final = self.engine.weights()
        self.engine.load_weights(self.best)
        best = self._evaluation("best", self.progress.best_epoch)
        self.engine.load_weights(final)
        settled: dict[str, Any] = {"epochs": len(settling)}
        for subset in ("validation", "test"):
            names = settling[0][subset]
            settled[subset] = {n: median(scores[subset][n] for scores in settling) for n in names}
        return self._outcome(
            "complete", last=last, best=best, settled=settled, recalibrated=recalibrated
        )

    def _evaluation(self, name: str, epoch: int) -> dict[str, Any]:
        """Return the scores of every subset; keeps the counts of the test images."""
        found: dict[str, Any] = {"epoch": epoch}
        for subset in SUBSETS:
            confusion = self.engine.confusion(self.subsets[subset])
            found[subset] = confusion.compute(self.engine.batch_size)
            if subset == "test":
                self._counts.append((name, confusion.counts.cpu()))
        return found

    def _outcome(self, status: str, **parts: Any) -> dict[str, Any]:
        return {
            "status": status,
            "epochs": self.progress.epochs,
            "synthetic": self.arrays.synthetic,
            **dict.fromkeys((*EVALUATIONS, "diverged")),
            **parts,
        }

    def _test_counts(self) -> str:
        """Return TP, FP and FN of every test image and class, for each evaluation, as CSV."""
        ids = [self.arrays.ids[index] for index in self.subsets["test"]]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ("evaluation", "id", "class", "true_positive", "false_positive", "false_negative")
        )
        for evaluation, counts in self._counts:
            for image, rows in zip(ids, counts.tolist(), strict=True):
                writer.writerows((evaluation, image, c, *row) for c, row in enumerate(rows))
        return text.getvalue()

    def _history(self) -> str:
        return _csv(self.columns, self.progress.history)

    def _save(self) -> None:
        from dmf.training import checkpoint

        folder = self.cell.live_folder
        checkpoint.save(folder, self.key, self.progress, self.engine.state(), self.best)
        self._saved = time.perf_counter()


def _batch_order(seed: int, runner: "Engine") -> str:
    """Return the hash of the order in which all epochs visit the training images."""
    from dmf.training.protocol import batch_order

    orders = hashlib.sha256()
    for epoch in range(1, runner.epochs + 1):
        orders.update(batch_order(seed, epoch, len(runner.train)).tobytes())
    return orders.hexdigest()


def _device(runner: "Engine", precision: str, execution: Execution) -> dict[str, Any]:
    """Return what computes here, and how."""
    import torch

    cuda = runner.device.type == "cuda"
    return {
        "type": runner.device.type,
        "name": torch.cuda.get_device_name() if cuda else processor(),
        "cuda": torch.version.cuda if cuda else None,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": execution.threads,
        "precision": precision,
    }


def _history_columns(runner: "Engine") -> tuple[str, ...]:
    seen = (f"batch_{name}" for name in runner.columns if name.startswith("loss_"))
    scores = (
        f"{subset}_{name}"
        for subset in ("validation", "test")
        for name in METRICS + FOREGROUND_METRICS
    )
    return ("epoch", *runner.columns, *seen, "events", *scores)


def _csv(columns: tuple[str, ...], rows: list[dict[str, float]]) -> str:
    """Return rows as CSV text; numbers read back to the same bits, whole epochs as integers.

    What a row lacks stays empty.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    whole = ("epoch", "events")
    writer.writerows({k: int(v) if k in whole else repr(v) for k, v in row.items()} for row in rows)
    return text.getvalue()


@contextmanager
def _alone(run: Run, log: Log) -> Iterator[None]:
    """Let one process at a time work on a run."""
    path = LIVE / "locks" / f"{str(run.cell).replace('/', '--')}.lock"

    def say(name: str) -> None:
        log(f"{run.cell.folder}: another process trains this run; waiting for it")

    with locked(path, waiting=say):
        yield


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

"""What a study still has to train, and the time and disk that will take on this machine."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dmf import layout
from dmf.data.arrays import Arrays, read_arrays
from dmf.errors import DmfError
from dmf.files import read_json
from dmf.study import Study
from dmf.training import devices, engine, probe, protocol
from dmf.training.failures import device_errors_explained
from dmf.training.run_record import Run, complete_record, runs

STARTUP_SECONDS = 4.0  # of a job to its first step; see docs/benchmarks/startup.md


@dataclass(frozen=True)
class Outlook:
    """One data set: runs by state, and what the rest costs. Seconds are of one job, alone."""

    dataset: str
    states: Counter[str]
    seconds_per_run: float | None
    bytes_per_run: int | None
    note: str


def plan(study: Study, steps: int = 3) -> list[Outlook]:
    """Return the outlook of every data set, timing ``steps`` training steps on this machine.

    Raises DmfError if the machine has a GPU that cannot be used.
    """
    names = devices.device_names(study.execution)
    if names:
        # CUDA reads this when it starts.
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        probe.check(probe.examine(), names, study.training.precision)
    device = torch.device("cuda" if names else "cpu")
    return [_outlook(study, dataset, steps, device) for dataset in study.grid.datasets]


def describe(study: Study, outlooks: list[Outlook]) -> Iterator[str]:
    """Yield the plan in words, a line at a time."""
    names = devices.device_names(study.execution)
    slots = devices.slots_per_device(study.execution, names) if names else 0
    parallel = max(1, devices.cores() // study.execution.threads)
    if names:
        parallel = min(parallel, len(names) * slots)
    seconds, size, known = 0.0, 0, True
    for outlook in outlooks:
        left = outlook.states["left"] + outlook.states["interrupted"]
        states = ", ".join(f"{count} {state}" for state, count in outlook.states.items() if count)
        yield f"{outlook.dataset}: {states}{outlook.note}"
        if left and outlook.seconds_per_run is not None and outlook.bytes_per_run is not None:
            seconds += left * outlook.seconds_per_run
            size += left * outlook.bytes_per_run
            yield f"  {outlook.seconds_per_run:,.0f} s a run, {outlook.bytes_per_run / 1e6:.1f} MB"
        known &= not left or outlook.seconds_per_run is not None
    yield (
        f"left on {devices.describe(names, slots)}, {parallel} at a time: about "
        f"{seconds / parallel / 3600:.1f} hours and {size / 1e9:.2f} GB"
        f"{'' if known else ', and what could not be measured'}"
    )


def _outlook(study: Study, dataset: str, steps: int, device: torch.device) -> Outlook:
    states: Counter[str] = Counter({"complete": 0, "diverged": 0, "interrupted": 0, "left": 0})
    states.update(_state(run) for run in runs(study) if run.cell.dataset == dataset)
    try:
        arrays = read_arrays(layout.arrays(dataset))
    except DmfError:
        overlay = "" if study.grid.workdir == "." else " and the study's --configfile"
        note = (
            f" (not measured: make the data first, with snakemake --cores all filter_{dataset}"
            f"{overlay})"
        )
        return Outlook(dataset, states, None, None, note)
    with device_errors_explained(dataset, study.training.batch_size):
        seconds, size = _measure(study, arrays, steps, device)
    return Outlook(dataset, states, seconds, size, "")


def _state(run: Run) -> str:
    try:
        key = run.key()
    except DmfError:
        return "left"
    record = complete_record(run.cell.folder, key)
    if record is not None:
        status: str = record["outcome"]["status"]
        return status
    try:
        live_key = read_json(run.cell.live_folder / layout.RECORD)["key"]
    except (DmfError, KeyError):
        return "left"
    return "interrupted" if live_key == key else "left"


def _measure(study: Study, arrays: Arrays, steps: int, device: torch.device) -> tuple[float, int]:
    """Return seconds and bytes of one run of this data set."""
    training = study.training
    precision = engine.resolve_precision(training.precision, device)
    engine.configure(device, study.execution.threads, precision)
    subset = max(1, round(study.split.train * len(arrays.ids)))
    batches = len(protocol.batch_lengths(subset, training))
    steps_per_run = protocol.total_steps(batches, training)
    epochs = -(-steps_per_run // batches)
    timed = min(subset, steps * training.batch_size)
    parameters = study.run_parameters(study.grid.configurations[0])
    two_epochs = training.model_copy(update={"epochs": 2, "steps": None})
    runner = engine.Engine(
        parameters.model_copy(update={"training": two_epochs}),
        arrays.filtered,
        arrays.masks,
        arrays.classes,
        np.arange(timed),
        seed=0,
        device=device,
        precision=precision,
    )
    runner.run_epoch(1)  # the first steps pay for what the later ones reuse
    begin = time.perf_counter()
    runner.run_epoch(2)
    per_step = (time.perf_counter() - begin) / runner.batches
    begin = time.perf_counter()
    runner.evaluate(np.arange(timed))
    per_image = (time.perf_counter() - begin) / timed
    validation = study.split.validation * len(arrays.ids) * per_image
    weights = sum(value.nbytes for value in runner.weights().values())
    seconds = STARTUP_SECONDS + steps_per_run * per_step + epochs * validation
    return seconds, 2 * weights + 400 * epochs

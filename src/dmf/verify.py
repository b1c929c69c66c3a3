"""Whether what lies on the disk is what the study asks for."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from dmf import layout
from dmf.data import raw
from dmf.data.arrays import read_arrays
from dmf.errors import DmfError
from dmf.files import read_json, writing
from dmf.settings import Split
from dmf.stale import ANOTHER_SPLIT, is_the_split
from dmf.study import Study
from dmf.training.run_record import Run, complete_record, misfits, runs

SECONDS_TO_WRITE = 3600


def problems(study: Study, datasets: Sequence[str], root: Path) -> list[str]:
    """Return a line for every raw image, array, split or run that is damaged or stale.

    Raw data may be absent: results can be restored without them. Everything else must be there.
    ``root`` is the project's folder, from which the path of a given split counts.
    """
    found: list[str] = []
    split = study.split.seen_from(root)
    for dataset in datasets:
        found += [*_raw_problems(dataset), *_array_problems(study, dataset)]
        found += _split_problems(dataset, study.seeds, split)
        for run in runs(study):
            if run.cell.dataset == dataset:
                found += _run_problems(run)
    return found


def strangers(study: Study, *, delete: bool) -> list[Path]:
    """Return (and delete, if asked) run folders, checkpoints and splits the study does not name.

    And what killed processes left half-written, if it is an hour old.
    """
    cells = layout.cells(study.grid)
    expected = {path for cell in cells for path in (cell.folder, cell.live_folder, cell.split)}
    there = (
        *sorted(layout.MODELS.glob("*/*/seed-*")),
        *sorted(layout.LIVE.glob("*/*/seed-*")),
        *sorted(layout.SPLITS.glob("*/seed-*.csv")),
    )
    found = [path for path in there if path not in expected]
    found += [path for path in _half_written() if not any(path.is_relative_to(f) for f in found)]
    if delete:
        for path in found:
            with writing(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def _half_written() -> Iterator[Path]:
    """Yield the temporary files of writers that were killed: those at work are younger."""
    places = (layout.FILTERED.parent, layout.MODELS, layout.LIVE, layout.REPORTS, layout.MLFLOW)
    for place in places:
        for path in sorted(place.rglob(".tmp-*")):
            with suppress(OSError):  # it has just been renamed
                if time.time() - path.stat().st_mtime > SECONDS_TO_WRITE:
                    yield path


def _raw_problems(dataset: str) -> Iterator[str]:
    if not (layout.RAW / dataset).exists():
        return
    try:
        manifest: pd.DataFrame = raw.read_manifest(dataset)
        classes = int(raw.read_description(dataset)["classes"])
        for _ in raw.read_images(dataset, manifest, classes):
            pass  # reading compares every image and mask with its hash
    except DmfError as error:
        yield str(error)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        yield f"{layout.RAW / dataset}: its description is damaged ({error!r})"


def _array_problems(study: Study, dataset: str) -> Iterator[str]:
    path = layout.arrays(dataset)
    try:
        read_arrays(path)
        made_with = read_json(path)["parameters"]
    except DmfError as error:
        yield str(error)
        return
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        yield f"{path}: damaged ({error!r})"
        return
    if made_with != study.filter_parameters().model_dump(mode="json"):
        yield f"{path}: made with other parameters than the study's: {made_with}"


def _split_problems(dataset: str, seeds: range, split: Split) -> Iterator[str]:
    """Yield the splits that are not those that the study makes; nothing without the raw data."""
    try:
        manifest = raw.read_manifest(dataset)
    except DmfError:  # absent, or told as damaged already
        return
    for seed in seeds:
        try:
            if not is_the_split(dataset, manifest, seed, split):
                yield f"{layout.split(dataset, seed)}: {ANOTHER_SPLIT}"
        except DmfError as error:
            yield str(error)


def _run_problems(run: Run) -> Iterator[str]:
    folder = run.cell.folder
    try:
        key = run.key()
        record = complete_record(folder)
        if record is None:
            yield f"{folder}: missing, unfinished or damaged"
        elif record["key"] != key:
            yield f"{folder}: the result of other {' and '.join(misfits(run, record))}"
        elif read_json(run.cell.metrics) != record["outcome"]:
            yield f"{run.cell.metrics}: not the outcome that run.json records"
    except DmfError as error:
        yield str(error)

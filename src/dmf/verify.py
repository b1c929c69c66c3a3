"""Whether what lies on the disk is what the study asks for."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from dmf.data import raw
from dmf.data.arrays import read_arrays
from dmf.errors import DmfError
from dmf.files import read_json
from dmf.study import Study, run_folder, split_file
from dmf.training.record import Run, complete_record, misfits


def problems(study: Study, datasets: Sequence[str]) -> list[str]:
    """Return a line for every raw image, array, split or run that is damaged or stale.

    Raw data may be absent: results can be restored without them. Everything else must be there.
    """
    found: list[str] = []
    for dataset in datasets:
        for check in (_raw_problems(dataset), _array_problems(study, dataset)):
            found += check
        for name in study.study.configurations:
            for seed in study.seeds:
                found += _run_problems(study, dataset, name, seed)
    return found


def strangers(study: Study, *, delete: bool) -> list[Path]:
    """Return (and delete, if asked) run folders, checkpoints and splits the study does not name."""
    runs = {
        run_folder(dataset, name, seed)
        for dataset in study.study.datasets
        for name in study.study.configurations
        for seed in study.seeds
    }
    live = {Path(".checkpoints") / path.relative_to("models") for path in runs}
    splits = {split_file(d, seed) for d in study.study.datasets for seed in study.seeds}
    found = [path for path in sorted(Path("models").glob("*/*/seed-*")) if path not in runs]
    found += [p for p in sorted(Path(".checkpoints").glob("*/*/seed-*")) if p not in live]
    found += [p for p in sorted(Path("data/splits").glob("*/seed-*.csv")) if p not in splits]
    if delete:
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def _raw_problems(dataset: str) -> Iterator[str]:
    if not (raw.ROOT / dataset).exists():
        return
    try:
        manifest: pd.DataFrame = raw.read_manifest(dataset)
        classes = int(raw.read_description(dataset)["classes"])
        for _ in raw.read_images(dataset, manifest, classes):
            pass  # reading compares every image and mask with its hash
    except DmfError as error:
        yield str(error)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        yield f"data/raw/{dataset}: its description is damaged ({error!r})"


def _array_problems(study: Study, dataset: str) -> Iterator[str]:
    path = Path("data/filtered") / f"{dataset}.json"
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


def _run_problems(study: Study, dataset: str, name: str, seed: int) -> Iterator[str]:
    run = Run(dataset, name, seed, study.run_parameters(name))
    try:
        key = run.key()
        record = complete_record(run.folder)
        if record is None:
            yield f"{run.folder}: missing, unfinished or damaged"
        elif record["key"] != key:
            yield f"{run.folder}: the result of other {' and '.join(misfits(run, record))}"
        elif read_json(run.folder / "metrics.json") != record["outcome"]:
            yield f"{run.folder}/metrics.json: not the outcome that run.json records"
    except DmfError as error:
        yield str(error)

"""Finished studies as files in git: what every number follows from, without images or models.

`reports/published/<name>/` is laid out like a study's working directory, with `study.yaml` in place
of params.yaml and only the small files of each run. Whatever reports on a study reports on it.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import yaml

from dmf.analysis import figures, page, results, tables
from dmf.errors import DmfError
from dmf.files import read_json, write_text
from dmf.study import Study
from dmf.training.run import Run, complete_record

FOLDER = Path("reports/published")
STUDY = "study.yaml"
# Not timing.csv: it says as much about what else the machine did as about the run.
_OF_A_RUN = ("run.json", "metrics.json", "history.csv")
_OF_A_SET = ("data/filtered/{}.json", "data/raw/{}/manifest.json")


def publish(study: Study, target: Path, report: Callable[[str], None] = print) -> None:
    """Copy the records of ``study`` from the working directory to ``target``.

    Runs that only ``target`` has are kept if they are what this study would train, so that it can
    be finished in pieces and on several machines; whatever else it held is replaced. Runs may be
    missing. Raises DmfError if no run is finished, if the data that earlier runs must have used are
    not here, or if the disk refuses the copy, and leaves ``target`` alone then.
    """
    here = [run for run in _runs(study) if (run.folder / "metrics.json").exists()]
    if not here:
        raise DmfError(f"{Path.cwd()} holds no finished run of the study {study.study.name!r}")
    done = {run.folder for run in here}
    kept = [run for run in _runs(study) if run.folder not in done and _is_published(run, target)]
    before = {path.parent.relative_to(target) for path in target.glob("models/*/*/*/run.json")}
    dropped = before - done - {run.folder for run in kept}
    files = {name: name for name in _files_of_sets(study)}
    files |= {run.folder / name: run.folder / name for run in here for name in _OF_A_RUN}
    files |= {run.folder / name: target / run.folder / name for run in kept for name in _OF_A_RUN}
    settings = study.model_dump(mode="json")
    settings["study"]["workdir"] = "."
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tmp-") as beside:
        copy = Path(beside) / target.name
        try:
            for name, path in files.items():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy / name)
        except OSError as error:
            raise DmfError(
                f"{target}: could not be written ({error.strerror or error}). Free some space or "
                "check the permissions; what was published before is still there."
            ) from error
        write_text(copy / STUDY, yaml.safe_dump(settings, sort_keys=False))
        if target.exists():
            shutil.rmtree(target)
        copy.rename(target)
    left_out = f", {len(dropped)} left out: not what this study would train" if dropped else ""
    report(f"{target}: {len(here)} runs from here, {len(kept)} from before{left_out}")


def left(study: Study, target: Path) -> list[Path]:
    """Return the metrics.json of every run that is complete neither here nor in ``target``.

    Raises DmfError if the data of a run are not here.
    """
    return [
        run.folder / "metrics.json"
        for run in _runs(study)
        if complete_record(run.folder, run.key()) is None and not _is_published(run, target)
    ]


def rebuild(folder: Path, report: Callable[[str], None] = print) -> None:
    """Write results, tables, figures, verdict and page of a published study anew.

    Raises DmfError if ``folder`` holds no published study.
    """
    study = Study.load(folder / STUDY)
    parameters = study.report_parameters()
    with chdir(folder):
        results.write(results.collect(study.study, partial=True), study.study, Path("reports"))
        frame = results.read(Path("reports/results.csv"))
        figures.write_all(frame, parameters, Path("reports/figures"))
        tables.write_all(frame, parameters, Path("reports/tables"))
        page.write(frame, parameters, Path("reports"))
    report(f"{folder}: rebuilt from {len(list(folder.glob('models/*/*/*/run.json')))} runs")


def published(folder: Path = FOLDER) -> list[Path]:
    """Return the folders of all published studies."""
    return sorted(path.parent for path in folder.glob(f"*/{STUDY}"))


def _runs(study: Study) -> list[Run]:
    return [
        Run(dataset, name, seed, study.run_parameters(name))
        for dataset in study.study.datasets
        for name in study.study.configurations
        for seed in study.seeds
    ]


def _is_published(run: Run, target: Path) -> bool:
    path = target / run.folder / "run.json"
    return path.exists() and read_json(path)["key"] == run.key()


def _files_of_sets(study: Study) -> Iterator[Path]:
    names = (Path(name.format(dataset)) for dataset in study.study.datasets for name in _OF_A_SET)
    yield from (name for name in names if name.exists())

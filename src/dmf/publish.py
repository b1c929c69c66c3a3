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
from dmf.files import write_text
from dmf.study import Study
from dmf.training.record import COUNTS, HISTORY, Run, complete_record, misfits, read_record

FOLDER = Path("reports/published")
STUDY = "study.yaml"
# Not timing.csv: it says as much about what else the machine did as about the run.
_OF_A_RUN = ("run.json", "metrics.json", HISTORY)
_OF_NEWER_RUNS = (COUNTS,)
_OF_A_SET = ("data/filtered/{}.json", "data/raw/{}/manifest.json")


def publish(
    study: Study,
    target: Path,
    report: Callable[[str], None] = print,
    *,
    replace: bool = False,
) -> None:
    """Copy the records of ``study`` from the working directory to ``target``.

    Runs that only ``target`` has are kept if they are what this study would train, so that it can
    be finished in pieces and on several machines; a run that is here as well is taken from here,
    unless only the published one is what the study would train. Runs may be missing.

    Published runs that are neither kept nor the same here are lost by this: they are named, and go
    only if ``replace``. Whatever else ``target`` held goes without a word. A kill at any moment
    leaves the old or the new state, at the latest after the next call.

    Raises DmfError if runs would be lost without ``replace``, if no run is finished, if the data
    that earlier runs must have used are not here, or if the disk refuses the copy. What was
    published then stays as it was.
    """
    _recover(target)
    runs = _runs(study)
    kept = [run for run in runs if _is_published(run, target) and not _is_here(run)]
    stay = {run.folder for run in kept}
    finished = (run for run in runs if (run.folder / "metrics.json").exists())
    here = [run for run in finished if run.folder not in stay]
    done = {run.folder for run in here}
    if not here:
        raise DmfError(f"{Path.cwd()} holds no finished run of the study {study.study.name!r}")
    lost = _lost(runs, stay, done, target)
    if lost and not replace:
        raise DmfError(
            f"{target} holds {len(lost)} published runs that this would take away:\n"
            + "".join(f"  {line}\n" for line in lost)
            + "Nothing was changed. To let them go: `dmf publish --replace`. To keep them, give "
            "the study another name (study.name); it is then published beside them."
        )
    files = {name: name for name in _files_of_sets(study)}
    for run in here:
        files |= {name: name for name in _files_of_a_run(run, Path())}
    for run in kept:
        files |= {name: target / name for name in _files_of_a_run(run, target)}
    # Not where it ran: that shapes no result, and each run records its own device.
    settings = study.model_dump(mode="json", exclude={"execution"})
    settings["study"]["workdir"] = "."
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as beside:
            copy = Path(beside) / target.name
            for name, path in files.items():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy / name)
            write_text(copy / STUDY, yaml.safe_dump(settings, sort_keys=False))
            _swap(copy, target)
    except OSError as error:
        _recover(target)
        raise DmfError(
            f"{target}: could not be written ({error.strerror or error}). Free some space or "
            "check the permissions; what was published before is still there."
        ) from error
    for line in lost:
        report(f"{target}: gone: {line}")
    report(f"{target}: {len(here)} runs from here, {len(kept)} from before")


def left(study: Study, target: Path) -> list[Path]:
    """Return the metrics.json of every run that is complete neither here nor in ``target``.

    Raises DmfError if the data of a run are not here.
    """
    _recover(target)
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
    found = (path.parent for path in folder.glob(f"*/{STUDY}"))
    return sorted(path for path in found if not path.name.startswith("."))


def _runs(study: Study) -> list[Run]:
    return [
        Run(dataset, name, seed, study.run_parameters(name))
        for dataset in study.study.datasets
        for name in study.study.configurations
        for seed in study.seeds
    ]


def _is_published(run: Run, target: Path) -> bool:
    folder = target / run.folder
    return (folder / "run.json").exists() and _fits(run, folder)


def _is_here(run: Run) -> bool:
    return (run.folder / "metrics.json").exists() and _fits(run, run.folder)


def _fits(run: Run, folder: Path) -> bool:
    return complete_record(folder, run.key(), models=False) is not None


def _lost(runs: list[Run], stay: set[Path], here: set[Path], target: Path) -> list[str]:
    """Return a line for each published run that will not be there any more: which, and why."""
    named = {run.folder: run for run in runs}
    folders = (path.parent.relative_to(target) for path in target.glob("models/*/*/*/run.json"))
    lost = []
    for folder in sorted(set(folders) - stay):
        published, mine = read_record(target / folder), read_record(folder)
        if published is None:
            lost.append(f"{folder}: damaged")
        elif folder not in named:
            lost.append(f"{folder}: not part of the study")
        elif folder not in here or mine is None or mine["key"] != published["key"]:
            differs = misfits(named[folder], published)
            reason = f"other {' and '.join(differs)}" if differs else "damaged"
            lost.append(f"{folder}: {reason}")
    return lost


def _files_of_a_run(run: Run, origin: Path) -> Iterator[Path]:
    yield from (run.folder / name for name in _OF_A_RUN)
    there = (run.folder / name for name in _OF_NEWER_RUNS)
    yield from (name for name in there if (origin / name).exists())


def _files_of_sets(study: Study) -> Iterator[Path]:
    names = (Path(name.format(dataset)) for dataset in study.study.datasets for name in _OF_A_SET)
    yield from (name for name in names if name.exists())


def _swap(copy: Path, target: Path) -> None:
    """Put ``copy`` in the place of ``target``; what a kill leaves behind, `_recover` mends."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        target.rename(old)
    copy.rename(target)
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)


def _recover(target: Path) -> None:
    """Mend what a killed :func:`publish` left: the old state, or the new if it was complete."""
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        old.rename(target)
    for path in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(path, ignore_errors=True)

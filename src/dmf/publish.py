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
from dmf.study import Study, run_folder

FOLDER = Path("reports/published")
STUDY = "study.yaml"
# Not timing.csv: it says as much about what else the machine did as about the run.
_OF_A_RUN = ("run.json", "metrics.json", "history.csv")
_OF_A_SET = ("data/filtered/{}.json", "data/raw/{}/manifest.json")


def publish(study: Study, target: Path) -> None:
    """Copy the records of ``study`` from the working directory to ``target``.

    What ``target`` held before is replaced, runs of an unfinished study may be missing. Raises
    DmfError if no run is finished or the disk refuses the copy, and leaves ``target`` alone then.
    """
    files = list(_records(study))
    if not any(path.name == "run.json" for path in files):
        raise DmfError(f"{Path.cwd()} holds no finished run of the study {study.study.name!r}")
    settings = study.model_dump(mode="json")
    settings["study"]["workdir"] = "."
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tmp-") as beside:
        copy = Path(beside) / target.name
        try:
            for path in files:
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy / path)
        except OSError as error:
            raise DmfError(
                f"{target}: could not be written ({error.strerror or error}). Free some space or "
                "check the permissions; what was published before is still there."
            ) from error
        write_text(copy / STUDY, yaml.safe_dump(settings, sort_keys=False))
        if target.exists():
            shutil.rmtree(target)
        copy.rename(target)


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


def _records(study: Study) -> Iterator[Path]:
    for dataset in study.study.datasets:
        names = [Path(name.format(dataset)) for name in _OF_A_SET]
        for configuration in study.study.configurations:
            for seed in study.seeds:
                run = run_folder(dataset, configuration, seed)
                if (run / "metrics.json").exists():
                    names += [run / name for name in _OF_A_RUN]
        yield from (name for name in names if name.exists())

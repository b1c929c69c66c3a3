"""The records of finished studies in git: what every number follows from, in two small files.

`reports/published/<study>/` holds the settings (`study.yaml`) and, byte for byte, the records of
runs and data (`records.tar.xz`), without images and models. `dmf.rebuild` adds what people read.
"""

import csv
import io
import lzma
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from dmf import layout
from dmf.data import archives
from dmf.errors import DmfError, Log
from dmf.files import locked, read_text, reason, write_text
from dmf.study import Study
from dmf.training.run_record import Run, complete_record, misfits, read_record, runs

FOLDER = Path("reports/published")
STUDY = "study.yaml"
ARCHIVE = "records.tar.xz"

# Not timing.csv: it says as much about what else the machine did as about the run.
_OF_A_RUN = (layout.RECORD, layout.METRICS_FILE, layout.HISTORY)
_OF_NEWER_RUNS = (layout.COUNTS,)
_OF_A_SET = (layout.arrays, layout.description)
_REMEDY = "Write it anew with: dmf evaluate"
_NAME = re.compile(
    r"models/\w+/[\w-]+/seed-\d+/(run\.json|metrics\.json|history\.csv|test_counts\.csv)"
    r"|data/filtered/\w+\.json|data/raw/\w+/manifest\.json|reports/evaluations/\w+\.csv"
)
# Records of ten thousand runs, far beyond any study, would fit.
_LIMITS = archives.Limits(files=50_000, size=4096 * archives.MEBIBYTE)


def publish(study: Study, target: Path, log: Log = print, *, replace: bool = False) -> None:
    """Write the records of ``study`` from the working directory to ``target``.

    Runs that only ``target`` has are kept if they are what this study would train, so that it can
    be finished in pieces and on several machines; a run that is here as well is taken from here,
    unless only the published one is what the study would train. Runs may be missing.

    Published runs that are neither kept nor the same here are lost by this: they are named, and go
    only if ``replace``. Whatever else ``target`` held goes without a word. A kill at any moment
    leaves the old or the new state, at the latest after the next call.

    Raises DmfError if runs would be lost without ``replace``, if no run is finished, if one that is
    here is damaged or of other parameters or data than the study's (older code may be), if the data
    that earlier runs must have used are not here, if what was published is damaged, or if the disk
    refuses the copy. What was published then stays as it was.
    """
    with (
        _alone(target, log),
        unpacked(target) as before,
        tempfile.TemporaryDirectory(prefix="dmf-") as merged,
    ):
        named = runs(study)
        kept = [run for run in named if _fits(run, before) and not _fits(run, Path())]
        stay = {run.cell.folder for run in kept}
        finished = (run for run in named if run.cell.metrics.exists())
        here = [run for run in finished if run.cell.folder not in stay]
        if not here:
            raise DmfError(f"{Path.cwd()} holds no finished run of the study {study.grid.name!r}")
        strange = _not_of_the_study(here)
        if strange:
            raise DmfError(
                f"{Path.cwd()} holds {len(strange)} finished runs that the study "
                f"{study.grid.name!r} would not train:\n"
                + "".join(f"  {line}\n" for line in strange)
                + "Nothing was changed. Delete their folders; the same `snakemake` command then "
                "trains them again."
            )
        lost = _lost(named, stay, {run.cell.folder for run in here}, before)
        if lost and not replace:
            raise DmfError(
                f"{target} holds {len(lost)} published runs that this would take away:\n"
                + "".join(f"  {line}\n" for line in lost)
                + "Nothing was changed. To let them go: `dmf publish --replace`. To keep them, "
                "give the study another name (study.name); it is then published beside them."
            )
        files = _files_of_sets(study)
        for run in here:
            files |= _files_of_a_run(run, Path())
        for run in kept:
            files |= _files_of_a_run(run, before)
        unchanged = {str(run.cell) for run in named if _fits(run, before)}
        mine = {str(run.cell) for run in here}
        files |= _scores_on_other_sets(study, mine, unchanged, before, Path(merged))
        _write(study, files, target)
    for line in lost:
        log(f"{target}: gone: {line}")
    log(f"{target}: {len(here)} runs from here, {len(kept)} from before")


def left(study: Study, target: Path, log: Log = print) -> list[Path]:
    """Return the metrics.json of every run that is complete neither here nor in ``target``.

    Raises DmfError if the data of a run are not here, or if ``target`` is damaged.
    """
    if any(_unfinished(target)):  # of a process that was killed, or still writes
        with _alone(target, log):
            pass
    with unpacked(target) as before:
        return [
            run.cell.metrics
            for run in runs(study)
            if complete_record(run.cell.folder, run.key()) is None and not _fits(run, before)
        ]


def published(folder: Path = FOLDER) -> list[Path]:
    """Return the folders of all published studies."""
    found = (path.parent for path in folder.glob(f"*/{STUDY}"))
    return sorted(path for path in found if not path.name.startswith("."))


@contextmanager
def unpacked(target: Path) -> Iterator[Path]:
    """Yield a folder with the records of a published study, laid out like a study's own.

    It is empty if nothing is published. Raises DmfError for a damaged archive, and for one that
    holds anything but records.
    """
    with tempfile.TemporaryDirectory(prefix="dmf-") as name:
        folder = Path(name) / "records"
        if (target / ARCHIVE).exists():
            unpack(target / ARCHIVE, folder)
        yield folder


def unpack(archive: Path, folder: Path) -> None:
    """Unpack records into the new ``folder``; raises DmfError as :func:`unpacked` does."""
    remedy = f"To have it back as committed: git checkout -- {archive}"
    archives.unpack(archive, folder, _LIMITS, if_damaged=remedy)
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    strangers = [name for name in found if not _NAME.fullmatch(name)]
    if strangers:
        shutil.rmtree(folder)
        raise DmfError(f"{archive} is refused: {min(strangers)!r} is no record of a study.")


def pack(files: Mapping[str, Path], archive: Path) -> None:
    """Write files, by their names in it, to an archive that is the same for the same contents."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            content = files[name].read_bytes()
            member = tarfile.TarInfo(name)  # of nobody, at the beginning of time
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive.write_bytes(lzma.compress(packed.getvalue()))


def _fits(run: Run, root: Path) -> bool:
    """Return whether the run below ``root`` is complete and what the study would train."""
    folder = root / run.cell.folder
    declared = (folder / layout.METRICS_FILE).exists()
    return declared and complete_record(folder, run.key(), models=False) is not None


def _not_of_the_study(here: list[Run]) -> list[str]:
    """Return a line for each run here that is damaged, or not the study's but for its code."""
    found = []
    for run in here:
        record = complete_record(run.cell.folder, models=False)
        if record is None:
            found.append(f"{run.cell.folder}: damaged")
        elif differs := [what for what in misfits(run, record) if what != "code"]:
            found.append(f"{run.cell.folder}: other {' and '.join(differs)}")
    return found


def _lost(named: list[Run], stay: set[Path], here: set[Path], before: Path) -> list[str]:
    """Return a line for each published run that will not be there any more: which, and why."""
    by_folder = {run.cell.folder: run for run in named}
    folders = {path.parent.relative_to(before) for path in before.glob("models/*/*/*/run.json")}
    lost = []
    for folder in sorted(folders - stay):
        published, mine = read_record(before / folder), read_record(folder)
        if published is None:
            lost.append(f"{folder}: damaged")
        elif folder not in by_folder:
            lost.append(f"{folder}: not part of the study")
        elif folder not in here or mine is None or mine["key"] != published["key"]:
            differs = misfits(by_folder[folder], published)
            reason = f"other {' and '.join(differs)}" if differs else "damaged"
            lost.append(f"{folder}: {reason}")
    return lost


def _files_of_a_run(run: Run, root: Path) -> dict[str, Path]:
    folder = run.cell.folder
    newer = [name for name in _OF_NEWER_RUNS if (root / folder / name).exists()]
    return {f"{folder.as_posix()}/{n}": root / folder / n for n in (*_OF_A_RUN, *newer)}


def _scores_on_other_sets(
    study: Study, mine: set[str], unchanged: set[str], before: Path, merged: Path
) -> dict[str, Path]:
    """Write the tables of `dmf evaluate` to ``merged``: from here the rows of the runs ``mine``.

    From ``before`` come those of ``unchanged`` runs, where they have none here.
    """
    files = {}
    for path in map(layout.evaluations, study.grid.evaluate_on):
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for root, wanted in ((before, unchanged), (Path(), mine)):
            if (root / path).exists():
                table = csv.DictReader(io.StringIO(read_text(root / path, _REMEDY)))
                found = {(str(row.get("run")), str(row.get("weights"))): row for row in table}
                rows |= {key: row for key, row in found.items() if key[0] in wanted}
        if rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(next(iter(rows.values()))), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[key] for key in sorted(rows))
            write_text(merged / path.name, text.getvalue())
            files[path.as_posix()] = merged / path.name
    return files


def _files_of_sets(study: Study) -> dict[str, Path]:
    paths: list[Path] = [path(dataset) for dataset in study.grid.datasets for path in _OF_A_SET]
    return {path.as_posix(): path for path in paths if path.exists()}


def _write(study: Study, files: Mapping[str, Path], target: Path) -> None:
    # Not where it ran: that shapes no result, and each run records its own device.
    settings = study.model_dump(mode="json", by_alias=True, exclude={"execution"})
    settings["study"]["workdir"] = "."
    # Published, the studies of the project's folder lie beside it, like all others.
    settings["report"]["extra_studies"] = re.sub(
        "^build/", "../", settings["report"]["extra_studies"]
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as beside:
            copy = Path(beside) / target.name
            copy.mkdir()
            pack(files, copy / ARCHIVE)
            text = yaml.safe_dump(settings, sort_keys=False)
            (copy / STUDY).write_text(text, encoding="utf-8")
            _swap(copy, target)
    except OSError as error:
        _recover(target)
        raise DmfError(
            f"{target}: could not be written ({reason(error)}). Free some space or "
            "check the permissions; what was published before is still there."
        ) from error


def _swap(copy: Path, target: Path) -> None:
    """Put ``copy`` in the place of ``target``; what a kill leaves behind, `_recover` mends."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        target.rename(old)
    copy.rename(target)
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)


def _unfinished(target: Path) -> Iterator[Path]:
    """Return what lies beside ``target`` while it is written."""
    return target.parent.glob(f".{target.name}.*")


@contextmanager
def _alone(target: Path, log: Log) -> Iterator[None]:
    """Let one process at a time publish beside ``target``, and mend what a killed one left."""

    def say(_: str) -> None:
        log(f"{target}: another process publishes; waiting for it")

    with locked(target.with_name(".lock"), waiting=say):
        _recover(target)
        yield


def _recover(target: Path) -> None:
    """Mend what a killed :func:`publish` left: the old state, or the new if it was complete."""
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not (target / STUDY).exists():
        shutil.rmtree(target, ignore_errors=True)  # a report was written meanwhile
        old.rename(target)
    for path in _unfinished(target):
        shutil.rmtree(path, ignore_errors=True)

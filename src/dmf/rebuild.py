"""The reports of published studies, written anew from their records alone.

Tables, figures and pages go to `build/published/<study>/`. What people read without building
anything is renewed in git: `report.md` and `runs.csv` beside the records, and the pictures of
`docs/images/published` that documents show.
"""

import csv
import io
import re
import shutil
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from dmf import layout
from dmf.analysis import results, tables
from dmf.analysis.figures import catalogue
from dmf.analysis.page import page
from dmf.analysis.paper import audit
from dmf.errors import DmfError, Log
from dmf.files import locked, write_text
from dmf.outcomes import EVALUATIONS
from dmf.publication import ARCHIVE, FOLDER, STUDY, published, unpack
from dmf.records import trained_on
from dmf.study import REBUILT, Study
from dmf.training.run_record import read_record

PICTURES = Path("docs/images/published")
AUDIT = Path("docs/audit.md")  # of the paper's own tables, which no run changes
REPORT = "report.md"
RUNS = "runs.csv"

_SCORES = ("dice", "cb_dice", "foreground_dice")  # of the test subset, in `runs.csv`
_IMAGE = re.compile(r"!\[(.*)\]\(figures/(.*)\)")


def rebuild(folders: Sequence[Path], root: Path = Path(), log: Log = print) -> None:
    """Write the reports of published studies below ``root``, the project's folder.

    A report also reads the results of studies published beside its own: they are made first, and
    what was built of a study that is no longer published goes. One process at a time does it.
    Raises DmfError if no folder is named, if one holds no published study, or damaged records.
    """
    if not folders:
        raise DmfError(f"{root / FOLDER} holds no published study. `dmf publish` makes one.")
    built = (root / REBUILT).resolve()

    def say(_: str) -> None:
        log(f"{built}: another process rebuilds reports; waiting for it")

    with locked(built.with_suffix(".lock"), waiting=say):
        _rebuild(folders, root, built, log)


def _rebuild(folders: Sequence[Path], root: Path, built: Path, log: Log) -> None:
    beside = {other for folder in folders for other in published(folder.parent)}
    known = {folder.name for folder in (*folders, *beside, *published(root / FOLDER))}
    for place in built.glob("*/"):
        if place.name not in known:
            shutil.rmtree(place)
    for folder in sorted({*folders, *beside}):
        results_here = built / folder.name / layout.RESULTS
        if folder in folders or not _is_newer(results_here, folder / ARCHIVE):
            aggregate(folder, built / folder.name)
    for folder in folders:
        report(folder, built / folder.name)
        write_text(folder / REPORT, readable_report(folder, built / folder.name, root / PICTURES))
        write_text(folder / RUNS, runs_table(folder, built / folder.name))
        for picture in (root / PICTURES).glob(f"{folder.name}-*.png"):
            drawn = built / folder.name / layout.FIGURES / picture.name.partition("-")[2]
            shutil.copyfile(drawn, picture)
        count = len(list((built / folder.name).glob("models/*/*/*/run.json")))
        log(f"{folder}: rebuilt from {count} runs in {built / folder.name}")
    write_text(root / AUDIT, audit.document())


def aggregate(folder: Path, place: Path) -> None:
    """Unpack the records of a published study to ``place``, and collect its results there."""
    study = Study.load(folder / STUDY)
    shutil.rmtree(place, ignore_errors=True)
    unpack(folder / ARCHIVE, place)
    with chdir(place):
        frame = results.collect(study.grid, partial=True)
        results.write(frame, study.grid, layout.REPORTS)


def report(folder: Path, place: Path) -> None:
    """Write figures, tables, verdict and page of a published study that is aggregated."""
    parameters = Study.load(folder / STUDY).report_parameters()
    with chdir(place):
        frame = results.read(layout.RESULTS)
        catalogue.write_all(frame, parameters, layout.FIGURES)
        tables.write_all(frame, parameters, layout.TABLES)
        page.write(frame, parameters, layout.REPORTS)


def readable_report(folder: Path, place: Path, pictures: Path) -> str:
    """Return the report in Markdown, as it reads beside the records, with the pictures in git."""

    def shown(image: re.Match[str]) -> str:
        alternative, name = image.groups()
        kept = f"{folder.name}-{name}"
        if (pictures / kept).exists():
            return f"![{alternative}](../../../{PICTURES.as_posix()}/{kept})"
        return f"*{alternative} (`make published` draws it: {name})*"

    text = (place / layout.REPORT).read_text(encoding="utf-8")
    link = f"[{AUDIT.as_posix()}](../../../{AUDIT.as_posix()})"
    return _IMAGE.sub(shown, text.replace(f"`{AUDIT.as_posix()}`", link))


def runs_table(folder: Path, place: Path) -> str:
    """Return as CSV how each run ended and scored, and on what it ran."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{evaluation}_{score}" for evaluation in EVALUATIONS for score in _SCORES]
    origin = ("device", "precision", "commit")
    writer.writerow(("dataset", "configuration", "seed", "status", *names, *origin))
    for cell in layout.cells(Study.load(folder / STUDY).grid):
        record = read_record(place / cell.folder)
        if record is not None:
            writer.writerow((*_scores(cell, record["outcome"]), *_origin(record)))
    return text.getvalue()


def _scores(cell: layout.Cell, outcome: dict[str, Any]) -> list[Any]:
    row: list[Any] = [cell.dataset, cell.configuration, cell.seed, outcome["status"]]
    for evaluation in EVALUATIONS:
        scores = (outcome.get(evaluation) or {}).get("test", {})
        row += [f"{scores[name]:.6f}" if name in scores else "" for name in _SCORES]
    return row


def _origin(record: dict[str, Any]) -> tuple[Any, ...]:
    return trained_on(record), record.get("precision"), record.get("commit")


def _is_newer(path: Path, other: Path) -> bool:
    return path.exists() and path.stat().st_mtime >= other.stat().st_mtime

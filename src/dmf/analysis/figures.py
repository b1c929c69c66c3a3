"""Every figure of the report: which there are, what they are called, and drawing them all."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from dmf.analysis.comparisons import families
from dmf.analysis.figures_extra import (
    draw_agreement,
    draw_differences,
    draw_gamma,
    draw_seeds,
    draw_train_test,
)
from dmf.analysis.figures_paper import draw_losses, draw_qualitative, draw_weights, grid_of_courses
from dmf.analysis.figures_style import (
    Drawing,
    Material,
    NothingToDraw,
    data_note,
    house_style,
    save,
)
from dmf.analysis.results import factors, histories, paper_dataset
from dmf.files import read_json, write_json
from dmf.study import ReportParameters

CAPTIONS = "captions.json"


@dataclass(frozen=True)
class FigureEntry:
    """One figure of the report.

    ``note`` says what sets its data apart from the paper's, ``left_out`` why it was not drawn; both
    are empty otherwise.
    """

    name: str
    dataset: str
    kind: str
    title: str
    note: str
    caption: str
    alt: str
    left_out: str = ""


@dataclass(frozen=True)
class _Kind:
    """A kind of figure: its title, when a study has it, and how it is drawn."""

    title: str
    draw: Callable[[Material], Drawing]
    applies: Callable[[ReportParameters, str], bool]


def _always(parameters: ReportParameters, dataset: str) -> bool:
    return True


def _adapts(parameters: ReportParameters, dataset: str) -> bool:
    return bool(grid_of_courses(parameters.grid.configurations)[0])


def _has_auxiliary(parameters: ReportParameters, dataset: str) -> bool:
    return any(factors(name)[0] != "none" for name in parameters.grid.configurations)


def _has_pairs(parameters: ReportParameters, dataset: str) -> bool:
    return any(families(parameters.grid.configurations).values())


def _is_in_the_paper(parameters: ReportParameters, dataset: str) -> bool:
    return paper_dataset(parameters, dataset) is not None


_KINDS = {
    "qualitative": _Kind("predicted masks", draw_qualitative, _always),
    "weights": _Kind("weights of the base losses", draw_weights, _adapts),
    "losses": _Kind("base losses", draw_losses, _adapts),
    "differences": _Kind("paired differences", draw_differences, _has_pairs),
    "seeds": _Kind("every seed", draw_seeds, _always),
    "train-test": _Kind("training against test scores", draw_train_test, _always),
    "agreement": _Kind("our cells against the paper's", draw_agreement, _is_in_the_paper),
    "gamma": _Kind("the auxiliary loss over time", draw_gamma, _has_auxiliary),
}

_PAPER_FIGURES = {
    ("busi", "qualitative"): 1,
    ("busc", "qualitative"): 2,
    ("bus", "qualitative"): 3,
    ("busi", "weights"): 4,
    ("busi", "losses"): 5,
}


def expected(parameters: ReportParameters) -> list[str]:
    """Return the file names a complete study's figures have, PNG and PDF, and of their captions."""
    names = [f"{dataset}-{kind}" for dataset, kind in _planned(parameters)]
    return [*(name + suffix for name in names for suffix in (".png", ".pdf")), CAPTIONS]


def write_all(
    results: pd.DataFrame, parameters: ReportParameters, folder: Path
) -> list[FigureEntry]:
    """Draw every figure of the study into ``folder`` as PNG and PDF; return what was drawn.

    Figures whose material is not there (models that were never fetched, say) are left out, an
    older drawing of them is removed, and their entry says why. The entries are written beside the
    figures as ``captions.json``. The same material gives the same bytes. Paths of runs and arrays
    are relative to the working directory.
    """
    entries = []
    courses = {dataset: histories(parameters, dataset) for dataset in parameters.grid.datasets}
    with house_style():
        for dataset, kind in _planned(parameters):
            material = Material(results, courses[dataset], parameters, dataset)
            stem = folder / f"{dataset}-{kind}"
            title = f"{material.label()}: {_KINDS[kind].title}"
            note = data_note(parameters, dataset)
            try:
                drawing = _KINDS[kind].draw(material)
            except NothingToDraw as reason:
                for suffix in (".png", ".pdf"):
                    stem.with_name(stem.name + suffix).unlink(missing_ok=True)
                entry = FigureEntry(stem.name, dataset, kind, title, note, "", "", str(reason))
                entries.append(entry)
                continue
            save(drawing.figure, stem, parameters.report.dpi)
            caption = _place_in_paper(parameters, dataset, kind) + drawing.caption
            entries.append(FigureEntry(stem.name, dataset, kind, title, note, caption, drawing.alt))
    write_json(folder / CAPTIONS, [asdict(entry) for entry in entries])
    return entries


def read_captions(folder: Path) -> list[FigureEntry]:
    """Return the entries ``write_all`` left in ``folder``; raises DmfError if there are none."""
    return [FigureEntry(**entry) for entry in read_json(folder / CAPTIONS)]


def _planned(parameters: ReportParameters) -> list[tuple[str, str]]:
    return [
        (dataset, name)
        for dataset in parameters.grid.datasets
        for name, kind in _KINDS.items()
        if kind.applies(parameters, dataset)
    ]


def _place_in_paper(parameters: ReportParameters, dataset: str, kind: str) -> str:
    """Return which figure of the paper this one answers."""
    known = paper_dataset(parameters, dataset)
    number = _PAPER_FIGURES.get((known or "", kind))
    return f"The paper's Figure {number}. " if number else ""

"""Every figure of the report: which there are, what they are called, and drawing them all.

Snakemake imports this module to learn the names, in every job; what draws is imported on demand.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmf.files import read_json, write_json
from dmf.study import PAPER_DATASETS, ReportParameters, parse_configuration

if TYPE_CHECKING:
    import pandas as pd

CAPTIONS = "captions.json"
SUFFIXES = (".png", ".pdf")

Applies = Callable[[ReportParameters, str], bool]


@dataclass(frozen=True)
class FigureEntry:
    """One figure of the report.

    ``note`` says what sets its data apart from the paper's, ``left_out`` why there is only a
    placeholder in its place; both are empty otherwise.
    """

    name: str
    dataset: str
    kind: str
    title: str
    note: str
    caption: str
    alt: str
    left_out: str = ""


def _always(parameters: ReportParameters, dataset: str) -> bool:
    return True


def _adapts(parameters: ReportParameters, dataset: str) -> bool:
    names = parameters.grid.configurations
    return any(parse_configuration(name).weighting != "fixed" for name in names)


def _has_auxiliary(parameters: ReportParameters, dataset: str) -> bool:
    names = parameters.grid.configurations
    return any(parse_configuration(name).auxiliary != "none" for name in names)


def _has_pairs(parameters: ReportParameters, dataset: str) -> bool:
    return len(parameters.grid.configurations) > 1


def _is_in_the_paper(parameters: ReportParameters, dataset: str) -> bool:
    return parameters.kinds[dataset] in PAPER_DATASETS


# Kind, title, and which studies and data sets have it; in the order of the page.
_KINDS: dict[str, tuple[str, Applies]] = {
    "qualitative": ("predicted masks", _always),
    "weights": ("weights of the base losses", _adapts),
    "losses": ("base losses", _adapts),
    "curves": ("learning curves", _always),
    "differences": ("paired differences", _has_pairs),
    "seeds": ("every seed", _always),
    "train-test": ("training against test scores", _always),
    "agreement": ("our cells against the paper's", _is_in_the_paper),
    "gamma": ("the auxiliary loss over time", _has_auxiliary),
}

_PAPER_FIGURES = {
    ("busi", "qualitative"): 1,
    ("busc", "qualitative"): 2,
    ("bus", "qualitative"): 3,
    ("busi", "weights"): 4,
    ("busi", "losses"): 5,
}


def expected(parameters: ReportParameters) -> list[str]:
    """Return the names of the files ``write_all`` writes: every figure twice, and the captions."""
    names = [f"{dataset}-{kind}" for dataset, kind in _planned(parameters)]
    return [*(name + suffix for name in names for suffix in SUFFIXES), CAPTIONS]


def write_all(
    results: "pd.DataFrame", parameters: ReportParameters, folder: Path
) -> list[FigureEntry]:
    """Draw every figure of the study into ``folder`` as PNG and PDF; return what was drawn.

    Where the material of a figure is not there (models that were never fetched, say) a placeholder
    and the figure's entry say so. The entries are written beside the figures as ``captions.json``.
    The same material gives the same bytes. Paths of runs and arrays are relative to the working
    directory.
    """
    from dmf.analysis import figures_extra, figures_paper, figures_style
    from dmf.analysis.results import histories

    draw = {
        "qualitative": figures_paper.draw_qualitative,
        "weights": figures_paper.draw_weights,
        "losses": figures_paper.draw_losses,
        "curves": figures_extra.draw_curves,
        "differences": figures_extra.draw_differences,
        "seeds": figures_extra.draw_seeds,
        "train-test": figures_extra.draw_train_test,
        "agreement": figures_extra.draw_agreement,
        "gamma": figures_extra.draw_gamma,
    }
    entries = []
    courses = {dataset: histories(parameters.grid, dataset) for dataset in parameters.grid.datasets}
    with figures_style.house_style():
        for dataset, kind in _planned(parameters):
            material = figures_style.Material(results, courses[dataset], parameters, dataset)
            title = f"{material.label()}: {_KINDS[kind][0]}"
            left_out = ""
            try:
                drawing = draw[kind](material)
            except figures_style.NothingToDraw as reason:
                left_out = str(reason)
                drawing = figures_style.placeholder(material, title, left_out)
            stem = folder / f"{dataset}-{kind}"
            figures_style.save(drawing.figure, stem, SUFFIXES, parameters.report.dpi)
            number = _PAPER_FIGURES.get((parameters.kinds[dataset], kind))
            entry = FigureEntry(
                stem.name,
                dataset,
                kind,
                title,
                figures_style.data_note(parameters, dataset),
                (f"The paper's Figure {number}. " if number else "") + drawing.caption,
                drawing.alt,
                left_out,
            )
            entries.append(entry)
    write_json(folder / CAPTIONS, [asdict(entry) for entry in entries])
    return entries


def read_captions(folder: Path) -> list[FigureEntry]:
    """Return the entries ``write_all`` left in ``folder``; raises DmfError if there are none."""
    return [FigureEntry(**entry) for entry in read_json(folder / CAPTIONS)]


def _planned(parameters: ReportParameters) -> list[tuple[str, str]]:
    return [
        (dataset, kind)
        for dataset in parameters.grid.datasets
        for kind, (_, applies) in _KINDS.items()
        if applies(parameters, dataset)
    ]

"""Every figure of the report: which there are, what they are called, and drawing them all.

Snakemake imports this module to learn the names, in every job; what draws is imported on demand.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmf.configurations import parse_configuration
from dmf.files import read_json, write_json
from dmf.study import PAPER_DATASETS, ReportParameters

if TYPE_CHECKING:
    import pandas as pd

CAPTIONS = "captions.json"


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


# In the order of the page.
TITLES = {
    "seeds": "every seed",
    "for-papers": "every seed, for a paper",
    "differences": "paired differences",
    "evaluations": "the choice of the epoch",
    "train-test": "training against test scores",
    "agreement": "our cells against the paper's",
    "weights": "weights of the base losses",
    "losses": "base losses",
    "curves": "learning curves",
    "gamma": "the auxiliary loss over time",
    "qualitative": "predicted masks",
}

_PAPER_FIGURES = {
    ("busi", "qualitative"): 1,
    ("busc", "qualitative"): 2,
    ("bus", "qualitative"): 3,
    ("busi", "weights"): 4,
    ("busi", "losses"): 5,
}


def expected(parameters: ReportParameters) -> list[str]:
    """Return the names of the files ``write_all`` writes: figures in each format, captions."""
    names = [f"{dataset}-{kind}" for dataset, kind in _planned(parameters)]
    formats = _formats(parameters)
    return [*(f"{name}.{suffix}" for name in names for suffix in formats), CAPTIONS]


def write_all(
    results: "pd.DataFrame", parameters: ReportParameters, folder: Path
) -> list[FigureEntry]:
    """Draw every figure of the study into ``folder``; return what was drawn.

    Where the material of a figure is not there (models that were never fetched, say) a placeholder
    and the figure's entry say so. The entries are written beside the figures as ``captions.json``.
    The same material gives the same bytes. Paths of runs and arrays are relative to the working
    directory.
    """
    from dmf.analysis.figures import paper, scores, seeds, style, training
    from dmf.analysis.protocol import data_note
    from dmf.analysis.results import histories

    draw = {
        "qualitative": paper.draw_qualitative,
        "weights": paper.draw_weights,
        "losses": paper.draw_losses,
        "curves": training.draw_curves,
        "differences": scores.draw_differences,
        "seeds": seeds.draw_seeds,
        "for-papers": seeds.draw_for_papers,
        "evaluations": scores.draw_evaluations,
        "train-test": scores.draw_train_test,
        "agreement": scores.draw_agreement,
        "gamma": training.draw_gamma,
    }
    entries = []
    epochs = histories(parameters.grid)
    with style.house_style():
        for dataset, kind in _planned(parameters):
            material = style.Material(results, epochs, parameters, dataset)
            title = f"{material.label}: {TITLES[kind]}"
            left_out = ""
            try:
                drawing = draw[kind](material)
            except style.NothingToDraw as reason:
                left_out = str(reason)
                drawing = style.placeholder(material, title, left_out)
            stem = folder / f"{dataset}-{kind}"
            style.save(drawing.figure, stem, _formats(parameters), parameters.report.dpi)
            number = _PAPER_FIGURES.get((parameters.kinds[dataset], kind))
            caption = (f"The paper's Figure {number}. " if number else "") + drawing.caption
            note = data_note(parameters, dataset)
            entries.append(
                FigureEntry(stem.name, dataset, kind, title, note, caption, drawing.alt, left_out)
            )
    write_json(folder / CAPTIONS, [asdict(entry) for entry in entries])
    return entries


def read_captions(folder: Path) -> list[FigureEntry]:
    """Return the entries ``write_all`` left in ``folder``; raises DmfError if there are none."""
    return [FigureEntry(**entry) for entry in read_json(folder / CAPTIONS)]


def _formats(parameters: ReportParameters) -> list[str]:
    return ["png", "pdf"] if parameters.report.pdf else ["png"]


def _planned(parameters: ReportParameters) -> list[tuple[str, str]]:
    """Return (data set, kind) of every figure that has something to show."""
    parsed = [parse_configuration(name) for name in parameters.grid.configurations]
    adapts = any(configuration.weighting != "fixed" for configuration in parsed)
    has_auxiliary = any(configuration.auxiliary != "none" for configuration in parsed)
    has_pairs = len(parsed) > 1
    found = []
    for dataset in parameters.grid.datasets:
        is_the_papers = parameters.kinds[dataset] in PAPER_DATASETS
        needs = {"weights": adapts, "losses": adapts, "gamma": has_auxiliary}
        needs |= {"differences": has_pairs, "agreement": is_the_papers}
        # A figure without a head would not say that its images are synthetic.
        needs["for-papers"] = parameters.kinds[dataset] != "phantom"
        found += [(dataset, kind) for kind in TITLES if needs.get(kind, True)]
    return found

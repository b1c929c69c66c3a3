"""The report in one file: ``index.html`` for people, ``report.md`` with the same for GitHub."""

import base64
import io
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from dmf.analysis.figures import catalogue
from dmf.analysis.page import claim_rows, comparison_tables, origins
from dmf.analysis.paper import audit
from dmf.analysis.protocol import data_note, departures, paper_dataset, reductions
from dmf.analysis.results import histories
from dmf.analysis.tables import markdown, score_tables
from dmf.analysis.verdict import explanations
from dmf.analysis.verdict.judgements import judge
from dmf.analysis.words import count, dataset_label, listed
from dmf.files import write_text
from dmf.layout import FIGURES, PAGE, REPORT, RESULTS
from dmf.study import ReportParameters

COLOURS = 256  # of embedded figures: a third of the bytes, no visible difference


def write(results: pd.DataFrame, parameters: ReportParameters, folder: Path) -> None:
    """Write ``index.html`` and ``report.md`` into ``folder``, from the figures in ``folder``.

    ``index.html`` needs nothing but itself: images, style and script are inside it. Figures must
    have been drawn before. Paths of runs and data are relative to the working directory.
    """
    environment = Environment(
        loader=PackageLoader("dmf.analysis.page"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["markdown"] = markdown
    content = _content(results, parameters, folder)
    for name in (PAGE.name, REPORT.name):
        write_text(folder / name, environment.get_template(name).render(content))


def _content(results: pd.DataFrame, parameters: ReportParameters, folder: Path) -> dict[str, Any]:
    """Gather everything both templates show."""
    datasets = parameters.grid.datasets
    judgements = judge(results, histories(parameters.grid), parameters)
    rows = claim_rows.rows(judgements)
    sections = ("Verdict", "Tables", "Figures", "Audit", "Explanations", "Provenance")
    return {
        "title": f"Dynamic Memory Fusion, rerun: {parameters.grid.name}",
        "study": parameters.grid.name,
        "lead": _lead(parameters),
        "banners": _banners(parameters),
        "sections": {name.lower(): name for name in sections},
        "symbols": claim_rows.SYMBOLS,
        "headlines": claim_rows.headlines(judgements),
        "checks": f"{count(len(judgements), 'check')} of {count(len(rows), 'claim')}",
        "tallies": {
            "Our runs": claim_rows.tally([judgement.ours for judgement in judgements]),
            "The paper's own tables": claim_rows.tally(
                [judgement.paper for judgement in judgements]
            ),
            "The paper's own tables, judged as our runs": claim_rows.tally(
                [judgement.paper_alike for judgement in judgements]
            ),
        },
        "standings": comparison_tables.standings(results, parameters),
        "claims": rows,
        "audit": audit.summary(),
        "explanations": _explanations(results, parameters),
        "across": comparison_tables.across(results, parameters),
        "labels": {name: dataset_label(name) for name in datasets},
        "datasets": [_dataset(results, parameters, name, folder) for name in datasets],
        "runs": origins.runs(results, parameters),
        "facts": origins.facts(parameters),
        "data_sets": [origins.data(parameters, name) for name in datasets],
        "mlflow": origins.mlflow(parameters),
    }


def _lead(parameters: ReportParameters) -> str:
    if all(paper_dataset(parameters, name) for name in parameters.grid.datasets):
        return (
            "The paper's networks, trained again: every number and every claim of the paper beside "
            "what we measured."
        )
    return (
        "The paper's method on other images than the paper's: how it behaves here, and what "
        "follows from the paper's own numbers."
    )


def _banners(parameters: ReportParameters) -> list[dict[str, str]]:
    """Return what a reader must know before any number."""
    banners = []
    kinds = {
        kind: [dataset_label(name) for name, its in parameters.kinds.items() if its == kind]
        for kind in ("phantom", "folder")
    }
    if kinds["phantom"]:
        text = (
            f"The images of {listed(kinds['phantom'])} are synthetic. They show that the chain "
            "works and how the method behaves; their scores are not compared with the paper's."
        )
        banners.append({"kind": "phantom", "head": "Phantom data.", "text": text})
    if kinds["folder"]:
        text = (
            f"The images of {listed(kinds['folder'])} are not the paper's; their scores are not "
            "compared with it."
        )
        banners.append({"kind": "own", "head": "Own data.", "text": text})
    if reduced := reductions(parameters):
        text = f"Smaller than the paper's study: {', '.join(reduced)}."
        banners.append({"kind": "reduced", "head": "Reduced study.", "text": text})
    if others := departures(parameters):
        text = f"{listed(others)}."
        banners.append({"kind": "other", "head": "Not as in the paper:", "text": text})
    return banners


def _dataset(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str, folder: Path
) -> dict[str, Any]:
    """Return tables and figures of one dataset."""
    captions = catalogue.read_captions(folder / FIGURES.name)
    entries = [entry for entry in captions if entry.dataset == dataset]
    note = data_note(parameters, dataset)
    return {
        "name": dataset,
        "label": dataset_label(dataset),
        "note": note,
        "tag": note.partition(":")[0].rstrip("."),
        "tables": [
            *score_tables(results, parameters, dataset),
            *comparison_tables.comparison_tables(results, parameters, dataset),
        ],
        "figures": [
            {**vars(entry), **_embedded(folder / FIGURES.name / f"{entry.name}.png")}
            for entry in entries
            if not entry.left_out
        ],
        "left_out": [entry for entry in entries if entry.left_out],
    }


def _explanations(
    results: pd.DataFrame, parameters: ReportParameters
) -> dict[str, list[explanations.Explanation]]:
    """Return the explanations by their question, those of every data set together."""
    folder, mine = parameters.report.extra_studies, parameters.grid.name
    others = {
        study: Path(folder.format(name=mine, study=study)) / RESULTS
        for study in explanations.STUDIES
    }
    grouped: dict[str, list[explanations.Explanation]] = {}
    for explanation in explanations.explain(results, parameters, others):
        grouped.setdefault(explanation.question, []).append(explanation)
    return grouped


def _embedded(path: Path) -> dict[str, Any]:
    """Return the figure as a data URI with fewer colours, and its size in pixels."""
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(
            COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
    stream = io.BytesIO()
    reduced.save(stream, "PNG", optimize=True)
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    width, height = reduced.size
    return {"image": f"data:image/png;base64,{text}", "width": width, "height": height}

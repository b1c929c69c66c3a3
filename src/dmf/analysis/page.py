"""The report in one file: ``index.html`` for people, ``report.md`` with the same for GitHub."""

import base64
import io
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from dmf.analysis import (
    audit,
    claims,
    explanations,
    figures,
    page_claims,
    page_provenance,
    page_tables,
    tables,
)
from dmf.analysis.figures_style import count, data_note
from dmf.analysis.page_claims import listed
from dmf.analysis.results import departures, histories, paper_dataset, reductions
from dmf.files import write_text
from dmf.study import ReportParameters

COLOURS = 256  # of embedded figures: a third of the bytes, no visible difference


def write(results: pd.DataFrame, parameters: ReportParameters, folder: Path) -> None:
    """Write ``index.html`` and ``report.md`` into ``folder``, from the figures in ``folder``.

    ``index.html`` needs nothing but itself: images, style and script are inside it. Figures must
    have been drawn before. Paths of runs and data are relative to the working directory.
    """
    environment = Environment(
        loader=PackageLoader("dmf.analysis"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    content = _content(results, parameters, folder)
    for name in ("index.html", "report.md"):
        write_text(folder / name, environment.get_template(name).render(content))


def _content(results: pd.DataFrame, parameters: ReportParameters, folder: Path) -> dict[str, Any]:
    """Gather everything both templates show."""
    datasets = parameters.grid.datasets
    courses = pd.concat([histories(parameters.grid, name) for name in datasets], ignore_index=True)
    judgements = claims.judge(results, courses, parameters)
    rows = page_claims.rows(judgements)
    sections = {
        "verdict": "Verdict",
        "tables": "Tables",
        "figures": "Figures",
        "audit": "Audit",
        "explanations": "Explanations",
        "provenance": "Provenance",
    }
    return {
        "title": f"Dynamic Memory Fusion, rerun: {parameters.grid.name}",
        "study": parameters.grid.name,
        "lead": _lead(parameters),
        "banners": _banners(parameters),
        "sections": sections,
        "symbols": page_claims.SYMBOLS,
        "headlines": page_claims.headlines(judgements),
        "checks": f"{count(len(judgements), 'check')} of {count(len(rows), 'claim')}",
        "tallies": {
            "Our runs": page_claims.tally([one.ours for one in judgements]),
            "The paper's own tables": page_claims.tally([one.paper for one in judgements]),
        },
        "standings": page_tables.standings(results, parameters),
        "claims": rows,
        "audit": page_claims.audit_groups(audit.findings()),
        "explanations": _explanations(results, parameters),
        "across": page_tables.across(results, parameters),
        "labels": {name: tables.DATASET_LABELS.get(name, name) for name in datasets},
        "datasets": [_dataset(results, parameters, name, folder) for name in datasets],
        "runs": page_provenance.runs(results, parameters),
        "facts": page_provenance.facts(parameters),
        "data_sets": [page_provenance.data(parameters, name) for name in datasets],
        "mlflow": page_provenance.mlflow(parameters),
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
        kind: [tables.DATASET_LABELS.get(n, n) for n, k in parameters.kinds.items() if k == kind]
        for kind in ("phantom", "folder")
    }
    if kinds["phantom"]:
        text = (
            f"The images of {listed(kinds['phantom'])} are synthetic. They show that the chain "
            "works and how the method behaves; their scores are not compared with the paper's."
        )
        banners.append({"kind": "phantom", "head": "Phantom data.", "text": text})
    if kinds["folder"]:
        text = f"{listed(kinds['folder'])}: not one of the paper's sets, not compared with it."
        banners.append({"kind": "own", "head": "Own data.", "text": text})
    if reduced := reductions(parameters):
        text = "Smaller than the paper's in " + listed(reduced) + "."
        banners.append({"kind": "reduced", "head": "Reduced study.", "text": text})
    if others := departures(parameters):
        text = f"{listed(others)}."
        banners.append({"kind": "other", "head": "Not as in the paper:", "text": text})
    return banners


def _dataset(
    results: pd.DataFrame, parameters: ReportParameters, dataset: str, folder: Path
) -> dict[str, Any]:
    """Return tables and figures of one dataset."""
    entries = [
        entry for entry in figures.read_captions(folder / "figures") if entry.dataset == dataset
    ]
    note = data_note(parameters, dataset)
    return {
        "name": dataset,
        "label": tables.DATASET_LABELS.get(dataset, dataset),
        "note": note,
        "tag": note.partition(":")[0].partition(" (")[0].rstrip("."),
        "tables": page_tables.all_tables(results, parameters, dataset),
        "figures": [
            {**vars(entry), **_embedded(folder / "figures" / f"{entry.name}.png")}
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
        study: Path(folder.format(name=mine, study=study)) / "reports/results.csv"
        for study in explanations.STUDIES
    }
    grouped: dict[str, list[explanations.Explanation]] = {}
    for one in explanations.explain(results, parameters, others):
        grouped.setdefault(one.question, []).append(one)
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

"""The report in one file: ``index.html`` for people, ``report.md`` with the same for GitHub.

It tells a story: the answer, the scores behind it, the differences, the course of training; then
the paper's claims, what could explain a gap, the audit, and how all of it was made.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from dmf.analysis.figures import catalogue
from dmf.analysis.page import (
    answer,
    claim_rows,
    comparison_tables,
    looks,
    methods,
    origins,
    other_networks,
    other_sets,
)
from dmf.analysis.page.pictures import embedded
from dmf.analysis.paper import audit
from dmf.analysis.protocol import (
    data_note,
    departures,
    paper_dataset,
    reduction_head,
    reductions,
    settings_note,
)
from dmf.analysis.results import histories
from dmf.analysis.tables import markdown, score_tables
from dmf.analysis.verdict import explanations
from dmf.analysis.verdict.comparisons import across_datasets, compare
from dmf.analysis.verdict.evidence import Outcome
from dmf.analysis.verdict.headline import Headline, headline
from dmf.analysis.verdict.judgements import Judgement, judge
from dmf.analysis.words import count, dataset_label, listed
from dmf.files import write_text
from dmf.layout import FIGURES, PAGE, REPORT, RESULTS
from dmf.markup import plain
from dmf.study import PAPER_DATASETS, ReportParameters

# Which figures stand in which part of a data set's story; the rest stand with the training.
_PARTS = {
    "scores": ("seeds", "train-test", "agreement", "for-papers"),
    "differences": ("differences", "evaluations"),
    "training": ("weights", "losses", "curves", "gamma", "qualitative"),
}
_TITLES = {
    "scores": "Scores",
    "differences": "Differences to fixed weights and controls",
    "training": "The course of training, and examples",
}


def write(
    results: pd.DataFrame, parameters: ReportParameters, folder: Path, *, server: str = ""
) -> None:
    """Write ``index.html`` and ``report.md`` into ``folder``, from the figures in ``folder``.

    ``index.html`` needs nothing but itself: images, style and script are inside it. Figures must
    have been drawn before. Paths of runs and data are relative to the working directory. The page
    links to the runs on ``server``, the address of an MLflow server without its password.
    """
    environment = Environment(
        loader=PackageLoader("dmf.analysis.page"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["markdown"] = markdown
    environment.filters |= {
        "cell": lambda text: str(text).replace("|", "\\|").replace("\n", " "),
        "html": looks.html,
        "pages": looks.pages,
        "plain": plain,
        "symbol": looks.symbol,
        "tone": looks.tone,
    }
    content = _content(results, parameters, folder) | {
        "mlflow": origins.mlflow(parameters, server.rstrip("/"))
    }
    for name in (PAGE.name, REPORT.name):
        write_text(folder / name, environment.get_template(name).render(content))


def _content(results: pd.DataFrame, parameters: ReportParameters, folder: Path) -> dict[str, Any]:
    """Gather everything both templates show."""
    names = parameters.grid.datasets
    judgements = judge(results, histories(parameters.grid), parameters)
    pairs = {name: compare(results, parameters, name) for name in names}
    found = [headline(results, parameters, name, pairs[name]) for name in names]
    headlines = [each for each in found if each is not None]
    pooled = across_datasets(results, parameters)
    drawn = catalogue.read_captions(folder / FIGURES.name)
    files = {e: folder / FIGURES.name / f"{e.name}.png" for e in drawn if not e.left_out}
    main = [file for entry, file in files.items() if entry.kind == "seeds"]
    pictures = {file.stem: it for file, it in embedded(list(files.values()), main).items()}
    datasets = [
        _dataset(
            results, parameters, name, pairs[name], its, [e for e in drawn if e.dataset == name]
        )
        for name, its in zip(names, found, strict=True)
    ]
    for dataset in datasets:
        for entries in dataset["figures"].values():
            entries[:] = [{**vars(entry), "picture": pictures[entry.name]} for entry in entries]
    is_judged = answer.is_judged(parameters)
    sets = comparison_tables.over_sets(headlines, pooled, parameters) if names[1:] else None
    return {
        "title": f"Dynamic Memory Fusion, rerun: {parameters.grid.name}",
        "study": parameters.grid.name,
        "settings": settings_note(parameters),
        "banners": _banners(parameters),
        "sections": _sections(datasets),
        "parts": _TITLES,
        "answer": answer.answer(headlines, pooled, pd.concat(pairs.values()), parameters),
        "over_sets": sets,
        "across": comparison_tables.across(pooled),
        "other_sets": other_sets.tables(other_sets.read(parameters.grid), parameters),
        "headlines": claim_rows.headlines(judgements),
        "is_judged": is_judged,
        "checks": f"{count(len(judgements), 'check')} of "
        f"{count(len({j.id.partition('/')[0] for j in judgements}), 'claim')}",
        "outcomes": get_args(Outcome),
        "tallies": _tallies(judgements, is_judged=is_judged),
        "claims": claim_rows.grouped(judgements),
        "audit": audit.summary(),
        "explanations": _explanations(results, parameters),
        "labels": {name: dataset_label(name) for name in names},
        "datasets": datasets,
        "runs": origins.runs(results, parameters),
        "methods": methods.methods(parameters),
        "facts": origins.facts(parameters),
        "data_sets": [origins.data(parameters, name) for name in names],
    }


def _tallies(judgements: Sequence[Judgement], *, is_judged: bool) -> dict[str, looks.Tally]:
    """Count the verdicts on either side; on ours only if the study can judge any claim."""
    ours = {"Our runs": looks.tally(judgement.ours.outcome for judgement in judgements)}
    paper = {
        "The paper's own tables": looks.tally(j.paper.outcome for j in judgements),
        "The paper's own tables, judged as our runs": looks.tally(
            j.paper_alike.outcome for j in judgements
        ),
    }
    return (ours if is_judged else {}) | paper


def _sections(datasets: list[dict[str, Any]]) -> dict[str, str]:
    """Return the sections in the order of the page: id and name in the list of contents."""
    if len(datasets) == 1:
        middle = {"scores": "Scores", "differences": "Differences", "training": "Training"}
    else:
        middle = {f"set-{dataset['name']}": dataset["label"] for dataset in datasets}
    return {
        "answer": "Answer",
        **middle,
        "claims": "Claims",
        "explanations": "Explanations",
        "audit": "Audit",
        "methods": "Methods",
        "provenance": "Provenance",
    }


def _banners(parameters: ReportParameters) -> list[dict[str, str]]:
    """Return what a reader must know before any number."""
    banners = []
    kinds = {
        kind: [
            dataset_label(name)
            for name, its in parameters.kinds.items()
            if its == kind or (kind == "others" and its not in ("phantom", *PAPER_DATASETS))
        ]
        for kind in ("phantom", "others")
    }
    if kinds["phantom"]:
        text = (
            f"The images of {listed(kinds['phantom'])} are synthetic. They show that the chain "
            "works and how the method behaves; their scores are not compared with the paper's."
        )
        banners.append({"kind": "phantom", "head": "Phantom data.", "text": text})
    if kinds["others"]:
        text = (
            f"The images of {listed(kinds['others'])} are not the paper's; their scores are not "
            "compared with it."
        )
        banners.append({"kind": "own", "head": "Other data.", "text": text})
    if reduced := reductions(parameters):
        text = f"Smaller than the paper's study: {', '.join(reduced)}."
        head = f"{reduction_head(parameters)}."
        banners.append({"kind": "reduced", "head": head, "text": text})
    if others := departures(parameters):
        text = f"{listed(others)}."
        banners.append({"kind": "other", "head": "Not as in the paper:", "text": text})
    if devices := origins.devices(parameters):
        ran = "; on ".join(f"{name}: {listed(its)}" for name, its in devices.items())
        text = (
            f"On {ran}. Each device rounds in its own way, which can move a run by points; a "
            "difference between runs of two devices holds this too."
        )
        banners.append({"kind": "devices", "head": "Several devices.", "text": text})
    return banners


def _dataset(
    results: pd.DataFrame,
    parameters: ReportParameters,
    dataset: str,
    pairs: pd.DataFrame,
    its: Headline | None,
    entries: list[catalogue.FigureEntry],
) -> dict[str, Any]:
    """Return tables and figures of one dataset, by the part of its story they belong to."""
    note = data_note(parameters, dataset)
    figures = {
        part: [
            entry
            for kind in kinds
            for entry in entries
            if entry.kind == kind and not entry.left_out
        ]
        for part, kinds in _PARTS.items()
    }
    differences = comparison_tables.comparison_tables(results, parameters, dataset, pairs)
    if its is not None:
        unseen = comparison_tables.unseen_seeds(results, parameters, dataset)
        differences[:0] = [comparison_tables.evaluations(its, parameters), *unseen]
    scores = score_tables(results, parameters, dataset)
    if beside := other_networks.table(results, parameters, dataset):
        scores.append(beside)
    return {
        "name": dataset,
        "label": dataset_label(dataset),
        "tag": note.partition(":")[0].rstrip("."),
        "is_the_papers": paper_dataset(parameters, dataset) is not None,
        "main": comparison_tables.main_table(results, parameters, dataset, pairs),
        "tables": {
            "scores": scores,
            "differences": differences,
            "training": [],
        },
        "figures": figures,
        "left_out": [entry for entry in entries if entry.left_out],
    }


def _explanations(
    results: pd.DataFrame, parameters: ReportParameters
) -> list[tuple[str, str, list[explanations.Explanation]]]:
    """Return question, verdict word and answers of every data set, those measured first."""
    folder, mine = parameters.report.extra_studies, parameters.grid.name
    others = {
        study: Path(folder.format(name=mine, study=study)) / RESULTS
        for study in explanations.STUDIES
    }
    grouped: dict[str, list[explanations.Explanation]] = {}
    for explanation in explanations.explain(results, parameters, others):
        grouped.setdefault(explanation.question, []).append(explanation)
    rows = [
        (question, _change(answers), [a for a in answers if a.outcome == "measured"])
        for question, answers in grouped.items()
    ]
    return sorted(rows, key=lambda row: not row[2])


def _change(answers: list[explanations.Explanation]) -> str:
    """Say in a word which way the scores shown go: all intervals above zero, below, or neither."""
    shown = [
        row
        for answer in answers
        for name, row in answer.evidence.items()
        if name in explanations.SHOWN or len(answer.evidence) == 1
    ]
    if not shown:
        return "not run"
    if any(row["low"] is None for row in shown):
        return "no interval"
    sides = {"higher" if row["low"] > 0 else "lower" if row["high"] < 0 else "" for row in shown}
    if sides == {""}:
        return "undecided"
    return sides.pop() if len(sides) == 1 else "partly " + " and ".join(sorted(sides - {""}))

"""The paper's claims, judged on our runs and, by two yardsticks, on the paper's own tables.

On our runs differences are paired by seed. The paper prints only mean ± std of ten runs, so its
means are compared as if independent (Welch): once as they are, on its images under random splits,
and once as our runs are, allowing for splits that overlap, on other images of the kind.
"""

from dataclasses import dataclass, replace

import pandas as pd

from dmf.analysis.protocol import (
    departures,
    is_smaller,
    paper_dataset,
    protocol_departures,
    reductions,
)
from dmf.analysis.verdict import dynamics
from dmf.analysis.verdict.claim_schema import (
    Arithmetic,
    Claim,
    Difference,
    NoTest,
    Rule,
    claims,
    describe,
)
from dmf.analysis.verdict.comparisons import PaperNumbers, Seeds, overlap
from dmf.analysis.verdict.decide import decide
from dmf.analysis.verdict.evidence import Verdict
from dmf.analysis.words import DATASET_LABELS, METRIC_LABELS, metric_label
from dmf.outcomes import METRICS
from dmf.settings import Report
from dmf.study import PAPER_DATASETS, ReportParameters

# Claim, data set and metric of the contrast that the plan (amendment 1) calls confirmatory.
CONFIRMATORY = ("cb-dice-variance-above-fixed", "busi", "dice")


@dataclass(frozen=True)
class Judgement:
    """One claim and its verdicts; ``decided_by`` says in words which test and which numbers.

    ``id`` is claim/data set/metric, or the claim's name alone where no metric decides. ``paper`` is
    the paper's table judged as printed, ``paper_alike`` by the yardstick of our runs.
    The detail of ``ours`` names the one confirmatory contrast of the plan; all else explores.
    """

    id: str
    place: str
    statement: str
    datasets: list[str]
    decided_by: str
    ours: Verdict
    paper: Verdict
    paper_alike: Verdict


def judge(
    results: pd.DataFrame, histories: pd.DataFrame, parameters: ReportParameters
) -> list[Judgement]:
    """Judge every claim on our runs (test subset, last epoch) and on the paper's tables.

    Claims name the paper's data sets: what a study measures on phantom or own images never decides
    them, they are then "not run".
    """
    ours = {
        known: Seeds(results, histories, parameters, dataset)
        for dataset in reversed(parameters.grid.datasets)
        if (known := paper_dataset(parameters, dataset))
    }
    shared = overlap(parameters.split)
    paper = {dataset: PaperNumbers(dataset) for dataset in PAPER_DATASETS}
    alike = {dataset: PaperNumbers(dataset, shared) for dataset in PAPER_DATASETS}
    notes = _notes(parameters)
    judgements = []
    for claim in claims():
        if isinstance(claim.rule, NoTest | Arithmetic):
            judgements.append(_without_metric(claim, claim.rule, judged=bool(ours)))
            continue
        for dataset, metric in ((d, m) for d in claim.datasets for m in claim.metrics):
            confirms = _confirmatory(claim, dataset, metric, parameters)
            rule = claim.rule
            if confirms and isinstance(rule, Difference):
                rule = rule.model_copy(update={"family": []})  # one contrast pays for itself alone
            judgements.append(
                Judgement(
                    id=f"{claim.id}/{dataset}/{metric}",
                    place=claim.place,
                    statement=claim.statement.format(
                        dataset=DATASET_LABELS[dataset], metric=metric_label(metric)
                    ),
                    datasets=[dataset],
                    decided_by=_decided_by(rule, metric),
                    ours=_judge_ours(
                        rule,
                        ours.get(dataset),
                        paper[dataset],
                        metric,
                        parameters,
                        " The confirmatory contrast." * confirms + notes,
                    ),
                    paper=_judge_paper(claim, paper[dataset], metric, parameters.report),
                    paper_alike=_judge_paper(claim, alike[dataset], metric, parameters.report),
                )
            )
    return judgements


def _confirmatory(claim: Claim, dataset: str, metric: str, parameters: ReportParameters) -> bool:
    """Say whether this is the one contrast of the plan, in a study that has the paper's size."""
    return (
        (claim.id, dataset, metric) == CONFIRMATORY
        and not reductions(parameters)
        and not protocol_departures(parameters)
    )


def _notes(parameters: ReportParameters) -> str:
    """Return what every verdict on our runs says of the study behind it."""
    notes = " Reduced study." if is_smaller(parameters) else ""
    if others := departures(parameters):
        notes += f" Not as in the paper: {'; '.join(others)}."
    return notes


def _judge_ours(
    rule: Rule,
    source: Seeds | None,
    paper: PaperNumbers,
    metric: str,
    parameters: ReportParameters,
    notes: str,
) -> Verdict:
    if source is None:
        return Verdict("not run", f"{DATASET_LABELS[paper.dataset]} is not in this study.", {})
    own = decide(rule, source, metric, parameters.report, paper)
    if own.outcome == "not run":
        return own
    outcome = own.outcome
    if outcome == "contradicted" and is_smaller(parameters):
        outcome = "not reproduced at the reduced size"
    return replace(own, outcome=outcome, detail=own.detail + notes)


def _without_metric(claim: Claim, rule: NoTest | Arithmetic, *, judged: bool) -> Judgement:
    """Judge what no run decides; a study of other images than the paper's judges no claim."""
    outcome = rule.outcome if isinstance(rule, Arithmetic) else "not testable"
    verdict = Verdict(outcome, rule.reason.strip(), {})
    ours = verdict
    if isinstance(rule, Arithmetic) and not judged:
        ours = Verdict("not run", "None of the paper's sets is in this study.", {})
    names = ", ".join(DATASET_LABELS[dataset] for dataset in claim.datasets)
    return Judgement(
        id=claim.id,
        place=claim.place,
        statement=claim.statement.format(dataset=names),
        datasets=list(claim.datasets),
        decided_by=describe(rule),
        ours=ours,
        paper=verdict,
        paper_alike=verdict,
    )


def _judge_paper(claim: Claim, paper: PaperNumbers, metric: str, report: Report) -> Verdict:
    if metric not in METRICS:
        what = METRIC_LABELS.get(metric, "numbers on the course of training")
        return Verdict("not testable", claim.paper_note or f"The paper tabulates no {what}.", {})
    verdict = decide(claim.rule, paper, metric, report)
    if verdict.outcome == "not run":
        return Verdict("not testable", "The paper did not run these configurations.", {})
    return verdict


def _decided_by(rule: Rule, metric: str) -> str:
    """Say what is measured and how it decides."""
    if metric in METRIC_LABELS:
        rank = "primary" if metric == "dice" else "secondary"
        return f"{METRIC_LABELS[metric]} ({rank}; test, last epoch): {describe(rule)}"
    return f"{dynamics.definition(metric).rstrip('.')}: {describe(rule)}"

"""The paper's claims, judged twice: on our runs and on the paper's own tables.

On our runs differences are paired by seed. The paper prints only mean ± std of ten runs, so its
means are compared as if independent (Welch), the more cautious reading of its design.
"""

from dataclasses import dataclass, replace

import pandas as pd

from dmf.analysis.protocol import departures, paper_dataset, reductions
from dmf.analysis.verdict import dynamics
from dmf.analysis.verdict.claim_schema import Claim, NoTest, Rule, claims, describe
from dmf.analysis.verdict.comparisons import PaperNumbers, Seeds
from dmf.analysis.verdict.decide import Verdict, decide
from dmf.analysis.words import DATASET_LABELS, METRIC_LABELS
from dmf.outcomes import METRICS
from dmf.settings import Report
from dmf.study import PAPER_DATASETS, ReportParameters


@dataclass(frozen=True)
class Judgement:
    """One claim and its two verdicts; ``decided_by`` says in words which test and which numbers.

    ``id`` is claim/data set/metric, or the claim's name alone where nothing is testable.
    """

    id: str
    place: str
    statement: str
    datasets: list[str]
    decided_by: str
    ours: Verdict
    paper: Verdict


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
    paper = {dataset: PaperNumbers(dataset) for dataset in PAPER_DATASETS}
    notes = " Reduced study." if reductions(parameters) else ""
    if others := departures(parameters):
        notes += f" Not as in the paper: {'; '.join(others)}."
    judgements = []
    for claim in claims():
        if isinstance(claim.rule, NoTest):
            judgements.append(_untestable(claim, claim.rule))
            continue
        for dataset, metric in ((d, m) for d in claim.datasets for m in claim.metrics):
            own = Verdict("not run", f"{DATASET_LABELS[dataset]} is not in this study.", {})
            if dataset in ours:
                report = parameters.report
                own = decide(claim.rule, ours[dataset], metric, report, paper[dataset])
                if own.outcome != "not run":
                    own = replace(own, detail=own.detail + notes)
            judgements.append(
                Judgement(
                    id=f"{claim.id}/{dataset}/{metric}",
                    place=claim.place,
                    statement=claim.statement.format(
                        dataset=DATASET_LABELS[dataset], metric=METRIC_LABELS.get(metric, metric)
                    ),
                    datasets=[dataset],
                    decided_by=_decided_by(claim.rule, metric),
                    ours=own,
                    paper=_judge_paper(claim, paper[dataset], metric, parameters.report),
                )
            )
    return judgements


def _untestable(claim: Claim, rule: NoTest) -> Judgement:
    verdict = Verdict("not testable", rule.reason.strip(), {})
    names = ", ".join(DATASET_LABELS[dataset] for dataset in claim.datasets)
    return Judgement(
        id=claim.id,
        place=claim.place,
        statement=claim.statement.format(dataset=names),
        datasets=list(claim.datasets),
        decided_by=describe(rule),
        ours=verdict,
        paper=verdict,
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

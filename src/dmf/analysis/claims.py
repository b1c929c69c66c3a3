"""The paper's claims, judged twice: on our runs and on the paper's own tables.

The claims are data (``paper/claims.yaml``), decided by :mod:`dmf.analysis.rules`. On our runs
differences are paired by seed. The paper prints only mean ± std of ten runs, so its means are
compared as if independent (Welch), the more cautious reading of its design.
"""

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Literal, Self

import pandas as pd
import yaml
from pydantic import Field, model_validator

from dmf.analysis import dynamics, rules
from dmf.analysis.comparisons import Published, Seeds
from dmf.analysis.results import departures, paper_dataset, reductions
from dmf.analysis.rules import Verdict
from dmf.analysis.tables import DATASET_LABELS, METRIC_LABELS
from dmf.analysis.vocabulary import NoTest, Rule, describe
from dmf.outcomes import FOREGROUND_METRICS, METRICS
from dmf.settings import Report, Settings
from dmf.study import PAPER_DATASETS, ReportParameters

__all__ = ["Claim", "Judgement", "Verdict", "claims", "judge"]


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


class Claim(Settings):
    """An entry of ``claims.yaml``: one claim per data set and metric."""

    id: str
    place: str
    statement: str
    datasets: list[Literal["busi", "busc", "bus"]]
    metrics: list[str] = Field(default_factory=list)
    rule: Rule
    paper_note: str = ""

    @model_validator(mode="after")
    def _metrics_fit_the_rule(self) -> Self:
        known = {*METRICS, *FOREGROUND_METRICS, *dynamics.QUANTITIES}
        if unknown := set(self.metrics) - known:
            raise ValueError(f"claim {self.id}: unknown metrics {', '.join(sorted(unknown))}")
        if bool(self.metrics) == isinstance(self.rule, NoTest):
            raise ValueError(f"claim {self.id}: metrics go with every rule but `none`")
        return self


@cache
def claims() -> tuple[Claim, ...]:
    """Return the claims of the paper."""
    text = files("dmf.analysis").joinpath("paper/claims.yaml").read_text(encoding="utf-8")
    return tuple(Claim.model_validate(entry) for entry in yaml.safe_load(text))


def judge(
    results: pd.DataFrame, histories: pd.DataFrame, parameters: ReportParameters
) -> list[Judgement]:
    """Judge every claim on our runs (test subset, last epoch) and on the paper's tables.

    ``histories`` are those of all data sets together. Claims name the paper's data sets: what a
    study measures on phantom or own images never decides them, they are then "not run".
    """
    ours = {
        known: Seeds(results, histories, parameters, dataset)
        for dataset in reversed(parameters.grid.datasets)
        if (known := paper_dataset(parameters, dataset))
    }
    published = {dataset: Published(dataset) for dataset in PAPER_DATASETS}
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
                own = rules.judge(
                    claim.rule, ours[dataset], metric, parameters.report, published[dataset]
                )
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
                    paper=_judge_paper(claim, published[dataset], metric, parameters.report),
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


def _judge_paper(claim: Claim, published: Published, metric: str, report: Report) -> Verdict:
    if metric not in METRICS:
        what = METRIC_LABELS.get(metric, "numbers on the course of training")
        return Verdict("not testable", claim.paper_note or f"The paper tabulates no {what}.", {})
    verdict = rules.judge(claim.rule, published, metric, report)
    if verdict.outcome == "not run":
        return Verdict("not testable", "The paper did not run these configurations.", {})
    return verdict


def _decided_by(rule: Rule, metric: str) -> str:
    """Say what is measured and how it decides."""
    if metric in METRIC_LABELS:
        rank = "primary" if metric == "dice" else "secondary"
        return f"{METRIC_LABELS[metric]} ({rank}; test, last epoch): {describe(rule)}"
    return f"{dynamics.definition(metric).rstrip('.')}: {describe(rule)}"

"""Claims as the page shows them: by topic, a line each, its checks per set and metric folded.

Checks that no run of the study can decide are told apart: a line per set, and one for the claims
that name nothing measurable.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dmf.analysis.page.looks import Tally, tally
from dmf.analysis.verdict import dynamics
from dmf.analysis.verdict.claim_schema import Best, Claim, NotInferior, Spread, claims
from dmf.analysis.verdict.evidence import Verdict
from dmf.analysis.verdict.judgements import Judgement
from dmf.analysis.words import DATASET_LABELS, listed, metric_label

# The paper's main claim and its recommendation, in the primary metric; shown above the rest.
HEADLINES = ("framework-improves", "cb-dice-variance-best")
PRIMARY = "dice"
NOT_RUN, NOT_TESTABLE = "not run", "not testable"

TOPICS = {
    "fixed": "Adaptive against fixed weights",
    "best": "Which configuration is best, and whether the choice matters",
    "auxiliary": "What the auxiliary loss and the weighting add",
    "training": "The course of training",
    "cost": "Cost",
}


@dataclass(frozen=True)
class Check:
    """A claim on one data set and metric; ``what`` names the two."""

    what: str
    statement: str
    decided_by: str
    ours: Verdict
    paper: Verdict
    paper_alike: Verdict


@dataclass(frozen=True)
class Row:
    """A claim, its checks, and how often each outcome came out on either side."""

    id: str
    statement: str
    place: str
    checks: list[Check]
    ours: Tally
    paper: Tally


@dataclass(frozen=True)
class Claims:
    """All claims of the paper, by what this study can say of them.

    ``topics`` maps a title to its claims, ``not_run`` a set to its checks.
    """

    topics: dict[str, list[Row]]
    not_run: dict[str, list[Check]]
    not_testable: list[Row]


def grouped(judgements: Sequence[Judgement]) -> Claims:
    """Sort the judgements into topics, sets that were not run, and what cannot be tested."""
    topics: dict[str, list[Row]] = {title: [] for title in TOPICS.values()}
    not_run: dict[str, list[Check]] = {}
    not_testable = []
    for claim in claims():
        mine = [j for j in judgements if j.id.partition("/")[0] == claim.id]
        for judgement in mine:
            if judgement.ours.outcome == NOT_RUN:
                names = listed([DATASET_LABELS[name] for name in judgement.datasets])
                not_run.setdefault(names, []).append(_check(judgement))
        run = [judgement for judgement in mine if judgement.ours.outcome != NOT_RUN]
        if not run:
            continue
        if all(judgement.ours.outcome == NOT_TESTABLE for judgement in run):
            not_testable.append(_row(claim, run))
        else:
            topics[TOPICS[_topic(claim)]].append(_row(claim, run))
    not_run = {name: not_run[name] for name in sorted(not_run, key=_place)}
    return Claims({title: rows for title, rows in topics.items() if rows}, not_run, not_testable)


def _place(names: str) -> int:
    """Return where a set stands among the paper's, several together at the end."""
    known = list(DATASET_LABELS.values())
    return known.index(names) if names in known else len(known)


def headlines(judgements: Sequence[Judgement]) -> list[Check]:
    """Return the main claims, as far as our runs can judge them."""
    return [
        _check(judgement)
        for name in HEADLINES
        for judgement in judgements
        if judgement.id.split("/")[0] == name
        and judgement.id.split("/")[-1] == PRIMARY
        and judgement.ours.outcome != NOT_RUN
    ]


def _row(claim: Claim, judgements: Sequence[Judgement]) -> Row:
    """Return a claim as far as it was judged: its statement names no other set or metric."""
    parts = [judgement.id.split("/")[1:] for judgement in judgements]
    datasets = dict.fromkeys(name for judgement in judgements for name in judgement.datasets)
    metrics = dict.fromkeys(part[1] for part in parts if len(part) > 1)
    statement = claim.statement.format(
        dataset=listed([DATASET_LABELS[name] for name in datasets]),
        metric=listed([metric_label(name) for name in metrics] or [""]),
    )
    checks = [_check(judgement) for judgement in judgements]
    ours, paper = ([j.ours for j in judgements], [j.paper for j in judgements])
    return Row(claim.id, statement, claim.place, checks, _counted(ours), _counted(paper))


def _counted(verdicts: Iterable[Verdict]) -> Tally:
    return tally(verdict.outcome for verdict in verdicts)


def _topic(claim: Claim) -> str:
    """Return the topic of a claim, from what its rule compares."""
    if "log_seconds" in claim.metrics:
        return "cost"
    if set(claim.metrics) & set(dynamics.QUANTITIES):
        return "training"
    reference = getattr(claim.rule, "reference", None) or ""
    if isinstance(claim.rule, Best | NotInferior | Spread) or reference == "others":
        return "best"
    return "fixed" if reference.endswith("fixed") else "auxiliary"


def _check(judgement: Judgement) -> Check:
    what = ", ".join(_word(part) for part in judgement.id.split("/")[1:])
    return Check(
        what,
        judgement.statement,
        judgement.decided_by,
        judgement.ours,
        judgement.paper,
        judgement.paper_alike,
    )


def _word(part: str) -> str:
    """Return a data set, a metric or a quantity of the training curves as people write it."""
    return DATASET_LABELS.get(part) or metric_label(part)

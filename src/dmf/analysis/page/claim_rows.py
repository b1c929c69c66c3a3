"""Claims as the page shows them: a row per claim, its checks per data set and metric below."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dmf.analysis.verdict.claim_schema import claims
from dmf.analysis.verdict.evidence import Verdict
from dmf.analysis.verdict.judgements import Judgement
from dmf.analysis.words import DATASET_LABELS, listed, metric_label

SYMBOLS = {
    "supported": "✓",
    "contradicted": "✗",
    "not reproduced at the reduced size": "✗",
    "inconclusive": "≈",
    "numbers only": "·",
    "not run": "\N{EN DASH}",
    "not testable": "?",
}
# The paper's main claim and its recommendation, in the primary metric; shown above the rest.
HEADLINES = ("framework-improves", "cb-dice-variance-best")
PRIMARY = "dice"

Tally = list[tuple[str, int]]


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

    @property
    def ranks(self) -> tuple[float, float]:
        """Return the mean place of the outcomes (ours, the paper's) in the order of SYMBOLS."""
        return _rank(self.ours), _rank(self.paper)


def rows(judgements: Sequence[Judgement]) -> list[Row]:
    """Return one row per claim, in the order of the paper."""
    grouped: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        grouped.setdefault(judgement.id.partition("/")[0], []).append(judgement)
    statements = {
        claim.id: claim.statement.format(
            dataset=listed([DATASET_LABELS[name] for name in claim.datasets]),
            metric=listed([metric_label(name) for name in claim.metrics] or [""]),
        )
        for claim in claims()
    }
    return [
        Row(
            name,
            statements[name],
            group[0].place,
            [_check(judgement) for judgement in group],
            tally([judgement.ours for judgement in group]),
            tally([judgement.paper for judgement in group]),
        )
        for name, group in grouped.items()
    ]


def headlines(judgements: Sequence[Judgement]) -> list[Check]:
    """Return the main claims, as far as our runs can judge them."""
    return [
        _check(judgement)
        for name in HEADLINES
        for judgement in judgements
        if judgement.id.split("/")[0] == name
        and judgement.id.split("/")[-1] == PRIMARY
        and judgement.ours.outcome != "not run"
    ]


def tally(verdicts: Sequence[Verdict]) -> Tally:
    """Count the outcomes, in the order of SYMBOLS."""
    counted: Counter[str] = Counter(verdict.outcome for verdict in verdicts)
    return [(outcome, counted[outcome]) for outcome in SYMBOLS if counted[outcome]]


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


def _rank(counts: Tally) -> float:
    places = list(SYMBOLS)
    total = sum(number for _, number in counts)
    return sum(places.index(outcome) * number for outcome, number in counts) / total

"""The paper's claims, and the rules that decide them: what ``paper/claims.yaml`` may say.

What "supported" and "contradicted" mean is docs/statistics.md; :mod:`dmf.analysis.verdict.decide`
carries the rules out.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, model_validator

from dmf.analysis.paper.numbers import matching
from dmf.analysis.verdict import dynamics
from dmf.configurations import paper_configurations
from dmf.outcomes import FOREGROUND_METRICS, METRICS
from dmf.settings import Settings

Expect = Literal["above", "below"]


class Difference(Settings):
    """The mean of candidate - reference over all candidates lies above (below) ``limit``.

    Without reference the candidates' own mean is set against the limit; the reference ``others`` is
    the mean of what else ``among`` holds. ``family`` names the candidates that share Holm's
    adjustment where a claim singles out one of them.
    """

    test: Literal["difference"]
    candidates: list[str]
    reference: str | None = None
    among: list[str] = Field(default_factory=list)
    family: list[str] = Field(default_factory=list)
    limit: float = 0.0
    expect: Expect = "above"


class Every(Settings):
    """The same for each candidate by itself, Holm-adjusted; all must hold."""

    test: Literal["every"]
    candidates: list[str]
    reference: str | None = None
    limit: float = 0.0
    expect: Expect = "above"


class Best(Settings):
    """The best of the candidates is the best of all in ``among``."""

    test: Literal["best"]
    candidates: list[str]
    among: list[str]


class NotInferior(Settings):
    """The candidate is at most the margin below any other in ``among``."""

    test: Literal["not_inferior"]
    candidates: Annotated[list[str], Field(min_length=1, max_length=1)]
    among: list[str]


class Spread(Settings):
    """The highest mean less the lowest is above ``limit``, or all pairs differ by less than it."""

    test: Literal["spread"]
    among: list[str]
    limit: float
    expect: Expect


class Arithmetic(Settings):
    """What follows from the equations, whatever is measured; a property test repeats it."""

    test: Literal["arithmetic"]
    outcome: Literal["supported", "contradicted"]
    reason: str


class NoTest(Settings):
    """Nothing measurable decides the claim."""

    test: Literal["none"]
    reason: str


Rule = Annotated[
    Difference | Every | Best | NotInferior | Spread | Arithmetic | NoTest,
    Field(discriminator="test"),
]


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
        if bool(self.metrics) == isinstance(self.rule, NoTest | Arithmetic):
            raise ValueError(
                f"claim {self.id}: metrics go with every rule but `none` and `arithmetic`"
            )
        return self


@cache
def claims() -> tuple[Claim, ...]:
    """Return the claims of the paper."""
    text = files("dmf.analysis.paper").joinpath("claims.yaml").read_text(encoding="utf-8")
    return tuple(Claim.model_validate(entry) for entry in yaml.safe_load(text))


def describe(rule: Rule) -> str:
    """Say in words how ``rule`` decides, without the statistics every rule shares."""
    match rule:
        case Difference():
            what = f"mean of {_names(rule.candidates)}"
            if rule.reference:
                what = f"mean difference of {_names(rule.candidates)} to {_words(rule.reference)}"
            family = matching(rule.family)
            holm = f", Holm over {len(family)} comparisons" if family else ""
            return f"{what}, {rule.expect} {rule.limit:g}{holm}"
        case Every():
            what = f"each of {_names(rule.candidates)}"
            if rule.reference:
                what += f" minus {_words(rule.reference)}"
            return f"{what}, {rule.expect} {rule.limit:g}; all must hold, Holm against"
        case Best():
            return f"{_names(rule.candidates)} first among {_names(rule.among)}"
        case NotInferior():
            return f"{_names(rule.candidates)} not inferior to any of {_names(rule.among)}"
        case Spread():
            what = "highest minus lowest" if rule.expect == "above" else "each pair's difference"
            return f"{what} of {_names(rule.among)}, {rule.expect} {rule.limit:g}"
        case Arithmetic():
            return "arithmetic, which a property test repeats"
        case NoTest():
            return "nothing: not testable as stated"


def _names(patterns: Sequence[str]) -> str:
    names = matching(patterns)
    if len(names) == len(paper_configurations()):
        return "all 13 configurations"
    return names[0] if len(names) == 1 else f"{len(names)} configurations"


def _words(reference: str) -> str:
    words = {
        "others": "the mean of the others",
        "none-{weighting}": "no auxiliary with the same weighting",
    }
    if reference.startswith("{auxiliary}-"):
        return f"{reference.removeprefix('{auxiliary}-')} weights with the same auxiliary"
    return words.get(reference, "fixed weights" if reference == "fixed" else reference)

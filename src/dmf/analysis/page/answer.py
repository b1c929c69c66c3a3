"""The answer of a study: two sentences, the one number that carries them, and where it lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dmf.analysis.page.comparison_tables import outcome_word
from dmf.analysis.protocol import paper_dataset
from dmf.analysis.verdict.comparisons import families, pooled_datasets
from dmf.analysis.verdict.headline import Headline, Reading
from dmf.analysis.verdict.statistics import LEAST_SEEDS
from dmf.analysis.words import EVALUATION_LABELS, count, dataset_label, label, listed, number
from dmf.study import ReportParameters

ROBUST, DEPENDS = "robust", "depends on the epoch"


@dataclass(frozen=True)
class Scale:
    """Where numbers lie on a line, in percent of its length; ``band`` is what does not count."""

    zero: float
    estimate: float
    interval: tuple[float, float] | None
    paper: float | None
    band: tuple[float, float]


@dataclass(frozen=True)
class Answer:
    """What the page leads with; ``verdict`` and ``epochs`` are words, empty where there is none."""

    number: str
    what: str
    interval: str
    paper: str
    sentences: list[str]
    verdict: str
    epochs: str
    scale: Scale | None


def answer(
    headlines: Sequence[Headline],
    pooled: pd.DataFrame,
    pairs: pd.DataFrame,
    parameters: ReportParameters,
) -> Answer:
    """Return the answer: of all sets together where they may be pooled, else of the first.

    The paper's sets come before others. ``pooled`` is the table of
    :func:`~dmf.analysis.verdict.comparisons.across_datasets`, ``pairs`` has that of
    :func:`~dmf.analysis.verdict.comparisons.compare` for every set.
    """
    if not headlines:
        compares = families(parameters.grid.configurations).get("dmf_over_fixed")
        reason = (
            "No seed has finished both fixed weights and an adaptive configuration: there is no "
            "difference to report yet."
            if compares
            else "This study has no adaptive configuration beside fixed weights, so that it has no "
            "difference to report."
        )
        sentences = [reason, "The scores that are there stand below."]
        return Answer("", "", "", "", sentences, "", "", None)
    first = next((h for h in headlines if h.paper is not None), headlines[0])
    together = pooled[pooled["configuration"] == first.candidate]
    if len(together) and not pd.isna(together["gain"].iloc[0]):
        return _of_all(headlines, together.iloc[0].to_dict(), pairs, parameters)
    return _of_one(first, parameters)


def epochs_word(headline: Headline) -> str:
    """Say whether the evaluations agree; empty if there is nothing to compare."""
    return {None: "", True: ROBUST, False: DEPENDS}[headline.robust]


def points(value: float, form: str = "+.2f") -> str:
    """Return a difference of scores in points."""
    return number(100 * value, form)


def _of_one(headline: Headline, parameters: ReportParameters) -> Answer:
    reading, paper = headline.primary, headline.paper
    place = dataset_label(headline.dataset)
    if parameters.kinds[headline.dataset] == "phantom":
        place = "synthetic phantom images"
    interval = _interval(reading.low, reading.high, parameters)
    seeds = count(reading.n, "seed")
    theirs = "" if paper is None else f"; the paper has {points(paper)}"
    side = "above" if reading.difference >= 0 else "below"
    beside = ", ".join(filter(None, (interval, seeds)))
    first = (
        f"On {place}, {_who(headline)} scores {points(abs(reading.difference), '.2f')} points of "
        f"Dice {side} {label(headline.reference).lower()} ({beside})"
        f"{theirs}."
    )
    return Answer(
        points(reading.difference),
        f"points of test Dice, {label(headline.candidate)} minus "
        f"{label(headline.reference).lower()}, {seeds}",
        interval,
        "" if paper is None else points(paper),
        [first, _second(headline)],
        outcome_word(headline.outcome),
        epochs_word(headline),
        _scale(reading.difference, (reading.low, reading.high), paper, parameters.report.margin),
    )


def _of_all(
    headlines: Sequence[Headline],
    pooled: Mapping[Any, Any],
    pairs: pd.DataFrame,
    parameters: ReportParameters,
) -> Answer:
    """Answer by the random effects of the sets; by the interquartile mean where there are none."""
    sets = pooled_datasets(parameters)
    mine = [h for h in headlines if h.candidate == pooled["configuration"] and h.dataset in sets]
    names = listed([dataset_label(headline.dataset) for headline in mine])
    has_effects = not pd.isna(pooled["pooled"])
    column, how = ("pooled", "random effects") if has_effects else ("gain", "interquartile mean")
    ends = (pooled[f"{column}_low"], pooled[f"{column}_high"])
    interval = _interval(*ends, parameters)
    if not has_effects:
        interval = interval.replace("interval", "bootstrap interval")
    beside = f"; interquartile mean {points(pooled['gain'])}" if has_effects else ""
    first = (
        f"Over {names}, {_who(mine[0])} changes Dice by {points(pooled[column])} points against "
        f"{label(mine[0].reference).lower()} ({', '.join(filter(None, (how, interval)))}{beside})."
    )
    each = [
        f"{points(h.primary.difference)} on {dataset_label(h.dataset)}"
        + ("" if h.paper is None else f" (the paper: {points(h.paper)})")
        for h in mine
    ]
    robust = sum(headline.robust is True for headline in mine)
    second = f"By set it is {listed(each)}; the answer is {ROBUST} on {robust} of {len(mine)}."
    return Answer(
        points(pooled[column]),
        f"points of test Dice, {label(mine[0].candidate)} minus "
        f"{label(mine[0].reference).lower()}, {how} over {count(len(mine), 'set')}",
        interval,
        "",
        [first, " ".join(filter(None, (second, _who_wins(pairs, sets))))],
        "",
        "",
        _scale(pooled[column], ends, None, parameters.report.margin),
    )


def _who_wins(pairs: pd.DataFrame, sets: Sequence[str]) -> str:
    """Say how many configurations are shown to lie above fixed weights on any of ``sets``."""
    against = pairs[
        (pairs["reference"] == "fixed") & pairs["dataset"].isin(sets) & (pairs["n"] > 0)
    ]
    if against.empty or (against["n"] < LEAST_SEEDS).all():
        return ""
    above = against[against["outcome"] == "supported"]
    named = [
        f"{label(pair['configuration'])} on {dataset_label(pair['dataset'])}"
        for pair in above.to_dict("records")
    ]
    compared = f"Of {count(len(against), 'comparison')} with fixed weights"
    if not named:
        return f"{compared} none is above."
    return f"{compared} {len(above)} {'are' if named[1:] else 'is'} above: {listed(named)}."


def _who(headline: Headline) -> str:
    recommended = ", the combination that the paper recommends," if headline.is_recommended else ""
    return label(headline.candidate) + recommended


def _interval(low: float, high: float, parameters: ReportParameters) -> str:
    if np.isnan(low):
        return ""
    return f"{100 * parameters.report.confidence:g} % interval {points(low)} to {points(high)}"


def _second(headline: Headline) -> str:
    """Say what the interval excludes, and whether the other evaluations agree."""
    reading = headline.primary
    if np.isnan(reading.low):
        return "An interval needs at least two seeds, so that nothing is decided here."
    text = _exclusions(reading) or f"Fewer than {LEAST_SEEDS} seeds decide nothing"
    if headline.robust is None:
        return text + "."
    if headline.robust:
        return f"{text}; the answer is {ROBUST}: all {len(headline.readings)} evaluations agree."
    others = [
        f"{points(other.difference)} ({EVALUATION_LABELS[name]})"
        for name, other in headline.readings.items()
        if other.character != reading.character
    ]
    return f"{text}; the answer {DEPENDS}: it is {listed(others)}."


def _exclusions(reading: Reading) -> str:
    """Say what the interval excludes; empty where there are too few seeds for that."""
    if not reading.exclusions:
        return ""
    excluded = [part.what for part in reading.exclusions if part.excluded]
    included = [part.what for part in reading.exclusions if not part.excluded]
    if not included:
        return f"The interval excludes {listed(excluded)}"
    holds = f"neither {' nor '.join(included)}" if included[1:] else f"not {included[0]}"
    if not excluded:
        return f"The interval excludes {holds}"
    return f"The interval excludes {listed(excluded)}, but {holds}"


def _scale(
    value: float, ends: tuple[float, float], paper: float | None, margin: float
) -> Scale | None:
    """Lay the numbers out on a line that holds all of them and zero."""
    interval = None if np.isnan(ends[0]) else ends
    shown = [0.0, value, -margin, margin, *(interval or ()), *([] if paper is None else [paper])]
    low, high = min(shown), max(shown)
    room = 0.15 * (high - low)  # for the labels at either end, on a phone

    def place(x: float) -> float:
        return round(float(100 * (x - low + room) / (high - low + 2 * room)), 2)

    return Scale(
        place(0),
        place(value),
        None if interval is None else (place(interval[0]), place(interval[1])),
        None if paper is None else place(paper),
        (place(-margin), place(margin)),
    )


def is_judged(parameters: ReportParameters) -> bool:
    """Return whether the study holds one of the paper's sets, which alone decide claims."""
    return any(paper_dataset(parameters, name) for name in parameters.grid.datasets)

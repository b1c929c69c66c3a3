"""What could explain a difference between our scores and the paper's, tested on runs.

Some explanations are in every study's own results (training against test scores); others need an
extra study with one setting changed, and are read from that study's ``results.csv``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats

from dmf.analysis import results
from dmf.analysis.paper.numbers import paper_table
from dmf.analysis.protocol import paper_dataset
from dmf.analysis.verdict import statistics
from dmf.analysis.verdict.comparisons import overlap
from dmf.analysis.words import EVALUATION_LABELS, label, number
from dmf.outcomes import EVALUATIONS
from dmf.study import ReportParameters

Scores: TypeAlias = "pd.Series[float]"

# The configurations an explanation is shown for; the extra studies run these two.
SHOWN = ("fixed", "cb_dice-variance")


@dataclass(frozen=True)
class Explanation:
    """One explanation on one data set; ``evidence`` has a row per configuration, in [0, 1]."""

    id: str
    dataset: str
    question: str
    outcome: Literal["measured", "not run"]
    detail: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class _Question:
    """Two readings, ``words`` for each; ``paired`` if a seed means the same images in both.

    ``other`` is another reading of the same runs; without it the question needs another study. One
    ``of_the_benchmark`` is asked only where splits are given, and by the benchmark's own score.
    """

    id: str
    text: str
    words: tuple[str, str]
    other: dict[str, str] | None = None
    paired: bool = True
    of_the_benchmark: bool = False

    @property
    def score(self) -> dict[str, str]:
        """The score that is compared, as arguments of ``results.values``."""
        return _BENCHMARK if self.of_the_benchmark else _DICE


_DICE = {"metric": "dice", "subset": "test", "epoch_choice": "last"}
_BENCHMARK = {
    "metric": "image_foreground_dice",
    "subset": "validation",
    "epoch_choice": "best",
}
_MEASURE = "lesion Dice per image, validation images, best epoch"

_QUESTIONS = (
    _Question(
        "training_scores",
        "Are training-set scores nearer to the paper's than test scores?",
        ("test", "training"),
        _DICE | {"subset": "train"},
    ),
    _Question(
        "best_epoch",
        "Does the epoch of the best validation CB-Dice score higher than the last?",
        ("last epoch", "best epoch"),
        _DICE | {"epoch_choice": "best"},
    ),
    _Question(
        "foreground",
        "How far is the foreground's Dice from the mean over both classes?",
        ("both classes", "foreground"),
        _DICE | {"metric": "foreground_dice"},
    ),
    _Question(
        "batch_means",
        "Do means over batches differ from counts pooled over the test subset?",
        ("pooled", "mean over batches"),
        _DICE | {"metric": "batch_dice"},
    ),
    _Question(
        "image_means",
        "Do means over images differ from counts pooled over the test subset?",
        ("pooled", "mean over images"),
        _DICE | {"metric": "image_dice"},
    ),
    _Question(
        "grouped",
        "How much do near duplicates across subsets add (naive against duplicate-grouped split)?",
        ("this study", "grouped split"),
        paired=False,
    ),
    _Question(
        "hard",
        "What do hard (argmax) losses do to the scores?",
        ("this study", "hard losses"),
    ),
    _Question(
        "released",
        "What does the published notebook's preset do to the scores?",
        ("this study", "released preset"),
    ),
    _Question(
        "gamma_batch",
        "What if the auxiliary decays once per batch, not once per 100 batches?",
        ("this study", "decay per batch"),
    ),
    _Question(
        "gamma_epoch",
        "What if the auxiliary decays once per epoch, not once per 100 batches?",
        ("this study", "decay per epoch"),
    ),
    _Question(
        "filter_off",
        "What does the bilateral filter do to the scores?",
        ("this study", "without filter"),
    ),
    _Question(
        "flips",
        "What if every image is flipped at random each time it is drawn?",
        ("this study", "flips"),
    ),
    _Question(
        "linear_rate",
        "What if the learning rate falls to 0 over the last 30 epochs?",
        ("this study", "falling rate"),
    ),
    _Question(
        "equal_batches",
        "What if no epoch ends with a step on a few images (equal batches)?",
        ("this study", "equal batches"),
    ),
    _Question(
        "no_skips",
        "What does the network give without skip connections?",
        ("this study", "no skip connections"),
    ),
    _Question(
        "half_size",
        "What does the same network give on images of half the size?",
        ("this study", "64 pixels"),
    ),
    _Question(
        "deeper",
        f"What is a fifth level of the network worth ({_MEASURE})?",
        ("this study", "five levels"),
        of_the_benchmark=True,
    ),
    _Question(
        "no_augmentation",
        f"What are flips and turns of the training images worth ({_MEASURE})?",
        ("this study", "neither flips nor turns"),
        of_the_benchmark=True,
    ),
    _Question(
        "hundred_epochs",
        f"What do 100 epochs give ({_MEASURE})?",
        ("this study", "100 epochs"),
        of_the_benchmark=True,
    ),
    _Question(
        "image_losses",
        f"What if losses are counted over each image, not over the batch ({_MEASURE})?",
        ("this study", "losses per image"),
        of_the_benchmark=True,
    ),
    _Question(
        "other_machine",
        "What do the same runs give on another machine, which rounds differently?",
        ("this study", "another machine"),
    ),
)

STUDIES = tuple(question.id for question in _QUESTIONS if question.other is None)


def explain(
    table: pd.DataFrame, parameters: ReportParameters, others: Mapping[str, Path] | None = None
) -> list[Explanation]:
    """Return every explanation for every data set of the study, measured or not run.

    Those of the public benchmark's protocol are left out where the splits are not given.

    ``others`` maps the names in :data:`STUDIES` to the ``results.csv`` of the study that answers
    them; names without a file are "not run". Raises DmfError if a file that is there is damaged,
    ValueError for an unknown name.
    """
    others = others or {}
    if unknown := set(others) - set(STUDIES):
        raise ValueError(f"unknown studies {sorted(unknown)}; known: {', '.join(STUDIES)}")
    found = {name: results.read(path) for name, path in others.items() if path.exists()}
    explanations = []
    for dataset in parameters.grid.datasets:
        for question in _QUESTIONS:
            if question.of_the_benchmark and parameters.split.kind != "given":
                continue
            usual = results.values(table, dataset, **question.score)
            other = pd.DataFrame()
            elsewhere = ""
            if question.other is not None:
                other = results.values(table, dataset, **question.other)
            elif question.id in found:
                other = results.values(found[question.id], dataset, **question.score)
                if not question.of_the_benchmark:
                    elsewhere = _elsewhere(question, parameters, dataset, table, found[question.id])
            explanations.append(_answer(question, parameters, dataset, usual, other, elsewhere))
    return explanations


def _elsewhere(
    question: _Question,
    parameters: ReportParameters,
    dataset: str,
    table: pd.DataFrame,
    extra: pd.DataFrame,
) -> str:
    """Say what the change is at the evaluations other than the last epoch."""
    changes: dict[str, list[str]] = {}
    for choice in (choice for choice in EVALUATIONS if choice != "last"):
        reading = _DICE | {"epoch_choice": choice}
        usual = results.values(table, dataset, **reading)
        rows = _rows(
            question, parameters, dataset, usual, results.values(extra, dataset, **reading)
        )
        for name in (name for name in SHOWN if name in rows):
            row = rows[name]
            ends = "" if row["low"] is None else f" [{_points(row['low'])}, {_points(row['high'])}]"
            text = f"{EVALUATION_LABELS[choice]} {_points(row['change'])}{ends}"
            changes.setdefault(name, []).append(text)
    return " ".join(
        f"{label(name)}, other evaluations: {', '.join(texts)}." for name, texts in changes.items()
    )


def _answer(
    question: _Question,
    parameters: ReportParameters,
    dataset: str,
    usual: pd.DataFrame,
    other: pd.DataFrame,
    elsewhere: str,
) -> Explanation:
    """Set two readings of one data set (seeds by configurations) against each other."""
    rows = _rows(question, parameters, dataset, usual, other)
    if not rows:
        return Explanation(
            question.id, dataset, question.text, "not run", "No runs to compare.", {}
        )
    shown = [name for name in SHOWN if name in rows] or list(rows)[:1]
    confidence = parameters.report.confidence
    sentences = [_sentence(name, question.words, rows[name], confidence) for name in shown]
    if set(SHOWN) <= set(shown):
        sentences.append(_gains(question, parameters, usual, other))
    sentences.append(elsewhere)
    if len(rows) > len(shown):
        changes = [row["change"] for row in rows.values()]
        sentences.append(
            f"Over all {len(rows)} configurations the change is {_points(min(changes))} to "
            f"{_points(max(changes))} points."
        )
    if not question.paired:
        sentences.append(
            "Interval: Welch's, for these images under random splits; a seed means other images in "
            "either, so nothing is paired."
        )
    # What the changed setting does not reach, such as fixed weights by gamma, is no nearer.
    known = [row for row in rows.values() if row["paper"] is not None and row["change"]]
    if known:
        nearer = sum(
            abs(row["other"] - row["paper"]) < abs(row["usual"] - row["paper"]) for row in known
        )
        sentences.append(
            f"{question.words[1].capitalize()} is nearer to the paper in {nearer} of {len(known)}."
        )
    return Explanation(
        question.id, dataset, question.text, "measured", " ".join(filter(None, sentences)), rows
    )


def _gains(
    question: _Question, parameters: ReportParameters, usual: pd.DataFrame, other: pd.DataFrame
) -> str:
    """Say what the recommended combination gains over fixed weights in either reading.

    Where a seed means the same images in both, only the seeds of both count.
    """
    confidence, fixed, recommended = parameters.report.confidence, *SHOWN
    readings = [(table[recommended] - table[fixed]).dropna() for table in (usual, other)]
    if question.paired:
        seeds = readings[0].index.intersection(readings[1].index)
        readings = [differences[seeds] for differences in readings]
    texts = []
    for words, differences in zip(question.words, readings, strict=True):
        if not len(differences):
            return ""
        gain = statistics.paired(
            differences, confidence=confidence, test_to_train=overlap(parameters.split)
        )
        ends = f"[{_points(gain.low)}, {_points(gain.high)}], " if np.isfinite(gain.low) else ""
        texts.append(
            f"{words} {_points(gain.difference)} ({ends}above in "
            f"{int((differences > 0).sum())} of {gain.n})"
        )
    return f"{label(recommended)} minus fixed weights: {', '.join(texts)}."


def _rows(
    question: _Question,
    parameters: ReportParameters,
    dataset: str,
    usual: pd.DataFrame,
    other: pd.DataFrame,
) -> dict[str, dict[str, Any]]:
    """Return the numbers of every configuration that both readings have."""
    known = None if question.of_the_benchmark else paper_dataset(parameters, dataset)
    paper = paper_table(known)[("dice", "mean")] / 100 if known else pd.Series(dtype=float)
    rows = {}
    for name in (str(name) for name in usual if name in other):
        before, after = usual[name].dropna(), other[name].dropna()
        if question.paired:
            seeds = before.index.intersection(after.index)
            before, after = before[seeds], after[seeds]
        if not len(before) or not len(after):
            continue
        low, high = _interval(before, after, parameters, paired=question.paired)
        finite = np.isfinite([low, high]).all()
        rows[name] = {
            "usual": float(before.mean()),
            "other": float(after.mean()),
            "change": float(after.mean() - before.mean()),
            "n": [len(before), len(after)],
            "paper": float(paper[name]) if name in paper else None,
            "low": float(low) if finite else None,
            "high": float(high) if finite else None,
        }
    return rows


def _interval(
    before: Scores, after: Scores, parameters: ReportParameters, *, paired: bool
) -> tuple[float, float]:
    """Return the interval of the change: paired by seed, or Welch's; NaN where there is none."""
    confidence = parameters.report.confidence
    if paired:
        change = statistics.paired(
            after - before, confidence=confidence, test_to_train=overlap(parameters.split)
        )
        return change.low, change.high
    if min(len(before), len(after)) < 2:
        return np.nan, np.nan
    interval = stats.ttest_ind(after, before, equal_var=False).confidence_interval(confidence)
    return float(interval.low), float(interval.high)


def _sentence(name: str, words: tuple[str, str], row: dict[str, Any], confidence: float) -> str:
    interval = ""
    if row["low"] is not None:
        interval = (
            f", {100 * confidence:g} % interval {_points(row['low'])} to {_points(row['high'])}"
        )
    paper = "" if row["paper"] is None else f"; the paper has {100 * row['paper']:.2f}"
    return (
        f"{label(name)}: {words[0]} {100 * row['usual']:.2f} %, {words[1]} "
        f"{100 * row['other']:.2f} % ({_points(row['change'])} points{interval}, "
        f"n = {min(row['n'])}){paper}."
    )


def _points(value: float) -> str:
    return number(100 * value, "+.2f")

"""The paper's own numbers, held against each other.

Averages that are linear (over classes, batches and runs) must obey inequalities; numbers in the
text must be those of the tables; and the tables imply a lesion Dice and a share of lesion pixels
that can be set against other authors' networks. A finding says that numbers do not fit together:
which of them is off, and why, cannot be told from outside.

Numbers are in percent and count as printed: each may be off by half a unit of its last digit.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np

from dmf.analysis.paper import others
from dmf.analysis.paper.numbers import matching, paper_table, quotes
from dmf.analysis.words import DATASET_LABELS, METRIC_LABELS, label
from dmf.study import PAPER_DATASETS

Certainty = Literal["exact", "approximate", "text", "context"]
CERTAINTIES: dict[Certainty, str] = {
    "exact": "No averaging over the same runs, batches and classes in every column explains these",
    "approximate": "Averaging makes these unlikely, not impossible",
    "text": "The text against the tables",
    "context": "Beside other authors' networks",
}

ROUNDING = 0.005
# What averaging can plausibly hide from the approximate relations: scores that vary by 2 points
# over test batches; F1 and the share of lesion pixels by what exact two-class examples show.
BATCH_SPREAD = 2.0
F1_SLACK = 0.25
SHARE_SLACK = 0.03


@dataclass(frozen=True)
class Finding:
    """Numbers that do not fit, with the arithmetic that shows it.

    ``certainty``: exact (no averaging can explain it), approximate (unlikely, not impossible), text
    (the text against the tables) or context (set against other sources).
    """

    id: str
    place: str
    statement: str
    arithmetic: str
    certainty: Certainty


def findings() -> list[Finding]:
    """Return every finding, exact ones first."""
    tables = {dataset: _rows(dataset) for dataset in PAPER_DATASETS}
    found: list[Finding] = []
    for rows in tables.values():
        found += [finding for row in rows for finding in check_row(row)]
        found += _shares(rows)
        found += _against_others(rows)
    found += _definitions([row for rows in tables.values() for row in rows])
    for quote in quotes().to_dict("records"):
        found += _quote({str(key): value for key, value in quote.items()}, tables)
    order = list(CERTAINTIES)
    return sorted(found, key=lambda finding: order.index(finding.certainty))


def summary() -> str:
    """Return how many numbers do not fit, in one sentence."""
    counted = Counter(finding.certainty for finding in findings())
    return (
        f"In {counted['exact'] + counted['approximate'] + counted['text']} places the paper's "
        "printed numbers do not fit each other, rounding allowed for: no averaging over the same "
        f"runs, batches and classes explains {counted['exact']} of them, averaging makes "
        f"{counted['approximate']} unlikely, and in "
        f"{counted['text']} the text differs from the tables."
    )


def document() -> str:
    """Return docs/audit.md: the findings by how certain they are, then by what they say."""
    lines = [
        "# Audit of the paper's numbers",
        "",
        "<!-- Written by `dmf rebuild` (dmf.analysis.paper.audit): do not edit. -->",
        "",
        f"{summary()} Some amounts are small; each is given. A number that does not fit may be a "
        "slip of the pen; nothing here says how it came about.",
    ]
    for certainty, head in CERTAINTIES.items():
        lines += ["", f"## {head}", ""]
        by_statement: dict[str, list[Finding]] = {}
        for finding in findings():
            if finding.certainty == certainty:
                by_statement.setdefault(finding.statement, []).append(finding)
        for statement, found in by_statement.items():
            lines.append(f"- {statement}")
            lines += [f"  - {finding.place}: {finding.arithmetic}" for finding in found]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Row:
    """One row of a table; ``mean`` and ``std`` by metric, in percent."""

    dataset: str
    configuration: str
    table: str
    mean: dict[str, float]
    std: dict[str, float]

    @property
    def place(self) -> str:
        return f"{self.table}, {label(self.configuration)}"

    def finding(self, check: str, statement: str, arithmetic: str, certainty: Certainty) -> Finding:
        name = f"{check}/{self.dataset}/{self.configuration}"
        return Finding(name, self.place, statement, arithmetic, certainty)


def _rows(dataset: str) -> list[Row]:
    table = paper_table(dataset)
    number = PAPER_DATASETS.index(dataset) + 1
    means, stds = (table.xs(name, axis=1, level="statistic") for name in ("mean", "std"))
    return [
        Row(
            dataset,
            str(name),
            f"Table {number} ({DATASET_LABELS[dataset]})",
            {str(metric): float(value) for metric, value in means.loc[name].items()},
            {str(metric): float(value) for metric, value in stds.loc[name].items()},
        )
        for name in table.index
    ]


def jaccard(dice: float) -> float:
    """Return the IoU (percent) that one class of Dice ``dice`` (percent) has: D / (2 - D)."""
    return 100 * dice / (200 - dice)


def implied_share(dice: float, cb_dice: float) -> float:
    """Return the foreground share f that macro Dice and CB-Dice (percent) imply; NaN if none.

    With two classes and as many false positives as false negatives, (1 - CB) / (1 - D) is
    1 + (1 - 2f)², whatever the number of errors.
    """
    ratio = (100 - cb_dice) / (100 - dice)
    return float((1 - np.sqrt(ratio - 1)) / 2) if 1 <= ratio <= 2 else float("nan")


def implied_foreground(dice: float, share: float) -> float:
    """Return the foreground Dice (percent): 1 - 2 (1 - f)(1 - D), under the same assumption."""
    return 100 - 2 * (1 - share) * (100 - dice)


def _iou_too_low(row: Row) -> Iterator[Finding]:
    """Jensen: D / (2 - D) is convex, so the mean IoU is at least that of the mean Dice."""
    dice, iou = row.mean["dice"], row.mean["iou"]
    least = jaccard(dice - ROUNDING)
    if iou + ROUNDING < least:
        yield row.finding(
            "iou-below-dice",
            "The mean IoU is lower than the mean Dice allows.",
            f"Dice {dice:.2f} needs IoU ≥ D/(2 - D) = {jaccard(dice):.2f}; the table has {iou:.2f}"
            f" ({jaccard(dice) - iou:.2f} too low).",
            "exact",
        )


def _iou_too_high(row: Row) -> Iterator[Finding]:
    """With two classes the mean IoU is largest if one class is perfect.

    The bound is convex in D, so a spread over runs and batches raises it by half its curvature
    times the variance; that over batches is a guess, hence approximate.
    """
    dice, iou = row.mean["dice"], row.mean["iou"]
    worse = 2 * (dice + ROUNDING) - 100
    variance = (row.std["dice"] / 100) ** 2 + (BATCH_SPREAD / 100) ** 2
    spread = 100 * 0.5 * 8 / (2 - worse / 100) ** 3 * variance
    most = (100 + jaccard(worse)) / 2 + spread
    if iou - ROUNDING > most:
        yield row.finding(
            "iou-above-dice",
            "The mean IoU is higher than the mean Dice allows with two classes.",
            f"Dice {dice:.2f} allows IoU ≤ (1 + g(2D - 1))/2 = {most:.2f} with g(x) = x/(2 - x) "
            f"and the spread of D; the table has {iou:.2f} ({iou - most:.2f} too high), which "
            f"would fit a Dice of about {_dice_of(iou):.1f}.",
            "approximate",
        )


def _dice_of(iou: float) -> float:
    return 200 * iou / (100 + iou)


def _f1_below_dice(row: Row) -> Iterator[Finding]:
    """F1 of class-averaged precision and recall is at least the class-averaged Dice (concavity)."""
    dice, f1 = row.mean["dice"], row.mean["f1"]
    if f1 + ROUNDING < dice - ROUNDING:
        yield row.finding(
            "f1-below-dice",
            "F1 is lower than Dice, although it is an upper bound of it.",
            f"The harmonic mean is concave, so averages obey Dice ≤ F1; the table has Dice "
            f"{dice:.2f} and F1 {f1:.2f} ({dice - f1:.2f} too low).",
            "exact",
        )


def _f1_far_from_dice(row: Row) -> Iterator[Finding]:
    """Dice and F1 are one number per class; averaging P and R first lifts F1 by little.

    In exact two-class examples the lift is at most the square of a tenth of P - R (in points).
    """
    dice, f1 = row.mean["dice"], row.mean["f1"]
    lift = ((row.mean["precision"] - row.mean["recall"]) / 10) ** 2
    if f1 - dice > lift + F1_SLACK:
        yield row.finding(
            "f1-far-above-dice",
            "F1 and Dice are further apart than averaging explains.",
            f"Per class both are 2TP/(2TP + FP + FN), and P - R lets averages differ by about "
            f"{lift:.2f}; the table has F1 {f1:.2f} and Dice {dice:.2f}, {f1 - dice:.2f} apart.",
            "approximate",
        )


def _f1_against_precision_and_recall(row: Row) -> Iterator[Finding]:
    """F1 = 2PR/(P + R) is concave in (P, R): its mean is at most that of the mean P and R."""
    precision, recall, f1 = (row.mean[name] for name in ("precision", "recall", "f1"))
    harmonic = 2 * precision * recall / (precision + recall)
    most = harmonic + ROUNDING
    if f1 - ROUNDING > most:
        larger = max(precision, recall)
        beyond = f" It exceeds both, the larger being {larger:.2f}." if f1 > larger else ""
        half = (precision + recall) / 2
        above = f" and (P + R)/2 = {half:.2f}" if f1 - ROUNDING > half + ROUNDING else ""
        yield row.finding(
            "f1-above-precision-recall",
            "F1 is higher than precision and recall allow.",
            f"P {precision:.2f} and R {recall:.2f} allow F1 ≤ 2PR/(P + R) = {harmonic:.2f}{above};"
            f" the table has {f1:.2f} ({f1 - harmonic:.2f} too high).{beyond}",
            "exact",
        )
    elif f1 < harmonic - F1_SLACK:
        yield row.finding(
            "f1-below-precision-recall",
            "F1 is lower than precision and recall suggest.",
            f"2PR/(P + R) = {harmonic:.2f} with P {precision:.2f} and R {recall:.2f}; the table "
            f"has {f1:.2f}.",
            "approximate",
        )


def _spread_of_iou(row: Row) -> Iterator[Finding]:
    """IoU moves by more than Dice does, at these values by about 1.5 to 2 times."""
    dice, iou = row.std["dice"], row.std["iou"]
    if iou + ROUNDING < dice - ROUNDING:
        worse = (2 * row.mean["dice"] - 100) / 100
        slope = 2 / (2 - worse) ** 2
        yield row.finding(
            "iou-spread",
            "The IoU varies less over runs than the Dice it is tied to.",
            f"Where both classes improve together the spread of IoU is at least 2/(2 - "
            f"{worse:.3f})² = {slope:.2f} times that of Dice, here {slope * dice:.2f}; the table "
            f"has ± {iou:.2f} beside ± {dice:.2f}.",
            "approximate",
        )


_ROW_CHECKS: tuple[Callable[[Row], Iterator[Finding]], ...] = (
    _iou_too_low,
    _iou_too_high,
    _f1_below_dice,
    _f1_far_from_dice,
    _f1_against_precision_and_recall,
    _spread_of_iou,
)


def check_row(row: Row) -> list[Finding]:
    """Return what does not fit within one row of a table."""
    return [finding for check in _ROW_CHECKS for finding in check(row)]


def _median_share(rows: list[Row]) -> float:
    shares = [implied_share(row.mean["dice"], row.mean["cb_dice"]) for row in rows]
    return median(share for share in shares if not np.isnan(share))


def _shares(rows: list[Row]) -> Iterator[Finding]:
    """All rows of a table are of the same images, so they imply one foreground share."""
    usual = _median_share(rows)
    for row in rows:
        dice, cb_dice = row.mean["dice"], row.mean["cb_dice"]
        share = implied_share(dice, cb_dice)
        if not abs(share - usual) <= SHARE_SLACK:
            yield row.finding(
                "implied-share",
                "Dice and CB-Dice imply another share of lesion pixels than the rest of the table.",
                f"(1 - CB-Dice)/(1 - Dice) = {100 - cb_dice:.2f}/{100 - dice:.2f} = "
                f"{(100 - cb_dice) / (100 - dice):.3f} = 1 + (1 - 2f)² gives f = {share:.3f}; the "
                f"median of the table is {usual:.3f}.",
                "approximate",
            )


def _against_others(rows: list[Row]) -> Iterator[Finding]:
    """Set the lesion Dice that a table implies beside other authors' plain U-Nets."""
    dataset, place = rows[0].dataset, rows[0].table
    share = _median_share(rows)
    dice = {row.configuration: row.mean["dice"] for row in rows}
    lesion = {name: implied_foreground(value, share) for name, value in dice.items()}
    implied = (
        f"With f = {share:.3f}, the median that Dice and CB-Dice imply, foreground Dice = 1 - "
        f"2(1 - f)(1 - D) lies from {min(lesion.values()):.1f} to {max(lesion.values()):.1f} "
        f"(fixed weights {lesion['fixed']:.1f})"
    )
    network = others.plain_network(dataset)
    if network is None:
        yield Finding(
            f"independent/{dataset}",
            place,
            "No independent U-Net with published scores on this data set was found.",
            f"{implied}.",
            "context",
        )
        return
    measured = implied_foreground(dice["fixed"], others.BUSI_FOREGROUND)
    yield Finding(
        f"independent/{dataset}",
        place,
        "The lesion Dice that the table implies lies above that of the one independent plain "
        "U-Net that can be set beside it, which averages otherwise.",
        f"{implied}; with the measured share {others.BUSI_FOREGROUND:.3f} fixed weights have "
        f"{measured:.1f}. {others.beside(network)} {others.left_out(dataset)}",
        "context",
    )


def _definitions(rows: list[Row]) -> Iterator[Finding]:
    """What the equations say of all rows at once."""
    below = sum(row.mean["cb_dice"] + ROUNDING < row.mean["dice"] - ROUNDING for row in rows)
    if below:
        yield Finding(
            "dice-is-macro",
            "Eqs. 11-14 and 22-24; Tables 1-3",
            "The scores are not those of the positive class alone, as the text explains the "
            "equations.",
            f"CB-Dice weighs the rarer class more; it lies below Dice in {below} of {len(rows)} "
            "rows, which needs a Dice averaged over both classes.",
            "text",
        )
    gaps = [abs(row.mean["f1"] - row.mean["dice"]) for row in rows]
    apart = sum(gap > 2 * ROUNDING for gap in gaps)
    if apart:
        yield Finding(
            "dice-is-f1",
            "Eqs. 11 and 13-15; Tables 1-3",
            "By the equations Dice and F1 are the same number, but the tables differ.",
            f"2PR/(P + R) with eqs. 13 and 14 is 2TP/(2TP + FP + FN), eq. 11; the columns differ "
            f"in {apart} of {len(rows)} rows, by up to {max(gaps):.2f}. An F1 of class-averaged "
            "precision and recall would be a little higher than Dice.",
            "text",
        )


def _quote(quote: dict[str, Any], tables: dict[str, list[Row]]) -> Iterator[Finding]:
    """Look a number of the text up in the tables, and test what is said of it."""
    dataset, metric, role = quote["dataset"], quote["metric"], quote["role"]
    mean, std = quote["mean"], quote["std"]
    rows = tables[dataset]
    names = matching([quote["configurations"]])
    scope = [row for row in rows if row.configuration in matching([quote["among"] or "*"])]
    named = [row for row in rows if row.configuration in names]
    quoted = f"{mean:.2f}" + ("" if np.isnan(std) else f" ± {std:.2f}")
    place = f"{quote['place']} ({DATASET_LABELS[dataset]})"
    name = f"{dataset}/{quote['configurations'].replace('*', 'any')}/{metric}"
    holders = [
        (row, other)
        for row in rows
        for other in row.mean
        if np.isclose(row.mean[other], mean) and (np.isnan(std) or np.isclose(row.std[other], std))
    ]
    held = [row for row, other in holders if row in named and other == metric]
    if not held:
        yield Finding(
            f"text-not-in-table/{name}",
            place,
            f"The text gives {quoted} as {METRIC_LABELS[metric]}; the table has another number.",
            _lookup(named, metric, quoted, holders),
            "text",
        )
    elif role in ("highest", "second", "lowest"):
        ordered = sorted((row.mean[metric] for row in scope), reverse=role != "lowest")
        rank = ordered.index(held[0].mean[metric]) + 1
        if rank > (2 if role == "second" else 1):
            first = next(row for row in scope if row.mean[metric] == ordered[0])
            yield Finding(
                f"text-not-{role}/{name}",
                place,
                f"The text calls {quoted} the {role} {METRIC_LABELS[metric]}; the table has a "
                f"{'lower' if role == 'lowest' else 'higher'} one.",
                f"{label(first.configuration)} has {first.mean[metric]:.2f}; {mean:.2f} "
                f"({label(held[0].configuration)}) is number {rank} of {len(scope)}.",
                "text",
            )
    elif role == "balanced":
        gaps = [abs(row.mean["precision"] - row.mean["recall"]) for row in scope]
        precision, recall = held[0].mean["precision"], held[0].mean["recall"]
        if abs(precision - recall) == max(gaps):
            yield Finding(
                f"text-not-balanced/{name}",
                place,
                f"The text calls {label(held[0].configuration)} balanced; its precision and recall "
                "are the furthest apart of all rows.",
                f"Precision {precision:.2f} - recall {recall:.2f} = {precision - recall:.2f} "
                f"points; the median gap of the table is {median(gaps):.2f}.",
                "text",
            )


def _lookup(named: list[Row], metric: str, quoted: str, holders: list[tuple[Row, str]]) -> str:
    """Say what the table has in the named cell, and where it has the quoted number."""
    best = max(named, key=lambda row: row.mean[metric])
    cell = f"{label(best.configuration)} has {METRIC_LABELS[metric]} {best.mean[metric]:.2f}"
    if len(named) > 1:
        cell = f"the highest of these {len(named)} rows is {best.mean[metric]:.2f} ({cell})"
    if not holders:
        return f"In the table {cell}; {quoted} is nowhere in it."
    places = " and ".join(f"{METRIC_LABELS[m]} of {label(row.configuration)}" for row, m in holders)
    return f"In the table {cell}; {quoted} stands there as {places}."

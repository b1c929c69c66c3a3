"""Figures of the test scores that the paper does not have: what qualifies its tables."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmf.analysis.figures.style import (
    AUXILIARY_COLOURS,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WEIGHTING_MARKERS,
    WIDTH,
    Drawing,
    Material,
    NothingToDraw,
    dot,
    head,
)
from dmf.analysis.paper.numbers import paper_table
from dmf.analysis.protocol import paper_dataset
from dmf.analysis.results import values
from dmf.analysis.tables import mean_scores
from dmf.analysis.verdict.comparisons import FAMILIES, compare
from dmf.analysis.words import (
    AUXILIARY_LABELS,
    EVALUATION_LABELS,
    METRIC_LABELS,
    WEIGHTING_LABELS,
    label,
    number,
    p_value,
)
from dmf.configurations import SMOOTHED, factors
from dmf.outcomes import METRICS

TRAIN_TEST_METRICS = ("dice", "cb_dice")
ROW_HEIGHT = 0.19  # inches per configuration


def draw_differences(material: Material) -> Drawing:
    """Draw every planned comparison as a forest plot: paired difference, interval, adjusted p."""
    report, split = material.parameters.report, material.parameters.split
    table = compare(material.results, material.parameters, material.dataset)
    if not table["n"].any():
        raise NothingToDraw("no planned pair of configurations shares a completed seed")
    sections = [(FAMILIES[str(name)], rows) for name, rows in table.groupby("family", sort=False)]
    lines = len(table) + len(sections)
    figure = Figure(figsize=(WIDTH, 1.1 + ROW_HEIGHT * lines), layout="constrained")
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(1.75, 1))
    beside.set_axis_off()
    beside.set_xlim(0, 1)
    margin = 100 * report.margin
    axes.axvspan(-margin, margin, color="#E3EAF1", zorder=0, linewidth=0)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    labels, line = [], 0
    for title, rows in sections:
        labels.append(title[0].upper() + title[1:])
        axes.axhline(line - 0.5, color="#BBBBBB", linewidth=0.5)
        for pair in rows.itertuples():
            line += 1
            labels.append(label(str(pair.configuration)))
            _draw_difference(axes, beside, line, pair)
        line += 1
    axes.set_yticks(range(lines), labels)
    axes.set_ylim(lines - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    titles = {title[0].upper() + title[1:] for title, _ in sections}
    for text in axes.get_yticklabels():
        if text.get_text() in titles:
            text.set(fontweight="bold", ha="left", x=0.02, fontsize=6.5)
    axes.set_xlabel("difference in Dice (points)")
    axes.margins(x=0.05)
    head(figure, material)
    correction = "Nadeau-Bengio-corrected t" if split.per_seed else "paired t"
    caption = (
        f"Differences in macro Dice on the test images of {material.label} after the last epoch, "
        f"paired by seed: mean and {100 * report.confidence:g} % interval ({correction}), p "
        "adjusted by Holm within each group. Right of zero: better than its reference; the band "
        f"marks differences below {margin:g} points, which do not count."
    )
    if table["paper_difference"].notna().any():
        caption += " Crosses: the difference between the paper's means."
    alt = f"Forest plot of {len(table)} paired differences in Dice."
    return Drawing(figure, caption, alt)


def _draw_difference(axes: Axes, beside: Axes, line: int, pair: Any) -> None:
    """Draw one row of the forest plot, for a row of ``comparisons.compare``."""
    if not pair.n:
        beside.text(0, line, "no common seed", va="center", color="#555555", fontsize=6.5)
        return
    own = dot(str(pair.configuration))
    axes.plot([100 * pair.low, 100 * pair.high], [line, line], color=own["color"], linewidth=1.8)
    axes.plot(100 * pair.difference, line, markersize=5, zorder=4, **own)
    axes.plot(100 * pair.paper_difference, line, marker="x", color=VERMILION, markersize=4.5)
    text = number(100 * pair.difference, "+.2f")
    if np.isfinite(pair.low):
        text += f"  [{number(100 * pair.low, '+.2f')}, {number(100 * pair.high, '+.2f')}]"
    beside.text(0, line, text, va="center", fontsize=6.3)
    text = f"{p_value(pair.p_adjusted)}, n = {pair.n}"
    beside.text(0.98, line, text, va="center", ha="right", fontsize=6.3)


def draw_train_test(material: Material) -> Drawing:
    """Draw mean training, validation and test scores per configuration, the paper's beside them."""
    names = material.configurations()
    known = paper_dataset(material.parameters, material.dataset)
    paper = paper_table(known) if known else None
    figure = Figure(figsize=(WIDTH, 1.25 + ROW_HEIGHT * len(names)), layout="constrained")
    panels = figure.subplots(1, len(TRAIN_TEST_METRICS), sharey=True)
    looks: dict[str, dict[str, Any]] = {
        "test": {"marker": "o", "color": BLUE, "label": "test"},
        "validation": {"marker": "D", "color": GREY, "label": "validation", "fillstyle": "none"},
        "train": {"marker": "<", "color": SKY, "label": "training"},
    }
    for axes, metric in zip(panels, TRAIN_TEST_METRICS, strict=True):
        rows_of_configurations(axes, material, names)
        means = pd.DataFrame({subset: material.scores(metric, subset).mean() for subset in looks})
        for row, name in enumerate(names):
            if means.loc[name].isna().all():
                say_why_empty(axes, material, name, row)
                continue
            ends = means.loc[name, ["test", "train"]]
            axes.plot(ends, [row, row], color="#BBBBBB", linewidth=1.0, zorder=1)
            for subset, look in looks.items():
                axes.plot(means.loc[name, subset], row, linestyle="", markersize=4, **look)
            if paper is not None and metric in METRICS and name in paper.index:
                axes.plot(
                    paper.loc[name, (metric, "mean")],
                    row,
                    linestyle="",
                    marker="x",
                    color=VERMILION,
                    markersize=5,
                )
        axes.set_xlabel(f"{METRIC_LABELS[metric]} (%)")
        axes.margins(x=0.05)
    handles = [Line2D([], [], linestyle="", markersize=4, **look) for look in looks.values()]
    if paper is not None:
        handles.append(
            Line2D([], [], linestyle="", marker="x", color=VERMILION, label="the paper, test")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    head(figure, material)
    caption = (
        f"Mean scores on the training, validation and test images of {material.label} after the "
        "last epoch. The distance from test to training is what the networks memorised."
    )
    if paper is not None:
        caption += " Crosses: what the paper reports as test scores."
    alt = f"Dumbbell plot of training and test scores of {len(names)} configurations."
    return Drawing(figure, caption, alt)


_EVALUATIONS: dict[str, dict[str, Any]] = {
    "last": {"marker": "o", "color": BLUE},
    "best": {"marker": "^", "color": ORANGE},
    "settled": {"marker": "s", "color": GREEN},
    "recalibrated": {"marker": "D", "color": PURPLE},
}


def draw_evaluations(material: Material) -> Drawing:
    """Draw the mean test Dice at each evaluation, and the difference to fixed weights there."""
    names = material.configurations()
    tables = {
        name: 100 * values(material.results, material.dataset, "dice", epoch_choice=name)
        for name in _EVALUATIONS
    }
    tables = {name: table for name, table in tables.items() if len(table.columns)}
    if not tables:
        raise NothingToDraw("no run is complete")
    with_gains = "fixed" in tables["last"] and len(names) > 1
    figure = Figure(figsize=(WIDTH, 1.2 + ROW_HEIGHT * len(names)), layout="constrained")
    panels = figure.subplots(1, 1 + with_gains, sharey=True, squeeze=False)[0]
    for axes in panels:
        rows_of_configurations(axes, material, names)
    panels[0].set_xlabel("mean test Dice (%)")
    if with_gains:
        panels[1].set_xlabel("mean difference to fixed weights (points)")
        panels[1].axvline(0, color=GREY, linewidth=0.8, zorder=1)
    offsets = np.linspace(-0.24, 0.24, len(tables)) if len(tables) > 1 else [0.0]
    for offset, (evaluation, table) in zip(offsets, tables.items(), strict=True):
        shown = [table]
        if with_gains:
            fixed = table.get("fixed", np.nan)  # older runs lack some evaluations
            shown.append(table.sub(fixed, axis="index").drop(columns="fixed", errors="ignore"))
        for axes, numbers in zip(panels, shown, strict=True):
            means = numbers.mean().reindex(names)
            look = _EVALUATIONS[evaluation] | {"linestyle": "", "markersize": 3.6}
            axes.plot(means, np.arange(len(names)) + offset, **look)
    for row, name in enumerate(names):
        if name not in tables["last"]:
            say_why_empty(panels[0], material, name, row)
    handles = [
        Line2D([], [], linestyle="", markersize=4, label=EVALUATION_LABELS[name], **look)
        for name, look in _EVALUATIONS.items()
        if name in tables
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    head(figure, material)
    caption = (
        f"Mean test Dice of {material.label} at each evaluation of the same runs"
        + (", and its mean difference to fixed weights, paired by seed." if with_gains else ".")
        + " Where the marks of a row lie apart, the result depends on the choice of the epoch."
    )
    alt = f"Dot plot of {len(tables)} evaluations of {len(names)} configurations."
    return Drawing(figure, caption, alt)


def draw_agreement(material: Material) -> Drawing:
    """Draw each of our cells against the paper's, one panel per metric, with the identity line."""
    known = paper_dataset(material.parameters, material.dataset)
    if known is None:
        raise NothingToDraw("the paper has no table for this set")
    paper = paper_table(known)
    ours = mean_scores(material.results, material.dataset).reindex(paper.index)
    if ours.xs("mean", axis=1, level="statistic").isna().to_numpy().all():
        raise NothingToDraw("no run is complete")
    figure = Figure(figsize=(WIDTH, 5.3), layout="constrained")
    panels = figure.subplots(2, 3)
    for axes in panels[:, 0]:
        axes.set_ylabel("ours (%)")
    for axes in panels[-1]:
        axes.set_xlabel("the paper (%)")
    for axes, metric in zip(panels.flat, METRICS, strict=True):
        both = pd.DataFrame({"paper": paper[(metric, "mean")], "ours": ours[(metric, "mean")]})
        errors = pd.DataFrame({"paper": paper[(metric, "std")], "ours": ours[(metric, "std")]})
        both = both.dropna()
        for name in both.index:
            axes.errorbar(
                both.loc[name, "paper"],
                both.loc[name, "ours"],
                xerr=errors.loc[name, "paper"],
                yerr=np.nan_to_num(errors.loc[name, "ours"]),
                markersize=4.5,
                elinewidth=0.6,
                **dot(name),
            )
        low = min(both.min()) - 1
        high = max(both.max()) + 1
        margin = 0.08 * (high - low)
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        axes.set(xlim=limits, ylim=limits, title=METRIC_LABELS[metric])
        axes.set_box_aspect(1)
        axes.locator_params(nbins=5)
        gap = number((both["ours"] - both["paper"]).mean(), "+.1f")
        axes.text(
            0.04, 0.96, f"mean difference {gap}", transform=axes.transAxes, va="top", fontsize=7
        )
    _legend(figure, list(paper.index))
    head(figure, material)
    caption = (
        f"Our cells of the {material.label} table against the paper's: test scores, mean over "
        "seeds with standard deviations. On the dashed line both agree; below it ours is lower."
    )
    alt = "Six scatter plots, one per metric: our mean against the paper's, with the identity line."
    return Drawing(figure, caption, alt)


def rows_of_configurations(axes: Axes, material: Material, names: list[str]) -> None:
    """Prepare a panel with a row per configuration; bands set the auxiliary losses apart."""
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    groups = [factors(name)[0] for name in names]
    shaded = False
    for row, group in enumerate(groups):
        shaded = shaded if row and group == groups[row - 1] else not shaded
        if shaded:
            axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0, linewidth=0)


def say_why_empty(axes: Axes, material: Material, name: str, row: int) -> None:
    axes.text(
        0.5,
        row,
        material.why_empty(name),
        transform=axes.get_yaxis_transform(),
        ha="center",
        va="center",
        color="#555555",
        fontsize=6.5,
    )


def _legend(figure: Figure, names: list[str]) -> None:
    """Explain colours (auxiliary losses) and markers (weightings) below the panels."""
    auxiliaries = dict.fromkeys(factors(name)[0] for name in names)
    weightings = dict.fromkeys(factors(name)[1].removesuffix(SMOOTHED) for name in names)
    handles = [
        Line2D([], [], linestyle="", marker="o", color=AUXILIARY_COLOURS[name], label=text)
        for name, text in AUXILIARY_LABELS.items()
        if name in auxiliaries
    ]
    handles += [
        Line2D(
            [],
            [],
            linestyle="",
            marker=WEIGHTING_MARKERS[name],
            markerfacecolor="none",
            color="#333333",
            label=WEIGHTING_LABELS[name],
        )
        for name in weightings
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))

"""Figures the paper does not have: what explains and qualifies its tables."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmf.analysis.comparisons import FAMILIES, compare
from dmf.analysis.figures_style import (
    AUXILIARY_COLOURS,
    BLACK,
    BLUE,
    GREY,
    SKY,
    VERMILION,
    WEIGHTING_COLOURS,
    WEIGHTING_MARKERS,
    WIDTH,
    Drawing,
    Material,
    NothingToDraw,
    colour,
    head,
    marker,
    over_epochs,
    weighting_label,
)
from dmf.analysis.published import published_table
from dmf.analysis.results import factors, paper_dataset
from dmf.analysis.statistics import paired
from dmf.analysis.tables import (
    AUXILIARY_LABELS,
    METRIC_LABELS,
    WEIGHTING_LABELS,
    label,
    paper_table,
)
from dmf.outcomes import METRICS

SEEDS_METRICS = ("dice", "cb_dice", "foreground_dice")
TRAIN_TEST_METRICS = ("dice", "cb_dice")
ROW_HEIGHT = 0.19  # inches per configuration


def draw_curves(material: Material) -> Drawing:
    """Draw the validation Dice after every epoch: a panel per auxiliary, a line per weighting."""
    history = material.histories
    if "validation_dice" not in history:
        raise NothingToDraw("no run has a history")
    grouped: dict[str, list[str]] = {}
    for name in material.configurations():
        grouped.setdefault(factors(name)[0], []).append(name)
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    panels = figure.subplots(1, len(grouped), sharey=True, squeeze=False)[0]
    handles = {}
    for axes, (auxiliary, names) in zip(panels, grouped.items(), strict=True):
        for name in names:
            status = material.status(name)
            complete = list(status.index[status == "complete"])
            runs = history[(history["configuration"] == name) & history["seed"].isin(complete)]
            means = 100 * runs.groupby("epoch")["validation_dice"].mean()
            weighting = factors(name)[1]
            smoothed = weighting.endswith("_ema")
            (handles[weighting_label(weighting)],) = axes.plot(
                means.index,
                means,
                color=WEIGHTING_COLOURS[weighting.removesuffix("_ema")],
                linestyle=(0, (3, 1)) if smoothed else "-",
                linewidth=1.0,
                marker="o" if material.parameters.epochs == 1 else None,
            )
        axes.set(title=AUXILIARY_LABELS[auxiliary], xlabel="epoch")
        over_epochs(axes, material)
    panels[0].set_ylabel("validation Dice (%)")
    figure.legend(
        handles.values(), list(handles), loc="outside lower center", ncols=min(len(handles), 8)
    )
    head(figure, material)
    caption = (
        f"Dice on the validation images of {material.label()} after every epoch, mean over the "
        "completed seeds. Where the curves are level, more epochs would change little."
    )
    return Drawing(figure, caption, f"Learning curves in {len(grouped)} panels.")


def draw_seeds(material: Material) -> Drawing:
    """Draw the test scores of every seed as dots, with the interval of their mean."""
    names = material.configurations()
    figure = Figure(figsize=(WIDTH, 0.95 + ROW_HEIGHT * len(names)), layout="constrained")
    panels = figure.subplots(1, len(SEEDS_METRICS), sharey=True)
    confidence = material.parameters.report.confidence
    for axes, metric in zip(panels, SEEDS_METRICS, strict=True):
        scores = material.scores(metric)
        _rows_of_configurations(axes, material, names)
        for row, name in enumerate(names):
            values = scores[name].dropna().to_numpy()
            if not len(values):
                _say_why_empty(axes, material, name, row)
                continue
            spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [0.0]
            axes.plot(
                values,
                row + np.asarray(spread),
                linestyle="",
                marker=marker(name),
                color=colour(name),
                markersize=3.4,
                markeredgecolor="#333333",
                markeredgewidth=0.3,
                alpha=0.85,
            )
            if len(values) > 2:  # of two seeds an interval says nothing and dwarfs the dots
                mean = paired(values, confidence=confidence)
                axes.plot([mean.low, mean.high], [row, row], color=BLACK, linewidth=1.1, zorder=4)
            axes.plot(values.mean(), row, marker="|", color=BLACK, markersize=7, zorder=4)
        axes.set_xlabel(f"{METRIC_LABELS[metric]} (%)")
        axes.margins(x=0.06)
    head(figure, material)
    caption = (
        f"Test scores of {material.label()} after the last epoch. Each dot is one seed, the "
        f"stroke is the mean; from three seeds on with its {confidence:.0%} t interval, which "
        "treats the seeds as independent. Marker: weighting; colour: auxiliary loss."
    )
    return Drawing(figure, caption, f"Dot plot of the test scores of {len(names)} configurations.")


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
        for one in rows.itertuples():
            line += 1
            labels.append(label(str(one.configuration)))
            _draw_difference(axes, beside, line, one)
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
        f"Differences in macro Dice on the test images of {material.label()} after the last epoch, "
        f"paired by seed: mean and {report.confidence:.0%} interval ({correction}), p adjusted by "
        "Holm within each group. Right of zero: better than its reference; the band marks "
        f"differences below {margin:g} points, which do not count."
    )
    if table["paper_difference"].notna().any():
        caption += " Crosses: the difference between the paper's means."
    alt = f"Forest plot of {len(table)} paired differences in Dice."
    return Drawing(figure, caption, alt)


def _draw_difference(axes: Axes, beside: Axes, line: int, one: Any) -> None:
    """Draw one row of the forest plot; ``one`` is a row of ``comparisons.compare``."""
    if not one.n:
        beside.text(0, line, "no common seed", va="center", color="#555555", fontsize=6.5)
        return
    name = str(one.configuration)
    axes.plot([100 * one.low, 100 * one.high], [line, line], color=colour(name), linewidth=1.8)
    axes.plot(
        100 * one.difference,
        line,
        marker=marker(name),
        color=colour(name),
        markeredgecolor="#333333",
        markeredgewidth=0.4,
        markersize=5,
        zorder=4,
    )
    axes.plot(100 * one.paper_difference, line, marker="x", color=VERMILION, markersize=4.5)
    text = f"{100 * one.difference:+.2f}"
    if np.isfinite(one.low):
        text += f"  [{100 * one.low:+.2f}, {100 * one.high:+.2f}]"
    beside.text(0, line, text.replace("-", "\N{MINUS SIGN}"), va="center", fontsize=6.3)
    p = one.p_adjusted
    said = "no test" if not np.isfinite(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    beside.text(0.98, line, f"{said}, n = {one.n}", va="center", ha="right", fontsize=6.3)


def draw_gamma(material: Material) -> Drawing:
    """Draw the factor of the auxiliary loss over the epochs, and its part in the total loss."""
    history = material.histories
    if "gamma" not in history or history["gamma"].isna().all():
        raise NothingToDraw("no run with an auxiliary loss has a history")
    history = history.dropna(subset=["gamma"]).assign(
        auxiliary=lambda table: table["configuration"].map(lambda name: factors(name)[0]),
        part=lambda table: 100 * table["weighted_auxiliary"] / table["total"],
    )
    used = [name for name in AUXILIARY_COLOURS if name in set(history["auxiliary"])]
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    by_epoch = history.groupby("epoch")["gamma"].agg(["mean", "min", "max"])
    left.plot(by_epoch.index, by_epoch["mean"], color=BLUE)
    left.fill_between(by_epoch.index, by_epoch["min"], by_epoch["max"], color=BLUE, alpha=0.2)
    left.set(
        xlabel="epoch", ylabel="\N{GREEK SMALL LETTER GAMMA} (mean over the epoch)", ylim=(0, None)
    )
    dashes = dict(zip(used, ("", (4, 1.5), (5, 1.2, 1.2, 1.2)), strict=False))
    sns.lineplot(
        history,
        x="epoch",
        y="part",
        hue="auxiliary",
        style="auxiliary",
        hue_order=used,
        style_order=used,
        palette=AUXILIARY_COLOURS,
        dashes=dashes,
        errorbar="sd",
        err_kws={"alpha": 0.18, "linewidth": 0},
        ax=right,
    )
    right.set(xlabel="epoch", ylabel="auxiliary part of the loss (%)", ylim=(0, 100))
    handles, _ = right.get_legend_handles_labels()
    right.legend(handles, [AUXILIARY_LABELS[name] for name in used], loc="best")
    for axes in (left, right):
        over_epochs(axes, material)
    head(figure, material)
    settings = material.parameters.auxiliary
    last = by_epoch["mean"].iloc[-1]
    batches = "batch" if settings.step_batches == 1 else f"{settings.step_batches} batches"
    caption = (
        f"Left: gamma(t) = {settings.gamma0:g} exp(-{settings.decay:g} t) on {material.label()}, "
        f"where t advances once per {batches}; it ends at {last:.2f}. Right: the part of the total "
        "training loss that gamma times the auxiliary loss makes up; mean over weightings and "
        "seeds, band ± one standard deviation."
    )
    alt = "Two line plots over the epochs: gamma, and the auxiliary loss's part of the total loss."
    return Drawing(figure, caption, alt)


def draw_train_test(material: Material) -> Drawing:
    """Draw mean training, validation and test scores per configuration, the paper's beside them."""
    names = material.configurations()
    known = paper_dataset(material.parameters, material.dataset)
    published = published_table(known) if known else None
    figure = Figure(figsize=(WIDTH, 1.25 + ROW_HEIGHT * len(names)), layout="constrained")
    panels = figure.subplots(1, len(TRAIN_TEST_METRICS), sharey=True)
    looks: dict[str, dict[str, Any]] = {
        "test": {"marker": "o", "color": BLUE, "label": "test"},
        "validation": {"marker": "D", "color": GREY, "label": "validation", "fillstyle": "none"},
        "train": {"marker": "<", "color": SKY, "label": "training"},
    }
    for axes, metric in zip(panels, TRAIN_TEST_METRICS, strict=True):
        _rows_of_configurations(axes, material, names)
        means = pd.DataFrame({subset: material.scores(metric, subset).mean() for subset in looks})
        for row, name in enumerate(names):
            if means.loc[name].isna().all():
                _say_why_empty(axes, material, name, row)
                continue
            ends = means.loc[name, ["test", "train"]]
            axes.plot(ends, [row, row], color="#BBBBBB", linewidth=1.0, zorder=1)
            for subset, look in looks.items():
                axes.plot(means.loc[name, subset], row, linestyle="", markersize=4, **look)
            if published is not None and metric in METRICS and name in published.index:
                axes.plot(
                    published.loc[name, (metric, "mean")],
                    row,
                    linestyle="",
                    marker="x",
                    color=VERMILION,
                    markersize=5,
                )
        axes.set_xlabel(f"{METRIC_LABELS[metric]} (%)")
        axes.margins(x=0.05)
    handles = [Line2D([], [], linestyle="", markersize=4, **look) for look in looks.values()]
    if published is not None:
        handles.append(
            Line2D([], [], linestyle="", marker="x", color=VERMILION, label="the paper, test")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    head(figure, material)
    caption = (
        f"Mean scores on the training, validation and test images of {material.label()} after the "
        "last epoch. The distance from test to training is what the networks memorised."
    )
    if published is not None:
        caption += " Crosses: what the paper reports as test scores."
    alt = f"Dumbbell plot of training and test scores of {len(names)} configurations."
    return Drawing(figure, caption, alt)


def draw_agreement(material: Material) -> Drawing:
    """Draw each of our cells against the paper's, one panel per metric, with the identity line."""
    known = paper_dataset(material.parameters, material.dataset)
    if known is None:
        raise NothingToDraw("the paper has no table for this set")
    paper = published_table(known)
    ours = paper_table(material.results, material.dataset).reindex(paper.index)
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
                marker=marker(name),
                color=colour(name),
                markersize=4.5,
                markeredgecolor="#333333",
                markeredgewidth=0.4,
                elinewidth=0.6,
            )
        low = min(both.min()) - 1
        high = max(both.max()) + 1
        margin = 0.08 * (high - low)
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        axes.set(xlim=limits, ylim=limits, title=METRIC_LABELS[metric])
        axes.set_box_aspect(1)
        axes.locator_params(nbins=5)
        gap = f"{(both['ours'] - both['paper']).mean():+.1f}".replace("-", "\N{MINUS SIGN}")
        axes.text(
            0.04, 0.96, f"mean difference {gap}", transform=axes.transAxes, va="top", fontsize=7
        )
    _legend(figure, list(paper.index))
    head(figure, material)
    caption = (
        f"Our cells of the {material.label()} table against the paper's: test scores, mean over "
        "seeds with standard deviations. On the dashed line both agree; below it ours is lower."
    )
    alt = "Six scatter plots, one per metric: our mean against the paper's, with the identity line."
    return Drawing(figure, caption, alt)


def _rows_of_configurations(axes: Axes, material: Material, names: list[str]) -> None:
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


def _say_why_empty(axes: Axes, material: Material, name: str, row: int) -> None:
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
    weightings = dict.fromkeys(factors(name)[1].removesuffix("_ema") for name in names)
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

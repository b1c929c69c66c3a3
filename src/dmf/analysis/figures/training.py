"""Figures of the course of training that the paper does not have."""

import seaborn as sns
from matplotlib.figure import Figure

from dmf.analysis.figures.style import (
    AUXILIARY_COLOURS,
    BLUE,
    WEIGHTING_COLOURS,
    WIDTH,
    Drawing,
    Material,
    NothingToDraw,
    head,
    over_epochs,
)
from dmf.analysis.words import AUXILIARY_LABELS, weighting_label
from dmf.configurations import SMOOTHED, factors


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
            smoothed = weighting.endswith(SMOOTHED)
            (handles[weighting_label(weighting)],) = axes.plot(
                means.index,
                means,
                color=WEIGHTING_COLOURS[weighting.removesuffix(SMOOTHED)],
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
        f"Dice on the validation images of {material.label} after every epoch, mean over the "
        "completed seeds. Where the curves are level, more epochs would change little."
    )
    return Drawing(figure, caption, f"Learning curves in {len(grouped)} panels.")


def draw_gamma(material: Material) -> Drawing:
    """Draw the factor of the auxiliary loss over the epochs, and its part in the total loss."""
    history = material.histories
    if "gamma" not in history:
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
        f"Left: gamma(t) = {settings.gamma0:g} exp(−{settings.decay:g} t) on {material.label}, "
        f"where t advances once per {batches}; it ends at {last:.2f}. Right: the part of the total "
        "training loss that gamma times the auxiliary loss makes up; mean over weightings and "
        "seeds, band ± one standard deviation."
    )
    alt = "Two line plots over the epochs: gamma, and the auxiliary loss's part of the total loss."
    return Drawing(figure, caption, alt)

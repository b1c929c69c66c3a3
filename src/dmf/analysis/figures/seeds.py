"""The main figure: the test score of every seed beside the paper's; and one for papers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmf.analysis.figures.scores import ROW_HEIGHT, rows_of_configurations, say_why_empty
from dmf.analysis.figures.style import (
    BLACK,
    GREY,
    VERMILION,
    WIDTH,
    Drawing,
    Material,
    NothingToDraw,
    dot,
    head,
)
from dmf.analysis.paper.numbers import PAPER_RUNS, paper_table
from dmf.analysis.protocol import departures, paper_dataset, reduction_note
from dmf.analysis.verdict.statistics import paired
from dmf.analysis.words import METRIC_LABELS, count
from dmf.outcomes import METRICS

SHOWN = ("dice", "cb_dice", "foreground_dice")
COLUMN = 3.5  # inches: one column of a journal page (89 mm)


def draw_seeds(material: Material) -> Drawing:
    """Draw the test scores of every seed as dots, the interval of their mean, and the paper's."""
    names = material.configurations()
    figure = Figure(figsize=(WIDTH, 1.2 + ROW_HEIGHT * len(names)), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    for axes, metric in zip(panels, SHOWN, strict=True):
        _draw_scores(axes, material, names, metric)
    _explain(figure, material, columns=3)
    head(figure, material)
    caption = (
        f"{_what_is_shown(material)} Marker: weighting; colour: auxiliary loss. The interval "
        "treats the seeds as independent."
    )
    return Drawing(figure, caption, f"Dot plot of the test scores of {len(names)} configurations.")


def draw_for_papers(material: Material) -> Drawing:
    """Draw the primary metric alone, one column wide, without a head: its caption says it all."""
    names = material.configurations()
    if material.scores("dice").isna().to_numpy().all():
        raise NothingToDraw("no run is complete")
    figure = Figure(figsize=(COLUMN, 0.95 + ROW_HEIGHT * len(names)), layout="constrained")
    _draw_scores(figure.subplots(), material, names, "dice")
    _explain(figure, material, columns=2)
    caption = " ".join(
        [
            _what_is_shown(material, "Macro Dice"),
            reduction_note(material.parameters),
            *(f"Not as in the paper: {text}." for text in departures(material.parameters)),
        ]
    ).strip()
    alt = f"Dot plot of the test Dice of {len(names)} configurations."
    return Drawing(figure, caption.replace("`", ""), alt)


def _draw_scores(axes: Axes, material: Material, names: list[str], metric: str) -> None:
    """Fill a panel: a row per configuration with its seeds, their mean, and the paper's mean."""
    confidence = material.parameters.report.confidence
    scores, paper = material.scores(metric), _paper(material, metric)
    rows_of_configurations(axes, material, names)
    for row, name in enumerate(names):
        if name in paper.index:
            mean, std = paper.loc[name, ["mean", "std"]].to_numpy(dtype=float)
            axes.plot([mean - std, mean + std], [row, row], color=VERMILION, linewidth=0.9)
            axes.plot(mean, row, marker="x", color=VERMILION, markersize=5)
        values = scores[name].dropna().to_numpy()
        if not len(values):
            say_why_empty(axes, material, name, row)
            continue
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [0.0]
        axes.plot(
            values,
            row + np.asarray(spread),
            linestyle="",
            **dot(name) | {"markersize": 3.4, "markeredgewidth": 0.3, "alpha": 0.85},
        )
        if len(values) > 2:  # of two seeds an interval says nothing and dwarfs the dots
            middle = paired(values, confidence=confidence)
            axes.plot([middle.low, middle.high], [row, row], color=BLACK, linewidth=1.1, zorder=4)
        axes.plot(values.mean(), row, marker="|", color=BLACK, markersize=7, zorder=4)
    axes.set_xlabel(f"{METRIC_LABELS[metric]} (%)")
    axes.margins(x=0.06)


def _paper(material: Material, metric: str) -> pd.DataFrame:
    """Return the paper's mean and standard deviation by configuration; empty if it has none."""
    known = paper_dataset(material.parameters, material.dataset)
    if known is None or metric not in METRICS:
        return pd.DataFrame(columns=["mean", "std"])
    return pd.DataFrame(paper_table(known)[metric])


def _explain(figure: Figure, material: Material, columns: int) -> None:
    """Say below the panels what dots, strokes and crosses are."""
    confidence = f"{material.parameters.report.confidence:.0%}".replace("%", " %")
    handles = [
        Line2D([], [], linestyle="", marker="o", color=GREY, markersize=3.4, label="one seed"),
        Line2D([], [], color=BLACK, linewidth=1.1, label=f"mean, {confidence} interval"),
    ]
    if len(_paper(material, "dice")):
        paper = Line2D([], [], marker="x", color=VERMILION, linewidth=0.9, markersize=5)
        paper.set_label("the paper, mean ± std")
        handles.append(paper)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _what_is_shown(material: Material, what: str = "Scores") -> str:
    confidence = f"{100 * material.parameters.report.confidence:g} %"
    finished = material.scores("dice").count()  # a study may still go on, or a seed diverge
    numbers = sorted(set(finished[finished > 0])) or [0]
    fewest, most = numbers[0], numbers[-1]
    text = (
        f"{what} on the test images of {material.label} after the last epoch. Each dot is one of "
        f"{count(fewest, 'seed') if fewest == most else f'{fewest} to {most} seeds'}, the stroke "
        f"is the mean, from three seeds on with its {confidence} t interval."
    )
    if len(_paper(material, "dice")):
        text += (
            f" Crosses: mean ± standard deviation over the {PAPER_RUNS} runs that the paper prints "
            "(arXiv 2410.19745)."
        )
    return text

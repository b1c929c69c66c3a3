"""What all figures share: their material, colours, labels, and how they reach the disk."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from dmf.analysis.protocol import data_note, paper_dataset, reduction_head, settings_note
from dmf.analysis.results import values
from dmf.analysis.words import dataset_label
from dmf.configurations import SMOOTHED, factors, paper_configurations
from dmf.files import atomic_path
from dmf.study import ReportParameters

WIDTH = 7.2  # inches: both columns of a journal page (183 mm)

# Okabe and Ito's palette, its blue darkened to stand clear of the green in tritanopia too.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#005A9C", "#D55E00", "#CC79A7", "#6B6B6B"

AUXILIARY_COLOURS = {"tversky": ORANGE, "focal": SKY, "cb_dice": PURPLE, "none": GREY}
WEIGHTING_MARKERS = {
    "variance": "o",
    "mad": "s",
    "bayesian": "^",
    "fixed": "D",
    "random": "X",
    "softadapt": "v",
    "cov": "P",
    "cross_entropy": "*",
}
WEIGHTING_COLOURS = {
    "variance": BLUE,
    "mad": VERMILION,
    "bayesian": GREEN,
    "fixed": BLACK,
    "random": PURPLE,
    "softadapt": ORANGE,
    "cov": SKY,
    "cross_entropy": GREY,
}
LOSS_LABELS = {"cross_entropy": "cross-entropy", "iou": "IoU", "dice": "Dice"}
LOSS_COLOURS = {"cross_entropy": BLUE, "iou": VERMILION, "dice": GREEN}
LOSS_DASHES: dict[str, Any] = {"cross_entropy": "", "iou": (4, 1.5), "dice": (5, 1.2, 1.2, 1.2)}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "figure.constrained_layout.h_pad": 0.06,
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Material:
    """What the figures of one dataset are drawn from: tables of the whole study."""

    results: pd.DataFrame
    epochs: pd.DataFrame
    parameters: ReportParameters
    dataset: str

    @property
    def label(self) -> str:
        """The name of the dataset as people write it."""
        return dataset_label(self.dataset)

    @cached_property
    def histories(self) -> pd.DataFrame:
        """Every epoch of every run of the dataset, without the columns that no run has."""
        mine = self.epochs[self.epochs["dataset"] == self.dataset]
        return mine.dropna(axis="columns", how="all")

    def configurations(self) -> list[str]:
        """Return the study's configurations, the paper's first and in its order."""
        ours = self.parameters.grid.configurations
        paper = [name for name in paper_configurations() if name in ours]
        return paper + [name for name in ours if name not in paper]

    def status(self, configuration: str) -> pd.Series:
        """Return the status of each run of ``configuration``, indexed by seed."""
        chosen = self.results["dataset"] == self.dataset
        rows = self.results[chosen & (self.results["configuration"] == configuration)]
        return rows.groupby("seed")["status"].first()

    def scores(self, metric: str, subset: str = "test") -> pd.DataFrame:
        """Return one metric of the last epoch in percent: seeds by configurations.

        Configurations without a completed run are columns of NaN.
        """
        table = values(self.results, self.dataset, metric, subset=subset)
        return 100 * table.reindex(columns=self.configurations())

    def why_empty(self, configuration: str) -> str:
        """Return why there is nothing to draw for ``configuration``."""
        if configuration not in self.parameters.grid.configurations:
            return "not in this study"
        return "diverged" if (self.status(configuration) == "diverged").any() else "not run"


@dataclass(frozen=True)
class Drawing:
    """A drawn figure and what is said about it."""

    figure: Figure
    caption: str
    alt: str


class NothingToDraw(Exception):  # noqa: N818 - not an error: the figure is left out, with a reason
    """The material for a figure is not there; the text says what is missing."""


def dot(configuration: str) -> dict[str, Any]:
    """Return how a configuration's dots look: its weighting's marker, its auxiliary's colour."""
    auxiliary, weighting = factors(configuration)
    return {
        "marker": WEIGHTING_MARKERS[weighting.removesuffix(SMOOTHED)],
        "color": AUXILIARY_COLOURS[auxiliary],
        "markeredgecolor": "#333333",
        "markeredgewidth": 0.4,
    }


def head(figure: Figure, material: Material) -> None:
    """Say above the panels which study this is, and in a signal colour what sets it apart."""
    parameters = material.parameters
    note = data_note(parameters, material.dataset).rstrip(".")
    if paper_dataset(parameters, material.dataset):  # in what it is reduced, the next line says
        note = reduction_head(parameters)
    width = figure.get_figwidth()
    settings = textwrap.wrap(settings_note(parameters), int(18 * width))
    # Figures have room for two lines; many changed settings would leave the panels none.
    figure.set_figheight(figure.get_figheight() + 0.135 * max(0, len(settings) - 2))
    study = f"{material.label} · study {parameters.grid.name}"
    title = figure.suptitle(
        textwrap.fill(f"{study} \N{EM DASH} {note}" if note else study, int(14 * width))
        + "\n" * len(settings),  # the room that the settings take
        x=0.01,
        ha="left",
        fontsize=8,
        fontweight="bold",
        color="#A33F00" if note else "#333333",
    )
    below = Annotation(
        "\n".join(settings), (0, 0), xycoords=title, va="bottom", fontsize=7, color="#555555"
    )
    figure.add_artist(below)


def empty_panel(axes: Axes, reason: str) -> None:
    """Say in a panel why it shows nothing."""
    axes.grid(False)
    axes.set_facecolor("#F3F3F3")
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color="#555555")


def placeholder(material: Material, title: str, reason: str) -> Drawing:
    """Return a drawing that says why there is none."""
    figure = Figure(figsize=(WIDTH, 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xticks=[], yticks=[])
    empty_panel(axes, f"{title}: left out, {reason}")
    head(figure, material)
    return Drawing(figure, f"Left out: {reason}.", f"Placeholder: {reason}.")


def over_epochs(axes: Axes, material: Material) -> None:
    """Let the x axis run from the first to the last epoch, in whole numbers."""
    epochs = material.parameters.epochs
    if material.parameters.steps is not None:  # which are more or fewer epochs, by the set
        mine = material.epochs[material.epochs["dataset"] == material.dataset]
        epochs = int(mine["epoch"].max())
    axes.set_xlim(min(1, epochs - 1), epochs)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the style of the figures within the block, and only there."""
    style: dict[Any, Any] = sns.axes_style("ticks")
    with matplotlib.rc_context(style | _STYLE):
        yield


def save(figure: Figure, stem: Path, formats: Sequence[str], dpi: int) -> None:
    """Write ``figure`` in the ``formats`` (png, pdf), each in one step and without dates."""
    facts: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    # The layout is found once, the same for every format. Its solver leaves rounding errors that
    # differ between runs and would show in the bytes.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = axes.get_position(original=True).bounds
        axes.set_position((round(left, 5), round(bottom, 5), round(width, 5), round(height, 5)))
    for kind in formats:
        with atomic_path(stem.with_name(f"{stem.name}.{kind}")) as temporary:
            figure.savefig(temporary, dpi=dpi, metadata=facts[kind])

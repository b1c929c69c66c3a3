"""The paper's figures: qualitative rows (1-3), weights (4) and losses (5) over the epochs."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from dmf.analysis.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LOSS_COLOURS,
    LOSS_DASHES,
    LOSS_LABELS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    Drawing,
    Material,
    NothingToDraw,
    empty_panel,
    head,
    over_epochs,
)
from dmf.analysis.words import AUXILIARY_LABELS, count, weighting_label
from dmf.configurations import AUXILIARIES, PAPER_WEIGHTINGS, factors
from dmf.data.arrays import Arrays, read_arrays
from dmf.layout import BEST_MODEL, Cell

Image = NDArray[np.uint8]

PAPER_COLUMNS = ("tversky", "focal", "cb_dice")


@dataclass(frozen=True)
class _Model:
    """The model of one column of a qualitative figure; without ``file``, ``absent`` says why."""

    heading: str
    configuration: str = ""
    file: Path | None = None
    absent: str = ""

    @property
    def caption(self) -> str:
        """The heading, and why there is no model if there is none, on one line."""
        name = " + ".join(self.heading.splitlines())
        return name + (f": {' '.join(self.absent.splitlines())}" if self.absent else "")


def draw_qualitative(material: Material) -> Drawing:
    """Draw Figures 1-3: images, ground truth and predictions (columns a-h), one sample per row.

    All models are of ``report.qualitative_seed`` and all samples are of that seed's test subset.
    Each auxiliary is represented by the weighting with the highest validation CB-Dice, at the
    epoch where it was reached. Samples are spread evenly over the sorted lesion sizes, so nobody
    picked them. Raises NothingToDraw without arrays or models, or for a seed that the study
    has not.
    """
    seed = material.parameters.report.qualitative_seed
    if seed >= material.parameters.grid.seeds:
        raise NothingToDraw(f"report.qualitative_seed = {seed} is no seed of the study")
    cell = Cell(material.dataset, "fixed", seed)  # any configuration has these images and splits
    models = _models(material, seed)
    for needed in (cell.arrays, cell.split):
        if not needed.exists():
            raise NothingToDraw(f"{needed} is not here")
    if not any(model.file for model in models):
        raise NothingToDraw(f"no model of seed {seed} is here")
    arrays = read_arrays(cell.arrays)
    rows = _samples(arrays, cell.split, material.parameters.report.samples)
    is_filtered = not np.array_equal(arrays.originals, arrays.filtered)
    second = "filtered" if is_filtered else "not filtered"

    height = 0.75 + len(rows) * (WIDTH / 8 + 0.14)
    layout = ConstrainedLayoutEngine(
        w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01, rect=(0.005, 0.005, 0.99, 0.985)
    )
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    panels = figure.subplots(len(rows), 3 + len(models), squeeze=False)
    _show_images(panels[:, :3], arrays, rows)
    for column, model in enumerate(models, start=3):
        _show_predictions(panels[:, column], arrays, rows, model)
    headings = ["original", second, "ground truth", *(model.heading for model in models)]
    for letter, heading, axes in zip("abcdefgh", headings, panels[0], strict=False):
        padding = "\n" * (2 - len(heading.splitlines()))
        axes.set_title(f"{letter}\n{heading}{padding}", fontsize=7.5)
    head(figure, material)
    chosen = "; ".join(
        f"({letter}) {model.caption}" for letter, model in zip("defgh", models, strict=True)
    )
    ids = ", ".join(arrays.ids[row] for row in rows)
    caption = (
        f"Each row is one test image of {material.label}, seed {seed}; no model was trained on "
        f"it. (a) original, (b) {'bilaterally ' * is_filtered}{second}, (c) ground truth, "
        f"predictions of {chosen}. Per auxiliary loss the weighting with the best validation "
        "CB-Dice is shown, at the epoch where it was reached. Orange: outline of the ground truth; "
        "below each prediction: its foreground Dice in percent. The samples are spread evenly over "
        f"the sorted lesion sizes, from small (top) to large (bottom): {ids}."
    )
    alt = (
        f"{len(rows)} rows of {material.label} test images with ground truth and the masks "
        "predicted with each auxiliary loss, without one, and with fixed weights."
    )
    return Drawing(figure, caption, alt)


def draw_weights(material: Material) -> Drawing:
    """Draw Figure 4: the weights of the base losses over the epochs, one row per weighting."""
    figure, lines = _draw_histories(
        material, prefix="weight_", symbol="W", axis="weight", shared="row", weights=True
    )
    caption = (
        f"Weights of the base losses during training on {material.label}; rows: weighting "
        f"methods, columns: auxiliary losses. {lines} The horizontal line marks equal weights. The "
        "scale differs between rows, as in the paper. The paper leaves its columns unlabelled; we "
        "take them to be Tversky, Focal and CB-Dice."
    )
    alt = (
        "Grid of line plots: the weights of the base losses over the epochs for each weighting "
        "method and auxiliary loss."
    )
    return Drawing(figure, caption, alt)


def draw_losses(material: Material) -> Drawing:
    """Draw Figure 5: the unweighted base losses over the epochs, one row per weighting."""
    figure, lines = _draw_histories(
        material, prefix="loss_", symbol="L", axis="loss", shared="all", weights=False
    )
    caption = (
        f"Base losses (before weighting) on the training images of {material.label}; rows: "
        f"weighting methods, columns: auxiliary losses. {lines}"
    )
    alt = (
        "Grid of line plots: the base losses over the epochs for each weighting method and "
        "auxiliary loss."
    )
    return Drawing(figure, caption, alt)


def grid_of_histories(configurations: list[str]) -> tuple[list[str], list[str]]:
    """Return the rows (weightings) and columns (auxiliaries) of Figures 4 and 5.

    The paper's three by three where the study has them; what it adds follows, what it lacks
    altogether is left out. Without any auxiliary the one column is ``none``. Empty if no
    configuration adapts its weights.
    """
    pairs = [factors(name) for name in configurations]
    pairs = [pair for pair in pairs if pair[1] not in ("fixed", "cross_entropy")]
    weightings = dict.fromkeys(weighting for _, weighting in pairs)
    rows = [name for name in PAPER_WEIGHTINGS if name in weightings]
    rows += [name for name in weightings if name not in rows]
    used = {auxiliary for auxiliary, _ in pairs}
    columns = [name for name in PAPER_COLUMNS if name in used]
    return rows, columns or [name for name in AUXILIARIES if name in used]


def _draw_histories(
    material: Material,
    *,
    prefix: str,
    symbol: str,
    axis: str,
    shared: Literal["row", "all"],
    weights: bool,
) -> tuple[Figure, str]:
    """Draw every ``prefix`` column of the histories; return the figure and what its lines are."""
    rows, columns = grid_of_histories(material.parameters.grid.configurations)
    names = [name for name in material.histories.columns if name.startswith(prefix)]
    losses = [name.removeprefix(prefix) for name in names if name != prefix + "auxiliary"]
    if not losses:
        raise NothingToDraw("no run has a history")
    seeds = material.parameters.grid.seeds
    size = (max(2.6 * len(columns), 4.2) if len(columns) < 3 else WIDTH, 0.8 + 1.6 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=shared)
    for (row, weighting), (column, auxiliary) in product(enumerate(rows), enumerate(columns)):
        axes, name = panels[row, column], f"{auxiliary}-{weighting}"
        if weights:
            axes.axhline(1 / len(losses), color=GREY, linewidth=0.6, zorder=1)
        _draw_history(axes, material, name, prefix, losses)
        if weights and seeds > 1:
            _draw_one_seed(axes, material, name, prefix, losses)
        over_epochs(axes, material)
    for auxiliary, axes in zip(columns, panels[0], strict=True):
        axes.set_title(AUXILIARY_LABELS[auxiliary])
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    for weighting, axes in zip(rows, panels[:, 0], strict=True):
        title = weighting_label(weighting)
        axes.set_ylabel(f"{title[0].upper()}{title[1:]} weighting\n{axis}")
        if weights:  # bands may leave [0, 1], weights do not
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, -0.03), min(high, 1.03))
    labels = [f"{symbol}{n} {LOSS_LABELS[loss]}" for n, loss in enumerate(losses, start=1)]
    handles = [
        Line2D([], [], color=LOSS_COLOURS[loss], dashes=LOSS_DASHES[loss] or (None, None))
        for loss in losses
    ]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(losses))
    head(figure, material)
    return figure, f"{', '.join(labels)}. {_what_lines_are(seeds, weights)}"


def _what_lines_are(seeds: int, weights: bool) -> str:
    if seeds == 1:
        return "One seed."
    text = f"Lines are means over {count(seeds, 'seed')}, bands ± one standard deviation."
    if weights:
        text += " Thin lines are seed 0 alone: means hide how sharply single runs adjust."
    return text


def _draw_history(
    axes: Axes, material: Material, configuration: str, prefix: str, losses: list[str]
) -> None:
    """Draw one panel: a line per loss, over the completed runs of ``configuration``."""
    status = material.status(configuration)
    complete = status.index[status == "complete"]
    history = material.histories
    history = history[
        (history["configuration"] == configuration) & history["seed"].isin(list(complete))
    ]
    if history.empty:
        empty_panel(axes, material.why_empty(configuration))
        return
    long = history.melt(
        ["epoch", "seed"], [prefix + loss for loss in losses], var_name="loss", value_name="y"
    )
    long["loss"] = long["loss"].str.removeprefix(prefix)
    sns.lineplot(
        long,
        x="epoch",
        y="y",
        hue="loss",
        style="loss",
        hue_order=losses,
        style_order=losses,
        palette=LOSS_COLOURS,
        dashes=LOSS_DASHES,
        errorbar="sd",
        err_kws={"alpha": 0.18, "linewidth": 0},
        marker="o" if material.parameters.epochs == 1 else None,
        legend=False,
        ax=axes,
    )
    axes.set(xlabel=axes.get_xlabel(), ylabel=axes.get_ylabel())
    if len(complete) < len(status):
        axes.text(
            0.98,
            0.96,
            f"{len(complete)} of {len(status)} runs complete",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=6.5,
        )


def _draw_one_seed(
    axes: Axes, material: Material, configuration: str, prefix: str, losses: list[str]
) -> None:
    """Add the lines of seed 0, thin, if it was completed."""
    if material.status(configuration).get(0) != "complete":
        return
    history = material.histories
    first = history[(history["configuration"] == configuration) & (history["seed"] == 0)]
    for loss in losses:
        axes.plot(first["epoch"], first[prefix + loss], color=LOSS_COLOURS[loss], lw=0.5, alpha=0.7)


def _samples(arrays: Arrays, split: Path, wanted: int) -> list[int]:
    """Return the indices of ``wanted`` test images, evenly spread over the sorted lesion sizes."""
    table = pd.read_csv(split, dtype=str)
    test = set(table.loc[table["subset"] == "test", "id"])
    sizes = (arrays.masks > 0).sum(axis=(1, 2))
    indices = [index for index, name in enumerate(arrays.ids) if name in test]
    indices.sort(key=lambda index: (sizes[index], arrays.ids[index]))
    wanted = min(wanted, len(indices))
    return [indices[int((place + 0.5) * len(indices) / wanted)] for place in range(wanted)]


def _models(material: Material, seed: int) -> list[_Model]:
    """Return the models of columns d-h: per auxiliary the best weighting, then fixed weights."""
    ours = material.configurations()
    columns = []
    for auxiliary in (*PAPER_COLUMNS, "none"):
        names = [
            name
            for name in ours
            if factors(name)[0] == auxiliary and factors(name)[1] in PAPER_WEIGHTINGS
        ]
        columns.append(_best_model(material, names, seed, AUXILIARY_LABELS[auxiliary]))
    fixed = [name for name in ours if factors(name) == ("none", "fixed")]
    return [*columns, _best_model(material, fixed, seed, "fixed weights")]


def _best_model(material: Material, names: list[str], seed: int, heading: str) -> _Model:
    if not names:
        return _Model(heading, absent="not in\nthis study")
    rows = material.results
    rows = rows[
        (rows["dataset"] == material.dataset)
        & rows["configuration"].isin(names)
        & (rows["seed"] == seed)
    ]
    scores = rows[
        (rows["subset"] == "validation")
        & (rows["epoch_choice"] == "best")
        & (rows["metric"] == "cb_dice")
    ].set_index("configuration")["value"]
    if scores.empty:
        diverged = (rows["status"] == "diverged").any()
        return _Model(heading, absent="diverged" if diverged else "not run")
    best = str(scores.reindex(names).idxmax())  # the first of equals, in the order of the tables
    file = Cell(material.dataset, best, seed).folder / BEST_MODEL
    _, weighting = factors(best)
    if weighting != "fixed":
        heading += "\n" + weighting_label(weighting)
    if not file.exists():
        return _Model(heading, best, absent="model\nnot here")
    return _Model(heading, best, file)


def _predict(model_file: Path, images: Image) -> Image:
    from dmf.training.inference import predict  # torch is slow to import, and only needed here

    return predict(model_file, images)


def _show_images(panels: NDArray[Any], arrays: Arrays, rows: list[int]) -> None:
    """Fill the first three columns: original, filtered, ground truth."""
    for row, (original, filtered, truth) in zip(rows, panels, strict=True):
        for axes, images in ((original, arrays.originals), (filtered, arrays.filtered)):
            _bare(axes)
            axes.imshow(images[row], cmap="gray", vmin=0, vmax=255)
        _show_mask(truth, arrays.masks[row], arrays.classes)


def _show_predictions(column: NDArray[Any], arrays: Arrays, rows: list[int], model: _Model) -> None:
    """Fill a column with the masks of a model, the outline of the truth and the Dice."""
    if model.file is None:
        for axes in column:
            _bare(axes)
            empty_panel(axes, model.absent)
            axes.set_box_aspect(1)
        return
    predicted = _predict(model.file, arrays.filtered[rows])
    for axes, mask, truth in zip(column, predicted, arrays.masks[rows], strict=True):
        _show_mask(axes, mask, arrays.classes)
        axes.contour(truth > 0, levels=[0.5], colors=[VERMILION], linewidths=0.7)
        axes.set_xlabel(f"{_foreground_dice(mask, truth):.1f}", fontsize=6.5, labelpad=1.5)


def _show_mask(axes: Axes, mask: Image, classes: int) -> None:
    _bare(axes)
    colours = ListedColormap(["black", "white", SKY, ORANGE, PURPLE, GREEN, BLUE][:classes])
    axes.imshow(mask, cmap=colours, vmin=0, vmax=classes - 1, interpolation="nearest")


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _foreground_dice(predicted: Image, truth: Image) -> float:
    """Return the Dice of everything that is not background, in percent; 100 if both are empty."""
    both = int(np.sum((predicted > 0) & (truth > 0)))
    either = int(np.sum(predicted > 0)) + int(np.sum(truth > 0))
    return 200 * both / either if either else 100.0

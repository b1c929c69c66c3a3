"""What networks of other authors score on the same images, as a table of the page."""

from typing import Any

import pandas as pd

from dmf.analysis.paper.numbers import independent
from dmf.analysis.protocol import paper_dataset
from dmf.analysis.results import values
from dmf.analysis.tables import Cell, Row, Table, percentage, whole
from dmf.analysis.verdict.headline import RECOMMENDED
from dmf.analysis.words import EVALUATION_LABELS, dataset_label, label
from dmf.study import ReportParameters

# The third is how those authors score: the best epoch, on the images that it was chosen on.
_SCORED = (("test", "last"), ("test", "best"), ("validation", "best"))
_METRICS = {
    "image_foreground_dice": "Foreground Dice per image",
    "image_foreground_iou": "Foreground IoU per image",
}


def table(results: pd.DataFrame, parameters: ReportParameters, dataset: str) -> Table | None:
    """Return fixed weights and the recommended combination beside other networks.

    None on other images than the paper's, where no network is known that averages over images,
    and if no run has such scores.
    """
    known = independent()
    theirs = known[
        (known["dataset"] == paper_dataset(parameters, dataset))
        & (known["aggregation"] == "image")
        & (known["left_out"] == "")
    ]
    ours = [
        row
        for configuration in ("fixed", RECOMMENDED)
        for subset, choice in _SCORED
        if (row := _ours(results, dataset, configuration, subset, choice))
    ]
    if theirs.empty or not ours:
        return None
    title = "Scores per image, beside networks of other authors"
    caption = (
        f"{dataset_label(dataset)}: the lesion's scores in each image, their mean over images in "
        "percent, mean ± standard deviation over seeds or splits. Other networks, splits, sizes "
        "and training; those authors score the best epoch on the images that it was chosen on. "
        "Their code averages over batches; their IoU and F1 fit together only as means over "
        "images, which they are taken to be."
    )
    columns = [*_METRICS.values(), "n"]
    rows = [*ours, *map(_theirs, theirs.to_dict("records"))]
    return Table(title, caption, ("Network", "Scored on"), columns, rows)


def _ours(
    results: pd.DataFrame, dataset: str, configuration: str, subset: str, choice: str
) -> Row | None:
    """Return the row of one configuration, subset and evaluation; None if it has no scores."""
    cells, runs = [], 0
    for metric in _METRICS:
        scores = values(results, dataset, metric, subset=subset, epoch_choice=choice)
        if configuration not in scores:
            return None
        percent = 100 * scores[configuration].dropna()
        cells.append(percentage(float(percent.mean()), float(percent.std())))
        runs = len(percent)
    names = (label(configuration), f"{subset} images, {EVALUATION_LABELS[choice]}")
    return Row(": ".join(names), names, [*cells, whole(runs)])


def _theirs(network: dict[Any, Any]) -> Row:
    cells = [
        percentage(100 * network[mean], 100 * network[std])
        for mean, std in (("foreground_dice", "dice_std"), ("foreground_iou", "iou_std"))
    ]
    size, runs = network["parameters_millions"], network["runs"]
    parameters = "" if pd.isna(size) else f", {size:.2f} million parameters"
    names = (f"{network['network']}{parameters}", f"{network['protocol']} ({network['source']})")
    return Row(": ".join(names), names, [*cells, Cell() if pd.isna(runs) else whole(runs)])

"""Scores per image beside other authors' networks: which scores count, and what stands beside."""

import pandas as pd
import pytest

from dmf.analysis.page import other_networks
from dmf.analysis.paper.numbers import independent
from dmf.analysis.results import COLUMNS

from synthetic import make_study

DICE = {"test": {"last": (0.54, 0.58), "best": (0.60, 0.64)}, "validation": {"best": (0.70, 0.72)}}


def results(dataset: str) -> pd.DataFrame:
    rows = [
        (dataset, name, "none", "fixed", seed, "complete", choice, subset, metric, value - less)
        for name, lower in (("fixed", 0.0), ("cb_dice-variance", 0.1))
        for subset, choices in DICE.items()
        for choice, scores in choices.items()
        for seed, value in enumerate(scores)
        for metric, less in (("image_foreground_dice", lower), ("image_foreground_iou", 0.2))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_ours_stand_above_those_that_average_over_images() -> None:
    parameters = make_study({"busi": "busi"}).report_parameters()
    table = other_networks.table(results("busi"), parameters, "busi")
    assert table is not None
    ours, theirs = table.rows[:6], table.rows[6:]
    assert [row.names[0] for row in ours] == 3 * ["Fixed weights"] + 3 * ["CB-Dice + Variance"]
    dice, iou, runs = ours[2].cells
    assert ours[2].names[1] == "validation images, best validation epoch"
    assert [dice.text, dice.spread, iou.text, runs.text] == ["71.00", "± 1.41", "51.00", "2"]
    assert ours[3].cells[0].text == "46.00"
    scores = {row.names[0].split(",")[0]: row.cells[0].text for row in theirs}
    assert scores["U-Net"] == "76.97"
    known = independent()
    assert len(theirs) == sum((known["aggregation"] == "image") & (known["left_out"] == ""))
    assert [cell.text for cell in theirs[0].cells] == ["76.97", "68.61", "3"]
    assert theirs[0].names[0] == "U-Net, 34.52 million parameters"
    assert theirs[0].cells[1].spread == "± 2.86"


@pytest.mark.parametrize("kind", ["phantom", "busc"])
def test_on_other_images_there_is_no_table(kind: str) -> None:
    parameters = make_study({kind: kind}).report_parameters()
    assert other_networks.table(results(kind), parameters, kind) is None


def test_records_without_scores_per_image_have_no_table() -> None:
    parameters = make_study({"busi": "busi"}).report_parameters()
    frame = results("busi")
    pooled = frame[frame["metric"] == "none"]
    assert other_networks.table(pooled, parameters, "busi") is None

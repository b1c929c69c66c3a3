"""The picture of one training that MLflow shows."""

import xml.etree.ElementTree

from dmf.tracking.curve import training_curve


def test_the_training_curve_is_a_picture_with_gaps_where_values_are_not_finite() -> None:
    nan = float("nan")
    history = [
        {"epoch": epoch, "loss_dice": loss, "weight_dice": 0.5, "validation_dice": 0.7}
        for epoch, loss in enumerate([0.9, nan, 0.5, 0.4], start=1)
    ]
    picture = xml.etree.ElementTree.fromstring(training_curve(history, "phantom/<x>"))
    paths = [element.get("d", "") for element in picture.iter() if element.tag.endswith("path")]
    assert [(path.count("M"), path.count("L")) for path in paths] == [(2, 1), (1, 3), (1, 3)]
    assert paths[0].startswith("M0.0 0.0M")  # the highest loss is at the top
    assert paths[0].endswith(" 150.0")  # the lowest at the bottom
    xml.etree.ElementTree.fromstring(training_curve([], "a run that diverged at once"))

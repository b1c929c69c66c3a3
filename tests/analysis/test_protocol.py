"""What sets a study apart from the paper's is said."""

from dmf.analysis.protocol import (
    departures,
    is_smaller,
    paper_dataset,
    reduction_note,
    reductions,
    settings_note,
    training_length,
)

from synthetic import make_study


def test_what_is_smaller_than_in_the_paper_is_said() -> None:
    small = make_study(seeds=3, epochs=20, image_size=32).report_parameters()
    assert reductions(small) == [
        "20 epochs (paper 100)",
        "32-pixel images (128)",
        "U-Net filters [4, 8] ([32, 64, 128, 256])",
        "3 seeds (10)",
    ]
    full = small.model_copy(
        update={"epochs": 100, "image_size": 128, "filters": [32, 64, 128, 256]}
    )
    assert reduction_note(small).startswith("Reduced study: 20 epochs (paper 100), ")
    assert reduction_note(full) == "Fewer seeds: 3 seeds (paper 10)."
    full = full.model_copy(update={"grid": full.grid.model_copy(update={"seeds": 12})})
    assert reductions(full) == []
    assert reduction_note(full) == ""


def test_other_departures_are_said() -> None:
    parameters = make_study().report_parameters()
    assert departures(parameters) == []
    split = parameters.split.model_copy(update={"kind": "grouped", "per_seed": False})
    changed = parameters.model_copy(
        update={"preset": "released", "split": split, "changed": ["losses.reduction = image"]}
    )
    assert len(departures(changed)) == 4
    split = parameters.split.model_copy(update={"train": 0.5, "validation": 0.25, "test": 0.25})
    assert departures(parameters.model_copy(update={"split": split})) == [
        "50/25/25 % of the images train, validate and test, not 70/15/15"
    ]


def test_what_is_larger_than_in_the_paper_is_no_reduction() -> None:
    """It is a departure: more epochs beside smaller images leave a reduced study reduced."""
    mixed = make_study(seeds=10, epochs=300, image_size=64).report_parameters()
    mixed = mixed.model_copy(update={"filters": [32, 64, 128, 256, 512]})
    assert reductions(mixed) == ["64-pixel images (paper 128)"]
    assert departures(mixed) == [
        "300 epochs, not 100",
        "U-Net filters [32, 64, 128, 256, 512], not [32, 64, 128, 256]",
    ]
    assert is_smaller(mixed)
    larger = mixed.model_copy(update={"image_size": 256})
    assert reductions(larger) == []
    assert not is_smaller(larger)
    other = mixed.model_copy(update={"filters": [64, 416]})
    assert "U-Net filters [64, 416] ([32, 64, 128, 256])" in reductions(other)


def test_only_the_papers_kinds_are_the_papers_data() -> None:
    parameters = make_study(
        {"busi": "phantom", "mine": "busi", "bus": "folder"}
    ).report_parameters()
    assert [paper_dataset(parameters, name) for name in ("busi", "mine", "bus")] == [
        None,
        "busi",
        None,
    ]


def test_a_training_counted_in_steps_is_not_said_to_have_epochs() -> None:
    counted = make_study().report_parameters().model_copy(update={"steps": 900})
    assert training_length(counted) == "900 steps"
    assert "900 steps" in settings_note(counted)
    assert "epoch" not in settings_note(counted) + " ".join(reductions(counted))

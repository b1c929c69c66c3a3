"""The metrics against torchmetrics, MONAI and scikit-learn, and what must hold between them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmf.metrics import SegmentationMetrics, confusion_counts, metrics_from_counts
from dmf.outcomes import FOREGROUND_METRICS, METRICS


def example(seed: int, images: int = 7, classes: int = 2) -> tuple[Tensor, Tensor]:
    """A prediction that is right for most pixels; the last image is empty in both."""
    generator = torch.Generator().manual_seed(seed)
    ground_truth = torch.randint(0, classes, (images, 12, 11), generator=generator)
    other = torch.randint(0, classes, ground_truth.shape, generator=generator)
    wrong = torch.rand(ground_truth.shape, generator=generator) < 0.3
    prediction = torch.where(wrong, other, ground_truth)
    ground_truth[-1] = 0
    prediction[-1] = 0
    return prediction, ground_truth


def computed(prediction: Tensor, ground_truth: Tensor, classes: int) -> dict[str, float]:
    metrics = SegmentationMetrics(classes)
    metrics.update(prediction, ground_truth)
    return metrics.compute()


def one_hot(indices: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(indices, classes).movedim(-1, 1)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.slow
def test_counts_equal_scikit_learn(classes: int) -> None:
    from sklearn.metrics import multilabel_confusion_matrix

    prediction, ground_truth = example(0, classes=classes)
    counts = confusion_counts(prediction, ground_truth, classes)
    assert counts.dtype == torch.int64
    assert counts.shape == (len(prediction), classes, 3)
    for image, (y, p) in enumerate(zip(ground_truth, prediction, strict=True)):
        matrix = multilabel_confusion_matrix(y.ravel(), p.ravel(), labels=range(classes))
        expected = np.stack((matrix[:, 1, 1], matrix[:, 0, 1], matrix[:, 1, 0]), axis=1)
        np.testing.assert_array_equal(counts[image], expected)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.slow
def test_pooled_metrics_equal_torchmetrics(classes: int) -> None:
    from torchmetrics.functional.classification import (  # which takes seconds, as the others do
        multiclass_f1_score,
        multiclass_jaccard_index,
        multiclass_precision,
        multiclass_recall,
    )
    from torchmetrics.segmentation import DiceScore

    prediction, ground_truth = example(1, classes=classes)
    values = computed(prediction, ground_truth, classes)
    macro = {"num_classes": classes, "average": "macro"}
    precision = multiclass_precision(prediction, ground_truth, **macro).item()
    recall = multiclass_recall(prediction, ground_truth, **macro).item()
    dice = DiceScore(
        num_classes=classes, average="macro", aggregation_level="global", input_format="index"
    )
    dice.update(prediction, ground_truth)
    expected = {
        "dice": multiclass_f1_score(prediction, ground_truth, **macro).item(),
        "iou": multiclass_jaccard_index(prediction, ground_truth, **macro).item(),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert values["dice"] == pytest.approx(dice.compute().item(), abs=1e-6)

    each = multiclass_f1_score(prediction, ground_truth, classes, average=None)
    assert values["foreground_dice"] == pytest.approx(each[1:].mean().item(), abs=1e-6)
    each = multiclass_jaccard_index(prediction, ground_truth, classes, average=None)
    assert values["foreground_iou"] == pytest.approx(each[1:].mean().item(), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.slow
def test_image_metrics_equal_monai(classes: int) -> None:
    from monai.metrics import DiceMetric, MeanIoU

    prediction, ground_truth = example(2, classes=classes)
    values = computed(prediction, ground_truth, classes)
    p, y = one_hot(prediction, classes), one_hot(ground_truth, classes)
    # Without ignore_empty, MONAI scores a class that is empty in both masks with 1, as we do.
    for name, metric in (("dice", DiceMetric), ("iou", MeanIoU)):
        both = metric(include_background=True, ignore_empty=False)(p, y)
        assert values[f"image_{name}"] == pytest.approx(both.mean().item(), abs=1e-6)
        foreground = metric(include_background=False, ignore_empty=False)(p, y)
        assert values[f"image_foreground_{name}"] == pytest.approx(
            foreground.mean().item(), abs=1e-6
        )


@pytest.mark.slow
def test_cb_dice_weighs_the_dice_of_each_class_by_its_rarity() -> None:
    from torchmetrics.functional.classification import multiclass_f1_score

    prediction, ground_truth = example(3, classes=3)
    share = np.bincount(ground_truth.ravel(), minlength=3) / ground_truth.numel()
    weights = (1 / share) / (1 / share).sum()
    dice = multiclass_f1_score(prediction, ground_truth, 3, average=None).numpy()
    expected = float((weights * dice).sum())
    assert computed(prediction, ground_truth, 3)["cb_dice"] == pytest.approx(expected, abs=1e-6)


def test_image_and_batch_metrics_are_means_of_pooled_ones() -> None:
    prediction, ground_truth = example(4)
    counts = confusion_counts(prediction, ground_truth, 2)
    values = metrics_from_counts(counts, batch_size=3)
    singles = [metrics_from_counts(counts[i : i + 1]) for i in range(len(counts))]
    for name in (*METRICS, *FOREGROUND_METRICS):
        expected = np.mean([single[name] for single in singles])
        assert values[f"image_{name}"] == pytest.approx(expected, abs=1e-12)
    # Seven images in batches of three: the last batch has one image and counts as much.
    batches = [metrics_from_counts(batch) for batch in (counts[:3], counts[3:6], counts[6:])]
    for name in METRICS:
        expected = np.mean([batch[name] for batch in batches])
        assert values[f"batch_{name}"] == pytest.approx(expected, abs=1e-12)


def test_what_is_computed_has_the_names_that_the_study_knows() -> None:
    names = {
        *(prefix + name for prefix in ("", "image_", "batch_") for name in METRICS),
        *(prefix + name for prefix in ("", "image_") for name in FOREGROUND_METRICS),
    }
    assert set(metrics_from_counts(torch.ones(1, 2, 3))) == names


@pytest.mark.parametrize("value", [2, 255, -1])
@pytest.mark.parametrize("where", ["prediction", "ground_truth"])
def test_indices_outside_the_classes_are_refused(where: str, value: int) -> None:
    masks = dict(zip(("prediction", "ground_truth"), example(6), strict=True))
    masks[where][5, 0, 0] = value
    metrics = SegmentationMetrics()
    with pytest.raises(ValueError, match=rf"{where} holds {value}, outside 0\.\.1: divide"):
        metrics.update(**masks)
    assert len(metrics.counts) == 0


@pytest.mark.parametrize(
    "outside", [("prediction",), ("ground_truth",), ("prediction", "ground_truth")]
)
@pytest.mark.slow
def test_what_is_not_looked_at_on_the_way_is_refused_in_the_end(outside: tuple[str, ...]) -> None:
    """A compiled graph looks at no values, as on a GPU."""
    masks = dict(zip(("prediction", "ground_truth"), example(6), strict=True))
    torch._dynamo.reset()
    count = torch.compile(confusion_counts, fullgraph=True, backend="aot_eager")
    assert torch.equal(count(**masks, classes=2), confusion_counts(**masks, classes=2))
    masks["prediction"][4] = masks["ground_truth"][4]  # a perfect one must not hide it
    expected = count(**masks, classes=2)
    for name in outside:
        masks[name][4] *= 255
    counts = count(**masks, classes=2)
    expected[4] = -1
    assert torch.equal(counts, expected)
    with pytest.raises(
        ValueError, match=r"image 4 \(from 0\) holds a value outside 0\.\.1: divide"
    ):
        metrics_from_counts(counts)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), seed=st.integers(0, 2**31), classes=st.integers(2, 4))
def test_result_does_not_depend_on_the_updates(
    data: st.DataObject, seed: int, classes: int
) -> None:
    prediction, ground_truth = example(seed, images=9, classes=classes)
    sizes = data.draw(st.lists(st.integers(1, 5), max_size=8))
    metrics = SegmentationMetrics(classes)
    start = 0
    for size in [*sizes, 9]:
        if start < 9:
            metrics.update(prediction[start : start + size], ground_truth[start : start + size])
            start += size
    assert metrics.compute(batch_size=4) == metrics_from_counts(
        confusion_counts(prediction, ground_truth, classes), batch_size=4
    )
    assert len(metrics.counts) == 9


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(
        st.lists(st.tuples(*[st.integers(0, 50)] * 4), min_size=1, max_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_relations_between_metrics_of_two_classes(
    counts: list[list[tuple[int, int, int, int]]],
) -> None:
    # Foreground TP, FP, FN, TN; the background exchanges TP with TN and FP with FN.
    rows = [((tn, fn, fp), (tp, fp, fn)) for ((tp, fp, fn, tn),) in counts]
    values = metrics_from_counts(torch.tensor(rows))
    assert all(0 <= value <= 1 + 1e-12 for value in values.values())
    for prefix in ("", "image_", "batch_"):
        dice, iou, f1, precision, recall = (values[prefix + name] for name in METRICS[:5])
        assert iou >= dice / (2 - dice) - 1e-12
        assert f1 <= (precision + recall) / 2 + 1e-12
    assert values["dice"] <= values["f1"] + 1e-12
    dice, iou = values["foreground_dice"], values["foreground_iou"]
    assert iou == pytest.approx(dice / (2 - dice))


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        # Neither present nor predicted: 1. Background perfect.
        (0, 0, {"dice": 1.0, "iou": 1.0, "precision": 1.0, "recall": 1.0, "cb_dice": 1.0}),
        # Absent but predicted everywhere: 0 in both classes.
        (1, 0, {"dice": 0.0, "iou": 0.0, "precision": 0.0, "recall": 0.0, "cb_dice": 0.0}),
        # Present everywhere, never predicted: 0; the background is absent, and predicted.
        (0, 1, {"dice": 0.0, "iou": 0.0, "precision": 0.0, "recall": 0.0, "cb_dice": 0.0}),
        (1, 1, {"dice": 1.0, "iou": 1.0, "precision": 1.0, "recall": 1.0, "cb_dice": 1.0}),
    ],
)
def test_empty_classes(predicted: int, true: int, expected: dict[str, float]) -> None:
    shape = (2, 4, 4)
    values = computed(torch.full(shape, predicted), torch.full(shape, true), 2)
    assert {name: values[name] for name in expected} == expected
    assert values["f1"] == expected["dice"]
    assert values["foreground_dice"] == expected["dice"]


def test_reset_and_refusals() -> None:
    metrics = SegmentationMetrics()
    with pytest.raises(ValueError, match="no images"):
        metrics.compute()
    prediction, ground_truth = example(5)
    metrics.update(prediction, ground_truth)
    metrics.reset()
    assert len(metrics.counts) == 0
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.update(prediction[:1], ground_truth)
    with pytest.raises(TypeError, match="prediction must hold integer"):
        metrics.update(prediction.float(), ground_truth)

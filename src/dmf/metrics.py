"""The segmentation metrics of the paper (section 5, eq. 11-15, and CB-Dice, eq. 21-24).

All come from the true positives, false positives and false negatives of each image and class, and
lie in [0, 1]. Means over the classes include the background, as in the paper's tables, except
`foreground_*`, means over the classes 1..C-1. F1 is the harmonic mean of the precision and the
recall averaged over the classes, so that it differs slightly from Dice.

Empty classes: a class neither in the ground truth nor in the prediction scores 1 in every metric,
as in MONAI (`ignore_empty=False`) and torchmetrics' `DiceScore`; torchmetrics' `MeanIoU` and its
multiclass metrics leave the class out, the notebook released with the paper gives 0. Any other
zero denominator gives 0, as in scikit-learn: a present class that is never predicted has precision
0, an absent one that is predicted recall 0. In CB-Dice absent classes share all the weight (the
limit of eq. 22).

Indices outside 0..C-1 raise a ValueError, at once on the CPU and else when the metrics are
computed, so that counting never waits for a device.
"""

import torch
from torch import Tensor

from dmf.losses import INDICES_REMEDY, check_class_indices, class_balance


def confusion_counts(prediction: Tensor, ground_truth: Tensor, classes: int) -> Tensor:
    """TP, FP and FN of each image and class, shape (N, C, 3), int64, on the device of the inputs.

    `prediction` and `ground_truth` are class indices of shape (N, *spatial), of any integer type.
    Not on the CPU, all counts of an image with an index outside 0..C-1 are -1.

    Raises ValueError where the shapes differ and, on the CPU, for indices outside 0..C-1; TypeError
    for inputs of floats.
    """
    if prediction.shape != ground_truth.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and ground_truth {tuple(ground_truth.shape)} "
            "differ in shape: give class indices, such as logits.argmax(1)"
        )
    check_class_indices("prediction", prediction, classes)
    check_class_indices("ground_truth", ground_truth, classes)
    prediction, ground_truth = prediction.flatten(1), ground_truth.flatten(1)
    index = torch.arange(classes, device=prediction.device)[:, None]
    is_predicted, is_actual = prediction[:, None] == index, ground_truth[:, None] == index
    true_positive = (is_predicted & is_actual).sum(2)
    predicted, actual = is_predicted.sum(2), is_actual.sum(2)
    counts = torch.stack((true_positive, predicted - true_positive, actual - true_positive), dim=2)
    all_counted = (predicted + actual).sum(1) == 2 * prediction.shape[1]
    return torch.where(all_counted[:, None, None], counts, -1)


def metrics_from_counts(counts: Tensor, batch_size: int = 32) -> dict[str, float]:
    """Every metric from the counts of all images, shape (N, C, 3), in the order of the images.

    Without prefix: from the counts pooled over all images.
    `image_*`: each image on its own, then the mean over images.
    `batch_*` (not of `foreground_*`): pooled over `batch_size` consecutive images, then the mean
    over the batches, in which a short last one weighs as much as the others, as in the released
    notebook.

    Raises ValueError if there is no image, or one with class indices outside 0..C-1.
    """
    if len(counts) == 0:
        raise ValueError("no images: update the metrics before computing them")
    counts = counts.cpu().double()
    if (counts < 0).any():
        image = (counts < 0).flatten(1).any(1).nonzero()[0].item()
        raise ValueError(
            f"prediction or ground_truth of image {image} (from 0) holds a value outside "
            f"0..{counts.shape[1] - 1}: {INDICES_REMEDY}"
        )
    batches = torch.stack([batch.sum(0) for batch in torch.split(counts, batch_size)])
    values = _metrics(counts.sum(0, keepdim=True))
    values |= {f"image_{name}": value for name, value in _metrics(counts).items()}
    values |= {
        f"batch_{name}": value
        for name, value in _metrics(batches).items()
        if not name.startswith("foreground_")
    }
    return {name: value.mean().item() for name, value in values.items()}


class SegmentationMetrics:
    """Accumulates the counts of one subset, image by image.

    The counts of every image are kept, so the result does not depend on how the images were cut
    into updates. Updating never waits for the device; `compute` does, once.
    """

    def __init__(self, classes: int = 2) -> None:
        self.classes = classes
        self._counts: list[Tensor] = []

    def update(self, prediction: Tensor, ground_truth: Tensor) -> None:
        """Add images: class indices of shape (N, *spatial). Raises as `confusion_counts` does."""
        self._counts.append(confusion_counts(prediction, ground_truth, self.classes))

    @property
    def counts(self) -> Tensor:
        """TP, FP and FN of every image so far, shape (N, C, 3), int64."""
        if not self._counts:
            return torch.zeros(0, self.classes, 3, dtype=torch.int64)
        return torch.cat(self._counts)

    def compute(self, batch_size: int = 32) -> dict[str, float]:
        """The metrics of all images so far, see `metrics_from_counts`."""
        return metrics_from_counts(self.counts, batch_size)

    def reset(self) -> None:
        """Forget all images."""
        self._counts.clear()


def _metrics(counts: Tensor) -> dict[str, Tensor]:
    """The metrics of each row of counts (rows, C, 3), shape (rows,) each."""
    true_positive, false_positive, false_negative = counts.unbind(2)
    predicted = true_positive + false_positive
    actual = true_positive + false_negative
    empty = predicted + actual == 0

    def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
        quotient = torch.where(denominator > 0, numerator / denominator, 0.0)
        return torch.where(empty, 1.0, quotient)

    dice = ratio(2 * true_positive, predicted + actual)
    iou = ratio(true_positive, predicted + false_negative)
    precision = ratio(true_positive, predicted).mean(1)
    recall = ratio(true_positive, actual).mean(1)
    f1 = torch.where(precision + recall > 0, 2 * precision * recall / (precision + recall), 0.0)
    return {
        "dice": dice.mean(1),
        "iou": iou.mean(1),
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "cb_dice": (class_balance(actual) * dice).sum(1),
        "foreground_dice": dice[:, 1:].mean(1),
        "foreground_iou": iou[:, 1:].mean(1),
    }

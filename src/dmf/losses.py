"""The segmentation losses of the paper (sections 6 and 7, eq. 16-25), from logits.

Every loss takes `logits` (N, C, *spatial) of finite numbers, any floating type, C >= 2, and
`ground_truth` (N, *spatial), class indices 0..C-1 of any integer type or bool, and returns a
scalar. It is computed in float32 (float64 for float64 logits), inside autocast as well.

Indices outside 0..C-1, such as 255, raise a ValueError on the CPU. Where looking at values would
wait for a device or break a compiled graph they are not looked at, and such a pixel belongs to no
class: what is predicted there is a false positive.

The region losses are written with true positives, false positives and false negatives. These are
soft, and so differentiable: TP = sum y p, FP = sum (1 - y) p, FN = sum y (1 - p), with p the
softmax of the logits and y the one-hot ground truth. With `reduction="batch"` they are added up
over the images before the ratio is taken; with `reduction="image"` every image has its own ratio,
and the losses of the images are averaged.

The ratios are exact, without a smoothing term. A class that is neither present nor predicted (0/0)
scores 1, one that is predicted but absent scores 0. Eq. 22 divides by the share of a class; for
absent classes its limit is computed, which gives them all the weight, in equal parts.

All operations are deterministic on CUDA.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Reduction = Literal["batch", "image"]

LOSSES = ("cross_entropy", "iou", "dice", "focal", "tversky", "cb_dice")
INDICES_REMEDY = "divide a mask of 0 and 255 by 255, and map other values to class indices"
_REGION_LOSSES = ("iou", "dice", "tversky", "cb_dice")


def cross_entropy(
    logits: Tensor, ground_truth: Tensor, *, reduction: Reduction = "batch"
) -> Tensor:
    """Categorical cross-entropy, the mean over all pixels (eq. 16); in [0, inf).

    All images have the same number of pixels, so both reductions give the same value.
    """
    return _only(SegmentationLosses(("cross_entropy",), reduction=reduction), logits, ground_truth)


def mean_iou(logits: Tensor, ground_truth: Tensor, *, reduction: Reduction = "batch") -> Tensor:
    """One minus the intersection over union, averaged over the classes (eq. 17); in [0, 1]."""
    return _only(SegmentationLosses(("iou",), reduction=reduction), logits, ground_truth)


def mean_dice(logits: Tensor, ground_truth: Tensor, *, reduction: Reduction = "batch") -> Tensor:
    """One minus the Dice score, averaged over the classes (eq. 18); in [0, 1]."""
    return _only(SegmentationLosses(("dice",), reduction=reduction), logits, ground_truth)


def focal(
    logits: Tensor,
    ground_truth: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
    reduction: Reduction = "batch",
) -> Tensor:
    """Focal loss, the mean over all pixels (eq. 19), with one `alpha` for all classes; in [0, inf).

    `gamma` >= 0 is the focusing parameter; gamma = 0 and alpha = 1 give the cross-entropy.
    """
    losses = SegmentationLosses(
        ("focal",), reduction=reduction, focal_gamma=gamma, focal_alpha=alpha
    )
    return _only(losses, logits, ground_truth)


def tversky(
    logits: Tensor,
    ground_truth: Tensor,
    *,
    alpha: float = 0.7,
    beta: float = 0.3,
    reduction: Reduction = "batch",
) -> Tensor:
    """One minus the Tversky index, averaged over the classes (eq. 20); in [0, 1].

    `alpha` weighs false positives, `beta` false negatives; 0.5 and 0.5 give Dice. With two classes
    a false positive of one is a false negative of the other, so that the average over both
    largely cancels the asymmetry.
    """
    losses = SegmentationLosses(
        ("tversky",), reduction=reduction, tversky_alpha=alpha, tversky_beta=beta
    )
    return _only(losses, logits, ground_truth)


def cb_dice(logits: Tensor, ground_truth: Tensor, *, reduction: Reduction = "batch") -> Tensor:
    """Class-balanced Dice loss (eq. 21-25); in [0, 1].

    The Dice scores of the classes are averaged with weights proportional to the inverse of the
    class's share of the pixels, in the batch or in the image as `reduction` says.
    """
    return _only(SegmentationLosses(("cb_dice",), reduction=reduction), logits, ground_truth)


class SegmentationLosses(nn.Module):
    """Several losses of one prediction, from one shared pass over the pixels.

    base, auxiliary: names out of `LOSSES`.
    kind: "soft" as above; "hard" takes the counts of the arg-max masks, as the notebook released
        with the paper does. Hard counts have no gradient, and focal on pixels is detached to match:
        only the cross-entropy trains the network.
    focal_on: "pixels" is eq. 19; "precision" is the released notebook's term, the mean over the
        classes of -alpha (1 - P)^gamma log P with P = TP / (TP + FP), infinite where TP = 0.

    Raises ValueError for an unknown name or option.
    """

    def __init__(
        self,
        base: Sequence[str] = ("cross_entropy", "iou", "dice"),
        auxiliary: str | None = None,
        *,
        kind: Literal["soft", "hard"] = "soft",
        reduction: Reduction = "batch",
        tversky_alpha: float = 0.7,
        tversky_beta: float = 0.3,
        focal_gamma: float = 2.0,
        focal_alpha: float = 0.25,
        focal_on: Literal["pixels", "precision"] = "pixels",
    ) -> None:
        super().__init__()
        self.base = tuple(base)
        self.auxiliary = auxiliary
        self.kind = _one_of("kind", kind, ("soft", "hard"))
        self.reduction = _one_of("reduction", reduction, ("batch", "image"))
        self.focal_on = _one_of("focal_on", focal_on, ("pixels", "precision"))
        self.focal_gamma = focal_gamma
        self.focal_alpha = focal_alpha
        if not self.base:
            raise ValueError("base is empty: name at least one loss")
        self._names = self.base if auxiliary is None else (*self.base, auxiliary)
        for name in self._names:
            _one_of("loss", name, LOSSES)

        # Every region loss is a Tversky index, so one batched ratio serves them all.
        penalties = {"iou": (1.0, 1.0), "tversky": (tversky_alpha, tversky_beta)}
        self._penalties = {
            name: penalties.get(name, (0.5, 0.5)) for name in _REGION_LOSSES if name in self._names
        }

    def forward(self, logits: Tensor, ground_truth: Tensor) -> tuple[Tensor, Tensor | None]:
        """The base losses, shape (K,), in the order of `base`, and the auxiliary loss or None.

        Raises ValueError for shapes that do not fit and, on the CPU, for class indices outside
        0..C-1; TypeError for a ground truth of floats.
        """
        log_probability, truth = _log_probability_and_truth(logits, ground_truth)
        on_precision = "focal" in self._names and self.focal_on == "precision"
        values: dict[str, Tensor] = {}

        if "cross_entropy" in self._names:
            log_true = (log_probability * truth).sum((1, 2))
            values["cross_entropy"] = -log_true.mean() / truth.shape[2]
        if "focal" in self._names and not on_precision:
            values["focal"] = self._focal_on_pixels(log_probability, truth).mean()
        if self._penalties or on_precision:
            if self.kind == "hard":
                counts = _hard_counts(logits, truth)
            else:
                counts = _soft_counts(log_probability, truth)
            if self.reduction == "batch":
                counts = counts.sum(1, keepdim=True)
            values |= self._region_losses(counts)
            if on_precision:
                values["focal"] = self._focal_on_precision(counts).mean()

        base = torch.stack([values[name] for name in self.base])
        return base, None if self.auxiliary is None else values[self.auxiliary]

    def _focal_on_pixels(self, log_probability: Tensor, truth: Tensor) -> Tensor:
        """Of each image, shape (N,)."""
        log_true = (log_probability * truth).sum(1)
        if self.kind == "hard":
            log_true = log_true.detach()
        pixels = (-torch.expm1(log_true)) ** self.focal_gamma * -log_true
        return self.focal_alpha * pixels.mean(1)

    def _focal_on_precision(self, counts: Tensor) -> Tensor:
        """Of each row, shape (rows,)."""
        true_positive, predicted, actual = counts.unbind()
        # A present class that is never predicted has precision 0, not 1.
        precision = _ratio(true_positive, torch.where(predicted == 0, actual, predicted))
        classes = (1 - precision) ** self.focal_gamma * -precision.log()
        return self.focal_alpha * classes.mean(1)

    def _region_losses(self, counts: Tensor) -> dict[str, Tensor]:
        """From TP, predicted and actual pixels of each row and class, (3, rows, C)."""
        if not self._penalties:
            return {}
        true_positive, predicted, actual = counts.unbind()
        false_positive, false_negative = predicted - true_positive, actual - true_positive
        denominators = [
            true_positive + alpha * false_positive + beta * false_negative
            for alpha, beta in self._penalties.values()
        ]
        scores = _ratio(true_positive, torch.stack(denominators))
        if "cb_dice" in self._penalties:  # always the last, see _REGION_LOSSES
            shares = torch.full_like(scores, 1 / scores.shape[2])
            shares[-1] = class_balance(actual)
            means = (scores * shares).sum(2)
        else:
            means = scores.mean(2)
        return dict(zip(self._penalties, (1 - means).mean(1).unbind(), strict=True))


def class_balance(pixels: Tensor) -> Tensor:
    """Class weights of CB-Dice (eq. 21-22) from the number of pixels of each class, shape (..., C).

    They sum to 1. If classes are absent, they share all the weight (the limit of eq. 22).
    """
    absent = pixels == 0
    inverse = torch.where(absent.any(-1, keepdim=True), absent, 1 / pixels)
    return inverse / inverse.sum(-1, keepdim=True)


def check_class_indices(what: str, indices: Tensor, classes: int) -> None:
    """Refuse a tensor that does not hold class indices 0..classes - 1.

    Raises TypeError for floats and ValueError for other values, these on the CPU alone: elsewhere,
    and under torch.compile, nothing is known about the values without waiting for them.
    """
    if indices.is_floating_point() or indices.is_complex():
        raise TypeError(f"{what} must hold integer class indices, got {indices.dtype}")
    if indices.device.type != "cpu" or indices.dtype == torch.bool or torch.compiler.is_compiling():
        return
    try:
        low, high = (int(bound) for bound in indices.aminmax())
    except RuntimeError:  # there are no values: no images, fake tensors, or a trace of `vmap`
        return
    if low < 0 or high >= classes:
        raise ValueError(
            f"{what} holds {low if low < 0 else high}, outside 0..{classes - 1}: {INDICES_REMEDY}"
        )


def _only(losses: SegmentationLosses, logits: Tensor, ground_truth: Tensor) -> Tensor:
    base: Tensor = losses(logits, ground_truth)[0]
    return base[0]


def _one_of(what: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}")
    return value


def _log_probability_and_truth(logits: Tensor, ground_truth: Tensor) -> tuple[Tensor, Tensor]:
    """Log-softmax and one-hot ground truth (0.0 and 1.0), both (N, C, pixels)."""
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise ValueError(
            f"logits must be (N, C, *spatial) with C >= 2, got {tuple(logits.shape)}: "
            "give a two-class problem two logits"
        )
    images, classes, *spatial = logits.shape
    if ground_truth.shape != (images, *spatial):
        raise ValueError(
            f"ground_truth must be {(images, *spatial)} for logits {tuple(logits.shape)}, "
            f"got {tuple(ground_truth.shape)}"
        )
    check_class_indices("ground_truth", ground_truth, classes)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    # One copy does the cast and the layout: a softmax over a channels-last axis of 2 is slow.
    logits = logits.to(dtype, memory_format=torch.contiguous_format).reshape(images, classes, -1)
    # Multiplying by 0.0 and 1.0 is several times faster on a CPU than selecting by booleans.
    truth = (ground_truth.reshape(images, 1, -1) == _class_column(logits)).to(dtype)
    return logits.log_softmax(1), truth


def _class_column(like: Tensor) -> Tensor:
    """0..C-1 as a column, for a tensor (N, C, pixels)."""
    return torch.arange(like.shape[1], dtype=torch.int16, device=like.device)[:, None]


def _soft_counts(log_probability: Tensor, truth: Tensor) -> Tensor:
    """True positives, predicted (TP + FP) and actual (TP + FN) pixels, (3, N, C)."""
    probability = log_probability.exp()
    counts = ((probability * truth).sum(2), probability.sum(2), truth.sum(2))
    return torch.stack(counts)


def _hard_counts(logits: Tensor, truth: Tensor) -> Tensor:
    """The same of the arg-max masks."""
    prediction = logits.argmax(1).reshape(len(truth), 1, -1)
    predicted = (prediction == _class_column(truth)).to(truth.dtype)
    return torch.stack(((predicted * truth).sum(2), predicted.sum(2), truth.sum(2)))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient of counts, 1 where both are 0."""
    empty = denominator == 0
    return (numerator + empty) / (denominator + empty)

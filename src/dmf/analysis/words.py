"""What things are called, and how numbers are printed, wherever people read them."""

import math
from collections.abc import Sequence

from dmf.configurations import SMOOTHED, factors

METRIC_LABELS = {
    "dice": "Dice",
    "iou": "IoU",
    "f1": "F1-score",
    "precision": "Precision",
    "recall": "Recall",
    "cb_dice": "CB-Dice",
    "foreground_dice": "Foreground Dice",
    "foreground_iou": "Foreground IoU",
}
QUANTITY_LABELS = {
    "late_share_by_step": "t counted in steps, as in equation 2",
    "late_share_by_hundred": "t counted in hundreds of steps, as in the notebook",
}
AUXILIARY_LABELS = {
    "tversky": "Tversky",
    "focal": "Focal",
    "cb_dice": "CB-Dice",
    "none": "No auxiliary",
}
WEIGHTING_LABELS = {
    "variance": "Variance",
    "mad": "MAD",
    "bayesian": "Bayesian",
    "fixed": "Fixed",
    "random": "Random",
    "softadapt": "SoftAdapt",
    "cov": "CoV",
    "cross_entropy": "Cross-entropy alone",
}
EVALUATION_LABELS = {
    "last": "last epoch",
    "best": "best validation epoch",
    "settled": "median of the last fifth",
    "recalibrated": "recalibrated batch norm",
}
DATASET_LABELS = {
    "busi": "BUSI",
    "busc": "BUSC",
    "bus": "BUS",
    "phantom": "phantom",
    "bus_bra": "BUS-BRA",
    "breast": "BrEaST",
    "udiat": "UDIAT",
    "bus_uclm": "BUS-UCLM",
    "stu": "STU",
}


def metric_label(metric: str) -> str:
    """Return a metric or a quantity of the training curves as people write it."""
    return METRIC_LABELS.get(metric) or QUANTITY_LABELS.get(metric) or metric.replace("_", " ")


def dataset_label(dataset: str) -> str:
    """Return a data set's name for people."""
    return DATASET_LABELS.get(dataset, dataset)


def label(configuration: str) -> str:
    """Return a configuration's name for people, such as ``CB-Dice + Variance``."""
    if configuration == "fixed":
        return "Fixed weights"
    if configuration == "cross_entropy":
        return "Cross-entropy alone"
    return " + ".join(factor_labels(configuration))


def factor_labels(configuration: str) -> tuple[str, str]:
    """Return a configuration's auxiliary and weighting for people."""
    auxiliary, weighting = factors(configuration)
    return AUXILIARY_LABELS[auxiliary], weighting_label(weighting)


def weighting_label(weighting: str) -> str:
    """Return a weighting, as :func:`dmf.configurations.factors` names it, for people."""
    base = weighting.removesuffix(SMOOTHED)
    return WEIGHTING_LABELS[base] + (", smoothed" if base != weighting else "")


def count(number: int, noun: str) -> str:
    """Return ``2 seeds`` or ``1 seed``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]


def number(value: float, form: str) -> str:
    """Format a number with a true minus sign, as in ``−0.50`` for the form ``+.2f``."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def p_value(p: float, *, bare: bool = False) -> str:
    """Return ``p = 0.012`` or ``p < 0.001``, without the ``p`` and ``=`` if ``bare``."""
    if math.isnan(p):
        return "no test"
    if p < 0.001:
        return "< 0.001" if bare else "p < 0.001"
    return f"{p:.3f}" if bare else f"p = {p:.3f}"

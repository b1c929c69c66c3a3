"""Networks of other authors on the paper's images: what can be set beside its tables."""

from typing import Any

from dmf.analysis.paper.numbers import independent

# Share of lesion pixels of BUSI's 647 images at 128 x 128, measured.
BUSI_FOREGROUND = 0.0944


def plain_network(dataset: str) -> dict[Any, Any] | None:
    """Return the plain U-Net of other authors that can be set beside ours, None if none can."""
    table = independent()
    chosen = table[
        (table["dataset"] == dataset) & (table["network"] == "U-Net") & (table["left_out"] == "")
    ]
    return None if chosen.empty else chosen.to_dict("records")[0]


def beside(network: dict[Any, Any]) -> str:
    """Say what a network's scores are, and between which macro Dice they may stand for."""
    mean, iou = 100 * network["foreground_dice"], 100 * network["foreground_iou"]
    pooled = 200 * iou / (100 + iou)
    low, high = (100 - (100 - value) / (2 * (1 - BUSI_FOREGROUND)) for value in (mean, pooled))
    return (
        f"That U-Net has a foreground Dice of {mean:.1f} ± {100 * network['dice_std']:.1f} and an "
        f"IoU of {iou:.1f} ({network['protocol']}). One mask of that IoU has the Dice 2I/(1 + I) = "
        f"{pooled:.1f}: its scores are means over images, the table's are not, and the macro Dice "
        f"that goes with them is uncertain, {low:.1f} if its Dice were pooled, {high:.1f} if its "
        "IoU were."
    )


def left_out(dataset: str) -> str:
    """Say which plain U-Nets cannot be set beside the table, and why."""
    table = independent()
    rows = table[
        (table["dataset"] == dataset) & (table["network"] == "U-Net") & (table["left_out"] != "")
    ]
    reasons = [
        f"{row['source'].split(' (')[0]}: {row['left_out']}" for row in rows.to_dict("records")
    ]
    return f"Left out: {'; '.join(reasons)}." if reasons else ""

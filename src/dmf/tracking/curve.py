"""The training curve of one run as a small SVG picture.

Drawn without matplotlib, which takes as long for it as MLflow for the whole run; see
`docs/benchmarks/tracking.md`.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

PANELS = {"loss": "loss_", "weight": "weight_", "validation": "validation_"}
VALIDATION = ("validation_dice", "validation_cb_dice", "validation_foreground_dice")
# Okabe and Ito's colours, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
WIDTH, HEIGHT, LEFT, TOP = 260, 150, 50, 40


def training_curve(history: Sequence[Mapping[str, float]], title: str) -> str:
    """Return an SVG of raw losses, weights and validation Dice over epochs.

    ``history`` holds the rows of `history.csv`; values that are not finite leave gaps.
    """
    panels = []
    for index, (name, prefix) in enumerate(PANELS.items()):
        columns = [c for c in (history[0] if history else ()) if c.startswith(prefix)]
        if name == "validation":
            columns = [c for c in columns if c in VALIDATION]
        panels.append(
            f'<g transform="translate({LEFT + index * (WIDTH + LEFT)} {TOP})">'
            + _panel(history, name, {column: column.removeprefix(prefix) for column in columns})
            + "</g>"
        )
    width, height = 3 * (WIDTH + LEFT) + 20, HEIGHT + TOP + 55
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/><text x="{LEFT}" y="16">{escape(title)}'
        f"</text>{''.join(panels)}</svg>\n"
    )


def _panel(history: Sequence[Mapping[str, float]], name: str, columns: Mapping[str, str]) -> str:
    """Return one set of axes with a line per column."""
    values = [row[c] for row in history for c in columns if math.isfinite(row.get(c, math.nan))]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9:  # a constant line runs through the middle
        low, high = low - 0.1, high + 0.1
    first, last = (history[0]["epoch"], history[-1]["epoch"]) if history else (1.0, 1.0)
    epochs, place = (last - first) or 1.0, 0
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="0" y="-6" font-weight="bold">{name}</text>',
        f'<text x="-4" y="8" text-anchor="end">{high:.3g}</text>',
        f'<text x="-4" y="{HEIGHT}" text-anchor="end">{low:.3g}</text>',
        f'<text x="0" y="{HEIGHT + 14}">epoch {first:.0f}</text>',
        f'<text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{last:.0f}</text>',
    ]
    for index, (column, label) in enumerate(columns.items()):
        colour = COLOURS[index % len(COLOURS)]
        path, pen = [], "M"
        for row in history:
            value = row.get(column, math.nan)
            if not math.isfinite(value):
                pen = "M"
                continue
            x, y = WIDTH * (row["epoch"] - first) / epochs, HEIGHT * (high - value) / (high - low)
            path.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        parts.append(f'<path d="{"".join(path)}" fill="none" stroke="{colour}"/>')
        parts.append(f'<text x="{place}" y="{HEIGHT + 32}" fill="{colour}">{escape(label)}</text>')
        place += 7 * len(label) + 8
    return "".join(parts)

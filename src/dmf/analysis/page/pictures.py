"""Figures inside the page: few enough bytes for all of them together."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

BUDGET = 850_000  # bytes of all figures together; the whole page stays below 1.5 MB
WIDTHS = (1280, 1000, 760, 520, 360, 240)  # in pixels, from what is wished to what must do
MAIN = 1080  # the width in pixels below which the main figures never fall
COLOURS = 64  # half the bytes, no visible difference


@dataclass(frozen=True)
class Picture:
    """A figure as a data address, with its size in pixels."""

    address: str
    width: int
    height: int


def embedded(files: Sequence[Path], main: Sequence[Path] = ()) -> dict[Path, Picture]:
    """Return the figures as data addresses, as large as :data:`BUDGET` allows.

    Many sets make many figures: all but the ``main`` ones become narrower together until they fit.
    """
    found: dict[Path, Picture] = {}
    for width in WIDTHS:
        found = {file: _embedded(file, max(width, MAIN * (file in main))) for file in files}
        if sum(len(picture.address) for picture in found.values()) <= BUDGET:
            break
    return found


def _embedded(file: Path, width: int) -> Picture:
    with Image.open(file) as image:
        figure = image.convert("RGB")
    if figure.width > width:
        size = (width, round(figure.height * width / figure.width))
        figure = figure.resize(size, Image.Resampling.LANCZOS)
    reduced = figure.quantize(
        COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    ).convert("RGB")
    stream = io.BytesIO()
    reduced.save(stream, "WEBP", lossless=True, method=3)
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/webp;base64,{text}", figure.width, figure.height)

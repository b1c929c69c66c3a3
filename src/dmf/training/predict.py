"""Image files in, masks and overlays out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dmf.data.filtering import prepare
from dmf.data.pixels import read_grey
from dmf.files import atomic_path
from dmf.training.inference import read_model

# Okabe-Ito, in OpenCV's order blue, green, red; one per foreground class.
COLOURS = ((0, 94, 213), (178, 114, 0), (115, 158, 0), (167, 121, 204), (66, 228, 240))


def predict_files(images: Sequence[Path], model_file: Path, folder: Path) -> Iterator[Path]:
    """Write a mask and an overlay of each image, at the image's own size; yield their paths.

    Images are filtered and resized as the model's training images were. Masks hold the class index
    times 255 / (classes - 1), as the masks in `data/raw` do. Raises DmfError for unreadable files.
    """
    network, preprocessing = read_model(model_file)
    with torch.inference_mode():
        for path in images:
            grey = read_grey(path)
            _, filtered, _ = prepare(grey, np.zeros_like(grey), preprocessing)
            logits = network(torch.from_numpy(filtered)[None, None].float().div(255))
            # Probabilities, not labels, are enlarged: their boundary is smooth.
            probabilities = logits.softmax(1)[0].numpy().transpose(1, 2, 0)
            large = cv2.resize(probabilities, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
            labels = large.argmax(2).astype(np.uint8)
            levels = labels * (255 // (large.shape[2] - 1))
            for suffix, picture in (("mask", levels), ("overlay", overlay(grey, labels))):
                target = folder / f"{path.stem}_{suffix}.png"
                with atomic_path(target) as temporary:
                    cv2.imwrite(str(temporary), picture)
                yield target


def overlay(grey: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the image (H, W) as BGR (H, W, 3) with each class tinted and outlined."""
    picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    for index in range(1, int(labels.max()) + 1):
        colour = COLOURS[(index - 1) % len(COLOURS)]
        inside = (labels == index).astype(np.uint8)
        tinted = (0.7 * picture[inside > 0] + 0.3 * np.array(colour)).astype(np.uint8)
        picture[inside > 0] = tinted
        outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, max(1, round(max(grey.shape) / 400)))
    return picture.astype(np.uint8, copy=False)

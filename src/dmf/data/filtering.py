"""Raw images to arrays: the bilateral filter (eq. 26-27) and the resize to the study's size."""

import cv2
import numpy as np
import numpy.typing as npt

from dmf.data import arrays, raw
from dmf.settings import Filter
from dmf.study import FilterParameters

Image = npt.NDArray[np.uint8]


def bilateral(image: Image, parameters: Filter) -> Image:
    """Return OpenCV's bilateral filter of a grey image (uint8, H x W), eq. 26-27.

    `diameter` is the neighbourhood Omega in pixels, `sigma_color` is sigma_r in grey values and
    `sigma_space` is sigma_s in pixels.
    """
    return cv2.bilateralFilter(
        image, parameters.diameter, parameters.sigma_color, parameters.sigma_space
    ).astype(np.uint8, copy=False)


def resize(image: Image, size: int, *, interpolation: int) -> Image:
    """Return `image` (uint8, H x W) as a square of `size` pixels."""
    return cv2.resize(image, (size, size), interpolation=interpolation).astype(np.uint8, copy=False)


def prepare(image: Image, mask: Image, parameters: FilterParameters) -> tuple[Image, Image, Image]:
    """Return the resized original, the resized filtered image and the resized mask.

    Images are resized bilinearly, masks (class indices) to the nearest pixel. All are uint8,
    `image_size` x `image_size`. Without the filter the second equals the first.
    """
    size = parameters.image_size
    original = resize(image, size, interpolation=cv2.INTER_LINEAR)
    if not parameters.filter.apply:
        filtered = original
    elif parameters.filter.order == "before_resize":
        filtered = resize(bilateral(image, parameters.filter), size, interpolation=cv2.INTER_LINEAR)
    else:
        filtered = bilateral(original, parameters.filter)
    return original, filtered, resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)


def filter_dataset(dataset: str, parameters: FilterParameters) -> None:
    """Turn `data/raw/<dataset>` into `data/filtered/<dataset>.npz` and `.json`.

    Raises DmfError if the raw set is missing or is not what was downloaded.
    """
    manifest = raw.read_manifest(dataset)
    description = raw.read_description(dataset)
    classes = int(description["classes"])
    size = parameters.image_size
    stacks = [np.empty((len(manifest), size, size), dtype=np.uint8) for _ in range(3)]
    for index, (image, mask) in enumerate(raw.read_images(dataset, manifest, classes)):
        for stack, prepared in zip(stacks, prepare(image, mask, parameters), strict=True):
            stack[index] = prepared
    originals, filtered, masks = stacks
    arrays.write_arrays(
        arrays.Arrays(
            dataset=dataset,
            ids=manifest["id"].tolist(),
            lesions=manifest["class"].tolist(),
            originals=originals,
            filtered=filtered,
            masks=masks,
            classes=classes,
            synthetic=bool(description["synthetic"]),
        ),
        parameters.model_dump(mode="json"),
    )

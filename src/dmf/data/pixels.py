"""Reads images and masks as a viewer shows them: turned, flattened, with all of their bits."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, ImageOps, TiffImagePlugin, UnidentifiedImageError
from PIL import Image as PillowImage

from dmf.data.catalogue import reading_of
from dmf.data.pairing import Pair, Source
from dmf.errors import DmfError
from dmf.settings import Reading

Image = npt.NDArray[np.uint8]
Values = npt.NDArray[np.unsignedinteger[Any]]

FORMATS = ("PNG", "BMP", "JPEG", "TIFF")
LARGEST = 16_000_000  # pixels of one image; more is taken for a decompression bomb
COLOURED = 32  # difference of two channels, above which a mask is not grey
SAME_SHAPE = 0.02  # by how much the ratio of the sides of mask and image may differ
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2

# What a viewer does with each value of the orientation tag (Exif 2.32, tag 0x0112).
TURNS: dict[int, Callable[[Values], Values]] = {
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: np.fliplr(np.rot90(x, -1)),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.fliplr(np.rot90(x)),
    8: np.rot90,
}


class UnusableError(DmfError):
    """One image or mask cannot be used."""

    def __init__(self, kind: str, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.kind, self.path, self.detail = kind, path, detail


@dataclass(frozen=True)
class _Picture:
    """Pixels, the right way up: of 8 bits as Pillow has them, or of 16 (H, W), (H, W, 3 or 4)."""

    shallow: PillowImage.Image | None
    deep: npt.NDArray[np.uint16] | None


def read_pair(pair: Pair, source: Source) -> tuple[Image, Image]:
    """Return the grey image and its mask of class indices, both uint8 (H, W).

    Several masks are joined: a pixel belongs to the highest class any of them gives it (for two
    classes that is OR). Raises UnusableError if a file cannot be decoded, if sizes differ, if the
    mask holds values that are no class, or if none or nearly all of its pixels are foreground.
    """
    reading = reading_of(source)
    image = read_grey(
        pair.image, transparent_ground=reading.transparent_ground, grey_range=reading.grey_range
    )
    mask = np.zeros_like(image)
    for path in pair.masks:
        mask = np.maximum(mask, _fitted(_read_mask(path, reading), image.shape, path, reading))
    share = np.bincount(mask.ravel(), minlength=2)[1:].max() / mask.size  # of the largest class
    if share == 0:
        told = (
            f"mask_threshold {reading.mask_threshold}"
            if reading.class_values is None
            else f"background {reading.class_values[0]}"
        )
        brightest = max(int(_values_of(path, reading).max()) for path in pair.masks)
        raise UnusableError(
            "empty mask",
            pair.masks[0],
            f"no pixel of the mask is foreground (largest value {brightest}, {told}). If it does "
            "show a lesion, name its values in class_values, background first",
        )
    if share > reading.largest_lesion:
        raise UnusableError(
            "implausible mask",
            pair.masks[0],
            f"{share:.0%} of the pixels are one kind of lesion, more than largest_lesion "
            f"({reading.largest_lesion:.0%}). If lesion and background are swapped, name their "
            "values in class_values, background first; if the mask is right, raise largest_lesion",
        )
    return image, mask


def read_grey(
    path: Path,
    *,
    transparent_ground: int = 0,
    grey_range: Sequence[int] | Literal["full"] | None = None,
) -> Image:
    """Return the image at `path` as a viewer shows it, in 8-bit grey, uint8 (H, W).

    Orientation tags are obeyed, what is transparent shows `transparent_ground`, and colour becomes
    luma (ITU-R 601-2). The content decides, not the file's suffix. 16 bits are read if `grey_range`
    says which values become 0 and 255 (`full`: 0 and 65535). Raises UnusableError if the file is no
    PNG, BMP, JPEG or TIFF, is damaged (checksums included), huge, or holds other bits or frames.
    """
    picture = _open(path)
    if picture.shallow is not None:
        return np.asarray(_flat(picture.shallow, transparent_ground).convert("L"))
    if grey_range is None:
        raise UnusableError(
            "unreadable",
            path,
            "holds more than 8 bits per pixel; say which of its values are black and white with "
            "grey_range, or convert it to 8 bits first",
        )
    assert picture.deep is not None
    low, high = (0, 65535) if grey_range == "full" else grey_range
    values = np.atleast_3d(picture.deep).astype(np.float64)
    shown = np.clip((values[..., :3] - low) * (255 / (high - low)), 0, 255)
    if values.shape[2] == 4:
        opaque = values[..., 3:] / 65535
        shown = shown * opaque + transparent_ground * (1 - opaque)
    grey = shown @ LUMA if shown.shape[2] == 3 else shown[..., 0]
    return np.round(grey).astype(np.uint8)


def _open(path: Path) -> _Picture:
    """Return the one picture in a file, the right way up."""
    try:
        content = path.read_bytes()
        PillowImage.open(io.BytesIO(content), formats=FORMATS).verify()
        with PillowImage.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > LARGEST:
                detail = f"{image.width}x{image.height} pixels are more than {LARGEST} in all"
                raise UnusableError("unreadable", path, detail)
            if _has_second(content):
                raise UnusableError("unreadable", path, "holds several frames, not one image")
            depth = _depth(image, content)
            if depth > 8 or image.mode.startswith(("I", "F")):
                _refuse_other_depths(image, depth, path)
                image.load()
                # OpenCV turns a TIFF by itself, but no PNG, whose tag may stand at its end.
                tag = image.getexif().get(ExifTags.Base.Orientation, 1)
                turn = TURNS.get(tag, np.asarray) if image.format == "PNG" else np.asarray
                return _Picture(None, turn(_deep(content)))
            image.load()
            return _Picture(ImageOps.exif_transpose(image), None)
    except UnusableError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        reason = "no image" if isinstance(error, UnidentifiedImageError) else error
        raise UnusableError("unreadable", path, f"cannot be read ({reason})") from None


def _has_second(content: bytes) -> bool:
    """Look for a second frame; to count them all takes long where there are thousands."""
    with PillowImage.open(io.BytesIO(content), formats=FORMATS) as image:
        try:
            image.seek(1)
        except EOFError:
            return False
        return True


def _depth(image: PillowImage.Image, content: bytes) -> int:
    """Return the bits of a channel as the file has them: Pillow's mode does not tell."""
    if image.format == "PNG":
        return content[24]  # of the header, which is always the first chunk
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
    return 8


def _refuse_other_depths(image: PillowImage.Image, depth: int, path: Path) -> None:
    """Refuse what has neither 8 nor 16 bits, or 16 that are signed or count from white."""
    plain = True
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        unsigned = set(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))) == {1}
        plain = unsigned and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) in (1, 2)
    if depth != 16 or not plain:
        raise UnusableError(
            "unreadable",
            path,
            f"holds {depth} bits per pixel of a kind that is not read; convert it to 8 bits first",
        )


def _deep(content: bytes) -> npt.NDArray[np.uint16]:
    """Decode 16 bits per channel: Pillow would cut colours down to 8."""
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ValueError("its 16 bits cannot be decoded")
    if values.ndim == 3:  # OpenCV has blue first
        values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
    return values.astype(np.uint16, copy=False)


def _flat(image: PillowImage.Image, ground: int) -> PillowImage.Image:
    """Return the image without transparency, laid over a grey ground."""
    if not image.has_transparency_data:
        return image
    below = PillowImage.new("RGBA", image.size, (ground, ground, ground, 255))
    return PillowImage.alpha_composite(below, image.convert("RGBA")).convert("RGB")


def _values_of(path: Path, reading: Reading) -> Values:
    """Return a mask's values (H, W): grey values, palette indices or, as 0xRRGGBB, colours."""
    picture = _open(path)
    values = reading.values_of_classes()
    if picture.shallow is None:
        assert picture.deep is not None
        if not values or isinstance(values[0][0], str) or picture.deep.ndim != 2:
            raise UnusableError(
                "unreadable",
                path,
                "holds more than 8 bits per pixel; name its grey values in class_values, or "
                "convert it to 8 bits first",
            )
        return picture.deep
    if values and isinstance(values[0][0], int) and picture.shallow.mode == "P":
        return np.asarray(picture.shallow)
    flat = _flat(picture.shallow, reading.transparent_ground)
    if flat.mode in ("1", "L") and not (values and isinstance(values[0][0], str)):
        return np.asarray(flat.convert("L"))
    channels = np.asarray(flat.convert("RGB")).astype(np.int32)
    if values and isinstance(values[0][0], str):
        return (channels @ (1 << 16, 1 << 8, 1)).astype(np.uint32)
    if int(np.ptp(channels, axis=2).max()) > COLOURED:
        raise UnusableError(
            "colour mask",
            path,
            "holds colours, and their brightness does not tell a lesion; name the colours in "
            'class_values, background first: ["#000000", "#ff0000"]',
        )
    return np.asarray(flat.convert("L"))


def _read_mask(path: Path, reading: Reading) -> Image:
    """Return the class index of every pixel of a mask, uint8 (H, W)."""
    values = _values_of(path, reading)
    if reading.class_values is None:
        return (values > reading.mask_threshold).astype(np.uint8)
    seen, places = np.unique(values, return_inverse=True)
    channels = _channels(seen, reading)
    classes = np.full(len(seen), 255, dtype=np.uint8)
    nearest = np.full(len(seen), reading.class_tolerance + 1)
    for index, of_class in enumerate(reading.values_of_classes()):
        for value in of_class:
            number = int(value[1:], 16) if isinstance(value, str) else value
            distance = np.abs(channels - _channels(np.array([number]), reading)).max(axis=1)
            classes[distance < nearest] = index
            nearest = np.minimum(nearest, distance)
    if (classes == 255).any():
        coloured = isinstance(reading.values_of_classes()[0][0], str)
        unknown = [f'"#{x:06x}"' if coloured else str(x) for x in seen[classes == 255][:10]]
        raise UnusableError(
            "unknown class",
            path,
            f"holds the values {', '.join(unknown)}, which are not among class_values "
            f"{reading.class_values}; correct them, allow for soft edges with class_tolerance, or "
            "leave class_values out: then everything above mask_threshold is lesion",
        )
    return classes[places.reshape(values.shape)]


def _channels(values: npt.NDArray[np.generic], reading: Reading) -> npt.NDArray[np.int64]:
    """Return values as (N, 1) grey values or, unpacked, (N, 3) colours."""
    whole: npt.NDArray[np.int64] = values.astype(np.int64)[:, None]
    if isinstance(reading.values_of_classes()[0][0], str):
        whole = (whole >> np.array([16, 8, 0])) & 255
    return whole


def _fitted(mask: Image, shape: tuple[int, ...], path: Path, reading: Reading) -> Image:
    """Return the mask in its image's size; refuse it if that differs and must not."""
    if mask.shape == shape:
        return mask
    sizes = " and ".join(f"{x[1]}x{x[0]}" for x in (mask.shape, shape))
    ratio = (mask.shape[1] * shape[0]) / (mask.shape[0] * shape[1])
    if not reading.resize_masks or abs(ratio - 1) > SAME_SHAPE:
        remedy = (
            "their shapes differ too, so that one shows more than the other"
            if abs(ratio - 1) > SAME_SHAPE
            else "resize_masks: true brings the mask to the image's size"
        )
        raise UnusableError(
            "size mismatch", path, f"mask and image differ in size: {sizes}; {remedy}"
        )
    resized = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(np.uint8, copy=False)

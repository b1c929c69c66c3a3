"""Embedded phantom set: simulated B-mode images of the breast, each with one lesion.

It needs no download, and the ground truth of every pixel is known. The model, in physical units:

1. Anatomy. A square field of view of 32 to 48 mm below a linear transducer: skin, subcutaneous fat
   with septa, fibroglandular tissue with strands, pectoral muscle with striae, fascia between them,
   laid flat and then bent by a smooth displacement. Distractors: fat lobules in the gland,
   ligaments that cast a shadow, poor contact at one side, a rib.
2. Lesion. A star-shaped outline, darker than its surroundings. Benign: oval, gently lobulated,
   circumscribed, mostly wider than tall; cyst or solid, some with a capsule, posterior enhancement
   and edge shadows. Malignant: irregular, lobulated or spiculated, often taller than wide,
   indistinct, some with an echogenic halo, calcifications and a posterior shadow. The ranges of the
   two classes overlap, as those of the BI-RADS descriptors do.
3. Scattering. Point scatterers fall at random into the field, more than ten in a resolution cell;
   the tissue sets their amplitude. The way to depth z and back turns the phase of an echo by
   4 pi z / wavelength. A sample of the grid is deeper than half a wavelength, so that phase is
   uniform within it, and echoes add up as phasors: a demodulated radio-frequency line.
4. Imaging. Convolution with a separable point-spread function: axially the Gaussian envelope of the
   pulse, laterally a Gaussian beam whose width grows with the distance from the focus. The
   magnitude is the envelope. With many scatterers in a cell it is Rayleigh distributed, with a mean
   1.91 times its standard deviation: fully developed speckle. Three steered looks are then
   averaged.
5. Attenuation. Losses add up along a line, relative to what the time-gain compensation assumes.
   This makes shadows, enhancement and the dark depth; refraction takes energy from lines that graze
   a smooth margin. The noise of the receiver rises with the gain.
6. Display. Log compression to 42 to 58 dB, 8 bits, then reduction to the wanted size.

Left out: reverberation, clutter, side lobes, motion, captions and callipers. Area, place,
elongation and contrast of the lesions, grey levels and grain of the images are set to resemble
those of clinical sets; no pixel is taken from an image.

Sources: C. B. Burckhardt, "Speckle in ultrasound B-mode scans", IEEE Trans. Sonics Ultrason.
25(1), 1978, and R. F. Wagner et al., "Statistics of speckle in ultrasound B-scans", ibid. 30(3),
1983 (items 3 and 4); J. C. Bamber and R. J. Dickinson, "Ultrasonic B-scanning: a computer
simulation", Phys. Med. Biol. 25(3), 1980 (scatterers convolved with a separable pulse); J. A.
Jensen, "Field: a program for simulating ultrasound systems", Med. Biol. Eng. Comput. 34 (suppl.
1), 1996 (tissue as a map of scatterer amplitudes); G. E. Trahey et al., "Speckle pattern
correlation with lateral aperture translation", IEEE Trans. Ultrason. Ferroelectr. Freq. Control
33(3), 1986 (compounding); A. T. Stavros et al., "Solid breast nodules: use of sonography to
distinguish between benign and malignant lesions", Radiology 196(1), 1995, and American College of
Radiology, "ACR BI-RADS Atlas", 5th edition, 2013 (item 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

Field = npt.NDArray[np.float32]

GRID = 256  # samples of the simulation, in depth (rows) and across (columns)
MARGIN = 12  # samples simulated beyond each border
SCATTERERS_PER_SAMPLE = 1.5
WAVELENGTH = 0.19  # mm, 8 MHz at 1540 m/s
PULSE_WIDTH = 0.14  # mm, standard deviation of the envelope of the pulse, two-way
FOCAL_WIDTH = 0.26  # mm, standard deviation of the two-way beam at its focus
BEAM_OPENING = 0.022  # growth of that width per mm away from the focus
STEERING = (-9.0, 0.0, 9.0)  # degrees, the looks that spatial compounding averages


class PhantomImage(NamedTuple):
    """A B-mode image (uint8, H x W), its ground truth (bool, H x W) and the class of its lesion."""

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    lesion: Literal["benign", "malignant"]


class Tissue(NamedTuple):
    """Maps of the field of view, rows are depth.

    `backscatter` is in dB relative to fat, `loss` in dB/mm there and back, beyond what the
    time-gain compensation assumes (negative: less than assumed).
    """

    backscatter: Field
    loss: Field


class Lesion(NamedTuple):
    """Signed distance to the margin in mm (about; negative inside), depth of the centre in mm."""

    distance: Field
    depth: float
    malignant: bool


def generate(
    index: int, *, seed: int, size: int = 128, malignant_share: float = 1 / 3
) -> PhantomImage:
    """Return image `index` of the series `seed`, reduced to `size` x `size` pixels.

    The image depends on these four values only, so a series can be extended, or made in any order,
    without changing an image; another `size` shows the same breast. The result is the same on every
    platform as far as float32 rounding allows: where a value lies on the border between two grey
    levels, another build of NumPy or OpenCV may round it to the other one.

    Args:
        index: position in the series, 0 or greater.
        seed: names the series, 0 or greater.
        size: height and width in pixels, 32 to 256.
        malignant_share: probability, in [0, 1], that the lesion is malignant.

    Returns:
        The image, its mask (never empty) and the class.

    Raises:
        ValueError: a value is outside its range.
    """
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must be 0 or greater, not {index} and {seed}")
    if not 32 <= size <= GRID:
        raise ValueError(f"size must be 32 to {GRID} pixels, not {size}")
    if not 0 <= malignant_share <= 1:
        raise ValueError(f"malignant_share must be in [0, 1], not {malignant_share}")
    rng = np.random.default_rng([seed, index])
    malignant = bool(rng.random() < malignant_share)
    extent = rng.uniform(32, 48)
    lesion = _lesion(rng, extent, malignant)
    tissue = _insert(rng, _breast(rng, extent), lesion, extent)
    echo = envelope(
        _received_strength(rng, tissue, extent),
        extent=extent,
        focus=lesion.depth + rng.normal(0, 4),
        steering=STEERING,
        rng=rng,
    )
    image = _resize(_display(rng, echo), size)
    mask = _resize((lesion.distance < 0).astype(np.float32), size) >= 0.5
    return PhantomImage(
        np.rint(image).astype(np.uint8), mask, "malignant" if malignant else "benign"
    )


def envelope(
    strength: npt.ArrayLike,
    *,
    extent: float,
    focus: float,
    steering: Sequence[float] = (0.0,),
    rng: np.random.Generator,
) -> Field:
    """Return the detected echo envelope of random point scatterers.

    One look (the default) over a constant strength gives Rayleigh statistics; several looks are
    averaged after detection, which weakens speckle as spatial compounding does.

    Args:
        strength: (rows, columns), amplitude of the scatterers there, linear, 0 or greater.
        extent: depth of the field in mm; samples are square.
        focus: depth in mm at which the beam is narrowest.
        steering: angle of each look in degrees.
        rng: draws the scatterers.

    Returns:
        (rows, columns), linear, 0 or greater. Over a constant strength s, one look has a mean
        square of s squared.
    """
    # Tissue goes on beyond the field, where the convolutions would wrap around or mirror it.
    amplitude = np.pad(np.asarray(strength, np.float32), MARGIN, "edge")
    rows, columns = amplitude.shape
    spacing = extent / (rows - 2 * MARGIN)
    count = rng.poisson(SCATTERERS_PER_SAMPLE * amplitude.size)
    place = rng.integers(0, amplitude.size, count)
    phase = rng.random(count, np.float32) * np.float32(2 * math.pi)
    echo = np.empty((rows, columns, 2), np.float32)
    for part, phasor in enumerate((np.cos(phase), np.sin(phase))):
        scattered = np.bincount(place, phasor, amplitude.size).reshape(rows, columns)
        np.multiply(scattered, amplitude, out=echo[..., part], casting="same_kind")

    axial = PULSE_WIDTH / spacing
    line = cv2.GaussianBlur(echo, (1, 2 * math.ceil(4 * axial) + 1), sigmaX=1, sigmaY=axial)
    depths = (np.arange(rows)[:, np.newaxis] - MARGIN + 0.5) * spacing
    lateral = np.hypot(FOCAL_WIDTH, BEAM_OPENING * (depths - focus)) / spacing
    # Echoes add incoherently, so the gain is set by the sum of the squared weights.
    gain = np.sqrt(4 * math.pi * axial * lateral / SCATTERERS_PER_SAMPLE).astype(np.float32)
    narrowness = (2 * (math.pi * lateral) ** 2).astype(np.float32)
    frequency = np.fft.fftfreq(columns).astype(np.float32)
    spectrum = fft.fft(np.asarray(line, np.float32).view(np.complex64)[..., 0], axis=1)
    looks = np.zeros_like(amplitude)
    for angle in steering:
        # Steering the beam moves its band of lateral spatial frequencies.
        centre = np.float32(2 * math.sin(math.radians(angle)) / WAVELENGTH * spacing)
        band = np.exp(-narrowness * np.square(frequency - centre))
        looks += np.abs(fft.ifft(spectrum * band, axis=1))
    detected: Field = (gain * looks / np.float32(len(steering)))[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return detected


def _resize(field: Field, size: int) -> Field:
    return np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_AREA), np.float32)


def _noise(rng: np.random.Generator, rows: int, columns: int, height: int = GRID) -> Field:
    """Smooth noise (height x GRID) of about unit variance with rows x columns free values."""
    coarse = rng.standard_normal((rows, columns), np.float32)
    return np.asarray(cv2.resize(coarse, (GRID, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _rise(distance: Field, width: float) -> Field:
    """From 0 to 1 as `distance` passes zero, over `width`, both in mm."""
    ramp: Field = np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)
    return ramp


def _ridge(distance: Field, width: float) -> Field:
    """1 where `distance` is zero, fading on both sides over `width`."""
    ridge: Field = np.exp(-np.square(distance / np.float32(width)))
    return ridge


def _coordinates(extent: float) -> tuple[Field, Field]:
    """Depth (GRID x 1) and lateral position (1 x GRID) of the samples in mm."""
    position = (np.arange(GRID, dtype=np.float32) + np.float32(0.5)) * np.float32(extent / GRID)
    return position[:, np.newaxis], position[np.newaxis, :]


def _polar(
    extent: float, depth: float, lateral: float, height: float, width: float, tilt: float
) -> tuple[Field, Field]:
    """Radius (1 on the ellipse with these semi-axes) and angle (0 to 2 pi) about its centre."""
    z, x = _coordinates(extent)
    z, x = z - np.float32(depth), x - np.float32(lateral)
    along = (x * math.cos(tilt) + z * math.sin(tilt)) / np.float32(width)
    across = (z * math.cos(tilt) - x * math.sin(tilt)) / np.float32(height)
    radius, angle = cv2.cartToPolar(along, across)
    return np.asarray(radius, np.float32), np.asarray(angle, np.float32)


def _lesion(rng: np.random.Generator, extent: float, malignant: bool) -> Lesion:
    """Draw the outline and the place of the lesion."""
    median, spread = (0.125, 0.65) if malignant else (0.040, 1.05)
    share = min(max(rng.lognormal(math.log(median), spread), 0.006), 0.42)  # of the image
    elongation = min(max(rng.lognormal(0.1 if malignant else 0.4, 0.3), 0.55), 2.6)
    radius = extent * math.sqrt(share / math.pi)
    # Both semi-axes stay above a pixel of the smallest image, so that no mask is empty.
    width = max(radius * math.sqrt(elongation), extent / 30)
    height = max(radius / math.sqrt(elongation), extent / 30)
    depth = max(extent * rng.normal(0.33, 0.1), height + rng.uniform(1.5, 4))
    depth = min(depth, 0.75 * extent)
    lateral = extent * min(max(rng.normal(0.5, 0.15), 0.1), 0.9)
    tilt = rng.normal(0, 0.35 if malignant else 0.2)

    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    order = np.arange(2, 8)
    roughness = rng.uniform(0.08, 0.18) if malignant else rng.uniform(0.0, 0.10)
    amplitude = rng.normal(0, roughness / (order - 1.0) ** (0.5 if malignant else 1.3))
    waves = np.cos(np.outer(order, angles) + rng.uniform(0, 2 * np.pi, (order.size, 1)))
    outline = 1 + amplitude @ waves
    if malignant and rng.random() < 0.7:
        for _ in range(rng.integers(5, 16)):  # spicules
            turn = np.angle(np.exp(1j * (angles - rng.uniform(0, 2 * np.pi))))
            outline += rng.uniform(0.1, 0.45) * np.exp(-np.abs(turn) / rng.uniform(0.05, 0.15))
    outline = np.maximum(outline / np.sqrt(np.mean(outline**2)), 0.6).astype(np.float32)

    radial, angle = _polar(extent, depth, lateral, height, width, tilt)
    edge = outline[(angle * np.float32(720 / (2 * np.pi))).astype(np.intp) % 720]
    return Lesion((radial - edge) * np.float32(math.sqrt(height * width)), depth, malignant)


def _breast(rng: np.random.Generator, extent: float) -> Tissue:
    """Draw layers, their texture and the distractors, without the lesion; mm and dB throughout."""
    z, x = _coordinates(extent)

    def texture(cell_depth: float, cell_width: float) -> Field:
        return _noise(rng, round(extent / cell_depth), round(extent / cell_width))

    skin = rng.uniform(1.0, 2.0)
    gland = min(skin + rng.gamma(3, 2.2), 0.5 * extent)
    muscle = gland + rng.uniform(8, 24)
    broken = texture(6, 8)
    wavy = z - gland - np.float32(1.2) * _noise(rng, 1, 5, 1)

    septa = _ridge(texture(4.5, 9), 0.13) * _rise(broken + 0.3, 2)
    fat = 12 * septa + 1.5 * texture(2.5, 4)
    strands = _ridge(texture(1.2, rng.uniform(4, 8)), 0.35) * _rise(broken + 0.5, 2.5)
    fibrous = rng.uniform(-3, 3) + rng.uniform(6, 13) * strands
    fibrous += rng.uniform(1.5, 4.5) * texture(2.2, 4.5) + rng.uniform(0, 3) * broken
    striae = -3 + 5 * np.maximum(texture(1.2, 10), -0.5) + 2 * broken

    backscatter = fat + _rise(wavy, 1.0) * (fibrous - fat)
    backscatter += 9 * _ridge(wavy, 0.35) * _rise(broken, 2)
    backscatter += _rise(z - muscle, 0.8) * (striae - backscatter)
    backscatter += 13 * _ridge(z - muscle, 0.4) * _rise(0.7 - broken, 2)
    backscatter += _rise(skin - z, 0.6) * (7 - backscatter) + 5 * _ridge(z - 0.3, 0.4)
    # The compensation suits the upper half and falls short below.
    shortfall = rng.uniform(0.3, 2.0) * _rise(z - rng.uniform(0.4, 0.8) * extent, 0.4 * extent)
    loss = np.broadcast_to(shortfall, (GRID, GRID)).astype(np.float32)

    for _ in range(rng.poisson(1.2)):  # fat lobules within the gland
        height, width = rng.uniform(0.8, 3.0), rng.uniform(1.5, 6.0)
        depth = rng.uniform(gland, min(muscle, 0.8 * extent))
        tilt = rng.normal(0, 0.25)
        radius, _ = _polar(extent, depth, rng.uniform(0, extent), height, width, tilt)
        distance = (radius - 1) * np.float32(math.sqrt(height * width))
        level = rng.uniform(-4, 0) + np.float32(0.6) * fat
        backscatter += _rise(-distance, rng.uniform(0.4, 1.5)) * (level - backscatter)
        backscatter += rng.uniform(0, 6) * _ridge(distance, 0.3)
    if rng.random() < 0.15:  # a rib: a bright surface and little behind it
        height, width, tilt = 0.2 * extent, 0.25 * extent, rng.normal(0, 0.2)
        radius, _ = _polar(extent, extent, rng.uniform(0, extent), height, width, tilt)
        distance = (radius - 1) * np.float32(math.sqrt(height * width))
        backscatter += 10 * _ridge(distance, 0.6) - 10 * _rise(-distance, 0.5)
        loss += 4 * _rise(-distance, 0.5)

    # Bend what was laid flat: a tilt and a smooth wave, less near the skin.
    bend = 1.5 * texture(16, 11) + rng.normal(0, 0.06) * (x - extent / 2)
    bend *= np.minimum(z / 8, 1) * np.float32(GRID / extent)
    rows, columns = np.indices((GRID, GRID), np.float32)
    flat = np.dstack([backscatter, loss])
    bent = cv2.remap(flat, columns, rows + bend, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    backscatter, loss = np.array(bent[..., 0]), np.array(bent[..., 1])

    for _ in range(rng.poisson(1.6)):  # ligaments that absorb and so cast a shadow
        across = _ridge(x - rng.uniform(0, extent), rng.uniform(0.4, 2.5))
        along = _ridge(z - rng.uniform(skin, 0.6 * extent), 1.2)
        loss += rng.uniform(0.5, 5) * across * along
    if rng.random() < 0.25:  # poor contact at one side
        side = x if rng.random() < 0.5 else extent - x
        loss += rng.uniform(4, 16) * _ridge(z, 1) * _rise(rng.uniform(2, 8) - side, 4)
    return Tissue(backscatter, loss)


def _insert(rng: np.random.Generator, breast: Tissue, lesion: Lesion, extent: float) -> Tissue:
    """Put the lesion into the breast: contrast, texture, margin and its effect on the beam."""
    distance = lesion.distance
    inside = distance < 0
    surroundings = float(breast.backscatter[~inside & (distance < 3)].mean())
    cyst = not lesion.malignant and rng.random() < 0.25
    contrast = rng.uniform(16, 28) if cyst else min(max(rng.normal(10, 4.5), 4), 20)  # dB
    coarse = _noise(rng, round(extent / 7), round(extent / 7))
    unevenness = rng.uniform(0, 1) if cyst else rng.uniform(0.5, 5)
    texture = coarse + _noise(rng, round(extent / 2), round(extent / 3))
    level = surroundings - contrast + unevenness * texture
    margin = rng.uniform(0.8, 3.0) if lesion.malignant else rng.uniform(0.3, 1.2)
    part = _rise(-distance, margin)
    backscatter = breast.backscatter + part * (level - breast.backscatter)
    if lesion.malignant:
        backscatter += rng.uniform(0, 6) * _ridge(distance - 1.5, 1.5) * _rise(coarse, 3)  # halo
        if rng.random() < 0.4:  # calcifications
            within = np.flatnonzero(inside)
            backscatter.flat[rng.choice(within, rng.poisson(6))] += 22
    elif rng.random() < 0.5:  # capsule
        backscatter += rng.uniform(1, 6) * _ridge(distance - 0.3, 0.35)

    if lesion.malignant:
        through = rng.normal(7, 7)  # dB that the longest path through the lesion loses
    else:
        through = -rng.uniform(4, 10) if cyst else rng.normal(-1.5, 3.5)
    longest = max(float(inside.sum(axis=0).max()) * extent / GRID, 1.0)
    loss = breast.loss + part * np.float32(through / longest)
    if not lesion.malignant:  # refraction at a smooth margin: long paths where it is steep
        steep = np.abs(np.gradient(part, axis=1)) * np.float32(GRID / extent)
        loss += rng.uniform(0, 0.6) * steep
    return Tissue(backscatter, loss)


def _received_strength(rng: np.random.Generator, tissue: Tissue, extent: float) -> Field:
    """Amplitude of the scatterers as received: attenuated, compensated and with noise (linear)."""
    lost = np.cumsum(tissue.loss, axis=0) * np.float32(extent / GRID)
    # The aperture looks past an obstacle, so no shadow is sharp.
    softened = cv2.GaussianBlur(lost, (0, 0), sigmaX=0.8 * GRID / extent, sigmaY=0.5)
    level = tissue.backscatter - softened + np.float32(1.5) * _noise(rng, 1, 8, 1)
    # Noise is incoherent with the echoes, so powers add. The compensation amplifies it with depth.
    z, _ = _coordinates(extent)
    noise = rng.uniform(-38, -28) + rng.uniform(0.2, 0.5) * (z - np.float32(extent / 2))
    decibel = np.float32(math.log(10) / 10)
    strength: Field = np.sqrt(np.exp(level * decibel) + np.exp(noise * decibel))
    return strength


def _display(rng: np.random.Generator, echo: Field) -> Field:
    """Log compression to [0, 255]; fat lies a little below the middle grey."""
    dynamic_range, brightest = rng.uniform(42, 58), rng.normal(25.5, 3)
    decibel = np.float32(20 / math.log(10)) * np.log(np.maximum(echo, np.float32(1e-6)))
    grey: Field = np.clip((decibel - brightest) / dynamic_range + 1, 0, 1) * np.float32(255)
    return grey

"""The bilateral filter, the resize, and the arrays that hold their results."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.data import raw
from dmf.data.arrays import Arrays, read_arrays, write_arrays
from dmf.data.filtering import bilateral, filter_dataset, prepare
from dmf.errors import DmfError
from dmf.files import read_json
from dmf.layout import RAW
from dmf.settings import Filter
from dmf.study import FilterParameters

from sets import ellipse, scan

JSON = Path("data/filtered/mine.json")


def direct_bilateral(image: np.ndarray, filter_: Filter) -> np.ndarray:
    """Eq. 26-27 written out, over the round neighbourhood that OpenCV takes for Omega."""
    radius = filter_.diameter // 2
    padded = np.pad(image.astype(float), radius, mode="reflect")
    total, weighted = np.zeros(image.shape), np.zeros(image.shape)
    height, width = image.shape
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            distance = np.hypot(down, right)
            if distance > radius:
                continue
            other = padded[radius + down :, radius + right :][:height, :width]
            weight = np.exp(-(distance**2) / (2 * filter_.sigma_space**2)) * np.exp(
                -((other - image) ** 2) / (2 * filter_.sigma_color**2)
            )
            total += weight
            weighted += weight * other
    return weighted / total


@pytest.mark.parametrize("filter_", [Filter(), Filter(diameter=5, sigma_color=20, sigma_space=2)])
def test_the_filter_is_the_paper_s_equation(filter_: Filter) -> None:
    image = scan(1, 40, 50)
    assert np.abs(bilateral(image, filter_) - direct_bilateral(image, filter_)).max() < 1


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), sigma=st.floats(1, 200))
def test_the_filter_stays_within_its_neighbourhood(seed: int, sigma: float) -> None:
    image = scan(seed, 24, 24)
    filtered = bilateral(image, Filter(diameter=5, sigma_color=sigma))
    box = np.ones((5, 5), np.uint8)
    assert (filtered <= cv2.dilate(image, box)).all()
    # A mean of equal values may come out a hair below them, and is then cut to the level below.
    assert (filtered >= cv2.subtract(cv2.erode(image, box), 1)).all()
    assert np.array_equal(bilateral(np.full_like(image, 77), Filter()), np.full_like(image, 77))


def test_the_filter_smooths_speckle_and_keeps_edges() -> None:
    generator = np.random.default_rng(0)
    edge = np.where(np.arange(64) < 32, 40, 200) * np.ones((64, 1))
    noisy = np.clip(edge + generator.normal(0, 10, (64, 64)), 0, 255).astype(np.uint8)
    filtered = bilateral(noisy, Filter(sigma_color=60)).astype(float)
    assert filtered[:, :28].std() < 0.4 * noisy[:, :28].std()
    assert (filtered[:, 33] - filtered[:, 30]).mean() > 130


def test_order_and_no_filter() -> None:
    image, mask = scan(1, 90, 120), ellipse(90, 120) // 255

    def of(**settings: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        filter_ = Filter.model_validate(settings)
        return prepare(image, mask, FilterParameters(image_size=64, filter=filter_))

    original, before, small = of()
    assert original.shape == before.shape == small.shape == (64, 64)
    native = cv2.bilateralFilter(image, 9, 75, 75)
    assert np.array_equal(before, cv2.resize(native, (64, 64), interpolation=cv2.INTER_LINEAR))
    _, after, _ = of(order="after_resize")
    assert np.array_equal(after, cv2.bilateralFilter(original, 9, 75, 75))
    assert not np.array_equal(before, after)
    same, none, _ = of(apply=False)
    assert np.array_equal(none, same)


@pytest.mark.parametrize("size", [(471, 562), (190, 1048), (64, 64)])
def test_image_and_mask_stay_aligned(size: tuple[int, int]) -> None:
    """The same ellipse as an image and as a mask has the same centre after the resize."""
    shape = ellipse(*size, x=0.4, y=0.6)
    parameters = FilterParameters(image_size=128, filter=Filter(apply=False))
    original, _, mask = prepare(shape, shape // 255, parameters)
    assert set(np.unique(mask)) == {0, 1}
    rows, columns = np.mgrid[:128, :128]
    for axis in (rows, columns):
        by_image = (axis * (original / 255.0)).sum() / (original / 255.0).sum()
        by_mask = (axis * mask).sum() / mask.sum()
        assert abs(by_image - by_mask) < 0.15


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a raw set of three classes, images of different sizes; return its folder."""
    monkeypatch.chdir(tmp_path)
    folder = RAW / "mine"
    writer = raw.RawWriter(folder, classes=3)
    for n in range(4):
        height, width = 50 + 9 * n, 70
        mask = (ellipse(height, width) // 255).astype(np.uint8)
        mask[: 5 + n] = 2
        writer.add(f"i_{n}", "lesion", scan(n, height, width), mask, masks=1, source=f"{n}.png")
    (folder / "manifest.json").write_text(json.dumps({"synthetic": False, **writer.finish(0.99)}))
    return folder


def run(**settings: object) -> Arrays:
    filter_dataset("mine", FilterParameters(image_size=32, filter=Filter.model_validate(settings)))
    return read_arrays(JSON)


def test_a_set_becomes_arrays(mine: Path) -> None:
    arrays = run()
    assert arrays.ids == ["i_0", "i_1", "i_2", "i_3"]
    assert arrays.lesions == ["lesion"] * 4
    assert arrays.originals.shape == arrays.filtered.shape == arrays.masks.shape == (4, 32, 32)
    assert arrays.originals.dtype == arrays.masks.dtype == np.uint8
    assert arrays.classes == 3
    assert set(np.unique(arrays.masks)) == {0, 1, 2}
    description = read_json(JSON)
    assert description["sha256"] == arrays.sha256
    assert (description["images"], description["height"], description["width"]) == (4, 32, 32)
    assert description["parameters"]["filter"]["diameter"] == 9
    image = cv2.imread(str(mine / "images/i_2.png"), cv2.IMREAD_GRAYSCALE)
    parameters = FilterParameters(image_size=32, filter=Filter())
    assert np.array_equal(arrays.filtered[2], prepare(image, image, parameters)[1])


def test_the_same_input_gives_the_same_bytes(mine: Path) -> None:
    run()
    first = {path: path.read_bytes() for path in JSON.parent.iterdir()}
    run()
    assert {path: path.read_bytes() for path in JSON.parent.iterdir()} == first
    assert sorted(path.name for path in first) == ["mine.json", "mine.npz"]


def test_the_hash_tells_contents_apart(mine: Path) -> None:
    assert run().sha256 != run(apply=False).sha256
    arrays = run()
    for field in ("ids", "lesions"):
        changed = {**vars(arrays), field: ["other", *getattr(arrays, field)[1:]]}
        changed.pop("sha256", None)
        assert Arrays(**changed).sha256 != arrays.sha256


def test_arrays_that_are_missing_damaged_or_others_are_named(mine: Path) -> None:
    arrays = run()
    stored = JSON.with_suffix(".npz")
    content = stored.read_bytes()
    stored.unlink()
    with pytest.raises(DmfError, match=r"mine.npz.*is missing.*run the filter step"):
        read_arrays(JSON)
    for damaged in (content[: len(content) // 2], b"", b"hello"):
        stored.write_bytes(damaged)
        with pytest.raises(DmfError, match=r"mine.npz is damaged.*run the filter step"):
            read_arrays(JSON)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    stored.write_bytes(flipped)
    with pytest.raises(DmfError, match=r"mine\.npz"):
        read_arrays(JSON)
    description = JSON.read_text()
    run(apply=False)
    JSON.write_text(description)
    with pytest.raises(DmfError, match=f"not {arrays.sha256[:12]}"):
        read_arrays(JSON)
    JSON.write_text("{}")
    with pytest.raises(DmfError, match=r"mine\.json is damaged:\n  sha256: missing"):
        read_arrays(JSON)


@pytest.mark.parametrize("name", ["images", "masks"])
def test_raw_images_that_changed_are_refused(name: str, mine: Path) -> None:
    path = mine / name / "i_1.png"
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    image[0, 0] ^= 1
    cv2.imwrite(str(path), image)
    with pytest.raises(DmfError, match=rf"{name}/i_1.png is not the image that was downloaded"):
        run()
    path.write_bytes(b"x")
    with pytest.raises(DmfError, match=r"i_1.png cannot be read"):
        run()
    path.unlink()
    with pytest.raises(DmfError, match=r"i_1.png is missing"):
        run()
    assert not JSON.parent.exists()


def test_a_write_that_fails_leaves_the_old_arrays(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DmfError, match=r"mine.npz: could not be written.*No space left"):
        write_arrays(before, {})
    assert read_arrays(JSON).sha256 == before.sha256
    assert sorted(path.name for path in JSON.parent.iterdir()) == ["mine.json", "mine.npz"]


def test_a_manifest_that_names_other_folders_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data/raw/mine/manifest.csv"
    path.parent.mkdir(parents=True)
    row = {name: kind(1) for name, kind in raw.COLUMNS.items()} | {"id": "../../docs/x"}
    pd.DataFrame([row]).to_csv(path, index=False)
    with pytest.raises(DmfError, match=r"'../../docs/x', which is no plain name. Delete data/raw"):
        raw.read_manifest("mine")

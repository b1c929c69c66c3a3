"""Finding, pairing and reading images and masks as they come in real archives."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dmf.data.pairing import Found, find_pairs
from dmf.data.pixels import UnusableError, read_grey, read_pair
from dmf.errors import DmfError
from dmf.settings import ArchiveSource

from sets import busi, ellipse, lay, own, png, scan, two_folders


def kind(name: str) -> ArchiveSource:
    return ArchiveSource.model_validate({"kind": name})


def names(found: Found) -> dict[str, list[str]]:
    return {p.identifier: [m.name for m in p.masks] for p in found.pairs}


# BUSI


@pytest.mark.parametrize(
    "top", ["Dataset_BUSI_with_GT/", "", "a/b/c/", "BUSI/Dataset_BUSI_with_GT/"]
)
def test_busi_at_any_depth(top: str, tmp_path: Path) -> None:
    found = find_pairs(lay(tmp_path, busi(top=top)), kind("busi"))
    assert [pair.lesion for pair in found.pairs] == ["benign"] * 12 + ["malignant"] * 8
    assert found.ignored == {"normal": 2}
    assert found.problems == []
    assert names(found)["malignant_1"] == [f"malignant (1)_mask{n}.png" for n in ("", "_1", "_2")]


def test_masks_of_one_image_are_joined_whatever_their_mode(tmp_path: Path) -> None:
    found = find_pairs(lay(tmp_path, busi()), kind("busi"))
    pairs = {pair.identifier: pair for pair in found.pairs}
    image, mask = read_pair(pairs["benign_2"], kind("busi"))
    assert image.dtype == mask.dtype == np.uint8
    expected = (ellipse(x=0.3) | ellipse(x=0.8)) > 0
    assert np.array_equal(mask, expected)
    _, three = read_pair(pairs["malignant_1"], kind("busi"))
    assert np.array_equal(three, expected | (ellipse(y=0.8) > 0))
    assert set(np.unique(three)) == {0, 1}


def test_busi_needs_its_two_folders_once(tmp_path: Path) -> None:
    lay(tmp_path / "one", busi(malignant=0) | {"x/y.txt": b""})
    for path in (tmp_path / "one").rglob("malignant*"):
        path.unlink() if path.is_file() else None
    with pytest.raises(DmfError, match=r"'malignant'.*found 0.*benign"):
        find_pairs(tmp_path / "one", kind("busi"))
    lay(tmp_path / "two", busi(top="a/") | busi(top="b/"))
    with pytest.raises(DmfError, match="found 2"):
        find_pairs(tmp_path / "two", kind("busi"))


def test_junk_of_other_systems_is_not_read(tmp_path: Path) -> None:
    junk = {
        "__MACOSX/benign/._benign (1).png": b"x",
        "Dataset_BUSI_with_GT/benign/._benign (1).png": b"x",
        "Dataset_BUSI_with_GT/benign/Thumbs.db": b"x",
    }
    found = find_pairs(lay(tmp_path, busi() | junk), kind("busi"))
    assert len(found.pairs) == 20
    assert found.problems == []


# BUSC and BUS


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("busc", "BUSC Dataset/BUSC_Dataset/Segmentation/"),
        ("busc", "Segmentation/"),
        ("bus", "BUS Synthetic Dataset/BUS_synthetic_dataset/"),
        ("bus", "BUS Synthetic Dataset/"),
    ],
)
def test_two_folders_side_by_side(name: str, top: str, tmp_path: Path) -> None:
    extra = {f"BUSC Dataset/Classification/benign/{n}.png": png(scan(n)) for n in range(3)}
    found = find_pairs(lay(tmp_path, two_folders(top) | extra), kind(name))
    assert len(found.pairs) == 12
    assert all(pair.masks[0].stem == pair.image.stem for pair in found.pairs)
    assert {pair.lesion for pair in found.pairs} == {"lesion"}


def test_two_places_are_ambiguous(tmp_path: Path) -> None:
    lay(tmp_path, two_folders("train/") | two_folders("test/"))
    with pytest.raises(DmfError, match=r"found 2.*test/images.*train/masks"):
        find_pairs(tmp_path, kind("busc"))


def test_probability_masks_are_cut_at_one_half(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    lay(tmp_path, {"images/1.png": png(scan(1, 16, 16)), "masks/1.png": png(ramp)})
    found = find_pairs(tmp_path, kind("bus"))
    _, mask = read_pair(found.pairs[0], kind("bus"))
    assert np.array_equal(mask, ramp >= 128)  # 128 / 255 is the first value above one half
    _, strict = read_pair(found.pairs[0], ArchiveSource(kind="bus", mask_threshold=254))
    assert strict.sum() == 1


# Pairing


@pytest.mark.parametrize(
    ("mask_name", "pairing"),
    [
        ("{}", "stem"),
        ("mask ({})", "shared words left out"),
        ("{}_segmentation", "shared words left out"),
        ("{:04d}", "number"),
    ],
)
def test_pairing_by_name_or_number(mask_name: str, pairing: str, tmp_path: Path) -> None:
    lay(tmp_path, two_folders("set/", mask_name=mask_name))
    found = find_pairs(tmp_path, kind("busc"))
    assert found.pairing == pairing
    assert [p.masks[0].stem for p in found.pairs] == [
        mask_name.format(int(p.identifier)) for p in found.pairs
    ]


def test_pairing_by_order_counts_numbers_as_numbers(tmp_path: Path) -> None:
    """Other numbers in the masks' names: only the order is left, and 10 comes after 9."""
    members = {f"images/{n}.png": png(scan(n)) for n in range(1, 13)}
    members |= {f"masks/m{n + 100}.png": png(ellipse()) for n in range(1, 13)}
    found = find_pairs(lay(tmp_path, members), kind("busc"))
    assert found.pairing == "sorted order"
    assert {p.identifier: p.masks[0].stem for p in found.pairs} == {
        str(n): f"m{n + 100}" for n in range(1, 13)
    }


def test_counts_that_differ_cannot_be_paired_by_order(tmp_path: Path) -> None:
    members = {f"images/a{n}.png": png(scan(n)) for n in range(4)}
    members |= {f"masks/b{n + 7}.png": png(ellipse()) for n in range(3)}
    with pytest.raises(DmfError, match="4 images and 3 masks cannot be paired"):
        find_pairs(lay(tmp_path, members), kind("busc"))


def test_missing_and_superfluous_masks_are_named(tmp_path: Path) -> None:
    members = two_folders("")
    del members["masks/3.png"]
    members["masks/99.png"] = png(ellipse(128, 128))
    found = find_pairs(lay(tmp_path, members), kind("busc"))
    assert len(found.pairs) == 11
    assert {(problem.kind, problem.file) for problem in found.problems} == {
        ("missing mask", "images/3.png"),
        ("mask without image", "masks/99.png"),
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("images/a.png", "images/A.png"),
        ("images/a.png", "images/a.bmp"),
        ("images/x 1.png", "images/x_1.png"),
        ("masks/a.png", "masks/A.PNG"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(
    first: str, second: str, tmp_path: Path
) -> None:
    members = {"images/a.png": png(scan(1)), "masks/a.png": png(ellipse())}
    members |= {"images/x 1.png": png(scan(2)), "masks/x 1.png": png(ellipse())}
    members |= {first: png(scan(3)), second: png(scan(4))}
    with pytest.raises(DmfError, match="same name") as caught:
        find_pairs(lay(tmp_path, members), kind("busc"))
    assert first in str(caught.value)
    assert second in str(caught.value)


# Somebody's own set


def test_own_folders_with_classes_in_subfolders(tmp_path: Path) -> None:
    members = {
        f"data/scans/{c}/{n}.png": png(scan(n)) for c in ("cyst", "tumour") for n in range(3)
    }
    members |= {k.replace("scans", "truth"): png(ellipse()) for k in members}
    found = find_pairs(lay(tmp_path, members), own(images="scans", masks="truth"))
    assert [p.identifier for p in found.pairs] == [
        f"{c}_{n}" for c in ("cyst", "tumour") for n in range(3)
    ]
    assert [p.lesion for p in found.pairs] == ["cyst"] * 3 + ["tumour"] * 3


@pytest.mark.parametrize("images", [".", "mine"])
def test_own_masks_beside_the_images(images: str, tmp_path: Path) -> None:
    members = {f"mine/{n}.jpg": png(scan(n)) for n in range(3)}
    members |= {f"mine/{n}-label.png": png(ellipse()) for n in range(3)}
    members |= {"mine/0-label_2.png": png(ellipse(x=0.8))}
    found = find_pairs(lay(tmp_path, members), own(images=images, masks=None, mask_suffix="-label"))
    assert names(found) == {
        "0": ["0-label.png", "0-label_2.png"],
        "1": ["1-label.png"],
        "2": ["2-label.png"],
    }


def test_own_masks_folder_inside_the_images(tmp_path: Path) -> None:
    members = {f"{n}.png": png(scan(n)) for n in range(3)}
    members |= {f"masks/{n}_m.png": png(ellipse()) for n in range(3)}
    found = find_pairs(lay(tmp_path, members), own(images=".", mask_suffix="_m"))
    assert names(found) == {str(n): [f"{n}_m.png"] for n in range(3)}


def test_several_classes(tmp_path: Path) -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[:20], mask[40:] = 100, 200
    lay(tmp_path, {"images/1.png": png(scan(1)), "masks/1.png": png(mask)})
    source = own(class_values=[0, 200, 100])
    pair = find_pairs(tmp_path, source).pairs[0]
    _, classes = read_pair(pair, source)
    assert (classes[0, 0], classes[30, 0], classes[50, 0]) == (2, 0, 1)
    with pytest.raises(UnusableError, match=r"values 100, which are not .* \[0, 50, 200\]"):
        read_pair(pair, own(class_values=[0, 50, 200]))


def test_a_folder_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    lay(tmp_path, two_folders("mine/"))
    with pytest.raises(DmfError, match=r"'scans'.*found 0.*mine/images, mine/masks"):
        find_pairs(tmp_path, own(images="scans"))
    with pytest.raises(DmfError, match=r"holds no \.png"):
        find_pairs(tmp_path / "mine" / "nothing", own())


# Reading


def unusable(path: Path, match: str) -> None:
    with pytest.raises(UnusableError, match=match) as caught:
        read_grey(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(m, s) for m in ("RGB", "RGBA", "L", "LA", "P") for s in ("png", "tif") if m + s != "LAtif"],
)
def test_grey_is_grey_in_every_mode(mode: str, suffix: str, tmp_path: Path) -> None:
    image = scan(5)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(image).convert(mode).save(path)
    assert np.array_equal(read_grey(path), image)


def test_colour_becomes_luma(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    (tmp_path / "x.png").write_bytes(png(colour))
    expected = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY).astype(int)
    assert np.abs(read_grey(tmp_path / "x.png") - expected).max() <= 1  # rounding


def test_a_jpeg_called_png_is_read(tmp_path: Path) -> None:
    Image.fromarray(scan(1)).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").rename(tmp_path / "x.png")
    assert read_grey(tmp_path / "x.png").shape == (96, 128)


def test_unreadable_files(tmp_path: Path) -> None:
    good = png(scan(1))
    path = tmp_path / "x.png"
    path.write_bytes(b"<!DOCTYPE html>")
    unusable(path, "no image")
    path.write_bytes(good[: len(good) // 2])
    unusable(path, "cannot be read")
    path.write_bytes(b"")
    unusable(path, "no image")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)
    unusable(path, "8 bits")
    Image.new("L", (9000, 9000)).save(path)
    unusable(path, "9000x9000")
    frames = [Image.fromarray(scan(n)) for n in range(2)]
    frames[0].save(tmp_path / "x.tif", save_all=True, append_images=frames[1:])
    unusable(tmp_path / "x.tif", "several frames")
    unusable(tmp_path / "missing.png", "cannot be read")


@pytest.mark.parametrize("position", [0.2, 0.5, 0.9])
def test_flipped_bits_in_a_png_are_noticed(position: float, tmp_path: Path) -> None:
    content = bytearray(png(scan(1)))
    content[int(position * len(content))] ^= 4
    (tmp_path / "x.png").write_bytes(content)
    unusable(tmp_path / "x.png", "cannot be read")


@pytest.mark.parametrize(
    ("mask", "kind_of_problem", "detail"),
    [
        (ellipse(90, 128), "size mismatch", "128x90 and 128x96"),
        (np.zeros((96, 128), np.uint8), "empty mask", "largest value 0, mask_threshold 127"),
        (ellipse() // 255, "empty mask", "largest value 1, mask_threshold 127"),
    ],
)
def test_masks_that_do_not_fit(
    mask: np.ndarray[Any, Any], kind_of_problem: str, detail: str, tmp_path: Path
) -> None:
    lay(tmp_path, {"images/1.png": png(scan(1)), "masks/1.png": png(mask)})
    found = find_pairs(tmp_path, kind("busc"))
    with pytest.raises(UnusableError, match=detail) as caught:
        read_pair(found.pairs[0], kind("busc"))
    assert caught.value.kind == kind_of_problem

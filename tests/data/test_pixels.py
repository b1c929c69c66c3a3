"""Sets as people have them: what names, colours, bits and tags say is obeyed, or refused."""

import io
import unicodedata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dmf.data.pairing import Found, find_pairs
from dmf.data.pixels import UnusableError, read_grey, read_pair
from dmf.errors import DmfError

from sets import ellipse, lay, own, png, scan

LESION = ellipse() > 0
BESIDE = {"images": ".", "masks": None}


def paired(found: Found) -> dict[str, list[str]]:
    return {p.image.name: [m.name for m in p.masks] for p in found.pairs}


def problems(found: Found) -> set[tuple[str, str]]:
    return {(problem.kind, problem.file) for problem in found.problems}


def names(*patterns: str, numbers: Any = range(1, 13)) -> dict[str, bytes]:
    contents = (png(scan(1)), png(ellipse()))
    return {
        pattern.format(n): content
        for pattern, content in zip(patterns, contents, strict=True)
        for n in numbers
    }


# Pairing


def test_a_missing_image_and_a_missing_mask_shift_nobody(tmp_path: Path) -> None:
    members = names("images/bus_{:04d}-l.png", "masks/mask_{:04d}-l.png")
    del members["images/bus_0005-l.png"], members["masks/mask_0009-l.png"]
    found = find_pairs(lay(tmp_path, members), own())
    assert paired(found) == {
        f"bus_{n:04d}-l.png": [f"mask_{n:04d}-l.png"] for n in range(1, 13) if n not in (5, 9)
    }
    assert problems(found) == {
        ("missing mask", "images/bus_0009-l.png"),
        ("mask without image", "masks/mask_0005-l.png"),
    }


def test_left_is_not_paired_with_right(tmp_path: Path) -> None:
    members = names("images/bus_{}-l.png", "masks/mask_{}-r.png")
    with pytest.raises(DmfError, match=r"cannot be paired.*image_prefix"):
        find_pairs(lay(tmp_path, members), own())


def test_order_needs_one_offset(tmp_path: Path) -> None:
    members = names("images/{}.png", "masks/m{}.png", numbers=range(3))
    members = {k.replace("masks/m2", "masks/m9"): v for k, v in members.items()}
    members = {k.replace("images/", "images/10"): v for k, v in members.items()}
    with pytest.raises(DmfError, match="cannot be paired"):
        find_pairs(lay(tmp_path, members), own())


@pytest.mark.parametrize(
    ("image", "mask", "settings"),
    [
        ("set/Benign/{} Benign Image.bmp", "set/Benign/{} Benign Mask.tif",
         {"image_suffix": " Image", "mask_suffix": " Mask"}),
        ("Hospital/Test_Image_{}.png", "Hospital/mask_{}.png",
         {"image_prefix": "Test_Image_", "mask_prefix": "mask_"}),
        ("all/case{:03d}.png", "all/case{:03d}_tumor.png", {"mask_suffix": "_tumor"}),
        ("all/CASE{:03d}.png", "all/case{:03d}_Tumor.PNG", {"mask_suffix": "_tumor"}),
    ],
)  # fmt: skip
def test_names_in_one_folder(
    image: str, mask: str, settings: dict[str, str], tmp_path: Path
) -> None:
    members = names(image, mask) | {"all/case003_other1.png": b"not looked at"}
    found = find_pairs(lay(tmp_path, members), own(**BESIDE, **settings, leave_out=["*_other*"]))
    assert paired(found) == {
        Path(image.format(n)).name: [Path(mask.format(n)).name] for n in range(1, 13)
    }
    assert problems(found) == set()
    assert found.ignored == {"by leave_out": 1}


@pytest.mark.parametrize("further", ["_mask1", "_mask_1", "_Mask_2", "_mask(1)", "_mask (1)"])
def test_spellings_of_further_masks(further: str, tmp_path: Path) -> None:
    members = names("{}.png", "{}_mask.png") | {f"3{further}.png": png(ellipse(x=0.8))}
    found = find_pairs(lay(tmp_path, members), own(**BESIDE, mask_suffix="_mask"))
    assert sorted(paired(found)["3.png"]) == sorted(["3_mask.png", f"3{further}.png"])
    assert problems(found) == set()


@pytest.mark.parametrize("stray", ["3_mask_b.png", "3_Mask copy.png", "3-mask2b.png"])
def test_an_image_with_a_mask_that_is_not_read_is_a_problem(stray: str, tmp_path: Path) -> None:
    members = names("{}.png", "{}_mask.png") | {stray: png(ellipse(x=0.8))}
    found = find_pairs(lay(tmp_path, members), own(**BESIDE, mask_suffix="_mask"))
    assert ("unclear mask", "3.png") in problems(found)
    assert "3.png" not in paired(found)
    assert len(paired(found)) == 11


def test_a_further_mask_in_a_folder_of_masks(tmp_path: Path) -> None:
    members = names("images/{}.png", "masks/{}.png") | {"masks/3_1.png": png(ellipse(x=0.8))}
    found = find_pairs(lay(tmp_path, members), own())
    assert problems(found) == {
        ("unclear mask", "images/3.png"),
        ("mask without image", "masks/3_1.png"),
    }


def test_another_unicode_form_and_odd_digits(tmp_path: Path) -> None:
    name = "Ünal 1²2"
    composed, apart = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    lay(tmp_path, {f"images/{composed}.png": b"", f"masks/{apart.upper()}.PNG": b""})
    found = find_pairs(tmp_path, own())
    assert [p.identifier for p in found.pairs] == ["Ünal_1²2"]
    assert problems(found) == set()


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    members = names("set/images/{}.png", "set/masks/{}.png")
    lay(
        tmp_path,
        members | {"set/images/1.gif": b"", "set/images/2.gif": b"", "elsewhere/1.png": b""},
    )
    (tmp_path / "more").symlink_to(tmp_path / "set")
    found = find_pairs(tmp_path, own())
    assert found.ignored == {
        ".gif files, which are not read": 2,
        "in other folders": 1,
        "links to folders": 1,
    }


# Pixels


def read(
    tmp_path: Path, image: bytes, mask: bytes, **settings: Any
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    lay(tmp_path, {"images/1.png": image, "masks/1.png": mask})
    source = own(**settings)
    return read_pair(find_pairs(tmp_path, source).pairs[0], source)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


SHOWN = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: x.T[:, ::-1],
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: x.T[::-1],
}


@pytest.mark.parametrize(
    ("kind", "depth"), [("JPEG", 8), ("PNG", 8), ("PNG", 16), ("TIFF", 8), ("TIFF", 16)]
)
@pytest.mark.parametrize("tag", SHOWN)
def test_orientation_tags(tag: int, kind: str, depth: int, tmp_path: Path) -> None:
    pixels = scan(3, 24, 40)
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = Image.fromarray(pixels if depth == 8 else pixels.astype(np.uint16) * 257)
    options = {"quality": 100} if kind == "JPEG" else {}
    (tmp_path / "x.png").write_bytes(saved(stored, kind, exif=exif, **options))
    seen = read_grey(tmp_path / "x.png", grey_range="full")
    assert seen.shape == SHOWN[tag](pixels).shape
    assert np.abs(seen.astype(int) - SHOWN[tag](pixels)).max() <= 3


def test_a_mask_in_the_alpha_channel(tmp_path: Path) -> None:
    white = np.full((96, 128, 4), 255, np.uint8)
    white[..., 3] = ellipse()
    assert np.array_equal(read(tmp_path, png(scan(1)), png(white))[1], LESION)


def test_transparency_shows_the_stated_ground(tmp_path: Path) -> None:
    picture = np.full((4, 4, 4), 200, np.uint8)
    picture[0, :, 3], picture[1:, :, 3] = 0, 255
    (tmp_path / "x.png").write_bytes(png(picture))
    assert read_grey(tmp_path / "x.png")[:, 0].tolist() == [0, 200, 200, 200]
    light = read_grey(tmp_path / "x.png", transparent_ground=90)
    assert light[:, 0].tolist() == [90, 200, 200, 200]


@pytest.mark.parametrize("colour", [False, True])
def test_sixteen_bits_are_never_cut(colour: bool, tmp_path: Path) -> None:
    wide = scan(1).astype(np.uint16) + 1000
    content = cv2.imencode(".png", np.dstack([wide] * 3) if colour else wide)[1].tobytes()
    with pytest.raises(UnusableError, match=r"more than 8 bits.*grey_range"):
        read(tmp_path, content, png(ellipse()))
    image, _ = read(tmp_path, content, png(ellipse()), grey_range=[1000, 1255])
    assert np.array_equal(image, scan(1))
    full, _ = read(tmp_path, content, png(ellipse()), grey_range="full")
    assert np.array_equal(full, np.round(wide / 257))


INDEXED = Image.fromarray(LESION.astype(np.uint8))
INDEXED.putpalette([0, 0, 0, 128, 0, 0])
TWO_COLOURS = np.zeros((96, 128, 3), np.uint8)
TWO_COLOURS[LESION] = (255, 0, 0)
TWO_COLOURS[LESION & (np.arange(128) < 64)] = (0, 255, 0)


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (png(255 - ellipse()), [255, 0]),
        (png(ellipse() // 255), [0, 1]),
        (png(ellipse()), [0, 255]),
        (png(ellipse().astype(np.uint16) * 257), [0, 65535]),
        (saved(INDEXED, "PNG"), [0, 1]),
        (saved(INDEXED, "PNG"), ["#000000", "#800000"]),
        (png(TWO_COLOURS), ["#000000", ["#00ff00", "#FF0000"]]),
    ],
)
def test_the_values_of_classes_are_obeyed(mask: bytes, values: list[Any], tmp_path: Path) -> None:
    _, classes = read(tmp_path, png(scan(1)), mask, class_values=values)
    assert np.array_equal(classes, LESION)


@pytest.mark.parametrize(
    ("mask", "settings", "kind", "reason"),
    [
        (png(TWO_COLOURS), {}, "colour mask", "class_values"),
        (png(TWO_COLOURS), {"class_values": ["#000000", "#ff0000"]}, "unknown class", "#00ff00"),
        (png(ellipse() // 255), {}, "empty mask", "class_values"),
        (png(255 - ellipse() // 20), {}, "implausible mask", "100% .* class_values"),
        (png(255 - ellipse()), {}, "implausible mask", "87% .* largest_lesion"),
        (png(ellipse() // 2), {"class_values": [0, 255]}, "unknown class", "127.*mask_threshold"),
        (png(ellipse(48, 64)), {}, "size mismatch", "64x48 and 128x96; resize_masks"),
        (png(ellipse(48, 96)), {"resize_masks": True}, "size mismatch", "shapes differ"),
        (png(ellipse().astype(np.uint16)), {}, "unreadable", "more than 8 bits.*class_values"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_remedy(
    mask: bytes, settings: dict[str, Any], kind: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UnusableError, match=f"masks/1.png: .*{reason}") as caught:
        read(tmp_path, png(scan(1)), mask, **settings)
    assert caught.value.kind == kind


def test_soft_edges_and_sizes_where_the_settings_allow_them(tmp_path: Path) -> None:
    _, soft = read(
        tmp_path, png(scan(1)), png(ellipse() - ellipse() // 50), class_values=[0, 255],
        class_tolerance=20,
    )  # fmt: skip
    assert np.array_equal(soft, LESION)
    large = np.kron(ellipse(), np.ones((4, 4), np.uint8))
    _, small = read(tmp_path, png(scan(1)), png(large), resize_masks=True)
    assert np.array_equal(small, LESION)


def test_pages_are_not_counted(tmp_path: Path) -> None:
    page = Image.new("L", (1, 1))
    content = saved(page, "TIFF", save_all=True, append_images=[page] * 300)
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        counted = property(lambda _: pytest.fail("the pages were counted"))
        patch.setattr("PIL.TiffImagePlugin.TiffImageFile.n_frames", counted)
        with pytest.raises(UnusableError, match="several frames"):
            read_grey(tmp_path / "x.tif")


@pytest.mark.parametrize(
    "settings",
    [
        {"masks": None},
        {"class_values": [0]},
        {"class_values": [0, "#ffffff"]},
        {"class_values": [0, [1, 0]]},
        {"class_values": ["#00FF00", "#00ff00"]},
        {"grey_range": [9, 9]},
    ],
)
def test_settings_that_say_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"class_values|grey_range|masks"):
        own(**settings)

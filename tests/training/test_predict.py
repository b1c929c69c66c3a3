"""Where predictions go, and what they never replace."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from dmf.errors import DmfError
from dmf.training.predict import predict_files

from model_files import write_model
from run_folders import contents
from sets import scan


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(Path("m.safetensors"))
    return tmp_path


def image(name: str, seed: int = 0) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(name, scan(seed))
    return path


def run(*named: str, output: str = "out") -> list[str]:
    done = predict_files(list(map(Path, named)), Path("m.safetensors"), Path(output))
    return [path.as_posix() for path in done]


def refused(match: str, *named: str, output: str = "out") -> None:
    """Check that nothing at all is written."""
    before = contents(Path())
    with pytest.raises(DmfError, match=match):
        run(*named, output=output)
    assert contents(Path()) == before


def test_a_folder_keeps_its_paths() -> None:
    image("q/1/scan.png", 1)
    image("q/2/scan.bmp", 2)
    image("q/.hidden/scan.png")
    Path("q/notes.txt").write_text("x")
    expected = [f"out/{n}/scan_{kind}.png" for n in (1, 2) for kind in ("mask", "overlay")]
    assert run("q") == expected
    assert Path("out/1/scan_mask.png").read_bytes() != Path("out/2/scan_mask.png").read_bytes()


def test_deep_and_transparent_images_are_read_as_told() -> None:
    deep = (scan(0).astype(np.uint16) * 16).clip(0, 4080)
    cv2.imwrite("deep.png", deep)
    refused("more than 8 bits per pixel; say which .* with grey_range", "deep.png")
    whole = image("whole.png")
    (mask, _) = predict_files(
        [Path("deep.png")], Path("m.safetensors"), Path("a"), grey_range=(0, 4080)
    )
    (same, _) = predict_files([whole], Path("m.safetensors"), Path("b"))
    assert mask.read_bytes() == same.read_bytes()
    clear = np.dstack([np.repeat(scan(0)[..., None], 3, 2), np.full(scan(0).shape, 0, np.uint8)])
    cv2.imwrite("clear.png", clear)
    (_, overlay) = predict_files(
        [Path("clear.png")], Path("m.safetensors"), Path("c"), transparent_ground=255
    )
    labels = cv2.imread("c/clear_mask.png", 0)
    assert (cv2.imread(str(overlay))[labels == 0] == 255).all()


def test_files_keep_what_tells_them_apart(tmp_path: Path) -> None:
    image("q1/scan.png", 1)
    image("q2/scan.png", 2)
    assert run("q1/scan.png", str(tmp_path / "q2/scan.png"))[::2] == [
        "out/q1/scan_mask.png",
        "out/q2/scan_mask.png",
    ]
    assert run("q1/scan.png", "./q1/scan.png", output="one")[::2] == ["one/scan_mask.png"]
    assert run("q1", "q2/scan.png", output="two")[::2] == [
        "two/q1/scan_mask.png",
        "two/q2/scan_mask.png",
    ]


def test_results_that_would_meet_are_refused() -> None:
    image("q/scan.png")
    image("q/scan.bmp", 1)
    refused(r"q/scan.bmp and q/scan.png would both be written to out/scan_mask.png", "q")
    image("r/Scan.png")
    image("r/scan.png", 1)
    refused(r"would both be written", "r/Scan.png", "r/scan.png")


def test_masks_of_a_data_set_are_never_replaced() -> None:
    image("q/scan.png")
    image("q/scan_mask.png", 1)
    refused(r"q/scan_mask.png would be replaced, but dmf predict did not", "q/scan.png", output="q")
    Path("linked").mkdir()
    Path("linked/scan_mask.png").symlink_to("nowhere")
    refused("would be replaced", "q/scan.png", output="linked")


def test_its_own_results_are_replaced_unless_they_were_edited() -> None:
    image("q/scan.png", 1)
    run("q/scan.png")
    before = contents(Path("out"))
    image("q/scan.png", 2)
    run("q/scan.png")
    assert contents(Path("out"))["scan_mask.png"] != before["scan_mask.png"]
    image("out/scan_mask.png", 3)
    refused("or it was changed since", "q/scan.png")


def test_a_killed_call_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    image("q/scan.png")
    with monkeypatch.context() as patch:
        patch.setattr("dmf.training.predict.write_bytes", lambda path, content: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("q/scan.png")
    assert len(run("q/scan.png")) == 2
    image("q/scan.png", 1)  # other results than those that lie there
    with monkeypatch.context() as patch:
        patch.setattr("dmf.training.predict.write_bytes", lambda path, content: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("q/scan.png")
    assert len(run("q/scan.png")) == 2


def test_results_beside_the_images_are_no_images() -> None:
    image("q/scan.png")
    assert run("q", output="q") == run("q", output="q")
    assert len(contents(Path("q"))) == 4
    assert run(".", output="q/out")[0] == "q/out/q/scan_mask.png"


def test_the_list_of_what_was_written() -> None:
    image("q/scan.png")
    written = run("q/scan.png")
    rows = list(csv.DictReader(Path("out/predictions.csv").read_text().splitlines()))
    assert [f"out/{row['file']}" for row in rows] == written
    assert {row["image"] for row in rows} == {"q/scan.png"}
    Path("other").mkdir()
    Path("other/predictions.csv").write_text("id,mask\n1,2\n")
    refused("is not the list that dmf predict writes", "q/scan.png", output="other")


def test_what_is_not_there() -> None:
    Path("empty").mkdir()
    refused("gone.png does not exist", "gone.png")
    refused("empty holds no image", "empty")


def test_every_class_has_its_grey_value() -> None:
    write_model(Path("m.safetensors"), classes=3)
    image("q/scan.png")
    run("q/scan.png")
    mask = cv2.imread("out/scan_mask.png", cv2.IMREAD_UNCHANGED)
    assert mask.shape == (96, 128)
    assert set(np.unique(mask)) <= {0, 127, 255}
    assert len(np.unique(mask)) > 1

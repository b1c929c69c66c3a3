"""The card of a set says what the manifests say."""

import re
from pathlib import Path

import pytest
from PIL import Image

from dmf.data.cards import write_card
from dmf.data.download import download
from dmf.data.filtering import filter_dataset
from dmf.data.raw import read_manifest
from dmf.data.splits import assign
from dmf.errors import DmfError
from dmf.settings import Filter, Split
from dmf.study import DownloadParameters, FilterParameters

from sets import png, scan, two_folders, write_zip


def make(dataset: str, **source: object) -> str:
    """Download, filter and describe a set; return the card's text."""
    parameters = DownloadParameters.model_validate(
        {"source": source, "problems": "skip", "duplicates": {"threshold": 0.9}}
    )
    download(dataset, parameters, Path.cwd())
    filter_dataset(dataset, FilterParameters(image_size=64, filter=Filter()))
    write_card(dataset, Path("cards"))
    return Path(f"cards/{dataset}.md").read_text()


@pytest.mark.slow
def test_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    members = two_folders("", count=16)
    members["images/7.png"] = members["images/3.png"]
    members["masks/9.png"] = png(scan(1, 128, 128) * 0)
    write_zip(tmp_path / "a.zip", members)
    own = {"kind": "folder", "archive": "a.zip", "licence": "CC BY 4.0", "citation": "Me, 2024"}
    text = make("mine", **own)
    for fact in ("| Images | 15 |", "CC BY 4.0", "Me, 2024", "1 exact and 0 near", "masks/9.png"):
        assert fact in text
    assert "| Patients | not told |" in text
    assert re.search(r"\| grouped \| 0\.0 of \d+ \| 0\.0 \| 0\.0 \|", text)
    assert "Phantom" not in text
    pictures = re.findall(r"\((\S+\.png)\)", text)
    assert len(pictures) == 3
    for picture in pictures:
        with Image.open(Path("cards") / picture) as image:
            image.verify()
    assert len(list(Path("cards").iterdir())) == 4


@pytest.mark.slow
def test_a_card_tells_patients_and_what_a_naive_split_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve images of one patient, and eight of their own: counted from the splits themselves."""
    monkeypatch.chdir(tmp_path)
    members = two_folders("", count=20)
    rows = [f"{n};{'same' if n <= 12 else n}" for n in range(1, 21)]
    members["list.csv"] = "\n".join(["image;patient", *rows]).encode("utf-8-sig")
    write_zip(tmp_path / "a.zip", members)
    table = {"file": "list.csv", "patient": "patient"}
    text = make("mine", kind="folder", archive="a.zip", table=table)
    assert "| Patients | 9, with up to 12 images each |" in text
    manifest = read_manifest("mine")
    same = set(manifest.loc[manifest["patient"] == "same", "id"])
    leaked = []
    for seed in range(10):
        subsets = assign(manifest, seed, Split())
        tested = {i for i, subset in subsets.items() if subset == "test"} & same
        trained = {i for i, subset in subsets.items() if subset == "train"} & same
        leaked.append(len(tested) if trained else 0)
    assert f"| naive | {sum(leaked) / 10:.1f} of 3 | {sum(leaked) / 10:.1f} |" in text
    assert re.search(r"\| grouped \| 0\.0 of \d+ \| 0\.0 \| 0\.0 \|", text)


@pytest.mark.slow
def test_a_phantom_s_card_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = make("phantom", kind="phantom", images=12, size=64)
    assert "Phantom data" in text
    assert "None (equal pixels" in text


def test_a_set_that_was_not_filtered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DmfError, match="does not exist"):
        write_card("busi", Path("cards"))
    assert not Path("cards").exists()

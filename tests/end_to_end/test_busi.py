"""The whole way of the data on the real BUSI images, where their archive is at hand."""

import json
import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmf.data import raw
from dmf.data.arrays import Arrays, read_arrays
from dmf.data.cards import write_card
from dmf.data.download import download
from dmf.data.filtering import filter_dataset
from dmf.data.splits import assign, leaked_images
from dmf.settings import Filter, Split
from dmf.study import DownloadParameters, FilterParameters

DATASETS = Path(__file__).parents[3] / "shared" / "datasets"
ARCHIVE = Path(os.environ.get("DMF_BUSI_ARCHIVE") or DATASETS / "Dataset_BUSI.zip")
KNOWN = DATASETS / "busi_near_duplicates.json"


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the archive of BUSI is not here")
def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, because everything in it needs the same download."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DMF_BUSI_ARCHIVE", raising=False)
    settings = {
        "source": {"kind": "busi", "archive": str(ARCHIVE)},
        "problems": "refuse",
        "duplicates": {"threshold": 0.9},
    }
    download("busi", DownloadParameters.model_validate(settings), tmp_path)
    filter_dataset("busi", FilterParameters(image_size=128, filter=Filter()))
    manifest = raw.read_manifest("busi")

    images_are_read(manifest, read_arrays(Path("data/filtered/busi.json")))
    known_duplicates_are_found(manifest)
    if KNOWN.exists():
        duplicates_of_another_method_are_found(manifest)
    splits_are_exact(manifest)
    card_states_the_facts()


def images_are_read(manifest: pd.DataFrame, arrays: Arrays) -> None:
    assert manifest["class"].value_counts().to_dict() == {"benign": 437, "malignant": 210}
    assert (manifest["masks"] == 2).sum() == 16
    assert (manifest["masks"] == 3).sum() == 1
    assert (manifest["foreground"] > 0).all()
    assert raw.read_description("busi")["ignored"] == {"normal": 5}
    assert arrays.masks.mean() == pytest.approx(0.0944, abs=5e-4)
    assert arrays.originals.shape == (647, 128, 128)
    by_class = manifest.groupby("class")["foreground"].mean()
    assert by_class["benign"] == pytest.approx(0.069, abs=5e-4)
    assert by_class["malignant"] == pytest.approx(0.147, abs=5e-4)


def known_duplicates_are_found(manifest: pd.DataFrame) -> None:
    group = manifest.set_index("id")["group"]
    assert group["benign_433"] == group["malignant_145"]  # the same pixels
    assert group["benign_42"] == group["benign_131"] == group["malignant_51"]
    assert group["benign_333"] == group["malignant_78"]  # the same scan in another frame
    assert group["malignant_65"] == group["malignant_66"]  # enlarged 1.4 times
    assert group["malignant_4"] == group["malignant_9"]  # frames of one film
    assert group["benign_256"] != group["benign_292"]  # nothing in common but a label


def duplicates_of_another_method_are_found(manifest: pd.DataFrame) -> None:
    """All pairs of a list that correlation of thumbnails gave."""
    group = manifest.set_index("id")["group"].to_dict()
    listed = [
        [name.replace(" (", "_").rstrip(")") for name in names]
        for names in json.loads(KNOWN.read_text())
    ]
    pairs = [p for names in listed for p in combinations([n for n in names if n in group], 2)]
    assert len(pairs) == 80
    assert all(group[first] == group[second] for first, second in pairs)


def splits_are_exact(manifest: pd.DataFrame) -> None:
    for seed in range(3):
        leaked = {}
        for kind in ("naive", "grouped"):
            subsets = assign(manifest, seed, Split.model_validate({"kind": kind}))
            assert subsets.value_counts().to_dict() == {"train": 453, "validation": 97, "test": 97}
            benign = subsets[np.array(manifest["class"] == "benign")]
            assert benign.value_counts().tolist() == [306, 66, 65]
            leaked[kind] = leaked_images(manifest, subsets)
        assert leaked["grouped"] == 0
        assert leaked["naive"] > 20


def card_states_the_facts() -> None:
    write_card("busi", Path("cards"))
    text = Path("cards/busi.md").read_text()
    for fact in ("| Images | 647 |", "| benign | 437 | 6.9% |", "9.4% of all pixels", "CC BY 4.0"):
        assert fact in text
    assert "benign_433, malignant_145" in text
    assert sorted(path.name for path in Path("cards").iterdir()) == [
        "busi-duplicates.png",
        "busi-examples.png",
        "busi-histogram.png",
        "busi.md",
    ]

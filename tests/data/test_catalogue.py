"""Every set of the catalogue is described, and read by what its entry says."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dmf.data import raw
from dmf.data.catalogue import entries, reading_of, subjects_of
from dmf.data.download import download
from dmf.data.splits import write_split
from dmf.errors import DmfError
from dmf.settings import ArchiveSource, FolderSource, Split, Table
from dmf.study import PAPER_DATASETS, DownloadParameters

from sets import breast, bus_bra, bus_uclm, ellipse, png, scan, stu, two_folders, udiat, write_zip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, without the variables that name archives."""
    for name in entries():
        monkeypatch.delenv(f"DMF_{name.upper()}_ARCHIVE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def get(name: str, **source: Any) -> dict[str, Any]:
    """Run the download step and return manifest.json."""
    values = {"source": {"kind": name, **source}, "problems": "refuse", "duplicates": {}}
    download(name, DownloadParameters.model_validate(values), Path.cwd())
    return raw.read_description(name)


def test_every_entry_is_whole() -> None:
    assert set(PAPER_DATASETS) < set(entries())
    for name, entry in entries().items():
        assert ArchiveSource(kind=name).kind == name
        assert entry.images > 0, name
        assert entry.citation, name
        assert entry.licence, name
        assert entry.page.startswith("https://"), name
        assert all(str(p).startswith(("https://", "Kaggle ")) for p in entry.places), name


def test_a_threshold_that_is_given_is_obeyed_or_refused() -> None:
    assert reading_of(ArchiveSource(kind="stu")).mask_threshold == 127
    assert reading_of(ArchiveSource(kind="stu", mask_threshold=99)).mask_threshold == 99
    with pytest.raises(DmfError, match="the masks of bus_uclm are told by their values"):
        reading_of(ArchiveSource(kind="bus_uclm", mask_threshold=99))


def test_what_the_settings_say_goes_before_the_catalogue() -> None:
    table = Table(file="mine.csv", lesion="class")
    told = subjects_of(ArchiveSource(kind="bus_uclm", table=table))
    assert told.table == table
    assert told.patient_pattern == r"^(\w{4})_"
    own = FolderSource(kind="folder", archive="x", patient_pattern="(a)")
    assert subjects_of(own).patient_pattern == "(a)"
    assert subjects_of(ArchiveSource(kind="udiat")).table is None


@pytest.mark.parametrize("name", ["bus_bra", "bus_uclm"])
def test_sets_with_a_table_name_its_columns(name: str) -> None:
    table = subjects_of(ArchiveSource(kind=name)).table
    assert table is not None
    assert table.lesion


# Each set in its own layout, read with the settings of the catalogue alone

LAYOUTS = {
    "bus_bra": (bus_bra, {"benign": 8, "malignant": 4}, 6),
    "breast": (breast, {"lesion": 12}, 12),
    "udiat": (udiat, {"lesion": 12}, 0),
    "bus_uclm": (bus_uclm, {"benign": 4, "malignant": 4}, 4),
    "stu": (stu, {"lesion": 12}, 0),
}


def test_every_set_of_the_catalogue_has_its_layout_here() -> None:
    assert {*LAYOUTS, "busi", "busc", "bus"} == set(entries())


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_sets_are_read_by_their_entries(name: str, home: Path) -> None:
    make, classes, patients = LAYOUTS[name]
    write_zip(home / "a.zip", make())
    description = get(name, archive="a.zip")
    assert description["problems"] == []
    manifest = raw.read_manifest(name)
    assert manifest["class"].value_counts().to_dict() == classes
    assert manifest.loc[manifest["patient"] != "", "patient"].nunique() == patients
    # Every mask is the one of its image: its centre tells.
    for (image, mask), row in zip(
        raw.read_images(name, manifest, 2), manifest.to_dict("records"), strict=True
    ):
        number = int("".join(filter(str.isdigit, row["id"])))
        place = {"bus_bra": number / 10, "stu": number / 20}.get(name, 0.5)
        expected = ellipse(*image.shape, x=place) > 0
        assert np.mean((mask > 0) != expected) < 0.01


@pytest.mark.parametrize("name", ["bus_bra", "bus_uclm"])
def test_no_patient_is_in_two_subsets(name: str, home: Path) -> None:
    write_zip(home / "a.zip", LAYOUTS[name][0]())
    get(name, archive="a.zip")
    write_split(name, 0, Split(kind="grouped", train=0.5, validation=0.25, test=0.25))
    subset = pd.read_csv(f"data/splits/{name}/seed-00.csv")["subset"]
    assert (subset.groupby(raw.read_manifest(name)["patient"]).nunique() == 1).all()


def test_a_set_that_is_given_out_on_request_says_where(home: Path) -> None:
    with pytest.raises(DmfError, match=r"udiat has no public address.*helward.*UDIAT_ARCHIVE="):
        get("udiat")


def test_five_frames_a_lesion_are_kept_together_where_the_numbering_holds(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Frames of four lesions, a little brighter one after the other."""
    frames = two_folders("", count=20)
    for n in range(1, 21):
        brightness = 0.8 + (n - 1) % 5 / 20
        frames[f"images/{n}.png"] = png(
            (scan((n - 1) // 5, 128, 128) * brightness).astype(np.uint8)
        )
    write_zip(home / "a.zip", frames)
    assert get("busc", archive="a.zip")["lesions_by_numbering"] is True
    assert "five nearly equal frames" in capsys.readouterr().err
    manifest = raw.read_manifest("busc").set_index("id")
    assert (
        manifest.loc["6", "patient"]
        == manifest.loc["10", "patient"]
        != manifest.loc["11", "patient"]
    )
    write_zip(home / "a.zip", two_folders("", count=20))
    assert get("busc", archive="a.zip")["lesions_by_numbering"] is False
    assert "the names are no numbering of 5 frames a lesion" in capsys.readouterr().err
    assert raw.read_manifest("busc")["patient"].eq("").all()

"""The download step: sources in order, trust, every published layout, all or nothing."""

import os
import shutil
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dmf.data import catalogue, download, raw
from dmf.data.catalogue import Kaggle, Web
from dmf.data.transfer import CertificateError, Policy
from dmf.errors import DmfError
from dmf.files import read_json, sha256_file
from dmf.layout import CHECKSUMS, DOWNLOADS, RAW
from dmf.study import DownloadParameters, Study

from sets import busi, ellipse, png, scan, two_folders, write_zip
from web import Site, serve

REPOSITORY = Path(__file__).resolve().parents[2]
HASTY = Policy(attempts=2, connect=2, read=0.3, sleep=lambda seconds: None)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, without the variables that name archives."""
    for name in ("BUSI", "BUSC", "BUS", "MINE"):
        monkeypatch.delenv(f"DMF_{name}_ARCHIVE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parameters(problems: str = "refuse", **source: Any) -> DownloadParameters:
    return DownloadParameters.model_validate(
        {"source": source, "problems": problems, "duplicates": {"threshold": 0.9}}
    )


def get(dataset: str, problems: str = "refuse", **source: Any) -> dict[str, Any]:
    """Run the download step and return manifest.json."""
    source = {"kind": dataset} | source
    download.download(dataset, parameters(problems, **source), Path.cwd(), HASTY)
    return raw.read_description(dataset)


def fails(match: str, dataset: str = "busc", **source: Any) -> str:
    """Check that a download fails with a message and leaves no raw folder."""
    with pytest.raises(DmfError, match=match) as caught:
        get(dataset, **source)
    left = [path.name for path in RAW.iterdir() if not path.name.endswith(".lock")]
    assert left == [], "something half-written is left"
    return str(caught.value)


@pytest.fixture
def busc_zip(home: Path) -> Path:
    members = two_folders("BUSC Dataset/BUSC_Dataset/Segmentation/")
    return write_zip(home / "archives" / "busc.zip", members)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets the places BUSC comes from."""

    def use(*new: Web | Kaggle) -> None:
        entry = catalogue.entries()["busc"].model_copy(update={"places": list(new)})
        monkeypatch.setitem(catalogue.entries(), "busc", entry)

    return use


# Local archives and the layouts of the three sets


def test_busi(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = write_zip(home / "BUSI.zip", busi())
    description = get("busi", archive="BUSI.zip")
    manifest = raw.read_manifest("busi")
    assert manifest["class"].value_counts().to_dict() == {"benign": 12, "malignant": 8}
    assert manifest.set_index("id")["masks"].drop(["benign_2", "malignant_1"]).eq(1).all()
    assert manifest.set_index("id")["masks"][["benign_2", "malignant_1"]].tolist() == [2, 3]
    assert description["ignored"] == {"normal": 2}
    assert description["archive_sha256"] == sha256_file(archive)
    assert description["problems"] == []
    assert description["synthetic"] is False
    assert "Al-Dhabyani" in description["citation"]
    told = capsys.readouterr().err
    for part in ("licence", "Al-Dhabyani", "check both at the source", "647 images were expected"):
        assert part in told
    images = raw.read_images("busi", manifest, 2)
    for (image, mask), row in zip(images, manifest.to_dict("records"), strict=True):
        assert image.shape == mask.shape == (row["height"], row["width"])
        assert abs((mask > 0).mean() - row["foreground"]) < 1e-6


@pytest.mark.parametrize(
    ("dataset", "top"),
    [
        ("busc", "BUSC Dataset/BUSC_Dataset/Segmentation/"),
        ("busc", ""),
        ("bus", "BUS Synthetic Dataset/BUS_synthetic_dataset/"),
        ("bus", "BUS Synthetic Dataset/"),
    ],
)
@pytest.mark.slow
def test_both_nestings_give_the_same_manifest(dataset: str, top: str, home: Path) -> None:
    write_zip(home / "a.zip", two_folders(top))
    get(dataset, archive="a.zip")
    manifest = raw.read_manifest(dataset)
    write_zip(home / "b.zip", two_folders("x/y/"))
    get(dataset, archive="b.zip")
    assert raw.read_manifest(dataset).drop(columns="source").equals(manifest.drop(columns="source"))
    assert manifest["id"].tolist() == sorted(str(n) for n in range(1, 13))


def test_a_folder_will_do_and_the_variable_goes_first(
    home: Path, busc_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.unpack_archive(busc_zip, home / "unpacked")
    monkeypatch.setenv("DMF_BUSC_ARCHIVE", str(home / "unpacked"))
    from_folder = get("busc", archive="nowhere.zip")
    monkeypatch.delenv("DMF_BUSC_ARCHIVE")
    from_archive = get("busc", archive=str(busc_zip))
    assert from_folder["contents_sha256"] == from_archive["contents_sha256"]
    monkeypatch.setenv("DMF_BUSC_ARCHIVE", "gone.zip")
    with pytest.raises(DmfError, match=r"DMF_BUSC_ARCHIVE names .*gone.zip, which does not exist"):
        get("busc")


def test_relative_archives_are_relative_to_the_root(
    home: Path, busc_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "build").mkdir()
    monkeypatch.chdir(home / "build")
    given = parameters(kind="busc", archive="archives/busc.zip")
    download.download("busc", given, home)
    assert (home / "build/data/raw/busc/manifest.csv").is_file()


def test_an_archive_that_changed_since_is_noticed(
    home: Path, busc_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parameters(kind="busc", archive=str(busc_zip))
    assert download.changed_since("busc", given, home) is None  # nothing was made yet
    get("busc", archive=str(busc_zip))
    assert download.changed_since("busc", given, home) is None
    later = (RAW / "busc/manifest.json").stat().st_mtime + 10
    os.utime(busc_zip, (later, later))
    assert download.changed_since("busc", given, home) is None  # its date says nothing
    write_zip(busc_zip, two_folders("x/y/"))
    os.utime(busc_zip, (later, later))
    assert download.changed_since("busc", given, home) == busc_zip
    busc_zip.unlink()
    assert download.changed_since("busc", given, home) is None
    other = write_zip(home / "other.zip", two_folders("z/"))
    monkeypatch.setenv("DMF_BUSC_ARCHIVE", str(other))
    assert download.changed_since("busc", given, home) == other


def test_a_folder_and_a_table_that_changed_since_are_noticed(home: Path) -> None:
    for n in range(12):
        (home / "own/scans").mkdir(parents=True, exist_ok=True)
        (home / "own/truth").mkdir(exist_ok=True)
        (home / f"own/scans/{n}.png").write_bytes(png(scan(n)))
        (home / f"own/truth/{n}.png").write_bytes(png(ellipse()))
    table = write_bytes(
        home / "t.csv", b"ID,Case\n" + b"".join(b"%d,%d\n" % (n, n) for n in range(12))
    )
    own = {"images": "scans", "masks": "truth", "licence": "mine", "citation": "me"}
    own |= {"table": {"file": "t.csv", "image": "ID", "patient": "Case"}}
    get("mine", kind="folder", archive="own", **own)
    given = parameters(kind="folder", archive="own", **own)
    assert download.changed_since("mine", given, home) is None
    later = (RAW / "mine/manifest.json").stat().st_mtime + 10
    content = table.read_bytes()
    os.utime(table, (later, later))
    assert download.changed_since("mine", given, home) is None  # its date says nothing
    table.write_bytes(content.replace(b"3,3", b"3,4"))
    assert download.changed_since("mine", given, home) == table
    table.write_bytes(content)
    os.utime(write_bytes(home / "own/scans/3.png", png(scan(99))), (later, later))
    assert download.changed_since("mine", given, home) == home / "own"


def test_the_same_archive_gives_the_same_bytes_wherever_it_lies(home: Path, busc_zip: Path) -> None:
    def contents() -> dict[str, bytes]:
        files = (path for path in (RAW / "busc").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    get("busc", archive=str(busc_zip))
    first = contents()
    (home / "other").mkdir()
    get("busc", archive=str(shutil.copy(busc_zip, home / "other" / "busc.zip")))
    assert contents() == first


def test_own_set_with_three_classes(home: Path) -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[:20], mask[40:] = 100, 200
    members = {f"scans/{n}.png": png(scan(n)) for n in range(12)}
    members |= {f"truth/{n}.png": png(mask) for n in range(12)}
    write_zip(home / "own.zip", members)
    description = get(
        "mine",
        kind="folder",
        archive="own.zip",
        images="scans",
        masks="truth",
        class_values=[0, 200, 100],
        licence="CC BY 4.0",
        citation="Me, 2024",
    )
    assert (description["classes"], description["licence"]) == (3, "CC BY 4.0")
    manifest = raw.read_manifest("mine")
    _, read = next(raw.read_images("mine", manifest, 3))
    assert (read[0, 0], read[30, 0], read[50, 0]) == (2, 0, 1)


def test_the_example_of_the_page_is_a_study(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    assert example.count("\n") <= 11
    (home / "mine.yaml").write_text(example)
    study = Study.load(REPOSITORY / "params.yaml", home / "mine.yaml")
    monkeypatch.setenv("DMF_MINE_ARCHIVE", str(write_zip(home / "a.zip", two_folders("any/"))))
    download.download("mine", study.download_parameters("mine"), home)
    assert raw.read_description("mine")["licence"] == "CC BY 4.0"


def test_phantoms_are_generated_and_labelled() -> None:
    description = get("phantom", images=12, size=64)
    assert description["synthetic"] is True
    assert description["images"] == 12
    assert raw.read_manifest("phantom")["group"].tolist() == list(range(12))


def test_duplicates_are_in_the_manifest(home: Path) -> None:
    members = two_folders("")
    members["images/7.png"] = members["images/3.png"]
    members["images/9.png"] = png(scan(3, 128, 128)[:110])
    members["masks/9.png"] = png(ellipse(110, 128))
    write_zip(home / "a.zip", members)
    report = get("busc", archive="a.zip")["duplicates"]
    group = raw.read_manifest("busc").set_index("id")["group"]
    assert group["3"] == group["7"] == group["9"]
    assert group.nunique() == 10
    assert (report["groups"], report["images"]) == (1, 3)
    assert report["pairs"] == {"near": 2, "exact": 1}
    pairs = (RAW / "busc" / "duplicates.csv").read_text().splitlines()
    assert pairs[1:2] == ["3,7,exact,1.0"]


# Problems: refused or skipped; nothing half-written; a rerun after mending succeeds


def broken(home: Path) -> dict[str, bytes]:
    members = two_folders("")
    del members["masks/1.png"]
    members["images/2.png"] = members["images/2.png"][:300]
    members["masks/3.png"] = png(np.zeros((128, 128), np.uint8))
    members["masks/4.png"] = png(ellipse(64, 64))
    flipped = bytearray(members["images/5.png"])
    flipped[len(flipped) // 2] ^= 1
    members["images/5.png"] = bytes(flipped)
    write_zip(home / "broken.zip", members)
    return members


def test_problems_are_counted_and_named(home: Path) -> None:
    broken(home)
    message = fails("5 problems", archive="broken.zip")
    for part in ("1 missing mask", "2 unreadable", "1 empty mask", "1 size mismatch"):
        assert part in message
    for name in ("images/1.png", "images/2.png", "masks/3.png", "masks/4.png", "images/5.png"):
        assert name in message
    assert "data.problems: skip" in message
    write_zip(home / "broken.zip", two_folders(""))
    assert get("busc", archive="broken.zip")["images"] == 12


def test_problems_can_be_skipped(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken(home)
    description = get("busc", problems="skip", archive="broken.zip")
    assert description["images"] == 7
    assert raw.read_manifest("busc")["id"].tolist() == sorted(str(n) for n in range(6, 13))
    assert len(description["problems"]) == 5
    assert "5 problems" in capsys.readouterr().err


def test_a_set_without_any_usable_image_is_refused_even_when_skipping(home: Path) -> None:
    members = {k: v if "images" in k else png(scan(1) * 0) for k, v in two_folders("").items()}
    write_zip(home / "empty.zip", members)
    message = fails("No usable image is left", problems="skip", archive="empty.zip")
    assert message.count("\n") < 15


def test_a_set_of_images_without_lesion_has_nothing_to_leave_out(home: Path) -> None:
    members = {f"scans/{n}.png": png(scan(n)) for n in range(3)}
    members |= {f"truth/{n}.png": png(scan(n) // 255) for n in range(3)}  # of 0 and 1
    write_zip(home / "own.zip", members)
    places = {"images": "scans", "masks": "truth", "without_lesion": "leave_out"}
    fails(
        "all are left aside .3 with an empty mask.*mask_threshold",
        "own",
        kind="folder",
        archive="own.zip",
        **places,
    )


def test_an_archive_that_cannot_be_read_is_named(
    home: Path, busc_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(download, "sha256_file", failing)
    fails(r"busc\.zip could not be read \(Input/output error\)", archive=str(busc_zip))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"PK\x03\x04 this is no zip", "damaged"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"Rar!\x1a\x07", "a RAR archive"),
    ],
)
def test_a_broken_archive_leaves_what_was_there(
    content: bytes, match: str, home: Path, busc_zip: Path
) -> None:
    fails(match, archive=str(write_bytes(home / "broken.zip", content)))
    get("busc", archive=str(busc_zip))
    before = read_json(RAW / "busc" / "manifest.json")
    with pytest.raises(DmfError, match=match):
        get("busc", archive="broken.zip")
    assert read_json(RAW / "busc" / "manifest.json") == before


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_an_interruption_leaves_nothing(
    home: Path, busc_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dmf.data.download.pixels.read_pair", interrupt)
        with pytest.raises(KeyboardInterrupt):
            get("busc", archive=str(busc_zip))
    assert not [path for path in RAW.iterdir() if path.is_dir()]
    (RAW / ".busc.partial" / "old").mkdir(parents=True)  # of a process that was killed
    assert get("busc", archive=str(busc_zip))["images"] == 12


def test_a_full_disk_is_named(home: Path, busc_zip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dmf.data.raw.cv2.imencode", full)
        message = fails("No space left", archive=str(busc_zip))
    assert "Free some space" in message


# Addresses


def test_the_first_place_that_delivers_is_taken(busc_zip: Path, places: Any) -> None:
    content = busc_zip.read_bytes()
    with serve(Site(b"", "404")) as dead, serve(Site(content, "half", "whole")) as alive:
        places(Kaggle(kaggle="someone/busc"), Web(address=dead.address), Web(address=alive.address))
        description = get("busc")
    assert description["address"] == alive.address
    assert description["checksum"] == "first use"
    assert read_json(CHECKSUMS) == {alive.address: sha256_file(busc_zip)}
    alive.ranges.clear()
    description = get("busc")  # the server is gone: the archive was kept
    assert description["checksum"] == "recorded"
    assert alive.ranges == []


def test_no_network_names_the_addresses_and_the_remedy(busc_zip: Path, places: Any) -> None:
    with serve(Site(b"")) as gone, serve(Site(b"", "503")) as busy:
        pass
    places(Web(address=gone.address), Web(address=busy.address))
    message = fails("busc could not be downloaded")
    for part in (gone.address, busy.address, "no connection", "DMF_BUSC_ARCHIVE", "datasets.busc"):
        assert part in message
    assert "Traceback" not in message
    assert get("busc", archive=str(busc_zip))["images"] == 12


@pytest.mark.parametrize("act", ["page", "404", "503", "stall"])
def test_a_server_that_does_not_deliver_is_explained(act: str, busc_zip: Path, places: Any) -> None:
    with serve(Site(b"x", act)) as site:
        places(Web(address=site.address))
        message = fails("could not be downloaded")
        reason = {"page": "a web page", "stall": "no answer in time"}.get(act, act)
        assert reason in message
        site.script, site.content = ["whole"], busc_zip.read_bytes()
        assert get("busc")["images"] == 12


def test_a_published_checksum_is_compared(busc_zip: Path, places: Any) -> None:
    content = busc_zip.read_bytes()
    with serve(Site(content)) as site:
        places(Web(address=site.address, sha256="0" * 64))
        message = fails("published one")
        assert sha256_file(busc_zip) in message
        assert not list(DOWNLOADS.glob("*.zip")), "a wrong archive must not be kept"
        places(Web(address=site.address, sha256=sha256_file(busc_zip)))
        assert get("busc")["checksum"] == "published"
    places(Web(address="http://other.invalid", sha256=sha256_file(busc_zip)))
    assert get("busc", archive=str(busc_zip))["checksum"] == "published"


def test_a_later_difference_is_an_error_that_says_so(
    home: Path, busc_zip: Path, places: Any
) -> None:
    with serve(Site(busc_zip.read_bytes())) as site:
        places(Web(address=site.address))
        get("busc")
        shutil.rmtree(DOWNLOADS)
        shutil.rmtree(RAW / "busc")
        other = write_zip(home / "other.zip", two_folders("", count=14))
        site.content, site.version = other.read_bytes(), '"v2"'
        message = fails("when this address was first used")
        assert str(CHECKSUMS) in message
        assert sha256_file(busc_zip) in message
        CHECKSUMS.write_text("{}")  # the remedy that the message names
        assert get("busc")["images"] == 14


def test_every_study_of_a_project_uses_what_one_has_fetched(
    busc_zip: Path, places: Any, tmp_path: Path
) -> None:
    with serve(Site(busc_zip.read_bytes())) as site:
        places(Web(address=site.address))
        get("busc")
    study = tmp_path / "build/mine"
    study.mkdir(parents=True)
    with chdir(study):  # and the server is gone
        download.download("busc", parameters("refuse", kind="busc"), tmp_path, HASTY)
        assert raw.read_description("busc")["checksum"] == "recorded"
    assert [path.name for path in (study / "data").iterdir()] == ["raw"]


def test_a_kept_archive_that_was_changed_is_noticed(busc_zip: Path, places: Any) -> None:
    with serve(Site(busc_zip.read_bytes())) as site:
        places(Web(address=site.address))
        get("busc")
    shutil.rmtree(RAW / "busc")
    kept = next(DOWNLOADS.glob("*.zip"))
    kept.write_bytes(kept.read_bytes() + b"x")
    assert str(kept) in fails("Delete .* to fetch it again")


def test_a_bad_certificate_is_accepted_only_with_a_published_checksum(
    busc_zip: Path, places: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host of BUSI is known for it; what it sends is then held against the checksum."""
    asked = []

    def fetch(
        address: str, target: Path, *, policy: Policy, verify_certificate: bool = True
    ) -> None:
        asked.append(verify_certificate)
        if verify_certificate:
            raise CertificateError("its certificate cannot be verified")
        shutil.copy(busc_zip, target)

    monkeypatch.setattr(download, "fetch", fetch)
    places(Web(address="https://example.invalid/a.zip"))
    fails("certificate")
    assert asked == [True]
    places(Web(address="https://example.invalid/a.zip", sha256=sha256_file(busc_zip)))
    assert get("busc")["images"] == 12
    assert asked == [True, True, False]


def test_kaggle_needs_a_client_and_credentials(
    home: Path, busc_zip: Path, places: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.unpack_archive(busc_zip, home / "kaggle")
    places(Kaggle(kaggle="someone/busc"))
    monkeypatch.setitem(__import__("sys").modules, "kagglehub", None)
    fails("needs the package kagglehub")
    known: list[object] = [None]
    client = SimpleNamespace(
        config=SimpleNamespace(get_kaggle_credentials=lambda: known[0]),
        dataset_download=lambda handle: str(home / "kaggle"),
    )
    monkeypatch.setitem(__import__("sys").modules, "kagglehub", client)
    fails("no credentials of Kaggle")
    known[0] = object()
    description = get("busc")
    assert (description["address"], description["images"]) == ("Kaggle someone/busc", 12)
    client.dataset_download = lambda handle: 1 / 0
    shutil.rmtree(RAW / "busc")
    fails("its client failed")


def test_swapped_masks_are_refused_even_where_problems_are_skipped(home: Path) -> None:
    members = two_folders("", count=4)
    for n in (1, 2, 3):
        members[f"masks/{n}.png"] = png(255 - ellipse(128, 128))
    archive = write_zip(home / "swapped.zip", members)
    with pytest.raises(DmfError, match=r"Most masks are implausible.* class_values"):
        get("mine", archive=str(archive), kind="folder", problems="skip")

"""Reports of published studies follow from their records, and what git shows of them is current."""

from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from dmf.errors import DmfError
from dmf.publication import FOLDER, STUDY, publish, published
from dmf.rebuild import (
    PICTURES,
    REPORT,
    RUNS,
    aggregate,
    readable_report,
    rebuild,
    report,
    runs_table,
)
from dmf.study import REBUILT, Study

import synthetic
from conftest import REPOSITORY
from pages import drawing_only

PUBLISHED = published(REPOSITORY / FOLDER)
pytestmark = pytest.mark.slow


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a published study of phantom images that lacks a run."""
    root = tmp_path_factory.mktemp("project")
    study = synthetic.make_study(configurations=["fixed", "none-variance"], seeds=2)
    synthetic.write_study(root, study, missing=[("phantom", "fixed", 1)])
    folder = root / FOLDER / "synthetic"
    with chdir(root):
        publish(study, folder, quiet)
    (root / PICTURES).mkdir(parents=True)
    (root / PICTURES / "synthetic-phantom-curves.png").touch()
    (root / REBUILT / "synthetic_grouped").mkdir(parents=True)  # of a study that left
    with drawing_only("phantom-curves"):
        rebuild([folder], root, quiet)
    return root


def test_a_report_is_complete_and_names_what_is_missing(project: Path) -> None:
    built = project / REBUILT / "synthetic"
    assert "seed 1: missing" in (built / "reports/index.html").read_text()
    assert len(list(built.glob("models/*/*/*/run.json"))) == 3
    assert list(built.glob("reports/tables/*.csv"))
    assert "left_out" in (built / "reports/figures/captions.json").read_text()


def test_what_was_built_of_a_study_that_left_is_not_read_again(project: Path) -> None:
    assert [place.name for place in (project / REBUILT).iterdir()] == ["synthetic"]


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    lock = tmp_path / REBUILT.with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    first = FileLock(lock)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        first.release()

    with first, pytest.raises(DmfError, match="nowhere"):
        rebuild([tmp_path / "nowhere"], tmp_path, say)
    assert "another process rebuilds reports; waiting" in said[0]


def test_without_a_published_study_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DmfError, match="holds no published study"):
        rebuild([], tmp_path, quiet)
    assert not list(tmp_path.iterdir())


def test_git_keeps_a_report_to_read_and_a_row_for_each_run(project: Path) -> None:
    folder = project / FOLDER / "synthetic"
    assert {path.name for path in folder.iterdir()} == {
        "study.yaml",
        "records.tar.xz",
        REPORT,
        RUNS,
    }
    head, *rows = (folder / RUNS).read_text().splitlines()
    assert head.startswith("dataset,configuration,seed,status,last_dice,last_cb_dice")
    assert [row.split(",")[1:4] for row in rows] == [
        ["fixed", "0", "complete"],
        ["none-variance", "0", "complete"],
        ["none-variance", "1", "complete"],
    ]
    assert "test processor" in rows[0]


def test_pictures_that_documents_show_are_renewed_and_linked(project: Path) -> None:
    shown = project / PICTURES / "synthetic-phantom-curves.png"
    drawn = project / REBUILT / "synthetic/reports/figures/phantom-curves.png"
    assert shown.read_bytes() == drawn.read_bytes()
    text = (project / FOLDER / "synthetic" / REPORT).read_text()
    assert "](../../../docs/images/published/synthetic-phantom-curves.png)" in text
    assert "](figures/" not in text
    assert "(`make published` draws it: phantom-weights.png)*" in text


def test_extra_studies_are_read_from_beside_and_are_not_their_own(tmp_path: Path) -> None:
    made = synthetic.make_study(
        {"busi": "busi"}, configurations=["fixed"], report={"extra_studies": "../{name}_{study}"}
    )
    for name, dice in (("synthetic_hard", 0.75), ("synthetic", 0.80)):
        study = made.model_copy(update={"grid": made.grid.model_copy(update={"name": name})})
        (tmp_path / "work" / name).mkdir(parents=True)
        with chdir(tmp_path / "work" / name):
            synthetic.write_study(Path(), study, dice={"fixed": dice}, noise=0, seed_spread=0)
            publish(study, tmp_path / FOLDER / name, quiet)
    said = "this study 80.00 %, hard losses 75.00 %"
    with drawing_only():
        rebuild([tmp_path / FOLDER / "synthetic"], tmp_path, quiet)
    assert said in (tmp_path / FOLDER / "synthetic" / REPORT).read_text()
    with drawing_only():
        rebuild([tmp_path / FOLDER / "synthetic_hard"], tmp_path, quiet)
    assert "hard losses 75" not in (tmp_path / FOLDER / "synthetic_hard" / REPORT).read_text()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all published studies, from their records."""
    place = tmp_path_factory.mktemp("published")
    for folder in PUBLISHED:
        aggregate(folder, place / folder.name)
    return place


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_what_git_shows_follows_from_the_records(folder: Path, built: Path) -> None:
    """Pictures may differ in a few pixels between machines, texts in nothing."""
    pictures = list((REPOSITORY / PICTURES).glob(f"{folder.name}-*.png"))
    place = built / folder.name
    with drawing_only(*(path.stem.partition("-")[2] for path in pictures)):
        report(folder, place)
    kept = readable_report(folder, place, REPOSITORY / PICTURES)
    assert kept == (folder / REPORT).read_text(encoding="utf-8")
    assert runs_table(folder, place) == (folder / RUNS).read_text(encoding="utf-8")
    for picture in pictures:
        drawn = place / "reports/figures" / picture.name.partition("-")[2]
        assert difference(picture, drawn) < 1, picture


def test_results_in_git_are_few_and_small() -> None:
    names = {path.name for folder in PUBLISHED for path in folder.rglob("*")}
    assert names == {"study.yaml", "records.tar.xz", REPORT, RUNS}
    for folder in PUBLISHED:
        runs = len((folder / RUNS).read_text().splitlines()) - 1
        hundreds = max(1, Study.load(folder / STUDY).training.epochs / 100)  # of epochs in a run
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert size < 30_000 * hundreds * runs + 100_000


def difference(one: Path, other: Path) -> float:
    """Return the mean difference of two pictures in grey levels of 255; infinite by size."""
    first, second = (
        np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (one, other)
    )
    return float(np.abs(first - second).mean()) if first.shape == second.shape else float("inf")

"""Published studies: what is copied, and that their reports follow from it alone."""

import re
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmf import publish
from dmf.analysis import figures
from dmf.errors import DmfError
from dmf.study import Study
from dmf.training.run import Run, train

import synthetic
from conftest import REPOSITORY, StudyMaker

PUBLISHED = publish.published(REPOSITORY / publish.FOLDER)
EMBEDDED = re.compile(r"data:image/png;base64,[\w+/=]+")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of phantom images with a missing run, published."""
    folder = tmp_path_factory.mktemp("study")
    study = synthetic.make_study(configurations=["fixed", "none-variance"], seeds=2)
    synthetic.write_study(folder, study, missing=[("phantom", "fixed", 1)])
    with chdir(folder):
        publish.publish(study, folder / "out")
    publish.rebuild(folder / "out")
    return folder / "out"


def test_neither_images_nor_models_are_copied(copy: Path) -> None:
    records = {path.suffix for path in copy.rglob("*") if path.is_file()}
    assert records <= {".csv", ".json", ".yaml", ".md", ".tex", ".html", ".png", ".pdf"}
    pictures = {path.parent.name for path in [*copy.rglob("*.png"), *copy.rglob("*.pdf")]}
    assert pictures == {"figures"}
    assert not list(copy.rglob("*.npz"))
    captions = (copy / "reports/figures/captions.json").read_text()
    assert "left_out" in captions


def test_the_report_names_what_is_missing(copy: Path) -> None:
    page = (copy / "reports/index.html").read_text()
    assert "seed 1: missing" in page
    assert len(list(copy.glob("models/*/*/*/run.json"))) == 3


def test_the_settings_are_the_studys_own(copy: Path) -> None:
    study = Study.load(copy / publish.STUDY)
    assert study.study.workdir == "."
    assert study.study.configurations == ["fixed", "none-variance"]


def test_publishing_again_replaces_what_was_there(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy, tmp_path / "work")
    (tmp_path / "out/models").mkdir(parents=True)
    (tmp_path / "out/models/stranger.csv").touch()
    study = Study.load(copy / publish.STUDY)
    with chdir(tmp_path / "work"):
        publish.publish(study, tmp_path / "out")
    assert not (tmp_path / "out/models/stranger.csv").exists()
    assert len(list(tmp_path.glob("out/models/*/*/*/history.csv"))) == 3


def test_a_study_can_be_finished_in_pieces(tiny_study: StudyMaker) -> None:
    """What was published counts as done; runs of other parameters do not."""
    one, two = tiny_study(), tiny_study(study={"seeds": 2})
    first, second = (Path(f"models/phantom/fixed/seed-0{seed}/metrics.json") for seed in (0, 1))
    assert publish.left(two, Path("out")) == [first, second]

    train(Run("phantom", "fixed", 0, one.run_parameters("fixed")), one.execution, quiet)
    publish.publish(one, Path("out"), quiet)
    shutil.rmtree("models")  # on another machine
    assert publish.left(two, Path("out")) == [second]

    train(Run("phantom", "fixed", 1, two.run_parameters("fixed")), two.execution, quiet)
    said: list[str] = []
    publish.publish(two, Path("out"), said.append)
    assert said == ["out: 1 runs from here, 1 from before"]
    assert publish.left(two, Path("elsewhere")) == [first]
    publish.rebuild(Path("out"), quiet)
    page = Path("out/reports/report.md").read_text()
    assert "2 of 2 runs complete" in page

    longer = tiny_study(training={"epochs": 4})
    assert publish.left(longer, Path("out")) == [first]
    train(Run("phantom", "fixed", 0, longer.run_parameters("fixed")), longer.execution, quiet)
    publish.publish(longer, Path("out"), said.append)
    assert said[-1].endswith("0 from before, 1 left out: not what this study would train")


def quiet(line: str) -> None:
    pass


def test_extra_studies_are_read_from_beside_and_are_not_their_own(tmp_path: Path) -> None:
    made = synthetic.make_study(
        {"busi": "busi"}, configurations=["fixed"], report={"extra_studies": "../{name}_{study}"}
    )
    for name, dice in (("synthetic_hard", 0.75), ("synthetic", 0.80)):
        study = made.model_copy(update={"study": made.study.model_copy(update={"name": name})})
        (tmp_path / "work" / name).mkdir(parents=True)
        with chdir(tmp_path / "work" / name):
            synthetic.write_study(Path(), study, dice={"fixed": dice}, noise=0, seed_spread=0)
            publish.publish(study, tmp_path / name, quiet)
        publish.rebuild(tmp_path / name, quiet)
    said = "this study 80.00 %, hard losses 75.00 %"
    assert said in (tmp_path / "synthetic/reports/report.md").read_text()
    assert "hard losses 75" not in (tmp_path / "synthetic_hard/reports/report.md").read_text()


def test_a_full_disk_leaves_what_was_published(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").touch()
    monkeypatch.chdir(copy)

    def full(*paths: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DmfError, match=r"No space left on device.*still there"):
        publish.publish(Study.load(copy / publish.STUDY), tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "kept"]


def test_a_study_without_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").touch()
    with pytest.raises(DmfError, match="no finished run of the study 'synthetic'"):
        publish.publish(synthetic.make_study(), tmp_path / "out")
    assert (tmp_path / "out/kept").exists()


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_committed_reports_follow_from_the_committed_records(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures may differ in a few pixels between machines, everything else in nothing."""
    monkeypatch.setattr(figures, "SUFFIXES", (".png",))  # writing PDF takes most of the time
    for other in PUBLISHED:  # a report also reads the studies beside it
        shutil.copytree(other, tmp_path / other.name)
    mine = tmp_path / folder.name
    shutil.rmtree(mine / "reports")
    publish.rebuild(mine)

    committed, rebuilt = (
        {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
        for root in (folder, mine)
    )
    assert committed == rebuilt | {
        name.with_suffix(".pdf") for name in rebuilt if name.suffix == ".png"
    }
    for name in sorted(rebuilt):
        if name.suffix == ".png":
            assert difference(folder / name, mine / name) < 1, name
        else:
            texts = (EMBEDDED.sub("", (root / name).read_text()) for root in (folder, mine))
            assert len(set(texts)) == 1, name


def difference(one: Path, other: Path) -> float:
    """Return the mean difference of two pictures in grey levels of 255; infinite by size."""
    first, second = (
        np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (one, other)
    )
    return float(np.abs(first - second).mean()) if first.shape == second.shape else float("inf")

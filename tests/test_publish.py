"""Published studies: what is copied and never lost, and that their reports follow from it alone."""

import os
import re
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dmf import publish
from dmf.analysis import figures
from dmf.cli import app
from dmf.errors import DmfError
from dmf.study import Study
from dmf.training import record
from dmf.training.record import Run
from dmf.training.train import train
from records import contents, write_record, write_run

import synthetic
from conftest import REPOSITORY, StudyMaker, tiny

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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny_seeds(seeds: int, **sections: dict[str, object]) -> Study:
    return Study.from_mapping(tiny(study={"seeds": seeds}, **sections))


def publish_two_seeds(here: Path) -> dict[str, bytes]:
    """Publish two runs to `out`, remove them here; return what is published."""
    for seed in (0, 1):
        write_run(tiny_seeds(2), seed)
    publish.publish(tiny_seeds(2), Path("out"), quiet)
    shutil.rmtree("models")
    return contents(here / "out")


def test_runs_of_other_parameters_are_named_and_go_only_when_told(here: Path) -> None:
    before = publish_two_seeds(here)
    longer = tiny_seeds(2, training={"epochs": 4})
    assert len(publish.left(longer, Path("out"))) == 2
    write_run(longer, 0)
    with pytest.raises(DmfError) as refused:
        publish.publish(longer, Path("out"), quiet)
    for part in (
        "2 published runs",
        "models/phantom/fixed/seed-00: other parameters\n",
        "models/phantom/fixed/seed-01: other parameters\n",
        "dmf publish --replace",
    ):
        assert part in str(refused.value)
    assert contents(here / "out") == before

    said: list[str] = []
    publish.publish(longer, Path("out"), said.append, replace=True)
    assert said == [
        "out: gone: models/phantom/fixed/seed-00: other parameters",
        "out: gone: models/phantom/fixed/seed-01: other parameters",
        "out: 1 runs from here, 0 from before",
    ]
    assert [path.parent.name for path in here.glob("out/models/*/*/*/run.json")] == ["seed-00"]


def test_runs_the_study_no_longer_names_are_named(here: Path) -> None:
    before = publish_two_seeds(here)
    write_run(tiny_seeds(1), 0)
    with pytest.raises(DmfError, match=r" 1 published runs .*\n.*seed-01: not part of the study"):
        publish.publish(tiny_seeds(1), Path("out"), quiet)
    assert contents(here / "out") == before


def test_runs_of_other_code_are_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_two_seeds(here)
    monkeypatch.setattr(record, "code_hash", lambda step: "another loss")
    write_run(tiny_seeds(2), 0)
    with pytest.raises(DmfError, match=r"seed-00: other code\n.*seed-01: other code\n"):
        publish.publish(tiny_seeds(2), Path("out"), quiet)


def test_damaged_records_are_named(here: Path) -> None:
    publish_two_seeds(here)
    Path("out/models/phantom/fixed/seed-00/run.json").write_text("[]")
    Path("out/models/phantom/fixed/seed-01/history.csv").write_text("")
    study = tiny_seeds(3)
    write_run(study, 2)
    assert len(publish.left(study, Path("out"))) == 2
    with pytest.raises(DmfError, match=r"seed-00: damaged\n.*seed-01: damaged\n"):
        publish.publish(study, Path("out"), quiet)


def test_the_same_runs_again_are_no_loss(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if meanwhile the code has changed, so that neither fits."""
    for seed in (0, 1):
        write_run(tiny_seeds(2), seed)
    for code in ("one", "another"):
        monkeypatch.setattr(record, "code_hash", lambda step, code=code: code)
        publish.publish(tiny_seeds(2), Path("out"), quiet)
    assert len(list(here.glob("out/models/*/*/*/run.json"))) == 2


def test_a_stale_run_here_does_not_replace_a_published_one_that_fits(here: Path) -> None:
    before = publish_two_seeds(here)
    write_run(tiny_seeds(3, training={"epochs": 4}), 0, text="stale")
    write_run(tiny_seeds(3), 2)
    said: list[str] = []
    publish.publish(tiny_seeds(3), Path("out"), said.append)
    assert said == ["out: 1 runs from here, 2 from before"]
    after = contents(here / "out")
    assert {name: after[name] for name in before if name != publish.STUDY} == {
        name: content for name, content in before.items() if name != publish.STUDY
    }


def test_counts_of_test_images_are_published_where_there_are_any(here: Path) -> None:
    write_run(tiny_seeds(2), 0)
    run = write_run(tiny_seeds(2), 1)
    (run.folder / "test_counts.csv").write_text("counts")
    write_record(run, "test_counts.csv")
    for _ in ("from here", "from before"):
        publish.publish(tiny_seeds(2), Path("out"), quiet)
        (counts,) = here.glob("out/**/test_counts.csv")
        assert counts.parent.name == "seed-01"
        shutil.rmtree(run.folder, ignore_errors=True)


def test_the_command_refuses_and_replaces(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "rebuild", lambda *given: None)
    Path("params.yaml").write_text(yaml.safe_dump(tiny_seeds(1).model_dump(mode="json")))
    Path("reports/published").mkdir(parents=True)
    publish_two_seeds(here)
    Path("out").rename("reports/published/tiny")
    write_run(tiny_seeds(1), 0)
    with pytest.raises(DmfError, match="--replace"):
        app(["publish"], standalone_mode=False)
    app(["publish", "--replace"], standalone_mode=False)
    assert len(list(here.glob("reports/published/tiny/models/*/*/*/run.json"))) == 1


KILLS = {
    "while copying": (shutil, "copyfile", 3, "old"),
    "before the old is set aside": (Path, "rename", 1, "old"),
    "while nothing is in its place": (Path, "rename", 2, "old"),
    "before the old is deleted": (shutil, "rmtree", 1, "new"),
    "while the old is deleted": (os, "unlink", 3, "new"),
}


@pytest.mark.parametrize(("module", "name", "call", "survives"), KILLS.values(), ids=KILLS)
def test_a_kill_loses_nothing(
    here: Path, module: object, name: str, call: int, survives: str
) -> None:
    """The process ends at its n-th call of a function, without any chance to clean up."""
    old = publish_two_seeds(here)
    study = tiny_seeds(3)
    write_run(study, 2)
    child = os.fork()
    if not child:
        kill_at(module, name, call)
        publish.publish(study, Path("out"), quiet)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert set(publish.published(here)) <= {here / "out"}

    assert publish.left(study, Path("out")) == []
    if survives == "old":
        assert contents(here / "out") == old
    else:
        assert len(list(here.glob("out/models/*/*/*/run.json"))) == 3
    assert not list(here.glob(".out*"))
    said: list[str] = []
    publish.publish(study, Path("out"), said.append)
    assert said == ["out: 1 runs from here, 2 from before"]


def kill_at(module: object, name: str, call: int) -> None:
    """Let this process end at the given call of a function."""
    original, calls = getattr(module, name), iter(range(1, call))

    def counted(*arguments: object, **options: object) -> object:
        if next(calls, None) is None:
            os._exit(9)
        return original(*arguments, **options)

    setattr(module, name, counted)


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


def test_committed_records_are_whole() -> None:
    """Their files are those whose hashes they name, the models aside, which are not in git."""
    folders = [path.parent for study in PUBLISHED for path in study.glob("models/*/*/*/run.json")]
    assert folders
    for folder in folders:
        assert record.complete_record(folder, models=False) is not None, folder


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

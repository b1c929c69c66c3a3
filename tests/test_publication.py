"""The records of finished studies in git: what is kept, never lost, and refused."""

import io
import lzma
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest
import yaml
from filelock import FileLock

from dmf import publication
from dmf.cli import app
from dmf.errors import DmfError
from dmf.layout import Cell
from dmf.study import Study
from dmf.training import run_record
from dmf.training.run_record import Run
from dmf.training.train import train

import synthetic
from conftest import REPOSITORY, StudyMaker, dmf, tiny
from run_folders import contents, write_record, write_run

PUBLISHED = publication.published(REPOSITORY / publication.FOLDER)


def kept(target: Path) -> dict[str, bytes]:
    """Return every record that is published in ``target``, with its bytes."""
    with publication.unpacked(target) as folder:
        return contents(folder)


def runs(target: Path) -> list[str]:
    """Return the seeds whose runs are published in ``target``."""
    return [Path(name).parent.name for name in kept(target) if name.endswith("run.json")]


@pytest.mark.slow
def test_a_study_can_be_finished_in_pieces(tiny_study: StudyMaker) -> None:
    """What was published counts as done; runs of other parameters do not."""
    one, two = tiny_study(), tiny_study(study={"seeds": 2})
    first, second = (Path(f"models/phantom/fixed/seed-0{seed}/metrics.json") for seed in (0, 1))
    assert publication.left(two, Path("out")) == [first, second]

    train(Run(Cell("phantom", "fixed", 0), one.run_parameters("fixed")), one.execution, quiet)
    publication.publish(one, Path("out"), quiet)
    shutil.rmtree("models")  # on another machine
    assert publication.left(two, Path("out")) == [second]

    train(Run(Cell("phantom", "fixed", 1), two.run_parameters("fixed")), two.execution, quiet)
    said: list[str] = []
    publication.publish(two, Path("out"), said.append)
    assert said == ["out: 1 runs from here, 1 from before"]
    assert publication.left(two, Path("elsewhere")) == [first]
    assert runs(Path("out")) == ["seed-00", "seed-01"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny_seeds(seeds: int, **sections: dict[str, object]) -> Study:
    return Study.from_mapping(tiny(study={"seeds": seeds}, **sections))


def write_scores(**dice: float) -> None:
    rows = [f"phantom/fixed/{seed.replace('_', '-')},last,{value}" for seed, value in dice.items()]
    path = Path("reports/evaluations/other.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["run,weights,dice", *rows]) + "\n")


def test_scores_on_other_sets_are_kept_with_the_runs_they_are_of(here: Path) -> None:
    """In pieces too: those of here go first, those of a run that is no longer the study's go."""
    grid = tiny_seeds(3).grid.model_copy(update={"evaluate_on": ["other"]})
    study = tiny_seeds(3).model_copy(update={"grid": grid})
    for seed in (0, 1):
        write_run(tiny_seeds(3), seed)
    write_scores(seed_00=0.5, seed_01=0.6, seed_09=0.1)
    publication.publish(study, Path("out"), quiet)
    shutil.rmtree("models")  # on another machine, where seed 0 is repeated
    shutil.rmtree("reports")
    for seed in (0, 2):
        write_run(tiny_seeds(3), seed)
    write_scores(seed_00=0.7, seed_02=0.8)
    publication.publish(study, Path("out"), quiet)
    text = kept(Path("out"))["reports/evaluations/other.csv"].decode()
    assert text.split() == [
        "run,weights,dice",
        "phantom/fixed/seed-00,last,0.7",
        "phantom/fixed/seed-01,last,0.6",
        "phantom/fixed/seed-02,last,0.8",
    ]


def publish_two_seeds(here: Path) -> dict[str, bytes]:
    """Publish two runs to `out`, remove them here; return what is published."""
    for seed in (0, 1):
        write_run(tiny_seeds(2), seed)
    publication.publish(tiny_seeds(2), Path("out"), quiet)
    shutil.rmtree("models")
    return kept(Path("out"))


def test_runs_of_other_parameters_are_named_and_go_only_when_told(here: Path) -> None:
    before = publish_two_seeds(here)
    longer = tiny_seeds(2, training={"epochs": 4})
    assert len(publication.left(longer, Path("out"))) == 2
    write_run(longer, 0)
    with pytest.raises(DmfError) as refused:
        publication.publish(longer, Path("out"), quiet)
    for part in (
        "2 published runs",
        "models/phantom/fixed/seed-00: other parameters\n",
        "models/phantom/fixed/seed-01: other parameters\n",
        "dmf publish --replace",
    ):
        assert part in str(refused.value)
    assert kept(Path("out")) == before

    said: list[str] = []
    publication.publish(longer, Path("out"), said.append, replace=True)
    assert said == [
        "out: gone: models/phantom/fixed/seed-00: other parameters",
        "out: gone: models/phantom/fixed/seed-01: other parameters",
        "out: 1 runs from here, 0 from before",
    ]
    assert runs(Path("out")) == ["seed-00"]


def test_runs_the_study_no_longer_names_are_named(here: Path) -> None:
    before = publish_two_seeds(here)
    write_run(tiny_seeds(1), 0)
    with pytest.raises(DmfError, match=r" 1 published runs .*\n.*seed-01: not part of the study"):
        publication.publish(tiny_seeds(1), Path("out"), quiet)
    assert kept(Path("out")) == before


def test_runs_of_other_code_are_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_two_seeds(here)
    monkeypatch.setattr(run_record, "code_hash", lambda step: "another loss")
    write_run(tiny_seeds(2), 0)
    with pytest.raises(DmfError, match=r"seed-00: other code\n.*seed-01: other code\n"):
        publication.publish(tiny_seeds(2), Path("out"), quiet)


def test_damaged_records_are_named(here: Path) -> None:
    publish_two_seeds(here)
    with publication.unpacked(Path("out")) as folder:
        (folder / "models/phantom/fixed/seed-00/run.json").write_text("[]")
        (folder / "models/phantom/fixed/seed-01/history.csv").write_text("")
        names = contents(folder)
        publication.pack({name: folder / name for name in names}, Path("out/records.tar.xz"))
    study = tiny_seeds(3)
    write_run(study, 2)
    assert len(publication.left(study, Path("out"))) == 2
    with pytest.raises(DmfError, match=r"seed-00: damaged\n.*seed-01: damaged\n"):
        publication.publish(study, Path("out"), quiet)


def test_the_same_runs_again_are_no_loss(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if meanwhile the code has changed, so that neither fits."""
    for seed in (0, 1):
        write_run(tiny_seeds(2), seed)
    for code in ("one", "another"):
        monkeypatch.setattr(run_record, "code_hash", lambda step, code=code: code)
        publication.publish(tiny_seeds(2), Path("out"), quiet)
    assert len(runs(Path("out"))) == 2


def test_a_stale_run_here_does_not_replace_a_published_one_that_fits(here: Path) -> None:
    before = publish_two_seeds(here)
    write_run(tiny_seeds(3, training={"epochs": 4}), 0, text="stale")
    write_run(tiny_seeds(3), 2)
    said: list[str] = []
    publication.publish(tiny_seeds(3), Path("out"), said.append)
    assert said == ["out: 1 runs from here, 2 from before"]
    after = kept(Path("out"))
    assert {name: after[name] for name in before} == before


def test_scores_of_a_stale_run_here_do_not_replace_published_ones(here: Path) -> None:
    def with_scores(seeds: int, **sections: dict[str, object]) -> Study:
        study = tiny_seeds(seeds, **sections)
        grid = study.grid.model_copy(update={"evaluate_on": ["other"]})
        return study.model_copy(update={"grid": grid})

    write_run(tiny_seeds(1), 0)
    write_scores(seed_00=0.9)
    publication.publish(with_scores(1), Path("out"), quiet)
    write_run(tiny_seeds(2, training={"epochs": 4}), 0, text="stale")
    write_run(tiny_seeds(2), 1)
    write_scores(seed_00=0.1, seed_01=0.8)
    publication.publish(with_scores(2), Path("out"), quiet)
    text = kept(Path("out"))["reports/evaluations/other.csv"].decode()
    assert text.split()[1:] == ["phantom/fixed/seed-00,last,0.9", "phantom/fixed/seed-01,last,0.8"]


@pytest.mark.parametrize("replace", [False, True])
def test_runs_the_study_would_not_train_are_never_published(here: Path, replace: bool) -> None:
    study = tiny_seeds(3)
    write_run(tiny_seeds(3, training={"epochs": 4}), 0)
    damaged = write_run(study, 1)
    (damaged.cell.folder / "history.csv").write_text("cut")
    write_run(study, 2)
    found = r"2 finished runs .*\n.*seed-00: other parameters\n.*seed-01: damaged\n.*Delete their"
    with pytest.raises(DmfError, match=found):
        publication.publish(study, Path("out"), quiet, replace=replace)
    assert not Path("out").exists()


def test_counts_of_test_images_are_published_where_there_are_any(here: Path) -> None:
    write_run(tiny_seeds(2), 0)
    run = write_run(tiny_seeds(2), 1)
    (run.cell.folder / "test_counts.csv").write_text("counts")
    write_record(run, "test_counts.csv")
    for _ in ("from here", "from before"):
        publication.publish(tiny_seeds(2), Path("out"), quiet)
        (counts,) = (name for name in kept(Path("out")) if name.endswith("test_counts.csv"))
        assert Path(counts).parent.name == "seed-01"
        shutil.rmtree(run.cell.folder, ignore_errors=True)


def test_the_command_refuses_and_replaces(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmf.rebuild.rebuild", lambda *given: None)
    settings = tiny_seeds(1).model_dump(mode="json", by_alias=True)
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    Path("reports/published").mkdir(parents=True)
    publish_two_seeds(here)
    Path("out").rename("reports/published/tiny")
    write_run(tiny_seeds(1), 0)
    with pytest.raises(DmfError, match="--replace"):
        app(["publish"], standalone_mode=False)
    app(["publish", "--replace"], standalone_mode=False)
    assert runs(Path("reports/published/tiny")) == ["seed-00"]


KILLS = {
    "while packing": (tarfile.TarFile, "addfile", 3, "old"),
    "before the old is set aside": (Path, "rename", 1, "old"),
    "while nothing is in its place": (Path, "rename", 2, "old"),
    "before the old is deleted": (shutil, "rmtree", 1, "new"),
    "while the old is deleted": (os, "unlink", 2, "new"),
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
        publication.publish(study, Path("out"), quiet)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert set(publication.published(here)) <= {here / "out"}

    assert publication.left(study, Path("out")) == []
    if survives == "old":
        assert kept(Path("out")) == old
    else:
        assert len(runs(Path("out"))) == 3
    assert not list(here.glob(".out*"))
    said: list[str] = []
    publication.publish(study, Path("out"), said.append)
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


def test_a_second_process_waits_and_keeps_the_runs_of_the_first(here: Path) -> None:
    write_run(tiny_seeds(2), 0)
    publication.publish(tiny_seeds(2), Path("first"), quiet)
    shutil.rmtree("models")
    write_run(tiny_seeds(2), 1)
    lock = FileLock(here / ".lock")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if lock.is_locked:
            Path("first").rename("out")
            lock.release()

    with lock:
        publication.publish(tiny_seeds(2), Path("out"), say)
    assert said == [
        "out: another process publishes; waiting for it",
        "out: 1 runs from here, 1 from before",
    ]
    assert runs(Path("out")) == ["seed-00", "seed-01"]


def test_left_prints_nothing_but_paths_while_another_publishes(here: Path) -> None:
    """Its output is what `snakemake` is called with."""
    settings = tiny_seeds(2).model_dump(mode="json", by_alias=True)
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    for seed in range(2):
        write_run(tiny_seeds(2), seed)
    shutil.rmtree("models")
    Path("reports/published/.tiny.partial").mkdir(parents=True)
    held = Event()

    def another() -> None:
        with FileLock(here / "reports/published/.lock"):
            held.set()
            time.sleep(0.5)

    Thread(target=another).start()
    held.wait()
    done = dmf("left")
    assert done.returncode == 0, done.stderr
    assert "another process publishes" in done.stderr
    assert done.stdout.split() == [
        f"models/phantom/fixed/seed-0{seed}/metrics.json" for seed in range(2)
    ]


def test_a_report_written_while_nothing_is_in_place_loses_nothing(here: Path) -> None:
    """Of a rebuild, which does not wait for who publishes."""
    before = publish_two_seeds(here)
    Path("out").rename(".out.old")
    Path("out").mkdir()
    Path("out/report.md").touch()
    assert publication.left(tiny_seeds(2), Path("out"), quiet) == []
    assert kept(Path("out")) == before


def test_a_full_disk_leaves_what_was_published(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = publish_two_seeds(here)
    write_run(tiny_seeds(3), 2)

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(DmfError, match=r"No space left on device.*still there"):
        publication.publish(tiny_seeds(3), Path("out"), quiet)
    assert kept(Path("out")) == before
    assert not list(here.glob(".out*"))


def test_a_study_without_runs_is_refused(here: Path) -> None:
    Path("out").mkdir()
    Path("out/kept").touch()
    with pytest.raises(DmfError, match="no finished run of the study 'synthetic'"):
        publication.publish(synthetic.make_study(), Path("out"))
    assert Path("out/kept").exists()


def test_records_are_kept_byte_for_byte_and_nothing_else(here: Path) -> None:
    study = synthetic.make_study(configurations=["fixed"], seeds=2)
    synthetic.write_study(here, study)
    publication.publish(study, Path("out"), quiet)
    assert {path.name for path in Path("out").iterdir()} == {publication.STUDY, publication.ARCHIVE}
    found = kept(Path("out"))
    assert {Path(name).name for name in found} == {
        "run.json",
        "metrics.json",
        "history.csv",
        "phantom.json",
        "manifest.json",
    }
    for name, content in found.items():
        assert content == (here / name).read_bytes(), name
    again = Study.load(Path("out") / publication.STUDY)
    assert again.report.extra_studies == "../synthetic_{study}"  # published, they lie beside it
    kept_as_they_are = {"execution": study.execution, "report": study.report}
    assert again.model_copy(update=kept_as_they_are) == study.model_copy(
        update={"grid": study.grid.model_copy(update={"workdir": "."})}
    )


def test_the_same_records_are_the_same_archive(here: Path) -> None:
    publish_two_seeds(here)
    first = Path("out/records.tar.xz").read_bytes()
    os.utime(next(here.glob("data/**/*.json")), (1, 1))
    write_run(tiny_seeds(2), 0)
    write_run(tiny_seeds(2), 1)
    publication.publish(tiny_seeds(2), Path("out"), quiet)
    assert Path("out/records.tar.xz").read_bytes() == first


def archive(*members: tarfile.TarInfo) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"0" * member.size))
    return lzma.compress(content.getvalue())


def member(name: str, size: int = 0, type_: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, type_, "elsewhere" * (type_ == tarfile.SYMTYPE)
    return info


RECORD = "models/busi/fixed/seed-00/run.json"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut short": (lambda: archive(member(RECORD, 9))[:-30], "damaged or incomplete"),
    "no archive": (lambda: b"records", "not a zip or tar archive"),
    "above": (lambda: archive(member("../run.json")), "outside"),
    "absolute": (lambda: archive(member("/tmp/run.json")), "outside"),
    "a link": (lambda: archive(member(RECORD, type_=tarfile.SYMTYPE)), "a link or a device"),
    "twice": (lambda: archive(member(RECORD), member(RECORD)), "twice"),
    "a stranger": (lambda: archive(member("models/busi/fixed/seed-00/run.py")), "no record"),
    "too many": (lambda: archive(*(member(f"data/filtered/x{n}.json") for n in range(4))), "3 fi"),
    "too large": (lambda: archive(member(RECORD, 3 * 2**20)), "more than 2 MiB"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_archive_of_records_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, content: Callable[[], bytes], reason: str
) -> None:
    mebibyte = 2**20
    limits = publication.archives.Limits(files=3, size=2 * mebibyte, harmless=2 * mebibyte)
    monkeypatch.setattr(publication, "_LIMITS", limits)
    Path("out").mkdir()
    Path("out/records.tar.xz").write_bytes(content())
    with pytest.raises(DmfError, match=reason) as refused, publication.unpacked(Path("out")):
        pass
    assert str(refused.value).startswith("out/records.tar.xz is refused")
    assert "elsewhere" not in {path.name for path in here.rglob("*")}


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_committed_records_are_whole(folder: Path) -> None:
    """Their files are those whose hashes they name, the models aside, which are not in git."""
    with publication.unpacked(folder) as place:
        found = [path.parent for path in place.glob("models/*/*/*/run.json")]
        assert found
        for run in found:
            assert run_record.complete_record(run, models=False) is not None, run


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_every_published_study_has_the_overlays_that_yield_it(folder: Path) -> None:
    """`reduced_hard` is config/hard.yaml over config/reduced.yaml, and so on."""
    overlays = _overlays(folder.name, {path.stem for path in REPOSITORY.glob("config/*.yaml")})
    assert overlays, folder.name
    paths = [REPOSITORY / f"config/{stem}.yaml" for stem in overlays]
    ours, theirs = Study.load(REPOSITORY / "params.yaml", *paths), Study.load(folder / "study.yaml")
    assert ours.grid.name == theirs.grid.name == folder.name
    # A study may have grown since; what is published is part of it, and trained as it would be.
    assert set(theirs.grid.configurations) <= set(ours.grid.configurations)
    assert theirs.grid.seeds <= ours.grid.seeds
    assert theirs.split == ours.split
    # But for the precision: some are older than that line of config/reduced.yaml.
    precision = {"training": theirs.training.model_copy(update={"precision": "fp32"})}
    for name in theirs.grid.configurations:
        mine = ours.run_parameters(name)
        assert theirs.run_parameters(name).model_copy(update=precision) == mine.model_copy(
            update={"training": mine.training.model_copy(update={"precision": "fp32"})}
        )


def _overlays(name: str, stems: set[str]) -> list[str]:
    """Return the stems that make up a name, joined by `_`; empty if there are none."""
    if name in stems:
        return [name]
    for stem in stems:
        if name.startswith(f"{stem}_") and (rest := _overlays(name[len(stem) + 1 :], stems)):
            return [stem, *rest]
    return []

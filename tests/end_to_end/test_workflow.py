"""The real Snakemake on a tiny study: what runs, what does not, and what people see."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dmf.configurations import paper_configurations

from conftest import REPOSITORY
from project import Project
from sets import two_folders, write_zip

NOTHING = "Nothing to be done"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished study of two configurations and one seed, scored on a second set as well."""
    made = Project.copy(
        tmp_path_factory.mktemp("workflow"),
        study={"configurations": ["fixed", "cb_dice-variance"], "evaluate_on": ["other"]},
        datasets={"other": {"kind": "phantom", "images": 12, "size": 32, "seed": 1}},
        report={"dpi": 60, "bootstrap": 100, "samples": 2},
    )
    made.snakemake()
    return made


def test_the_whole_chain_leaves_what_it_promises(project: Project) -> None:
    for name in (
        "data/raw/phantom/manifest.csv",
        "data/filtered/phantom.npz",
        "data/splits/phantom/seed-00.csv",
        "models/phantom/fixed/seed-00/metrics.json",
        "reports/results.csv",
        "reports/metrics.json",
        "reports/figures/phantom-weights.png",
        "reports/tables/phantom.csv",
        "reports/index.html",
        "reports/report.md",
        "mlflow/mlflow.db",
        "mlflow/tracked.json",
        "logs/train/phantom/fixed/seed-00.log",
        "logs/benchmarks/train/phantom/fixed/seed-00.tsv",
    ):
        assert (project.folder / name).is_file(), name
    means = json.loads((project.folder / "reports/metrics.json").read_text())
    run = json.loads((project.folder / "models/phantom/fixed/seed-00/metrics.json").read_text())
    assert means["phantom"]["fixed"]["dice"] == run["last"]["test"]["dice"]


def test_every_run_is_scored_on_the_set_it_was_not_trained_on(project: Project) -> None:
    scores = pd.read_csv(project.folder / "reports/evaluations/other.csv")
    named = [f"phantom/{name}/seed-00" for name in ("fixed", "cb_dice-variance")]
    assert scores["run"].tolist() == [name for name in named for _ in range(2)]
    assert scores["dice"].between(0, 1).all()
    page = (project.folder / "reports/report.md").read_text()
    dice = scores.set_index(["run", "weights"]).loc[(named[1], "last"), "dice"]
    assert f"| phantom | other | CB-Dice + Variance | {100 * dice:.2f} |" in page


def test_a_second_time_there_is_nothing_to_do(project: Project) -> None:
    assert NOTHING in project.snakemake().stdout


def test_a_file_system_with_coarse_time_stamps_makes_nothing_run_again(project: Project) -> None:
    """A shared file system may round times down, to two seconds in the worst case."""
    for path in project.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            seconds = int(path.stat().st_mtime) // 2 * 2
            os.utime(path, (seconds, seconds))
    assert NOTHING in project.snakemake("-n").stdout


def test_changes_reach_exactly_what_they_concern(project: Project) -> None:
    """One after the other: a figure setting, a configuration, a seed, code that only downloads."""
    before = project.runs()
    figure = project.folder / "reports/figures/phantom-weights.png"
    drawn = figure.read_bytes()
    project.change("report", dpi=50)
    project.snakemake()
    assert project.trained_since(before) == set()
    assert figure.read_bytes() != drawn

    project.change("study", configurations=["fixed", "cb_dice-variance", "none-mad"])
    project.snakemake()
    assert project.trained_since(before) == {"phantom/none-mad/seed-00"}

    before = project.runs()
    project.change("study", seeds=2)
    project.snakemake("--", "train_phantom")
    names = ("fixed", "cb_dice-variance", "none-mad")
    assert project.trained_since(before) == {f"phantom/{name}/seed-01" for name in names}

    before = project.runs()
    project.change("study", seeds=1, configurations=["fixed", "none-mad"])
    source = project.folder / "src/dmf/data/download.py"
    source.write_text(source.read_text() + "SPARE = 1\n")
    output = project.snakemake("--", "train_phantom").stdout
    assert "rule download" in output
    assert project.trained_since(before) == set()

    before = project.runs()
    source = project.folder / "src/dmf/losses.py"
    code = source.read_text()
    source.write_text(code + "# no statement\n")
    assert NOTHING in project.snakemake("--", "train_phantom").stdout
    source.write_text(code + "SPARE = 1\n")
    project.snakemake("--", "train_phantom")
    assert project.trained_since(before) == {"phantom/fixed/seed-00", "phantom/none-mad/seed-00"}

    before = project.runs()
    project.change("execution", threads=2, checkpoint_seconds=7)
    assert NOTHING in project.snakemake("--", "train_phantom").stdout

    # Without Snakemake's records nothing is believed; the run keys tell which results are right.
    (project.folder / ".snakemake").rename(project.folder / ".forgotten")
    refused = project.snakemake(check=False)
    assert refused.returncode != 0
    assert "run `make adopt`" in refused.stdout
    project.snakemake("--forcerun", "train", "--", "train_phantom")
    assert project.trained_since(before) == set()
    project.change("training", epochs=4)
    project.snakemake("models/phantom/fixed/seed-00/metrics.json")
    assert project.trained_since(before) == {"phantom/fixed/seed-00"}
    verdict = project.run("dmf", "verify", check=False)
    assert verdict.returncode == 1
    assert "none-mad/seed-00: the result of other parameters" in verdict.stdout
    assert "fixed/seed-00:" not in verdict.stdout


def test_targets_people_ask_for(project: Project) -> None:
    dry = project.snakemake("-n", "--forceall").stdout
    assert "rule train" in dry
    partial = project.snakemake("-n", "models/phantom/fixed/seed-00/metrics.json")
    assert partial.returncode == 0
    unknown = project.snakemake("models/phantom/fixed/seed-77/metrics.json", check=False)
    assert unknown.returncode != 0
    assert "MissingRuleException" in unknown.stdout


def test_snakemake_report_is_built(project: Project) -> None:
    project.snakemake("--report", "report.zip", "--", "report")
    assert (project.folder / "report.zip").stat().st_size > 10_000


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    return Project.copy(tmp_path, study={"configurations": ["fixed", "none-mad"]})


def test_wrong_parameters_are_refused_before_anything_runs(fresh: Project) -> None:
    fresh.change("training", epoch=3)
    done = fresh.snakemake(check=False)
    assert done.returncode != 0
    assert "training.epoch: unknown key. Did you mean 'epochs'?" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (fresh.folder / "data/raw").exists()


def test_overlays_name_the_study_in_jobs_too(fresh: Project) -> None:
    params = yaml.safe_load((fresh.folder / "params.yaml").read_text())
    del params["study"]["name"], params["study"]["workdir"]
    fresh.write_params(params)
    for name, text in (("first", "study: {seeds: 2}"), ("second", "data: {image_size: 16}")):
        (fresh.folder / f"{name}.yaml").write_text(text)
    fresh.snakemake("--configfile", "first.yaml", "second.yaml", "--", "filter_phantom")
    assert [path.name for path in fresh.folder.glob("build/*")] == ["first_second"]
    made = json.loads((fresh.folder / "build/first_second/data/filtered/phantom.json").read_text())
    assert made["width"] == 16


def test_a_split_of_one_s_own_is_taken_from_the_project_s_folder(fresh: Project) -> None:
    """And made again when its file changes."""
    fresh.change("split", kind="given", file="own-{dataset}-{seed}.csv")
    fresh.snakemake("--", "download_phantom")
    ids = (fresh.folder / "data/raw/phantom/manifest.csv").read_text().splitlines()[1:]
    few = round(0.15 * len(ids))
    subsets = ["train"] * (len(ids) - 2 * few) + ["validation"] * few + ["test"] * few
    for order in (subsets, subsets[::-1]):
        rows = [f"{i.split(',')[0]},{s}" for i, s in zip(ids, order, strict=True)]
        (fresh.folder / "own-phantom-0.csv").write_text("\n".join(["id,subset", *rows]))
        fresh.snakemake("--", "split_phantom")
        written = (fresh.folder / "data/splits/phantom/seed-00.csv").read_text()
        assert written.splitlines()[1:] == rows


def test_a_failed_step_says_so_once_and_leaves_nothing(fresh: Project) -> None:
    fresh.change("datasets", phantom={"kind": "busi", "archive": "broken.zip"})
    (fresh.folder / "broken.zip").write_bytes(b"PK\x03\x04 not a zip at all")
    done = fresh.snakemake(check=False)
    assert done.returncode != 0
    assert done.stdout.count("error: ") == 1
    assert "broken.zip" in done.stdout
    assert not (fresh.folder / "data/raw/phantom").exists()


def test_one_diverging_configuration_does_not_hide_the_report(fresh: Project) -> None:
    fresh.change("training", learning_rate=1e30)
    fresh.snakemake("--", "report")
    table = (fresh.folder / "reports/results.csv").read_text()
    assert "phantom,fixed,none,fixed,0,diverged" in table
    assert "diverged" in (fresh.folder / "reports/report.md").read_text()


# In place of `dmf train`: takes a slot of a device as the real one does, but trains nothing.
PRETENDER = """#!{python}
import sys, time
from pathlib import Path
from dmf.settings import Execution
from dmf.layout import Cell
from dmf.training.devices import device_names, lease
dataset, configuration, seed, *options = sys.argv[2:]
execution = Execution.model_validate_json(options[options.index("--execution") + 1])
def say(*words):
    with open("slots.log", "a") as log:
        print(*words, file=log)
say("start")
with lease(device_names(execution), execution.slots) as device:
    say("take", device)
    time.sleep(0.5)
    say("give", device)
(Cell(dataset, configuration, int(seed)).folder / "metrics.json").write_text("{{}}")
say("end")
"""


def test_trainings_are_limited_to_the_slots_of_the_devices_there_are(fresh: Project) -> None:
    fresh.snakemake("--", "filter_phantom", "split_phantom")
    fresh.change("execution", device="auto", slots=2)
    fresh.change("study", configurations=paper_configurations())
    pretender = fresh.folder / "bin/dmf"
    pretender.parent.mkdir()
    pretender.write_text(PRETENDER.format(python=sys.executable))
    pretender.chmod(0o755)
    path = f"{pretender.parent}:{fresh.environment()['PATH']}"
    # Hooks would say that these devices are none.
    command = ("snakemake", "--cores", "16", "--no-hooks", "--", "train_phantom")
    fresh.run(*command, PATH=path, CUDA_VISIBLE_DEVICES="0,1", TMPDIR=str(fresh.folder))

    running, most = 0, 0
    held = {"0": 0, "1": 0}
    for line in (fresh.folder / "slots.log").read_text().splitlines():
        event, *device = line.split()
        running += {"start": 1, "end": -1}.get(event, 0)
        most = max(most, running)
        for name in device:
            held[name] += 1 if event == "take" else -1
            assert held[name] <= 2
    assert (running, most) == (0, 4)


def test_the_workstation_profile_wants_a_gpu_before_anything_runs(fresh: Project) -> None:
    command = ("snakemake", "--profile", "profiles/gpu", "-n", "--", "train_phantom")
    refused = fresh.run(*command, check=False, CUDA_VISIBLE_DEVICES="")
    assert "execution.device = 'cuda', but no NVIDIA device is visible" in refused.stdout
    assert "rule train" in fresh.run(*command, CUDA_VISIBLE_DEVICES="0").stdout


def test_the_workflow_refuses_a_gpu_that_cannot_be_used_before_the_first_job(
    fresh: Project,
) -> None:
    """A GPU is named, and the torch of this environment cannot use it."""
    import torch

    if torch.version.cuda is not None:
        pytest.skip("this torch can use a GPU")
    fresh.change("execution", device="auto")
    named = {"CUDA_VISIBLE_DEVICES": "0,1"}
    refused = fresh.snakemake("--", "train_phantom", check=False, **named).stdout
    assert refused.count("GPU 0, 1 cannot be used: torch ") == 1
    assert "set execution.device: cpu" in refused
    assert "Traceback" not in refused
    assert "rule download" not in refused
    assert not (fresh.folder / "data/raw").exists()
    # What does not train needs no GPU.
    assert "rule split" in fresh.snakemake("--", "split_phantom", **named).stdout


def test_an_archive_that_changed_is_told_until_it_is_taken_over(fresh: Project) -> None:
    archive = write_zip(fresh.folder / "own.zip", two_folders("x/"))
    fresh.change("datasets", mine={"kind": "busc", "archive": "own.zip"})
    fresh.change("study", datasets=["mine"])
    target = "data/raw/mine/manifest.csv"
    fresh.snakemake(target)
    archive.rename(fresh.folder / "elsewhere.zip")
    assert "warning" not in fresh.snakemake("-n", "--", target).stdout

    write_zip(archive, two_folders("y/", count=13))
    told = fresh.snakemake("-n", "--", target).stdout
    assert "own.zip is not what data/raw/mine was made from" in told
    assert NOTHING in told
    assert "warning" not in fresh.snakemake("--forcerun", target, "--", target).stdout
    assert "warning" not in fresh.snakemake("-n", "--", target).stdout
    archive.write_bytes(b"no archive")
    told = fresh.snakemake("-n", "--", target).stdout
    assert "own.zip is not what" in told


def test_data_that_came_without_snakemake_s_record_are_compared_with_the_study(
    fresh: Project,
) -> None:
    """Copied to another machine, they look up to date, whatever the settings are there."""
    fresh.snakemake("--", "filter_phantom", "split_phantom")
    shutil.copytree(fresh.folder / "data", fresh.folder / "before")
    shutil.rmtree(fresh.folder / ".snakemake")
    assert NOTHING in fresh.snakemake("-n", "--", "filter_phantom").stdout
    fresh.change("data", image_size=16)
    fresh.change("split", train=0.6, validation=0.2, test=0.2)

    def refused(*options: str) -> str:
        done = fresh.snakemake(*options, "--", "filter_phantom", "split_phantom", check=False)
        assert done.returncode != 0
        assert f"{fresh.folder} holds results of other settings" in done.stdout
        return done.stdout.partition("Delete")[0]

    for options in (("-n",), ("--touch", "--forceall")):
        named = refused(*options)
        assert "data/filtered/phantom.json: made with other settings" in named
        assert "data/splits/phantom/seed-00.csv: not the split" in named
        assert "data/raw" not in named
    fresh.snakemake("--forcerun", "filter", "split", "--", "filter_phantom", "split_phantom")
    # What was there before takes the place of what Snakemake made, its dates with it.
    for folder in ("filtered", "splits"):
        shutil.copytree(
            fresh.folder / "before" / folder, fresh.folder / "data" / folder, dirs_exist_ok=True
        )
    assert "data/filtered/phantom.json: made with other settings" in refused("-n")
    # Settings that are not those of its record either: it will make them again by itself.
    fresh.change("data", image_size=24)
    fresh.change("split", train=0.5, validation=0.25, test=0.25)
    assert "reason: Params have changed" in fresh.snakemake("-n", "--", "filter_phantom").stdout

    # Nor does forcing what comes after it make raw data right.
    fresh.change("datasets", phantom={"kind": "phantom", "images": 30, "size": 32})
    assert "data/raw/phantom" in refused("--forcerun", "filter", "split")


def test_the_log_of_a_job_keeps_what_it_said_in_order(fresh: Project, tmp_path: Path) -> None:
    stub = tmp_path / "stub/dmf"
    stub.parent.mkdir()
    stub.write_text(
        "#!/bin/sh\necho first >&2; sleep 0.3; echo second; sleep 0.3; echo third >&2\n"
        "mkdir -p data/raw/phantom; cd data/raw/phantom; touch manifest.csv manifest.json\n"
    )
    stub.chmod(0o755)
    path = os.pathsep.join([str(stub.parent), fresh.environment()["PATH"]])
    for _ in range(2):  # a repeat begins anew
        fresh.snakemake("--forcerun", "download", "--", "download_phantom", PATH=path)
        log = (fresh.folder / "logs/download/phantom.log").read_text()
        assert log.splitlines() == ["first", "second", "third"]


def test_a_moved_project_makes_nothing_again(fresh: Project, tmp_path: Path) -> None:
    """Not even a split of one's own."""
    fresh.snakemake("--", "split_phantom")
    made = fresh.folder / "data/splits/phantom"
    for split in made.glob("seed-*.csv"):
        shutil.copy(split, fresh.folder / f"own-{split.name}")
    fresh.change("split", kind="given", file="own-seed-0{seed}.csv")
    fresh.snakemake("--", "filter_phantom", "split_phantom")
    moved = Project(tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved")))
    assert NOTHING in moved.snakemake("-n", "--", "filter_phantom", "split_phantom").stdout


def test_the_environment_of_another_checkout_is_refused(fresh: Project) -> None:
    """This environment's package is not the copy's, whose code has changed meanwhile."""
    (fresh.folder / "src/dmf/other.py").write_text("x = 1\n")
    foreign = {key: "" for key in ("PYTHONPATH", "DMF_PROJECT", "DMF_CODE")}
    refused = fresh.snakemake("-n", check=False, **foreign)
    assert refused.returncode != 0
    for part in (str(REPOSITORY / "src/dmf"), str(fresh.folder / "src/dmf"), "`make environment`"):
        assert part in refused.stdout
    assert not (fresh.folder / ".snakemake/metadata").exists()


def test_the_report_of_explanations_is_that_of_all_overlays() -> None:
    """Snakemake keeps the last of several `--configfile`: the overlays stand behind one."""
    command = ["make", "--dry-run", "explanations", "OVER=config/half_size.yaml config/flips.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    assert "--configfile config/half_size.yaml config/flips.yaml --forcerun report" in last
    command = ["make", "--dry-run", "ui", "STUDY=config/half_size.yaml config/flips.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    shown = "dmf ui --overlay config/half_size.yaml --overlay config/flips.yaml"
    assert done.stdout.splitlines()[-1] == shown

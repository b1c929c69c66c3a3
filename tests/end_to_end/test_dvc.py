"""The real DVC over the real Snakemake: what `dvc repro` repeats, and what a second person gets."""

import json
from pathlib import Path

import pytest
import yaml

from project import Project

DRAFT = {"dpi": 50, "bootstrap": 100, "samples": 2}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study that `dvc repro` has made, committed with its lock file and pushed."""
    made = Project.copy(
        tmp_path_factory.mktemp("dvc") / "first",
        study={"configurations": ["fixed", "none-mad"]},
        report=DRAFT,
    )
    made.commit("a tiny study")
    made.run("dvc", "repro", "--quiet")
    made.commit("its results")
    return made


def with_results(project: Project, folder: Path) -> Project:
    """Return a clone whose data, models and results come from the project's own cache."""
    work = project.clone(folder / "work")
    config = work.folder / ".dvc/config.local"
    config.write_text(f"[cache]\n    dir = {project.folder / '.dvc/cache'}\n")
    work.run("dvc", "checkout", "--quiet")
    return work


def test_a_second_repro_finds_everything_up_to_date(project: Project) -> None:
    output = project.run("dvc", "repro").stdout
    assert "Running stage" not in output
    assert "Data and pipelines are up to date" in output


def test_metrics_params_and_plots_are_useful(project: Project) -> None:
    shown = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)
    metrics = shown[""]["data"]["reports/metrics.json"]["data"]
    assert 0 < metrics["phantom"]["fixed"]["dice"] < 1
    project.run("dvc", "plots", "show", "--out", "plots")
    assert (project.folder / "plots/index.html").exists()


def test_repro_repeats_what_a_change_touches(project: Project, tmp_path: Path) -> None:
    work = with_results(project, tmp_path)
    before = work.runs()
    work.change("report", dpi=60)
    work.run("dvc", "repro", "--quiet")
    assert work.trained_since(before) == set()

    work.change("training", epochs=2)
    work.run("dvc", "repro", "--quiet")
    assert work.trained_since(before) == {"phantom/fixed/seed-00", "phantom/none-mad/seed-00"}
    difference = json.loads(work.run("dvc", "params", "diff", "--json").stdout)
    epochs = difference["params.yaml"]["training.epochs"]
    assert (epochs["old"], epochs["new"]) == (3, 2)
    difference = json.loads(work.run("dvc", "metrics", "diff", "--json").stdout)
    assert "phantom.fixed.dice" in difference["reports/metrics.json"]


def test_a_second_person_gets_the_same_report_without_training(
    project: Project, tmp_path: Path
) -> None:
    """git clone, dvc pull, make adopt: nothing runs or changes; an edit then runs as usual."""
    remote = tmp_path / "remote"
    project.run("dvc", "remote", "add", "--force", "--local", "shared", str(remote))
    project.run("dvc", "push", "--quiet", "--remote", "shared")
    second = project.clone(tmp_path / "second")
    second.run("dvc", "remote", "add", "--local", "shared", str(remote))
    second.run("dvc", "pull", "--quiet", "--remote", "shared")
    before = second.runs()
    assert set(before) == set(project.runs())

    second.make("adopt")
    output = second.snakemake().stdout  # brings the runs into this person's MLflow, no more
    assert "rule track" in output
    assert "rule train" not in output
    assert "rule report" not in output
    assert second.trained_since(before) == set()
    for name in ("reports/results.csv", "reports/index.html", "reports/report.md"):
        assert (second.folder / name).read_bytes() == (project.folder / name).read_bytes(), name

    second.change("training", epochs=2)
    second.snakemake("--", "train_phantom")
    assert second.trained_since(before) == set(before)


def test_results_of_other_parameters_are_never_taken_over(project: Project, tmp_path: Path) -> None:
    work = with_results(project, tmp_path)
    work.change("training", epochs=2)
    done = work.make("adopt", check=False)
    assert done.returncode != 0
    before = work.runs()
    work.run("dvc", "repro", "--quiet")  # no memory of the old parameters, yet nothing false
    assert work.trained_since(before) == set(before)


def test_experiments_train_only_what_they_must(project: Project, tmp_path: Path) -> None:
    work = with_results(project, tmp_path)
    work.run("dvc", "exp", "run", "--quiet", "--name", "shorter", "-S", "training.epochs=2")
    table = work.run("dvc", "exp", "show", "--csv").stdout
    assert "shorter" in table
    run = json.loads((work.folder / "models/phantom/fixed/seed-00/metrics.json").read_text())
    assert run["epochs"] == 2


def test_an_experiment_apart_leaves_the_workspace_alone(project: Project, tmp_path: Path) -> None:
    work = with_results(project, tmp_path)
    before = work.runs()
    work.run("dvc", "exp", "run", "--temp", "--quiet", "--name", "apart", "-S", "training.epochs=2")
    assert work.trained_since(before) == set()
    shown = json.loads(work.run("dvc", "exp", "show", "--json").stdout)
    assert "apart" in json.dumps(shown)
    work.run("dvc", "exp", "apply", "apart")
    run = json.loads((work.folder / "models/phantom/fixed/seed-00/metrics.json").read_text())
    assert run["epochs"] == 2


def test_one_unreachable_set_does_not_stop_the_others(tmp_path: Path) -> None:
    """`busi` has no archive and no network; `phantom` is made all the same."""
    work = Project.copy(
        tmp_path,
        study={"configurations": ["fixed"], "datasets": ["busi", "phantom"]},
        datasets={"busi": {"kind": "busi", "archive": "not-there.zip"}},
        report=DRAFT,
    )
    work.commit("two sets")
    done = work.run("dvc", "repro", "--keep-going", check=False)
    assert done.returncode != 0
    assert "not-there.zip" in done.stdout
    assert set(work.runs()) == {"phantom/fixed/seed-00"}
    assert not (tmp_path / "data/raw/busi").exists()


def test_the_committed_pipeline_loads(project: Project) -> None:
    stages = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"]
    assert list(stages) == ["download", "filter", "split", "train", "aggregate", "figures"]


def test_results_travel_through_s3(project: Project, tmp_path: Path) -> None:
    """A real S3 server on loopback: push from one clone, pull into another."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        import boto3

        address = f"http://{host}:{port}"
        account = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
        boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="tests",
            aws_secret_access_key="tests",
        ).create_bucket(Bucket="study")
        second = project.clone(tmp_path / "second")
        for work in (project, second):
            work.run("dvc", "remote", "add", "--force", "--local", "s3", "s3://study/dvc")
            work.run("dvc", "remote", "modify", "--local", "s3", "endpointurl", address)
        project.run("dvc", "push", "--quiet", "--remote", "s3", **account)
        second.run("dvc", "pull", "--quiet", "--remote", "s3", **account)
    finally:
        server.stop()
    for name in ("models/phantom/fixed/seed-00/model.safetensors", "reports/results.csv"):
        assert (second.folder / name).read_bytes() == (project.folder / name).read_bytes()

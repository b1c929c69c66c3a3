"""The files that repeat one another say the same."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from dmf.provenance import STEP_FILES, step_files

from conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PINS = {
    name.lower().replace("_", "-"): version
    for name, version in re.findall(
        r"^([A-Za-z0-9._-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE
    )
}


def requirements(*extras: str) -> list[Requirement]:
    texts = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        texts += PROJECT["project"]["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def test_every_dependency_is_pinned_to_a_version_it_allows() -> None:
    for requirement in requirements("study", "cluster", "dev"):
        version = PINS[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(Version(version)), requirement


def test_torch_keeps_its_pin() -> None:
    assert PINS["torch"] == "2.13.0"
    assert not any(name.startswith(("nvidia-", "triton")) for name in PINS)


def test_constraints_hold_names_and_versions_only() -> None:
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line), line


def hashed(name: str) -> dict[str, tuple[str, int]]:
    """Return the version of each package of a hashed file, and how many hashes it has."""
    text = (REPOSITORY / f"requirements/{name}.txt").read_text()
    entries = re.split(r"(?m)^(?=[a-z])", text)[1:]
    found = {}
    for entry in entries:
        package, version = re.match(r"([a-z0-9._-]+)(?:\[[a-z0-9,]+\])?==([^\s;]+)", entry).groups()
        found[package.replace("_", "-").replace(".", "-")] = (
            version,
            len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)),
        )
    return found


def test_every_pin_has_its_hashes() -> None:
    """But torch, which an index may have for CPUs or another CUDA, and what Windows alone needs."""
    study, dev = hashed("study"), hashed("dev")
    assert not study.keys() & dev.keys()
    both = study | dev
    assert all(number for _, number in both.values())
    pins = {name.replace(".", "-"): version for name, version in PINS.items()}
    assert pins.keys() - both.keys() == {"torch"}
    assert {n for n in both if n not in pins} <= {"pyreadline3", "pywin32", "tzdata", "waitress"}
    assert {n: version for n, (version, _) in both.items() if n in pins} == {
        n: version for n, version in pins.items() if n in both
    }


def test_the_hashed_files_hold_what_their_extras_need() -> None:
    study = hashed("study").keys()
    for requirement in requirements("study", "cluster"):
        assert requirement.name.lower() in {*study, "torch"}, requirement
    for requirement in requirements("dev"):
        assert requirement.name.lower() in {*study, *hashed("dev"), "torch"}, requirement


def test_the_tests_have_what_a_cluster_has() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras["cluster"]) <= set(extras["dev"])


def test_container_installs_the_project_with_the_same_pins() -> None:
    """As `make` does; its torch comes from the index that the build names, and from no other."""
    recipe = (REPOSITORY / "Dockerfile").read_text()
    assert "ARG TORCH_INDEX_URL=https://pypi.org/simple\n" in recipe
    assert re.search(r"install .*--require-hashes .*requirements/study\.txt", recipe)
    assert "--extra-index-url" not in recipe
    assert recipe.rindex("USER dmf") > recipe.rindex("RUN pip")
    kept = (REPOSITORY / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"(?m)^COPY (.*) \S+$", recipe)
    assert "*" in kept
    assert {f"!{name}" for line in copied for name in line.split()} <= set(kept)


def test_conda_environment_installs_the_project_with_the_same_pins() -> None:
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    python, pip, nested = environment["dependencies"]
    assert python == "python" + PROJECT["project"]["requires-python"]
    assert pip == "pip"
    assert nested == {"pip": ["--constraint constraints.txt", "--editable .[study,cluster]"]}


IN_THE_LAST_STAGE = ("evaluate", "card", "report")


@pytest.mark.parametrize(
    "step", [*(name for name in STEP_FILES if name not in IN_THE_LAST_STAGE), "figures"]
)
def test_dvc_depends_on_the_files_snakemake_hashes(step: str) -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    stage = stages[step]
    steps = IN_THE_LAST_STAGE if step == "figures" else (step,)
    listed: set[Path] = set()
    for dependency in stage["deps"]:
        if dependency.startswith("src/dmf/"):
            path = REPOSITORY / dependency
            files = path.rglob("*") if path.is_dir() else [path]
            listed |= {f for f in files if f.is_file() and "__pycache__" not in f.parts}
    package = REPOSITORY / "src/dmf"
    assert listed == {package / name for each in steps for name in step_files(each)}


def test_dvc_keeps_what_exists() -> None:
    """`persist` on every output; none inside another; nothing that changes while runs go on."""
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    names = []
    for stage in pipeline["stages"].values():
        for output in [*stage["outs"], *stage.get("metrics", [])]:
            ((name, options),) = output.items()
            assert options["persist"] is True, name
            names.append(name)
    for name in names:
        assert not any(other != name and other.startswith(f"{name}/") for other in names)
        assert not name.startswith(("mlflow", ".checkpoints", "logs"))


def test_dvc_stages_watch_parameters_that_exist() -> None:
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    watched = set()
    for stage in pipeline["stages"].values():
        for key in stage["params"]:
            value = params
            for part in key.replace("${item.dataset}", "busi").split("."):
                value = value[part]
            watched.add(key.split(".")[0])
    assert watched == set(params) - {"execution"}


def test_importing_the_package_is_light() -> None:
    code = "import sys, dmf; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_a_training_imports_neither_mlflow_nor_snakemake_nor_pandas() -> None:
    code = (
        "import sys, dmf.cli, dmf.training.train, dmf.training.engine, dmf.training.checkpoint,"
        " dmf.data.arrays\n"
        "heavy = ('mlflow', 'snakemake', 'dvc', 'pandas', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """Return the files of the built wheel and source archive, and their sizes in bytes.

    From a copy, by the build backend alone: a build in place would take what an earlier one left.
    """
    place = tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        source = REPOSITORY / name
        if source.is_file() and not name.startswith("reports/published/"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place / name)
    (place / "reports/published/paper").mkdir(parents=True)
    (place / "reports/published/paper/report.md").write_text("a result")
    code = "from setuptools import build_meta as b; b.build_wheel('out'); b.build_sdist('out')"
    subprocess.run([sys.executable, "-c", code], cwd=place, check=True, capture_output=True)
    (wheel,), (archive,) = place.glob("out/*.whl"), place.glob("out/*.tar.gz")
    assert wheel.name.startswith(archive.name.partition("-")[0])
    with zipfile.ZipFile(wheel) as file, tarfile.open(archive) as tar:
        return {
            "wheel": {info.filename: info.file_size for info in file.infolist()},
            "sdist": {m.name.partition("/")[2]: m.size for m in tar.getmembers() if m.isfile()},
        }


@pytest.mark.slow
def test_what_is_distributed_is_the_package_and_nothing_else(
    distributions: dict[str, dict[str, int]],
) -> None:
    package = {
        path.relative_to(REPOSITORY / "src").as_posix()
        for path in (REPOSITORY / "src/dmf").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wheel, sdist = distributions["wheel"], distributions["sdist"]
    assert {name for name in wheel if ".dist-info/" not in name} == package
    assert {f"src/{name}" for name in package} <= sdist.keys()
    for name, size in (wheel | sdist).items():
        assert not name.startswith(("reports", "tests", "data", "models", "build")), name
        assert size < 200_000, name
    assert any(name.endswith("/licenses/LICENSE") for name in wheel)


def test_the_command_without_the_study_says_what_it_needs() -> None:
    """`pip install .` puts `dmf` on the PATH, but none of the packages that it needs."""
    code = "import sys; sys.modules['typer'] = None; from dmf.cli import main"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install '.[study]'" in done.stderr
    assert "Traceback" not in done.stderr

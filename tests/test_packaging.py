"""The files that repeat one another say the same."""

import re
import subprocess
import sys
import tomllib
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


def test_the_tests_have_what_a_cluster_has() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras["cluster"]) <= set(extras["dev"])


def test_container_installs_the_project_with_the_same_pins() -> None:
    """And pip sees the index of wheels without CUDA, if the build names it."""
    recipe = (REPOSITORY / "Dockerfile").read_text()
    assert "ARG PIP_EXTRA_INDEX_URL\nRUN pip install" in recipe
    assert "pip install --no-cache-dir --constraint constraints.txt --editable '.[study]'" in recipe


def test_conda_environment_installs_the_project_with_the_same_pins() -> None:
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    python, pip, nested = environment["dependencies"]
    assert python == "python" + PROJECT["project"]["requires-python"]
    assert pip == "pip"
    assert nested == {"pip": ["--constraint constraints.txt", "--editable .[study,cluster]"]}


@pytest.mark.parametrize("step", [name for name in STEP_FILES if name != "card"])
def test_dvc_depends_on_the_files_snakemake_hashes(step: str) -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    stage = stages["figures" if step == "report" else step]
    steps = ("report", "card") if step == "report" else (step,)
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

"""The whole chain in odd folders, without git, read-only, and where the system refuses a call."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from project import Project

NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished study in an odd folder, run as from a notebook, whose backend is not installed."""
    made = Project.copy(
        tmp_path_factory.mktemp("odd") / "a {b} 'c' ü",
        report={"dpi": 60, "bootstrap": 100, "samples": 1},
        datasets={"phantom": {"kind": "phantom", "images": 24, "size": 32}},
    )
    made.commit("study")
    made.snakemake(**NOTEBOOK)
    return made


def test_a_folder_with_spaces_braces_quotes_and_umlauts(odd: Project) -> None:
    for name in ("reports/index.html", "reports/data/phantom.md", "mlflow/tracked.json"):
        assert (odd.folder / name).is_file(), name
    assert "Nothing to be done" in odd.snakemake().stdout
    assert "match their hashes" in odd.run("dmf", "verify").stdout


def test_a_study_in_an_odd_folder_of_the_project(odd: Project) -> None:
    (odd.folder / "mine.yaml").write_text("study: {workdir: \"build/x {y} 'z'\"}\n")
    odd.snakemake("--configfile", "mine.yaml", "--", "filter_phantom", "split_phantom")
    assert (odd.folder / "build/x {y} 'z'/data/filtered/phantom.npz").is_file()
    said = odd.run("dmf", "plan", "--overlay", "mine.yaml").stdout
    assert "Traceback" not in said


def test_containers_in_an_odd_folder_are_refused_with_the_reason(odd: Project) -> None:
    """They are asked for by name only, and Snakemake takes no such path of an image."""
    asked = ("--software-deployment-method", "apptainer", "-n")
    refused = odd.snakemake(*asked, check=False)
    assert refused.returncode != 0
    assert "without spaces and braces in its path" in refused.stdout
    assert "Traceback" not in refused.stdout


def test_a_tarball_without_git_is_adopted(odd: Project, tmp_path: Path) -> None:
    """DVC says what it needs, then all is taken over and nothing is trained.

    Without braces in the path: DVC cannot print those of its cache.
    """
    copy = Project(tmp_path / "a tarball's 'c' ü")
    kept = shutil.ignore_patterns(".git", "metadata", "build")
    shutil.copytree(odd.folder, copy.folder, ignore=kept)
    before = copy.runs()

    refused = copy.make("adopt", check=False)
    assert refused.returncode != 0
    assert "In a copy without git: dvc config --local core.no_scm true" in refused.stdout

    copy.run("dvc", "config", "--local", "core.no_scm", "true")
    copy.run("dvc", "commit", "--force", "--quiet")
    assert "match their hashes" in copy.make("adopt").stdout
    assert copy.runs() == before


def test_a_run_without_git_says_that_no_commit_is_known(odd: Project, tmp_path: Path) -> None:
    copy = Project(tmp_path / "tarball")
    shutil.copytree(odd.folder, copy.folder, ignore=shutil.ignore_patterns(".git", "models"))
    copy.run("dmf", "train", "phantom", "fixed", "0")
    record = json.loads((copy.folder / "models/phantom/fixed/seed-00/run.json").read_text())
    assert (record["commit"], record["dirty"]) == (None, None)


def read_only(folder: Path) -> list[str]:
    """Return what to put before a command so that it cannot write below ``folder``."""
    if os.geteuid():
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
        return []
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mount, str(folder)]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("root that may not mount: nothing can be made read-only for it")
    return prefix


@pytest.fixture
def locked(odd: Project, tmp_path: Path) -> tuple[Project, list[str]]:
    """Return a copy of the finished study, and the words that make it read-only for a command."""
    copy = Project(tmp_path / "read only")
    shutil.copytree(odd.folder, copy.folder)
    return copy, read_only(copy.folder)


def test_a_read_only_study_is_read_by_all_that_only_reads(
    locked: tuple[Project, list[str]],
) -> None:
    project, prefix = locked
    for command in ("check", "plan", "left", "verify", "prune"):
        done = project.run(*prefix, "dmf", command, check=False)
        assert done.returncode == 0, done.stdout
        assert "error" not in done.stdout


def test_a_read_only_study_is_not_written_and_says_so_in_a_line(
    locked: tuple[Project, list[str]],
) -> None:
    project, prefix = locked
    for command in (
        ("aggregate",),
        ("split", "phantom", "1"),
        ("download", "phantom"),
        ("train", "phantom", "fixed", "0"),
        ("track",),
    ):
        done = project.run(*prefix, "dmf", *command, check=False)
        assert done.returncode == 1, (command, done.stdout)
        (said,) = (line for line in done.stdout.splitlines() if line.startswith("error: "))
        assert "could not be" in said
        assert "Read-only file system" in said or "Permission denied" in said
        assert "Traceback" not in done.stdout


# A file system that refuses every change of modes, as CIFS and gvfs do.
REFUSES = """
#include <errno.h>
#include <sys/stat.h>
int chmod(const char *p, mode_t m) { errno = EPERM; return -1; }
int fchmod(int f, mode_t m) { errno = EPERM; return -1; }
int fchmodat(int d, const char *p, mode_t m, int f) { errno = EPERM; return -1; }
"""


def test_a_file_system_that_refuses_chmod_costs_nothing(odd: Project, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "refuses.so"
    build = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(build, input=REFUSES, text=True, check=True)
    copy = Project(tmp_path / "mounted")
    shutil.copytree(odd.folder, copy.folder)
    for made in ("data", "models", "reports"):
        shutil.rmtree(copy.folder / made)
    with_it = {"LD_PRELOAD": str(library)}
    for command in (
        ("download", "phantom"),
        ("filter", "phantom"),
        ("split", "phantom", "0"),
        ("train", "phantom", "fixed", "0"),
        ("aggregate",),
    ):
        copy.run("dmf", *command, **with_it)
    assert (copy.folder / "reports/results.csv").is_file()

"""A copy of this project in a folder of its own, with a tiny study, for end-to-end tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dmf.study import Study

from conftest import REPOSITORY, tiny

# DVC, Snakemake and this project's own command, from the environment that runs the tests.
BIN = Path(sys.executable).parent


class Project:
    """A folder that holds this project, or a clone of such a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def copy(cls, folder: Path, **sections: dict[str, Any]) -> "Project":
        """Copy the tracked and new files of the working tree; sections change the tiny study."""
        made = cls(folder)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        for name in filter(None, listed):
            source, target = REPOSITORY / name, folder / name
            if source.is_file() and not name.startswith(("tests/", "docs/", "reports/published/")):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        # Every key, as in the real params.yaml: DVC wants to see those it watches.
        made.write_params(
            Study.from_mapping(tiny(**sections)).model_dump(mode="json", by_alias=True)
        )
        return made

    def clone(self, folder: Path) -> "Project":
        """Clone the repository; without a ``dvc pull`` the clone has no data, models or results."""
        self.run("git", "clone", "--quiet", ".", str(folder))
        return Project(folder)

    def write_params(self, params: Mapping[str, Any]) -> None:
        """Replace params.yaml."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump(dict(params), sort_keys=False))

    def change(self, section: str, **values: Any) -> None:
        """Change values of one section of params.yaml."""
        params = yaml.safe_load((self.folder / "params.yaml").read_text())
        params.setdefault(section, {}).update(values)
        self.write_params(params)

    def commit(self, message: str) -> None:
        """Commit everything; the first call makes the repository."""
        if not (self.folder / ".git").exists():
            self.run("git", "init", "--quiet", "--initial-branch", "main")
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def run(
        self, *command: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, its own source first on the path; output is captured."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
            )
        return done

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of the project's commands."""
        return {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "src"),
            "GIT_AUTHOR_NAME": "tests",
            "GIT_AUTHOR_EMAIL": "tests@localhost",
            "GIT_COMMITTER_NAME": "tests",
            "GIT_COMMITTER_EMAIL": "tests@localhost",
            "DVC_NO_ANALYTICS": "1",
            **more,
        }

    def snakemake(
        self, *arguments: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake on two cores."""
        return self.run("snakemake", "--cores", "2", *arguments, check=check, **environment)

    def make(self, target: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a target of the Makefile with the tools of the environment that runs the tests."""
        stamp = self.folder / "build/venv/study.stamp"
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
        return self.run("make", target, "VENV=build/venv", check=check)

    def runs(self) -> dict[str, int]:
        """Return when the model of every run was last written, in nanoseconds."""
        models = sorted(self.folder.glob("models/*/*/*/model.safetensors"))
        return {"/".join(p.parts[-4:-1]): p.stat().st_mtime_ns for p in models}

    def trained_since(self, before: Mapping[str, int]) -> set[str]:
        """Return the runs whose model was written after ``before`` was taken."""
        return {name for name, when in self.runs().items() if before.get(name) != when}

"""What several test files share: a tiny phantom study, ready to train in a folder of its own."""

import io
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import settings

from dmf.study import Study

REPOSITORY = Path(__file__).resolve().parents[1]

# The same examples in every CI run: a rare counterexample is found, and mended, on a desk.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Threads of a test process: the suite runs several at once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A `make` that a test runs is no part of the `make test` around it, whose options would reach it:
# it prints what it prints to a user.
for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"):
    os.environ.pop(name, None)

TINY: dict[str, Any] = {
    "study": {"name": "tiny", "datasets": ["phantom"], "configurations": ["fixed"], "seeds": 1},
    "datasets": {"phantom": {"kind": "phantom", "images": 24, "size": 32}},
    "data": {"image_size": 32},
    "model": {"filters": [4, 8], "batch_norm_momentum": 0.9},
    "training": {"epochs": 3, "batch_size": 6, "precision": "fp32"},
    "fusion": {"warmup": 3, "window": 5},
    "auxiliary": {"step_batches": 2},
    "execution": {"device": "cpu", "checkpoint_seconds": 0},
    "report": {"pdf": False},  # which takes a third of the time of figures
}

StudyMaker = Callable[..., Study]


def tiny(**sections: dict[str, Any]) -> dict[str, Any]:
    """Return the tiny study's mapping, some sections of it changed."""
    return {**TINY, **{name: {**TINY.get(name, {}), **new} for name, new in sections.items()}}


def dmf(*arguments: str) -> CompletedProcess[str]:
    """Run the command as people type it, but in this process: importing torch takes seconds."""
    from dmf.cli import main

    out, err = io.StringIO(), io.StringIO()
    status = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["dmf", *arguments])
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
    return CompletedProcess(["dmf", *arguments], status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def raw_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Study, str], Path]:
    """Return a maker of raw sets, each made once: to look for duplicates takes most of the time."""
    made: dict[str, Path] = {}

    def make(study: Study, dataset: str) -> Path:
        from dmf.data import download

        parameters = study.download_parameters(dataset)
        key = f"{dataset} {parameters.model_dump_json()}"
        if key not in made:
            folder = tmp_path_factory.mktemp("raw")
            with chdir(folder):
                download.download(dataset, parameters, folder)
            made[key] = folder / "data"
        return made[key]

    return make


@pytest.fixture
def tiny_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw_data: Callable[[Study, str], Path]
) -> StudyMaker:
    """Return a maker of tiny studies with data and splits; the test runs in their folder."""
    monkeypatch.chdir(tmp_path)

    def make(**sections: dict[str, Any]) -> Study:
        from dmf.data import filtering, splits

        study = Study.from_mapping(tiny(**sections))
        for dataset in study.grid.datasets:
            shutil.copytree(raw_data(study, dataset), tmp_path / "data", dirs_exist_ok=True)
            filtering.filter_dataset(dataset, study.filter_parameters())
            for seed in study.seeds:
                splits.write_split(dataset, seed, study.split)
        return study

    return make

"""What several test files share: a tiny phantom study, ready to train in a folder of its own."""

import os
from collections.abc import Callable
from pathlib import Path
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

TINY: dict[str, Any] = {
    "study": {"name": "tiny", "datasets": ["phantom"], "configurations": ["fixed"], "seeds": 1},
    "datasets": {"phantom": {"kind": "phantom", "images": 24, "size": 32}},
    "data": {"image_size": 32},
    "model": {"filters": [4, 8], "batch_norm_momentum": 0.9},
    "training": {"epochs": 3, "batch_size": 6, "precision": "fp32"},
    "fusion": {"warmup": 3, "window": 5},
    "auxiliary": {"step_batches": 2},
    "execution": {"device": "cpu", "checkpoint_seconds": 0},
}

StudyMaker = Callable[..., Study]


def tiny(**sections: dict[str, Any]) -> dict[str, Any]:
    """Return the tiny study's mapping, some sections of it changed."""
    return {**TINY, **{name: {**TINY.get(name, {}), **new} for name, new in sections.items()}}


@pytest.fixture
def tiny_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyMaker:
    """Return a maker of tiny studies with data and splits; the test runs in their folder."""
    monkeypatch.chdir(tmp_path)

    def make(**sections: dict[str, Any]) -> Study:
        from dmf.data import filtering, sources, splits

        study = Study.from_mapping(tiny(**sections))
        for dataset in study.study.datasets:
            sources.download(dataset, study.download_parameters(dataset), tmp_path)
            filtering.filter_dataset(dataset, study.filter_parameters())
            for seed in study.seeds:
                splits.write_split(dataset, seed, study.split)
        return study

    return make

"""Run keys hold what is not at its default, and records are believed only if they are sound.

After a change that is meant to make old runs foreign: `python tests/test_record.py` writes what
the keys hold anew.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmf.errors import DmfError
from dmf.files import read_json, sha256_json, write_json
from dmf.layout import Cell
from dmf.settings import Auxiliary, Fusion
from dmf.study import Study
from dmf.training.run_record import Run, complete_record, key_parameters, misfits, read_record

from conftest import REPOSITORY, tiny
from run_folders import write_record, write_run

GOLDEN = Path(__file__).parents[1] / "golden/run_keys.json"


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a nested mapping with its path."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def held() -> dict[str, Any]:
    """Return what the keys of params.yaml hold of the parameters, and what they leave out."""
    study = Study.load(REPOSITORY / "params.yaml")
    parts: dict[str, Any] = {}
    left_out: dict[str, Any] = {}
    for name in study.grid.configurations:
        parameters = study.run_parameters(name)
        parts[name] = key_parameters(parameters)
        known = dict(leaves(parts[name]))
        for path, value in leaves(parameters.model_dump(mode="json")):
            if path not in known:
                assert left_out.setdefault(path, value) == value
    runs = [
        [dataset, name, seed, key_parameters(study.run_parameters(name))]
        for dataset in study.grid.datasets
        for name in study.grid.configurations
        for seed in study.seeds
    ]
    return {
        "parameters": parts,
        "runs": len(runs),
        "digest": sha256_json(runs),
        "left_out": dict(sorted(left_out.items())),
    }


def test_the_keys_of_the_papers_study_stay_as_they_are() -> None:
    """If this fails, every run of the study is foreign, and trains again."""
    golden = read_json(GOLDEN)
    now = held()
    assert now["parameters"] == golden["parameters"]
    assert (now["runs"], now["digest"]) == (390, golden["digest"])


def test_the_defaults_that_keys_leave_out_never_change() -> None:
    """If this fails, old runs would be adopted for what they are not. New options may come."""
    now = held()["left_out"]
    golden = read_json(GOLDEN)["left_out"]
    assert {name: now.get(name, "gone") for name in golden} == golden


def test_a_section_at_its_defaults_is_not_a_section_left_out() -> None:
    parameters = Study.from_mapping(tiny()).run_parameters("fixed")
    assert "fusion" not in key_parameters(parameters)
    with_fusion = parameters.model_copy(update={"fusion": Fusion(), "auxiliary": Auxiliary()})
    part = key_parameters(with_fusion)
    assert part["fusion"] == part["auxiliary"] == {}
    longer = parameters.model_copy(update={"fusion": Fusion(window=160)})
    assert key_parameters(longer)["fusion"] == {"window": 160}


def test_parameters_that_went_through_json_have_the_same_key() -> None:
    parameters = Study.from_mapping(tiny(training={"learning_rate": 1})).run_parameters("focal-mad")
    again = type(parameters).model_validate_json(parameters.model_dump_json())
    assert sha256_json(key_parameters(again)) == sha256_json(key_parameters(parameters))


# A run folder without a training.


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a complete run of the tiny study; the test runs in its folder."""
    monkeypatch.chdir(tmp_path)
    return write_run(Study.from_mapping(tiny()), 0)


def change(run: Run, **parts: Any) -> dict[str, Any]:
    """Change parts of a record; return all of it."""
    record: dict[str, Any] = {**read_json(run.cell.folder / "run.json"), **parts}
    write_json(run.cell.folder / "run.json", record)
    return record


def test_a_sound_record_is_returned(run: Run) -> None:
    record = complete_record(run.cell.folder)
    assert record is not None
    assert record == complete_record(run.cell.folder, run.key())
    assert complete_record(run.cell.folder, "another") is None


def test_newer_runs_list_the_counts_of_their_test_images(run: Run) -> None:
    (run.cell.folder / "test_counts.csv").write_text("counts")
    write_record(run, "test_counts.csv")
    assert complete_record(run.cell.folder) is not None
    (run.cell.folder / "test_counts.csv").write_text("others")
    assert complete_record(run.cell.folder) is None


def test_what_is_published_needs_no_models_but_all_else(run: Run) -> None:
    for path in run.cell.folder.glob("*.safetensors"):
        path.unlink()
    assert complete_record(run.cell.folder) is None
    assert complete_record(run.cell.folder, models=False) is not None
    (run.cell.folder / "history.csv").write_text("another")
    assert complete_record(run.cell.folder, models=False) is None


def test_a_diverged_run_has_no_models(run: Run) -> None:
    files = read_json(run.cell.folder / "run.json")["files"]
    change(run, outcome={"status": "diverged"})
    assert complete_record(run.cell.folder) is None
    change(run, files={"history.csv": files["history.csv"]})
    assert complete_record(run.cell.folder) is not None


@pytest.mark.parametrize("name", ["history.csv", "model.safetensors", "best.safetensors"])
def test_a_record_that_keeps_a_file_quiet_is_not_believed(run: Run, name: str) -> None:
    files = read_json(run.cell.folder / "run.json")["files"]
    del files[name]
    change(run, files=files)
    assert complete_record(run.cell.folder) is None


@pytest.mark.parametrize("name", ["../history.csv", "/dev/zero", "a\0b", "timing.csv", ""])
def test_a_record_that_names_other_files_is_not_believed(run: Run, name: str) -> None:
    files = read_json(run.cell.folder / "run.json")["files"]
    change(run, files={**files, name: files["history.csv"]})
    assert complete_record(run.cell.folder) is None


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(run: Run) -> None:
    (run.cell.folder / "history.csv").unlink()
    os.mkfifo(run.cell.folder / "history.csv")
    assert complete_record(run.cell.folder) is None
    (run.cell.folder / "run.json").unlink()
    os.mkfifo(run.cell.folder / "run.json")
    assert complete_record(run.cell.folder) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "1", '"key"', "{}", "[" * 100_000, "{", "\0", '{"key": "k", "files": {}}'],
)
def test_damaged_records_are_none(run: Run, text: str) -> None:
    (run.cell.folder / "run.json").write_text(text)
    assert read_record(run.cell.folder) is complete_record(run.cell.folder) is None


@pytest.mark.parametrize(
    "parts",
    [
        {"key": None},
        {"key": ["a"]},
        {"files": None},
        {"files": ["history.csv"]},
        {"files": {"history.csv": None}},
        {"outcome": None},
        {"outcome": {}},
        {"outcome": {"status": "running"}},
        {"outcome": {"status": ["complete"]}},
    ],
    ids=json.dumps,
)
def test_records_of_wrong_types_are_none(run: Run, parts: dict[str, Any]) -> None:
    change(run, **parts)
    assert complete_record(run.cell.folder) is None


def test_what_of_a_run_is_other_is_said(run: Run) -> None:
    record = read_json(run.cell.folder / "run.json")
    assert misfits(run, record) == []
    longer = run.parameters.training.model_copy(update={"epochs": 4})
    other = run.parameters.model_copy(update={"training": longer})
    assert misfits(Run(Cell("phantom", "fixed", 0), other), record) == ["parameters"]
    write_json(run.cell.arrays, {"sha256": "1" * 64})
    run.cell.split.write_text("id,subset\na,train\n")
    assert misfits(run, record) == ["data", "split"]
    changed = change(run, parameters=None, hashes=None)
    assert misfits(run, changed) == ["parameters", "data", "split", "code"]


def test_a_record_from_before_an_option_had_it_at_its_default(run: Run) -> None:
    """Here as if smoothing were new."""
    parameters = run.parameters.model_dump()
    assert parameters["configuration"].pop("smoothed") is False
    record = change(run, parameters=parameters, key="of another code", hashes={})
    assert misfits(run, record) == ["data", "split", "code"]


@pytest.mark.parametrize("content", [{}, [], {"sha256": None}])
def test_a_damaged_description_of_the_data_is_named(run: Run, content: Any) -> None:
    write_json(run.cell.arrays, content)
    with pytest.raises(DmfError, match=r"phantom\.json names no sha256.*Delete it"):
        run.key()


if __name__ == "__main__":
    write_json(GOLDEN, held())

"""Damaged and hostile records are refused with their file and key, by every command that reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from dmf import records
from dmf.errors import DmfError
from dmf.study import Study

from conftest import dmf, tiny
from run_folders import write_run

HASH = "0" * 64
OUTCOME: dict[str, Any] = {
    "status": "complete",
    "epochs": 3,
    "last": {"epoch": 3, "test": {"dice": 0.5}},
}
RUN: dict[str, Any] = {"key": HASH, "files": {"history.csv": HASH}, "outcome": OUTCOME}
DAMAGED: dict[str, tuple[type[records.Record], Any, str]] = {
    "a list": (records.RunRecord, [], "dictionary"),
    "no key": (records.RunRecord, {**RUN, "key": None}, "key"),
    "files a list": (records.RunRecord, {**RUN, "files": ["history.csv"]}, "files"),
    "a path": (records.RunRecord, {**RUN, "files": {"../x": HASH}}, "files"),
    "a device": (records.RunRecord, {**RUN, "files": {"/dev/zero": HASH}}, "files"),
    "versions": (records.RunRecord, {**RUN, "versions": None}, "versions"),
    "no device's name": (records.RunRecord, {**RUN, "device": {"type": "cpu"}}, "device.name"),
    "an outcome": (records.RunRecord, {**RUN, "outcome": {"status": "running"}}, "outcome.status"),
    "a score": (records.Outcome, {**OUTCOME, "best": {"test": {"dice": "0.5"}}}, "best.test.dice"),
    "a name": (records.Outcome, {**OUTCOME, "best": {"test": {"<b>": 0.5}}}, "best.test"),
    "diverged": (records.Outcome, {**OUTCOME, "diverged": {"epoch": "<script>"}}, "diverged"),
    "classes": (records.Description, {"classes": 10**10}, "classes"),
    "a licence": (records.Description, {"licence": ["MIT"]}, "licence"),
    "duplicates": (records.Description, {"duplicates": []}, "duplicates"),
    "no hash": (records.ArraysDescription, {}, "sha256"),
}


@pytest.mark.parametrize(("record", "value", "key"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_out_of_bounds_is_named_with_its_remedy(
    tmp_path: Path, record: type[records.Record], value: Any, key: str
) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DmfError, match=r"record\.json is damaged:") as told:
        record.read(path)
    assert key in str(told.value)
    assert record.remedy in str(told.value)


def test_what_is_sound_is_returned_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    value = {**RUN, "of_a_newer_version": [1]}
    path.write_text(json.dumps(value))
    assert records.RunRecord.read(path) == value


@pytest.mark.parametrize("text", ["[]", '{"status": 1}', "[" * 100_000, "\0", '{"last": []}'])
def test_no_command_ends_in_a_traceback_over_a_damaged_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = tiny()
    Path("params.yaml").write_text(json.dumps(settings))
    run = write_run(Study.from_mapping(settings), 0)
    for name in ("metrics.json", "run.json"):
        (run.cell.folder / name).write_text(text)
    for command in ("aggregate", "verify", "plan", "left", "prune"):
        done = dmf(command)
        assert "Traceback" not in done.stderr
        assert "fault of the program" not in done.stderr
        assert done.returncode == 0 or done.stderr


def test_the_devices_of_a_run_are_told_in_order() -> None:
    one, two = ({"name": name, "type": "cuda"} for name in ("one", "two"))
    assert records.trained_on({}) is records.trained_on({"device": None}) is None
    assert (
        records.trained_on({"device": one})
        == records.trained_on({"device": one, "devices": []})
        == "one"
    )
    assert records.trained_on({"device": two, "devices": [one, two, one]}) == "one, then two"
    assert records.trained_on({"device": one}, "{name} ({type})") == "one (cuda)"

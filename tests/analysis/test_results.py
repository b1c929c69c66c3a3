"""Run folders into the long table: nothing lost, everything missing named."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dmf import layout, outcomes
from dmf.analysis import results
from dmf.errors import DmfError
from dmf.layout import Cell
from dmf.study import ReportParameters

from synthetic import make_study, write_study

CONFIGURATIONS = ["cb_dice-variance", "none-mad", "fixed"]


@pytest.fixture
def parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReportParameters:
    """Two data sets, three configurations, three seeds; one run missing, one diverged."""
    monkeypatch.chdir(tmp_path)
    study = make_study({"busi": "busi", "phantom": "phantom"}, configurations=CONFIGURATIONS)
    write_study(tmp_path, study, missing=[("busi", "fixed", 2)], diverged=[("busi", "none-mad", 1)])
    return study.report_parameters()


def test_every_number_of_every_run_is_in_the_table(parameters: ReportParameters) -> None:
    table = results.collect(parameters.grid, partial=True)
    for dataset, configuration, seed in [("busi", "none-mad", 0), ("phantom", "fixed", 2)]:
        metrics = json.loads(Cell(dataset, configuration, seed).metrics.read_text())
        rows = table[
            (table["dataset"] == dataset)
            & (table["configuration"] == configuration)
            & (table["seed"] == seed)
        ]
        found = {
            (row["epoch_choice"], row["subset"], row["metric"]): row["value"]
            for row in rows.to_dict("records")
        }
        assert found == {
            (choice, subset, name): value
            for choice in ("last", "best", "settled", "recalibrated")
            for subset in ("train", "validation", "test")
            if (choice, subset) != ("settled", "train")
            for name, value in metrics[choice][subset].items()
        }


def test_missing_runs_are_named_unless_partial(parameters: ReportParameters) -> None:
    with pytest.raises(DmfError, match=r"1 of 18 runs.*\n.*busi/fixed: seed 02.*\n.*--partial"):
        results.collect(parameters.grid, partial=False)


def test_runs_without_numbers_are_one_row(parameters: ReportParameters) -> None:
    table = results.collect(parameters.grid, partial=True)
    without = table[table["status"] != "complete"]
    assert without[["configuration", "seed", "status"]].values.tolist() == [
        ["none-mad", 1, "diverged"],
        ["fixed", 2, "missing"],
    ]
    assert (without[["epoch_choice", "subset", "metric"]] == "").all(axis=None)
    assert without["value"].isna().all()


def test_the_table_survives_its_file(parameters: ReportParameters, tmp_path: Path) -> None:
    table = results.collect(parameters.grid, partial=True)
    results.write(table, parameters.grid, tmp_path / "reports")
    pd.testing.assert_frame_equal(
        results.read(tmp_path / "reports/results.csv"), table, check_exact=True
    )
    summary = json.loads((tmp_path / "reports/metrics.json").read_text())
    seeds = results.values(table, "busi", "dice")["cb_dice-variance"]
    assert summary["busi"]["cb_dice-variance"]["dice"] == pytest.approx(seeds.mean())
    assert set(summary["phantom"]["fixed"]) == {*outcomes.METRICS, *outcomes.FOREGROUND_METRICS}


def test_values_are_seeds_by_configurations(parameters: ReportParameters) -> None:
    table = results.collect(parameters.grid, partial=True)
    values = results.values(table, "busi", "iou", subset="train", epoch_choice="best")
    assert list(values.columns) == CONFIGURATIONS
    assert list(values.index) == [0, 1, 2]
    assert values.isna().sum().to_dict() == {"cb_dice-variance": 0, "none-mad": 1, "fixed": 1}
    assert results.values(table, "busi", "no such metric").empty


def test_histories_hold_every_epoch(parameters: ReportParameters) -> None:
    epochs = results.histories(parameters.grid)
    counts = epochs.groupby(["dataset", "configuration", "seed"])["epoch"].max()
    assert counts["busi", "cb_dice-variance", 0] == parameters.epochs
    assert counts["busi", "none-mad", 1] < parameters.epochs
    assert ("busi", "fixed", 2) not in counts.index
    assert len(counts) == 17
    assert epochs["seconds"].notna().all()
    assert epochs.loc[epochs["configuration"] == "fixed", "gamma"].isna().all()


def test_a_run_that_diverged_at_once_has_no_epoch(parameters: ReportParameters) -> None:
    first, *others = dict.fromkeys(cell.history for cell in layout.cells(parameters.grid))
    first.write_text(first.read_text().splitlines()[0] + "\n")
    table = results.histories(parameters.grid)
    assert table["epoch"].dtype == "int64"
    assert len(table.groupby(["dataset", "configuration", "seed"])) < len([first, *others])


def test_a_study_without_runs_has_empty_histories(tmp_path: Path) -> None:
    parameters = make_study({"own": "folder"}).report_parameters()
    assert results.histories(parameters.grid).empty


@pytest.mark.parametrize(
    "text", ["{", '{"status": "complete", "last": {}}', '{"status": "odd"}', "[]"]
)
def test_a_damaged_record_is_named(parameters: ReportParameters, text: str) -> None:
    Cell("busi", "fixed", 0).metrics.write_text(text)
    with pytest.raises(DmfError, match=r"seed-00.metrics\.json"):
        results.collect(parameters.grid, partial=True)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_a_file_that_is_no_results_table_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.csv"
    with pytest.raises(DmfError, match="does not exist"):
        results.read(path)
    path.write_text(text)
    with pytest.raises(DmfError, match=r"results\.csv .*dmf aggregate"):
        results.read(path)

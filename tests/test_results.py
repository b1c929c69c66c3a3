"""Run folders into the long table: nothing lost, everything missing named."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dmf import outcomes
from dmf.analysis import results
from dmf.errors import DmfError
from dmf.study import ReportParameters, known_configurations, run_folder

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
        metrics = json.loads(
            (run_folder(dataset, configuration, seed) / "metrics.json").read_text()
        )
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
    courses = results.histories(parameters.grid, "busi")
    counts = courses.groupby(["configuration", "seed"])["epoch"].max()
    assert counts["cb_dice-variance", 0] == parameters.epochs
    assert counts["none-mad", 1] < parameters.epochs
    assert ("fixed", 2) not in counts.index
    assert courses["seconds"].notna().all()
    assert courses.loc[courses["configuration"] == "fixed", "gamma"].isna().all()


def test_a_study_without_runs_has_empty_histories(tmp_path: Path) -> None:
    parameters = make_study({"own": "folder"}).report_parameters()
    assert results.histories(parameters.grid, "own").empty


@pytest.mark.parametrize(
    "text", ["{", '{"status": "complete", "last": {}}', '{"status": "odd"}', "[]"]
)
def test_a_damaged_record_is_named(parameters: ReportParameters, text: str) -> None:
    path = run_folder("busi", "fixed", 0) / "metrics.json"
    path.write_text(text)
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


def test_factors_tell_all_configurations_apart() -> None:
    names = [name for name in known_configurations() if name != "none-fixed"]
    assert len({results.factors(name) for name in names}) == len(names)
    assert results.factors("fixed") == results.factors("none-fixed") == ("none", "fixed")
    assert results.factors("cb_dice-variance_ema") == ("cb_dice", "variance_ema")


def test_what_is_smaller_than_in_the_paper_is_said() -> None:
    small = make_study(seeds=3, epochs=20, image_size=32).report_parameters()
    assert results.reductions(small) == [
        "epochs: 20 instead of 100",
        "image size: 32 instead of 128",
        "U-Net filters: [4, 8] instead of [32, 64, 128, 256]",
        "seeds: 3 instead of 10",
    ]
    full = small.model_copy(
        update={"epochs": 100, "image_size": 128, "filters": [32, 64, 128, 256]}
    )
    full = full.model_copy(update={"grid": full.grid.model_copy(update={"seeds": 12})})
    assert results.reductions(full) == []


def test_other_departures_are_said() -> None:
    parameters = make_study().report_parameters()
    assert results.departures(parameters) == []
    split = parameters.split.model_copy(update={"kind": "grouped", "per_seed": False})
    changed = parameters.model_copy(
        update={"preset": "released", "split": split, "changed": ["losses.reduction = image"]}
    )
    assert len(results.departures(changed)) == 4


def test_only_the_papers_kinds_are_the_papers_data() -> None:
    parameters = make_study(
        {"busi": "phantom", "mine": "busi", "bus": "folder"}
    ).report_parameters()
    assert [results.paper_dataset(parameters, name) for name in ("busi", "mine", "bus")] == [
        None,
        "busi",
        None,
    ]

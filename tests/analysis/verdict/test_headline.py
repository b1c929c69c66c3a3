"""The one difference that answers a study, read at every evaluation."""

from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmf.analysis import results
from dmf.analysis.verdict.comparisons import compare
from dmf.analysis.verdict.headline import Headline
from dmf.analysis.verdict.headline import headline as read
from dmf.study import ReportParameters

import synthetic

CONFIGURATIONS = ["none-mad", "cb_dice-variance", "fixed"]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[pd.DataFrame, ReportParameters]:
    """Five seeds of BUSI in which the recommended combination is 3 points above fixed weights."""
    study = synthetic.make_study({"busi": "busi"}, configurations=CONFIGURATIONS, seeds=5, epochs=3)
    synthetic.write_study(tmp_path, study, dice={"cb_dice-variance": 0.83})
    parameters = study.report_parameters()
    with chdir(tmp_path):
        return results.collect(parameters.grid, partial=False), parameters


def headline(table: pd.DataFrame, parameters: ReportParameters, dataset: str) -> Headline | None:
    return read(table, parameters, dataset, compare(table, parameters, dataset))


def shift(table: pd.DataFrame, evaluation: str, by: float) -> pd.DataFrame:
    """Return the results with one evaluation of the recommended combination moved."""
    chosen = (table["epoch_choice"] == evaluation) & (table["configuration"] == CONFIGURATIONS[1])
    return table.assign(value=table["value"] + np.where(chosen, by, 0))


def test_it_is_the_recommended_combination_at_every_evaluation(
    runs: tuple[pd.DataFrame, ReportParameters],
) -> None:
    table, parameters = runs
    found = headline(table, parameters, "busi")
    assert found
    assert (found.candidate, found.reference) == ("cb_dice-variance", "fixed")
    assert list(found.readings) == ["last", "best", "settled", "recalibrated"]
    pairs = compare(table, parameters, "busi").set_index("configuration")
    assert found.primary.difference == pairs.loc["cb_dice-variance", "difference"]
    assert found.outcome == pairs.loc["cb_dice-variance", "outcome"]
    assert found.paper == pytest.approx(0.0338)
    assert found.primary.paper_p == pytest.approx(pairs.loc["cb_dice-variance", "paper_gap_p"])
    assert found.robust
    best = results.values(table, "busi", "dice", epoch_choice="best")
    gap = best["cb_dice-variance"] - best["fixed"]
    assert found.readings["best"].difference == pytest.approx(gap.mean())


def test_what_is_excluded(runs: tuple[pd.DataFrame, ReportParameters]) -> None:
    table, parameters = runs
    for by, expected in ((0.0, [True, False]), (-0.03, [False]), (-0.06, [True, True, True])):
        found = headline(shift(table, "last", by), parameters, "busi")
        assert found
        excluded = [part.excluded for part in found.primary.exclusions]
        assert excluded[: len(expected)] == expected
        assert found.primary.exclusions[0].excluded == (
            found.primary.low > 0 or found.primary.high < 0
        )


def test_it_depends_on_the_epoch_if_one_evaluation_turns(
    runs: tuple[pd.DataFrame, ReportParameters],
) -> None:
    table, parameters = runs
    found = headline(shift(table, "settled", -0.06), parameters, "busi")
    assert found
    assert found.robust is False


def test_older_runs_and_single_seeds_say_what_there_is(
    runs: tuple[pd.DataFrame, ReportParameters],
) -> None:
    table, parameters = runs
    last = table[table["epoch_choice"].isin(["last", ""])]
    found = headline(last, parameters, "busi")
    assert found
    assert (list(found.readings), found.robust) == (["last"], None)
    single = headline(table[table["seed"] == 0], parameters, "busi")
    assert single
    assert (single.primary.n, single.robust) == (1, None)
    nothing = headline(table[table["configuration"] != "fixed"], parameters, "busi")
    assert nothing is None

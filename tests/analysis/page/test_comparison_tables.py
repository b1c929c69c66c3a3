"""The tables of planned comparisons."""

from contextlib import chdir
from pathlib import Path

import pytest

from dmf.analysis import results
from dmf.analysis.page.comparison_tables import comparison_tables, unseen_seeds
from dmf.analysis.verdict.comparisons import compare

import synthetic


def test_planned_comparisons_are_given_at_every_evaluation(tmp_path: Path) -> None:
    names = ["none-variance", "cb_dice-variance", "cb_dice-fixed", "fixed"]
    study = synthetic.make_study({"busi": "busi"}, configurations=names, seeds=5, epochs=3)
    synthetic.write_study(tmp_path, study, dice={"cb_dice-variance": 0.83})
    parameters = study.report_parameters()
    with chdir(tmp_path):
        table = results.collect(parameters.grid, partial=False)
        without = table[
            ~((table["configuration"] == "none-variance") & (table["epoch_choice"] == "settled"))
        ]
        made = {
            one.title: one
            for one in comparison_tables(
                without, parameters, "busi", compare(without, parameters, "busi")
            )
        }
    found = made["Planned comparisons, every evaluation"]
    assert found.columns == [
        "Last epoch",
        "Best validation epoch",
        "Median of the last fifth",
        "Recalibrated batch norm",
    ]
    rows = {row.label: row.cells for row in found.rows}
    assert set(rows) == {
        "No auxiliary + Variance",
        "CB-Dice + Variance",
        "CB-Dice + Fixed",
        "CB-Dice + Variance against CB-Dice + Fixed",
        "CB-Dice + Variance against No auxiliary + Variance",
        "Mean of 2 adaptive",
        "Mean of 2 adaptive, each against fixed with its auxiliary or none",
    }
    best = results.values(table, "busi", "dice", epoch_choice="best")
    gap = best["cb_dice-variance"] - best["cb_dice-fixed"]
    cell = rows["CB-Dice + Variance against CB-Dice + Fixed"][1]
    assert cell.value == pytest.approx(100 * gap.mean())
    assert cell.spread.startswith("[")
    assert rows["No auxiliary + Variance"][2].text == ""
    gain = (best["cb_dice-variance"] + best["none-variance"]) / 2 - best["fixed"]
    assert rows["Mean of 2 adaptive"][1].value == pytest.approx(100 * gain.mean())
    paired = (gap + best["none-variance"] - best["fixed"]) / 2
    with_its_own = rows["Mean of 2 adaptive, each against fixed with its auxiliary or none"]
    assert with_its_own[1].value == pytest.approx(100 * paired.mean())
    assert with_its_own[2].text == ""


@pytest.mark.parametrize(("seen", "left"), [(0, None), (3, 5), (4, None)])
def test_seeds_that_had_been_seen_are_left_out_once(
    tmp_path: Path, seen: int, left: int | None
) -> None:
    names = ["cb_dice-variance", "fixed"]
    study = synthetic.make_study(
        {"busi": "busi"}, configurations=names, seeds=8, epochs=3, report={"seen_seeds": seen}
    )
    synthetic.write_study(tmp_path, study)
    parameters = study.report_parameters()
    with chdir(tmp_path):
        table = results.collect(parameters.grid, partial=False)
        made = unseen_seeds(table, parameters, "busi")
    if left is None:
        assert made == []
        return
    first = made[0].rows[0].cells
    dice = results.values(table, "busi", "dice")
    gain = (dice["cb_dice-variance"] - dice["fixed"]).loc[seen:]
    assert (first[0].value, first[-1].text) == (pytest.approx(100 * gain.mean()), str(left))
    assert "first 3 seeds had been seen" in made[0].caption

"""Scores on sets that runs were not trained on: which rows count, and what is said of them."""

from pathlib import Path

import pytest
from scipy import stats

from dmf.analysis.page import other_sets
from dmf.analysis.tables import Table
from dmf.errors import DmfError

from synthetic import make_study

STUDY = make_study({"a": "phantom", "b": "phantom"}, configurations=["fixed", "cb_dice-variance"])
FIXED, ADAPTIVE = (0.70, 0.74, 0.72), (0.72, 0.75, 0.75)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(scored: str, rows: list[str]) -> None:
    path = Path(f"reports/evaluations/{scored}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "run,weights,dice,foreground_dice,image_foreground_dice"
    path.write_text("\n".join([head, *rows]) + "\n")


def tables() -> list[Table]:
    parameters = STUDY.report_parameters()
    grid = parameters.grid.model_copy(update={"evaluate_on": ["b"]})
    return other_sets.tables(other_sets.read(grid), parameters)


def test_the_gain_is_that_of_a_paired_t_test() -> None:
    rows = [
        f"a/{name}/seed-{seed:02d},{weights},{value if weights == 'last' else 0.1},0.5,0.4"
        for name, values in (("fixed", FIXED), ("cb_dice-variance", ADAPTIVE))
        for seed, value in enumerate(values)
        for weights in ("last", "best")
    ]
    write("b", [*rows, "b/fixed/seed-77,last,0.9,0.9,0.9"])  # of no run of the study
    short, every = tables()
    (pair,) = short.rows
    assert pair.label == "a → b"
    fixed, adaptive, gain, seeds = pair.cells
    assert [fixed.text, fixed.spread, adaptive.text] == ["72.00", "± 2.00", "74.00"]
    interval = stats.ttest_rel(ADAPTIVE, FIXED).confidence_interval()
    assert gain.text == "+2.00"
    low, high = (f"{100 * end:+.2f}".replace("-", "−") for end in interval)
    assert gain.spread == f"[{low}, {high}]"
    assert seeds.text == "3"
    assert [row.names[2] for row in every.rows] == ["Fixed weights", "CB-Dice + Variance"]
    assert every.rows[1].cells[3] == gain


def test_without_evaluations_there_is_no_table() -> None:
    assert tables() == []


def test_what_is_no_table_is_named() -> None:
    write("b", ["a/fixed/seed-00,last,high,0.5,0.4"])
    with pytest.raises(DmfError, match=r"evaluations/b\.csv is no table .*dmf evaluate"):
        tables()

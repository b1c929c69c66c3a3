"""The answer: two sentences and one number, of one set or of several."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dmf.analysis.page.answer import answer
from dmf.analysis.page.comparison_tables import evaluations, over_sets
from dmf.analysis.verdict.comparisons import _ACROSS_COLUMNS, _COLUMNS
from dmf.analysis.verdict.headline import Exclusion, Headline, Reading
from dmf.outcomes import EVALUATIONS

import synthetic

NOT_POOLED = pd.DataFrame(columns=_ACROSS_COLUMNS)
NO_PAIRS = pd.DataFrame(columns=_COLUMNS)
STUDY = synthetic.make_study({"busi": "busi", "busc": "busc", "phantom": "phantom"})
PARAMETERS = STUDY.report_parameters()


def reading(difference: float, *excluded: bool) -> Reading:
    names = ("zero", "a gain of half a point", "the paper's gain")
    parts = tuple(Exclusion(*pair) for pair in zip(names, excluded, strict=False))
    return Reading(5, difference, difference - 0.01, difference + 0.01, parts)


def headline(dataset: str, difference: float, paper: float | None = 0.0338) -> Headline:
    same = reading(difference, False, False, True)
    readings = dict.fromkeys(EVALUATIONS, same)
    return Headline(dataset, "cb_dice-variance", "fixed", "inconclusive", paper, readings)


def test_one_set_is_answered_by_its_difference() -> None:
    found = answer([headline("busi", -0.0012)], NOT_POOLED, NO_PAIRS, PARAMETERS)
    assert (found.number, found.paper, found.verdict, found.epochs) == (
        *("−0.12", "+3.38", "undecided", "robust"),
    )
    assert found.sentences == [
        "On BUSI, CB-Dice + Variance, the combination that the paper recommends, scores 0.12 "
        "points of Dice below fixed weights (95 % interval −1.12 to +0.88, 5 seeds); the paper has "
        "+3.38.",
        "The interval excludes the paper's gain, but neither zero nor a gain of half a point; "
        "the answer is robust: all 4 evaluations agree.",
    ]
    scale = found.scale
    assert scale
    assert scale.interval
    assert scale.paper
    places = [scale.interval[0], scale.estimate, scale.zero, scale.interval[1], scale.paper]
    assert places == sorted(places)
    assert 0 < places[0] < places[-1] < 100


def test_an_epoch_that_says_otherwise_is_named() -> None:
    one = headline("busi", 0.004)
    other = replace(one, readings={**one.readings, "best": reading(-0.02, True, True, True)})
    found = answer([other], NOT_POOLED, NO_PAIRS, PARAMETERS)
    assert found.epochs == "depends on the epoch"
    assert found.sentences[1].endswith("depends on the epoch: it is −2.00 (best validation epoch).")


def test_few_seeds_decide_nothing_but_may_depend_on_the_epoch() -> None:
    few = replace(reading(0.01), n=3)
    agree = replace(headline("busi", 0.01), readings=dict.fromkeys(EVALUATIONS, few))
    assert answer([agree], NOT_POOLED, NO_PAIRS, PARAMETERS).sentences[1] == (
        "Fewer than 5 seeds decide nothing."
    )
    turned = replace(agree, readings=agree.readings | {"best": replace(few, difference=-0.01)})
    found = answer([turned], NOT_POOLED, NO_PAIRS, PARAMETERS)
    assert found.sentences[1] == (
        "Fewer than 5 seeds decide nothing; the answer depends on the epoch: it is −1.00 "
        "(best validation epoch)."
    )


def test_without_an_interval_nothing_is_decided() -> None:
    single = Reading(1, 0.01, np.nan, np.nan, ())
    found = answer(
        [replace(headline("busi", 0.0), readings={"last": single})],
        NOT_POOLED,
        NO_PAIRS,
        PARAMETERS,
    )
    assert found.interval == found.epochs == ""
    assert found.sentences[1] == (
        "An interval needs at least two seeds, so that nothing is decided here."
    )


def test_without_a_comparison_the_answer_says_whether_there_will_be_one() -> None:
    unfinished = answer([], NOT_POOLED, NO_PAIRS, PARAMETERS)
    assert unfinished.number == ""
    assert unfinished.sentences[0].endswith("there is no difference to report yet.")
    grid = PARAMETERS.grid.model_copy(update={"configurations": ["cb_dice-variance"]})
    alone = PARAMETERS.model_copy(update={"grid": grid})
    assert answer([], NOT_POOLED, NO_PAIRS, alone).sentences[0] == (
        "This study has no adaptive configuration beside fixed weights, so that it has no "
        "difference to report."
    )


def test_phantoms_never_stand_for_the_papers_sets() -> None:
    both = [headline("phantom", 0.05, None), headline("busi", 0.001)]
    assert "On BUSI" in answer(both, NOT_POOLED, NO_PAIRS, PARAMETERS).sentences[0]
    alone = answer(both[:1], NOT_POOLED, NO_PAIRS, PARAMETERS)
    assert "On synthetic phantom images" in alone.sentences[0]
    assert alone.paper == ""


@pytest.fixture
def pooled() -> pd.DataFrame:
    row = dict.fromkeys(_ACROSS_COLUMNS, np.nan) | {
        "configuration": "cb_dice-variance",
        "datasets": 2,
        "runs": 10,
        "gain": 0.0123,
        "gain_low": 0.005,
        "gain_high": 0.02,
        "pooled": 0.015,
        "pooled_low": -0.01,
        "pooled_high": 0.04,
    }
    return pd.DataFrame([row])


def test_several_sets_are_answered_together_and_listed(pooled: pd.DataFrame) -> None:
    sets = [headline("busi", 0.01), headline("busc", 0.02), headline("phantom", 0.09, None)]
    found = answer(sets, pooled, NO_PAIRS, PARAMETERS)
    assert found.number == "+1.50"
    assert "Over BUSI and BUSC," in found.sentences[0]
    assert (
        "(random effects, 95 % interval −1.00 to +4.00; interquartile mean +1.23)"
        in found.sentences[0]
    )
    assert "phantom" not in " ".join(found.sentences)
    table = over_sets(sets, pooled, PARAMETERS)
    assert [row.label for row in table.rows] == [
        *("BUSI", "BUSC", "phantom"),
        *("Interquartile mean over 2 sets", "Random effects over 2 sets"),
    ]
    assert [row.cells[0].text for row in table.rows] == [
        "+1.00",
        "+2.00",
        "+9.00",
        "+1.23",
        "+1.50",
    ]
    assert [row.cells[1].text for row in table.rows] == ["+3.38", "+3.38", "", "", ""]


def test_sets_of_others_are_pooled_with_the_paper_s(pooled: pd.DataFrame) -> None:
    parameters = synthetic.make_study({"busi": "busi", "udiat": "udiat"}).report_parameters()
    sets = [headline("busi", 0.01), headline("udiat", 0.02, None)]
    assert "Over BUSI and UDIAT," in answer(sets, pooled, NO_PAIRS, parameters).sentences[0]


def test_the_configurations_that_win_anywhere_are_named(pooled: pd.DataFrame) -> None:
    columns = ("dataset", "configuration", "reference", "n", "outcome")
    pairs = pd.DataFrame(
        [
            ("busi", "cb_dice-variance", "fixed", 5, "inconclusive"),
            ("busc", "none-mad", "fixed", 5, "supported"),
            ("busc", "cb_dice-variance", "cb_dice-fixed", 5, "supported"),
            ("phantom", "none-mad", "fixed", 5, "supported"),
        ],
        columns=columns,
    )
    sets = [headline("busi", 0.01), headline("busc", 0.02)]
    ends = "Of 2 comparisons with fixed weights 1 is above: No auxiliary + MAD on BUSC."
    assert answer(sets, pooled, pairs, PARAMETERS).sentences[1].endswith(ends)
    none = pairs.assign(outcome="inconclusive")
    ends = "Of 2 comparisons with fixed weights none is above."
    assert answer(sets, pooled, none, PARAMETERS).sentences[1].endswith(ends)
    few = pairs.assign(n=3)
    assert "comparisons" not in answer(sets, pooled, few, PARAMETERS).sentences[1]


def test_sets_without_random_effects_are_answered_by_the_interquartile_mean(
    pooled: pd.DataFrame,
) -> None:
    sets = [headline("busi", 0.01), headline("busc", 0.02)]
    found = answer(sets, pooled.assign(pooled=np.nan), NO_PAIRS, PARAMETERS)
    assert found.number == "+1.23"
    assert "(interquartile mean, 95 % bootstrap interval +0.50 to +2.00)" in found.sentences[0]


def test_every_evaluation_has_its_interval_and_what_that_excludes() -> None:
    one = replace(
        headline("busi", -0.0011),
        readings={
            "last": replace(reading(0.0155, False, False, False), paper_p=0.2),
            "settled": replace(reading(-0.0011, False, False, True), paper_p=0.01),
            "recalibrated": replace(reading(0.0043), n=3),
        },
    )
    rows = {row.label: row.cells for row in evaluations(one, PARAMETERS).rows}
    texts = {name: [f"{c.text} {c.spread}".strip() for c in cells] for name, cells in rows.items()}
    assert texts == {
        "last epoch": ["+1.55 [+0.55, +2.55]", "nothing", "0.400", "5"],
        "median of the last fifth": ["−0.11 [−1.11, +0.89]", "the paper's gain", "0.030", "5"],
        "recalibrated batch norm": ["+0.43 [−0.57, +1.43]", "", "", "3"],
    }
    others = evaluations(replace(one, paper=None), PARAMETERS)
    assert others.columns == ["Difference", "Excludes", "Seeds"]

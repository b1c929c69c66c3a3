"""Names and numbers as people read them."""

import math

import pytest

from dmf.analysis.words import count, label, listed, number, p_value


def test_labels_read_well() -> None:
    assert [label(name) for name in ("cb_dice-mad_ema", "none-mad", "fixed", "cross_entropy")] == [
        "CB-Dice + MAD, smoothed",
        "No auxiliary + MAD",
        "Fixed weights",
        "Cross-entropy alone",
    ]


def test_lists_and_counts_read_well() -> None:
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a"]) == "a"
    assert [count(1, "seed"), count(2, "seed")] == ["1 seed", "2 seeds"]


def test_minus_signs_are_no_hyphens() -> None:
    assert number(-0.5, "+.2f") == "\N{MINUS SIGN}0.50"
    assert number(0.5, "+.2f") == "+0.50"


@pytest.mark.parametrize(
    ("p", "named", "bare"),
    [
        (0.0123, "p = 0.012", "0.012"),
        (0.0001, "p < 0.001", "< 0.001"),
        (math.nan, "no test", "no test"),
    ],
)
def test_p_is_printed_in_one_way(p: float, named: str, bare: str) -> None:
    assert p_value(p) == named
    assert p_value(p, bare=True) == bare

"""How verdicts look and text becomes HTML."""

from dmf.analysis.page import looks


def test_text_becomes_html_with_its_numbers_kept_together() -> None:
    space = "\N{NO-BREAK SPACE}"
    assert (
        looks.html("p < 0.001 at `a & b`") == f"p{space}&lt;{space}0.001 at <code>a &amp; b</code>"
    )
    assert looks.html("5 % of 3 seeds, n = 3") == f"5{space}% of 3{space}seeds, n{space}={space}3"
    assert looks.html("<b>") == "&lt;b&gt;"
    assert looks.pages("pp. 15-18, cb_dice-fixed") == "pp. 15\N{EN DASH}18, cb_dice-fixed"


def test_a_word_that_is_not_in_the_table_looks_undecided_and_is_counted_last() -> None:
    assert (looks.symbol("another word"), looks.tone("another word")) == ("≈", "open")
    counted = looks.tally(["another word", "not run", "supported", "not run"])
    assert counted == [("supported", 1), ("not run", 2), ("another word", 1)]

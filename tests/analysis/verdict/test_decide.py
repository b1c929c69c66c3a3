"""A rule seldom says what is not so."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from dmf.analysis.verdict import decide, statistics
from dmf.analysis.verdict.claim_schema import Best, Difference, Every, Spread
from dmf.analysis.verdict.statistics import Comparison
from dmf.configurations import paper_configurations
from dmf.settings import Report


class Scores:
    """The paper's configurations, ten seeds each, of which those in ``runs`` have finished."""

    can_grow = True
    test_to_train = 0.0

    def __init__(self, runs: pd.DataFrame) -> None:
        self.planned = paper_configurations()
        self._runs = runs

    def means(self, metric: str) -> "pd.Series[float]":
        return self._runs.mean()

    def contrast(
        self, weights: Mapping[str, float], metric: str, *, limit: float, confidence: float
    ) -> Comparison | None:
        if not set(weights) <= set(self._runs):
            return None
        values = self._runs[list(weights)].to_numpy() @ np.array(list(weights.values()))
        return statistics.paired(values[~np.isnan(values)] - limit, confidence=confidence)


def drawn(generator: np.random.Generator) -> pd.DataFrame:
    """Return the scores of thirteen configurations that are equally good."""
    names = paper_configurations()
    return pd.DataFrame(0.8 + generator.normal(0, 0.004, (10, len(names))), columns=names)


@pytest.mark.slow
def test_best_is_seldom_found_among_equals() -> None:
    """Even if the candidate is chosen after the fact, as the best of three."""
    generator = np.random.default_rng(0)
    rule = Best(test="best", candidates=["focal-*"], among=["*"])
    outcomes = [
        decide.decide(rule, Scores(drawn(generator)), "dice", Report()).outcome for _ in range(60)
    ]
    assert outcomes.count("supported") <= 3
    assert outcomes.count("contradicted") <= 6


def test_no_pair_may_be_further_apart_than_the_limit() -> None:
    """A pair that varies more may be, though the pair of the extreme means surely is not."""
    rule = Spread(test="spread", among=["*"], limit=0.02, expect="below")
    runs = 0 * drawn(np.random.default_rng(0)) + 0.8
    runs += np.linspace(-0.0005, 0.0005, 10)[:, None] * np.arange(13)
    runs["focal-mad"] -= 0.005
    runs["fixed"] += 0.0052
    assert decide.decide(rule, Scores(runs), "dice", Report()).outcome == "supported"
    alike = runs.assign(**{"tversky-mad": runs["none-mad"]})  # no spread to test, and no need to
    assert decide.decide(rule, Scores(alike), "dice", Report()).outcome == "supported"
    runs["none-mad"] += 0.005 + np.tile([-0.04, 0.04], 5)
    assert runs.mean().idxmax() == "fixed"
    open_one = decide.decide(rule, Scores(runs), "dice", Report())
    assert open_one.outcome == "inconclusive"
    assert "No auxiliary + MAD minus Focal + MAD may be above it: " in open_one.detail


def test_a_pair_with_few_seeds_is_named() -> None:
    rule = Spread(test="spread", among=["*"], limit=0.02, expect="below")
    runs = 0 * drawn(np.random.default_rng(0)) + 0.8
    runs += np.linspace(-0.0005, 0.0005, 10)[:, None] * np.arange(13)
    runs.loc[3:, "none-mad"] = np.nan
    verdict = decide.decide(rule, Scores(runs), "dice", Report())
    assert verdict.outcome == "numbers only"
    assert "No auxiliary + MAD" in verdict.detail
    assert "n = 3" in verdict.detail


def test_runs_that_are_missing_make_a_contradiction_no_easier() -> None:
    """One of twelve comparisons has run: the others count as if they had p = 1."""
    rule = Every(test="every", candidates=["*-*"], reference="fixed")
    noise = np.array([-3, -2, -1, 0, 1, -1, 0, 1, 2, 3]) * 0.0036
    runs = pd.DataFrame({"fixed": 0.8 - 0 * noise, "focal-mad": 0.8 - 0.0005 + noise})
    alone = statistics.paired(runs["focal-mad"] - runs["fixed"])
    assert 0.05 / 12 < statistics.p_below(alone, Report().margin) < 0.05
    assert decide.decide(rule, Scores(runs), "dice", Report()).outcome == "inconclusive"


def test_a_finished_run_without_the_number_is_not_called_unfinished() -> None:
    class Undefined(Scores):
        def means(self, metric: str) -> "pd.Series[float]":
            found = super().means(metric)
            return found if metric == "dice" else found.drop("none-mad")

    rule = Difference(
        test="difference", candidates=["none-mad", "focal-mad"], limit=0.0, expect="above"
    )
    runs = drawn(np.random.default_rng(0)).drop(columns="focal-mad")
    verdict = decide.decide(rule, Undefined(runs), "gamma_share", Report())
    assert verdict.outcome == "not run"
    assert verdict.detail == (
        "No finished run of focal-mad. The finished runs of none-mad have no such number."
    )

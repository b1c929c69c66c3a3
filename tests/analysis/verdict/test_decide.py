"""A rule supports seldom what is not so."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from dmf.analysis.verdict import decide, statistics
from dmf.analysis.verdict.claim_schema import Best
from dmf.analysis.verdict.statistics import Comparison
from dmf.configurations import paper_configurations
from dmf.settings import Report


class Scores:
    """A source of equally good configurations, drawn at random."""

    can_grow = True
    test_to_train = 0.0

    def __init__(self, generator: np.random.Generator) -> None:
        self.planned = paper_configurations()
        self._runs = pd.DataFrame(0.8 + generator.normal(0, 0.004, (10, 13)), columns=self.planned)

    def means(self, metric: str) -> "pd.Series[float]":
        return self._runs.mean()

    def contrast(
        self, weights: Mapping[str, float], metric: str, *, limit: float, confidence: float
    ) -> Comparison | None:
        values = self._runs[list(weights)].to_numpy() @ np.array(list(weights.values()))
        return statistics.paired(values - limit, confidence=confidence)


@pytest.mark.slow
def test_best_is_seldom_found_among_equals() -> None:
    """Even if the candidate is chosen after the fact, as the best of three."""
    generator = np.random.default_rng(0)
    rule = Best(test="best", candidates=["focal-*"], among=["*"])
    outcomes = [decide.decide(rule, Scores(generator), "dice", Report()).outcome for _ in range(60)]
    assert outcomes.count("supported") <= 3
    assert outcomes.count("contradicted") <= 6

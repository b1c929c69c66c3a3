"""Who is compared with whom, on our runs (paired by seed) and on the paper's tables (Welch).

Both sources answer the same questions, so that a claim is judged twice by the same code. Values
are in [0, 1].
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmf.analysis.paper.numbers import PAPER_RUNS, paper_table
from dmf.analysis.protocol import paper_dataset
from dmf.analysis.results import values
from dmf.analysis.verdict import dynamics, statistics
from dmf.analysis.verdict.statistics import Comparison
from dmf.configurations import factors, paper_configurations
from dmf.outcomes import METRICS
from dmf.settings import Report, Split
from dmf.study import ReportParameters

Pair = tuple[str, str]
Array = NDArray[np.float64]
Statistic = Callable[[Sequence[Array]], Array]

_NOT_PUBLIC = ("phantom", "folder")

FAMILIES = {
    "dmf_over_fixed": "adaptive weights against fixed weights without auxiliary",
    "control_over_fixed": "controls against fixed weights without auxiliary",
    "weighting_same_auxiliary": "adaptive weights against fixed weights with the same auxiliary",
    "auxiliary_same_weighting": "with an auxiliary against without, same weighting",
}


class Source(Protocol):
    """Where means and differences come from."""

    can_grow: bool
    """Whether more seeds could be run."""
    planned: list[str]
    test_to_train: float

    def means(self, metric: str) -> "pd.Series[float]":
        """Return the mean of every configuration that has one."""

    def contrast(
        self, weights: Mapping[str, float], metric: str, *, limit: float, confidence: float
    ) -> Comparison | None:
        """Compare a weighted sum of configurations with ``limit``; None if a member is absent."""


class Seeds:
    """The runs of one data set of a study; differences are paired by seed."""

    can_grow = True

    def __init__(
        self,
        results: pd.DataFrame,
        histories: pd.DataFrame,
        parameters: ReportParameters,
        dataset: str,
        evaluation: str = "last",
    ) -> None:
        """``results`` and ``histories`` may hold other data sets; unfinished runs are ignored.

        ``evaluation`` is one of :data:`dmf.outcomes.EVALUATIONS`.
        """
        self._results = results
        self._evaluation = evaluation
        complete = results[(results["dataset"] == dataset) & (results["status"] == "complete")]
        finished = set(zip(complete["configuration"], complete["seed"], strict=True))
        every = dynamics.by_run(histories, dataset, parameters.auxiliary)
        self._histories = {run: history for run, history in every.items() if run in finished}
        self._dataset = dataset
        self._tables: dict[str, pd.DataFrame] = {}
        self.planned = parameters.grid.configurations
        self.test_to_train = overlap(parameters.split)

    def runs(self, metric: str) -> pd.DataFrame:
        """Return seeds (rows) by configurations (columns) of a metric or a training quantity."""
        if metric not in self._tables:
            if metric in dynamics.QUANTITIES:
                table = dynamics.quantity(self._histories, metric)
            else:
                table = values(self._results, self._dataset, metric, epoch_choice=self._evaluation)
            self._tables[metric] = table
        return self._tables[metric]

    def means(self, metric: str) -> "pd.Series[float]":
        return self.runs(metric).mean()

    def differences(self, weights: Mapping[str, float], metric: str) -> Array:
        """Return the weighted sum for every seed that has all members; empty if there is none."""
        runs = self.runs(metric)
        columns = runs.columns.get_indexer(pd.Index(list(weights)))
        if (columns < 0).any():
            return np.empty(0)
        members = runs.to_numpy(dtype=np.float64)[:, columns]
        sums: Array = np.asarray(members @ np.array(list(weights.values())))
        return np.asarray(sums[~np.isnan(sums)])

    def contrast(
        self, weights: Mapping[str, float], metric: str, *, limit: float, confidence: float
    ) -> Comparison | None:
        differences = self.differences(weights, metric)
        if not differences.size:
            return None
        return statistics.paired(
            differences - limit, confidence=confidence, test_to_train=self.test_to_train
        )


class PaperNumbers:
    """One of the paper's tables; its means are compared as if independent, by Welch's t.

    ``test_to_train`` allows for overlapping splits as our own runs do.
    """

    can_grow = False

    def __init__(self, dataset: str, test_to_train: float = 0.0) -> None:
        self.dataset = dataset
        self.test_to_train = test_to_train
        self._table = paper_table(dataset) / 100
        self.planned = list(self._table.index)

    def means(self, metric: str) -> "pd.Series[float]":
        if metric not in METRICS:
            return pd.Series(dtype=float)
        return self._table[(metric, "mean")]

    def contrast(
        self, weights: Mapping[str, float], metric: str, *, limit: float, confidence: float
    ) -> Comparison | None:
        if metric not in METRICS or not set(weights) <= set(self.planned):
            return None
        rows = [self.planned.index(name) for name in weights]
        return statistics.welch(
            self._table[(metric, "mean")].to_numpy()[rows],
            self._table[(metric, "std")].to_numpy()[rows],
            PAPER_RUNS,
            list(weights.values()),
            limit=limit,
            confidence=confidence,
            test_to_train=self.test_to_train,
        )


def mean_of(contrasts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of contrasts, each given as a weight per configuration."""
    total: dict[str, float] = {}
    for contrast in contrasts:
        for name, weight in contrast.items():
            total[name] = total.get(name, 0.0) + weight / len(contrasts)
    return total


def overlap(split: Split) -> float:
    """Return the test over the training images where each seed redraws the split, else 0.

    The variance of a mean over seeds grows by it (:func:`dmf.analysis.verdict.statistics.paired`).
    """
    return split.test / split.train if split.per_seed else 0.0


def families(configurations: Iterable[str]) -> dict[str, list[Pair]]:
    """Return the planned pairs (candidate, reference) among ``configurations``, by family."""
    present = list(configurations)
    adaptive = [name for name in paper_configurations() if name in present and name != "fixed"]
    pairs: dict[str, list[Pair]] = {family: [] for family in FAMILIES}
    if "fixed" in present:
        pairs["dmf_over_fixed"] = [(name, "fixed") for name in adaptive]
        pairs["control_over_fixed"] = [
            (name, "fixed") for name in present if name not in adaptive and name != "fixed"
        ]
    for name in adaptive:
        auxiliary, weighting = factors(name)
        if auxiliary != "none" and f"{auxiliary}-fixed" in present:
            pairs["weighting_same_auxiliary"].append((name, f"{auxiliary}-fixed"))
        if auxiliary != "none" and f"none-{weighting}" in present:
            pairs["auxiliary_same_weighting"].append((name, f"none-{weighting}"))
    return pairs


def compare(
    results: pd.DataFrame,
    parameters: ReportParameters,
    dataset: str,
    metric: str = "dice",
    evaluation: str = "last",
) -> pd.DataFrame:
    """Return every planned comparison of ``dataset`` on one test metric at one evaluation.

    One row per pair: dataset, metric, family, configuration, reference, the fields of a
    :class:`~dmf.analysis.verdict.statistics.Comparison`, p_adjusted (Holm within the family), wins,
    losses, wilcoxon_p (both that and effect from six seeds on), outcome, seeds_low and seeds_high
    (how many seeds would decide it), and on the paper's data sets paper_difference, paper_gap (ours
    less the paper's) with its paper_gap_error and paper_gap_p, and excludes_paper.

    The outcome is whether configuration lies above reference: supported, contradicted (a gain of
    the margin is excluded), inconclusive, "numbers only" below five seeds, or "not run".
    """
    report = parameters.report
    source = Seeds(results, pd.DataFrame(), parameters, dataset, evaluation)
    known = paper_dataset(parameters, dataset)
    paper = PaperNumbers(known) if known else None
    rows: list[dict[str, Any]] = []
    for family, pairs in families(parameters.grid.configurations).items():
        found = [
            source.contrast({name: 1, other: -1}, metric, limit=0, confidence=report.confidence)
            for name, other in pairs
        ]
        # Holm counts every planned pair, so that a failed run never makes the others look better.
        adjusted = statistics.holm([np.nan if test is None else test.p for test in found])
        for pair, comparison, p in zip(pairs, found, adjusted, strict=True):
            row: dict[str, Any] = {"dataset": dataset, "metric": metric, "family": family}
            row |= {"configuration": pair[0], "reference": pair[1], "n": 0, "outcome": "not run"}
            if comparison is not None:
                weights = {pair[0]: 1.0, pair[1]: -1.0}
                differences = source.differences(weights, metric)
                row |= _tested(comparison, p, differences, report, len(pairs), source.test_to_train)
                if paper:
                    row |= _beside_paper(paper, weights, metric, comparison, report.confidence)
            rows.append(row)
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    return frame.astype(dict.fromkeys(["n", "wins", "losses", "seeds_low", "seeds_high"], "Int64"))


def _tested(
    comparison: Comparison,
    p: float,
    differences: Array,
    report: Report,
    family: int,
    test_to_train: float,
) -> dict[str, Any]:
    """Return what a pair that was run has in the table of :func:`compare`."""
    limits = {"margin": report.margin, "confidence": report.confidence}
    few = comparison.n < statistics.LEAST_SEEDS
    row = asdict(comparison) | {
        "p_adjusted": p,
        "wins": int((differences > 0).sum()),
        "losses": int((differences < 0).sum()),
        "wilcoxon_p": statistics.wilcoxon(differences),
        "outcome": "numbers only" if few else statistics.above(comparison, p, **limits),
    }
    if comparison.n < statistics.LEAST_FOR_RANKS:
        row["effect"] = np.nan
    if row["outcome"] == "inconclusive":
        seeds = statistics.seeds_to_decide(
            comparison, **limits, comparisons=family, test_to_train=test_to_train
        )
        row["seeds_low"], row["seeds_high"] = seeds or (None, None)
    return row


def _beside_paper(
    paper: PaperNumbers,
    weights: Mapping[str, float],
    metric: str,
    comparison: Comparison,
    confidence: float,
) -> dict[str, Any]:
    """Return the paper's difference and ours less it; empty if the paper has none."""
    theirs = paper.contrast(weights, metric, limit=0, confidence=confidence)
    if theirs is None:
        return {}
    gap = statistics.difference_of_effects(comparison, theirs, confidence=confidence)
    return {
        "paper_difference": theirs.difference,
        "paper_gap": gap.difference,
        "paper_gap_error": gap.standard_error,
        "paper_gap_p": gap.p,
        "excludes_paper": excludes(gap, 0.0),
    }


def excludes(comparison: Comparison, value: float) -> bool:
    """Say whether the interval exists and does not contain ``value``."""
    return bool(value < comparison.low or value > comparison.high)


def pooled_datasets(parameters: ReportParameters) -> list[str]:
    """Return the study's published sets; its phantom and own ones if it has no others."""
    datasets = parameters.grid.datasets
    return [name for name in datasets if parameters.kinds[name] not in _NOT_PUBLIC] or datasets


def across_datasets(
    results: pd.DataFrame, parameters: ReportParameters, metric: str = "dice"
) -> pd.DataFrame:
    """Return each configuration's interquartile mean over all data sets, and against fixed weights.

    Columns: configuration, datasets, runs, iqm, iqm_low, iqm_high, and against fixed weights the
    interquartile mean of the paired differences (gain…) and the probability of improvement
    (improvement…), each with its stratified bootstrap interval, and the differences of the data
    sets pooled by random effects (pooled…, tau; Hartung-Knapp interval). Published data sets are
    never pooled with phantom or own images. Configurations that lack a data set are left out; with
    fewer than two data sets the table is empty.
    """
    report, datasets = parameters.report, pooled_datasets(parameters)
    if len(datasets) < 2:
        return pd.DataFrame(columns=_ACROSS_COLUMNS)
    tables = [Seeds(results, pd.DataFrame(), parameters, name).runs(metric) for name in datasets]
    common = [name for name in tables[0] if all(name in table for table in tables)]
    rows: list[dict[str, Any]] = []
    for name in common:
        scores: list[Array] = [table[name].dropna().to_numpy() for table in tables]
        row = {"configuration": name, "datasets": len(datasets), "runs": sum(map(len, scores))}
        row |= _bootstrapped("iqm", statistics.interquartile_mean, scores, report)
        if name != "fixed" and "fixed" in common:
            both: list[Array] = [table[[name, "fixed"]].dropna().to_numpy() for table in tables]
            if all(map(len, both)):
                row |= _bootstrapped("gain", _gain, both, report)
                row |= _bootstrapped("improvement", _improvement, both, report)
                row |= _pooled(both, parameters)
        rows.append(row)
    return pd.DataFrame(rows, columns=_ACROSS_COLUMNS)


def _pooled(strata: Sequence[Array], parameters: ReportParameters) -> dict[str, float]:
    """Return the paired differences of every data set pooled by random effects, as columns."""
    confidence, shared = parameters.report.confidence, overlap(parameters.split)
    each = [
        statistics.paired(x[:, 0] - x[:, 1], confidence=confidence, test_to_train=shared)
        for x in strata
    ]
    if not all(one.varies for one in each):
        return {}
    mean, tau = statistics.random_effects(
        [one.difference for one in each],
        [one.standard_error for one in each],
        confidence=confidence,
    )
    return {"pooled": mean.difference, "pooled_low": mean.low, "pooled_high": mean.high, "tau": tau}


def _gain(strata: Sequence[Array]) -> Array:
    return statistics.interquartile_mean([x[..., 0] - x[..., 1] for x in strata])


def _improvement(strata: Sequence[Array]) -> Array:
    candidates, references = [x[..., 0] for x in strata], [x[..., 1] for x in strata]
    return statistics.probability_of_improvement(candidates, references)


def _bootstrapped(
    name: str, statistic: Statistic, strata: list[Array], report: Report
) -> dict[str, float]:
    """Return a statistic and the ends of its interval, as columns."""
    low, high = statistics.stratified_bootstrap(
        statistic,
        strata,
        resamples=report.bootstrap,
        confidence=report.confidence,
        generator=np.random.default_rng(0),
    )
    return {name: float(statistic(strata)), f"{name}_low": low, f"{name}_high": high}


_COLUMNS = [
    *("dataset", "metric", "family", "configuration", "reference"),
    *("n", "difference", "std", "standard_error", "degrees", "low", "high", "p", "p_adjusted"),
    *("plain_low", "plain_high", "plain_p"),
    *("effect", "wins", "losses", "wilcoxon_p", "outcome", "seeds_low", "seeds_high"),
    *("paper_difference", "paper_gap", "paper_gap_error", "paper_gap_p", "excludes_paper"),
]

_ACROSS_COLUMNS = [
    *("configuration", "datasets", "runs", "iqm", "iqm_low", "iqm_high"),
    *("gain", "gain_low", "gain_high"),
    *("improvement", "improvement_low", "improvement_high"),
    *("pooled", "pooled_low", "pooled_high", "tau"),
]

"""Planned comparisons on synthetic runs, against scipy on the same numbers."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmf.analysis import results
from dmf.analysis.paper.numbers import paper_table
from dmf.analysis.verdict import comparisons
from dmf.configurations import factors, paper_configurations
from dmf.study import ReportParameters

from synthetic import make_study, metrics_of

CONTROLS = ["tversky-fixed", "focal-fixed", "cb_dice-fixed", "none-random", "cross_entropy"]


def study(
    kinds: dict[str, str], configurations: list[str], seeds: int = 6, *, per_seed: bool = True
) -> ReportParameters:
    parameters = make_study(kinds, configurations=configurations, seeds=seeds).report_parameters()
    split = parameters.split.model_copy(update={"per_seed": per_seed})
    return parameters.model_copy(update={"split": split})


def scores(
    parameters: ReportParameters, lacking: tuple[str, str, int] | None = None
) -> pd.DataFrame:
    """Return results with random scores; the first configuration of the grid is 3 points better."""
    generator = np.random.default_rng(0)
    rows = []
    for dataset in parameters.grid.datasets:
        for configuration in parameters.grid.configurations:
            auxiliary, weighting = factors(configuration)
            gain = 0.03 * (configuration == parameters.grid.configurations[0])
            for seed in range(parameters.grid.seeds):
                if (dataset, configuration, seed) == lacking:
                    continue
                score = 0.8 + gain + generator.normal(0, 0.004)
                run = (dataset, configuration, auxiliary, weighting, seed, "complete")
                rows += [
                    (*run, "last", "test", metric, value)
                    for metric, value in metrics_of(score).items()
                ]
    return pd.DataFrame(rows, columns=results.COLUMNS)


def test_families_are_the_planned_ones() -> None:
    found = comparisons.families([*paper_configurations(), *CONTROLS])
    assert {name: len(pairs) for name, pairs in found.items()} == {
        "dmf_over_fixed": 12,
        "control_over_fixed": 5,
        "weighting_same_auxiliary": 9,
        "auxiliary_same_weighting": 9,
    }
    assert ("tversky-mad", "tversky-fixed") in found["weighting_same_auxiliary"]
    assert ("tversky-mad", "none-mad") in found["auxiliary_same_weighting"]
    assert not any(comparisons.families(["cb_dice-variance"]).values())


@pytest.mark.parametrize("per_seed", [True, False])
def test_rows_are_paired_tests_adjusted_within_their_family(per_seed: bool) -> None:
    parameters = study({"busi": "busi"}, paper_configurations(), per_seed=per_seed)
    frame = scores(parameters, lacking=("busi", "focal-mad", 2))
    table = comparisons.compare(frame, parameters, "busi", "iou")
    runs = results.values(frame, "busi", "iou")
    family = table[table["family"] == "dmf_over_fixed"].set_index("configuration")
    row = family.loc["focal-mad"]
    difference = (runs["focal-mad"] - runs["fixed"]).dropna()
    assert row["n"] == 5
    assert row["wins"] == (difference > 0).sum()
    statistic = stats.ttest_1samp(difference, 0).statistic
    if per_seed:
        statistic /= np.sqrt(1 + 5 * 0.15 / 0.70)
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(statistic), 4))
    smallest = family["p"].idxmin()
    assert smallest == paper_configurations()[0]
    assert family.loc[smallest, "p_adjusted"] == pytest.approx(12 * family["p"].min())
    assert np.isnan([row["wilcoxon_p"], row["effect"]]).all()  # five pairs are too few for both
    other = family.loc["focal-variance"]
    pairs = runs["focal-variance"] - runs["fixed"]
    assert other["wilcoxon_p"] == pytest.approx(stats.wilcoxon(pairs).pvalue)
    plain = stats.ttest_1samp(pairs, 0)
    assert other["plain_p"] == pytest.approx(plain.pvalue)
    assert other["plain_low"] == pytest.approx(plain.confidence_interval().low)


def test_the_papers_difference_is_beside_ours_on_its_data_alone() -> None:
    kinds = {"mine": "busc", "phantom": "phantom"}
    parameters = study(kinds, ["cb_dice-variance", "fixed"])
    frame = scores(parameters)
    row = comparisons.compare(frame, parameters, "mine").iloc[0]
    assert row["outcome"] == "supported"
    assert row["paper_difference"] == pytest.approx(0.9528 - 0.9340)
    # The paper's own standard error, sqrt((a² + b²) / 10), counts as well as ours.
    stds = paper_table("busc").loc[["cb_dice-variance", "fixed"], ("dice", "std")] / 100
    error = np.hypot(row["standard_error"], np.sqrt((stds**2).sum() / 10))
    assert row["paper_gap_error"] == pytest.approx(error)
    assert row["paper_gap"] == pytest.approx(row["difference"] - row["paper_difference"])
    assert row["excludes_paper"] == (row["paper_gap_p"] < 0.05)
    assert comparisons.compare(frame, parameters, "phantom")["paper_difference"].isna().all()
    lesion = comparisons.compare(frame, parameters, "mine", "foreground_dice")
    assert lesion["paper_difference"].isna().all()


def test_a_pair_without_common_seeds_is_not_run() -> None:
    parameters = study({"busi": "busi"}, ["none-mad", "none-variance", "fixed"], seeds=2)
    frame = scores(parameters)
    frame = frame[frame["configuration"] != "none-mad"]
    table = comparisons.compare(frame, parameters, "busi").set_index("configuration")
    assert table.loc["none-mad", "outcome"] == "not run"
    assert table.loc["none-mad", "n"] == 0
    other = table.loc["none-variance"]
    assert other["p_adjusted"] == pytest.approx(min(1.0, 2 * float(other["p"])))


def test_across_data_sets_is_a_trimmed_mean_with_its_interval() -> None:
    parameters = study({"busi": "busi", "bus": "bus"}, ["cb_dice-mad", "fixed"])
    frame = scores(parameters)
    table = comparisons.across_datasets(frame, parameters).set_index("configuration")
    both = [results.values(frame, name, "dice") for name in ("busi", "bus")]
    pooled = np.concatenate([runs["cb_dice-mad"] for runs in both])
    row = table.loc["cb_dice-mad"]
    assert row["iqm"] == pytest.approx(stats.trim_mean(pooled, 0.25))
    assert row["iqm_low"] < row["iqm"] < row["iqm_high"]
    assert row["improvement"] == 1
    assert row["gain_low"] > 0.02
    assert row["runs"] == 12
    gains = [runs["cb_dice-mad"] - runs["fixed"] for runs in both]
    assert row["pooled"] == pytest.approx(np.mean([gain.mean() for gain in gains]), abs=0.002)
    assert row["pooled_low"] < row["pooled"] < row["pooled_high"]
    pd.testing.assert_frame_equal(
        table.reset_index(), comparisons.across_datasets(frame, parameters)
    )


@pytest.mark.parametrize("kinds", [{"busi": "busi"}, {"busi": "busi", "phantom": "phantom"}])
def test_the_papers_data_are_never_pooled_with_phantoms(kinds: dict[str, str]) -> None:
    parameters = study(kinds, ["cb_dice-mad", "fixed"])
    assert comparisons.across_datasets(scores(parameters), parameters).empty


def test_four_seeds_have_numbers_and_no_outcome() -> None:
    parameters = study({"busi": "busi"}, ["cb_dice-variance", "fixed"], seeds=4)
    row = comparisons.compare(scores(parameters), parameters, "busi").iloc[0]
    assert row["outcome"] == "numbers only"
    assert row["low"] < row["difference"] < row["high"]
    assert row[["seeds_low", "seeds_high"]].isna().all()


def test_any_evaluation_can_be_compared() -> None:
    parameters = study({"busi": "busi"}, ["cb_dice-variance", "fixed"])
    frame = scores(parameters)
    best = frame.assign(epoch_choice="best")
    best.loc[best["configuration"] == "fixed", "value"] += 0.1
    both = pd.concat([frame, best], ignore_index=True)
    last, chosen = (
        comparisons.compare(both, parameters, "busi", evaluation=name).iloc[0]["difference"]
        for name in ("last", "best")
    )
    assert chosen == pytest.approx(last - 0.1)
    assert comparisons.compare(both, parameters, "busi", evaluation="settled").iloc[0]["n"] == 0

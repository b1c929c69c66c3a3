"""Explanations of the gap to the paper: measured where there are runs, otherwise not run."""

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from dmf.analysis import results
from dmf.analysis.verdict import explanations
from dmf.errors import DmfError
from dmf.study import ReportParameters

from synthetic import make_study, write_study

BENCHMARK = {"deeper", "no_augmentation", "hundred_epochs", "image_losses"}
CONFIGURATIONS = ["cb_dice-variance", "none-mad", "fixed"]
Study = tuple[pd.DataFrame, ReportParameters, Path]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study on BUSI's name and a phantom, and a second one whose scores are 2 points lower."""
    frames = []
    for number, (base, noise) in enumerate([(0.82, 0.002), (0.80, 0.004)]):
        folder = tmp_path_factory.mktemp(f"study{number}")
        made = make_study(
            {"busi": "busi", "phantom": "phantom"}, configurations=CONFIGURATIONS, seeds=4
        )
        write_study(folder, made, dice=dict.fromkeys(CONFIGURATIONS, base), noise=noise)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            frames.append(results.collect(made.report_parameters().grid, partial=False))
            results.write(frames[-1], made.grid, folder)
    return frames[0], made.report_parameters(), folder / "results.csv"


def explained(
    study: Study, others: dict[str, Path], dataset: str = "busi"
) -> dict[str, explanations.Explanation]:
    frame, parameters, _ = study
    found = explanations.explain(frame, parameters, others)
    return {answer.id: answer for answer in found if answer.dataset == dataset}


def test_training_scores_are_set_against_test_scores_and_the_paper(study: Study) -> None:
    answer = explained(study, {})["training_scores"]
    assert answer.outcome == "measured"
    row = answer.evidence["fixed"]
    test = results.values(study[0], "busi", "dice")["fixed"]
    train = results.values(study[0], "busi", "dice", subset="train")["fixed"]
    assert row["change"] == pytest.approx((train - test).mean())
    assert row["low"] < row["change"] < row["high"]
    assert row["paper"] == pytest.approx(0.9184)
    assert "Training is nearer to the paper in 3 of 3." in answer.detail


def test_phantoms_are_not_set_against_the_paper(study: Study) -> None:
    for answer in explained(study, {}, "phantom").values():
        assert "paper" not in answer.detail
        assert all(row["paper"] is None for row in answer.evidence.values())


def test_extra_studies_are_read_where_present(study: Study) -> None:
    nowhere = Path("nowhere/results.csv")
    absent = explained(study, dict.fromkeys(explanations.STUDIES, nowhere))
    present = explained(study, dict.fromkeys(explanations.STUDIES, study[2]))
    for name in set(explanations.STUDIES) - BENCHMARK:
        assert (absent[name].outcome, absent[name].evidence) == ("not run", {})
        assert present[name].outcome == "measured"
        assert list(present[name].evidence) == CONFIGURATIONS
        assert present[name].evidence["fixed"]["change"] == pytest.approx(-0.02, abs=0.005)


def test_the_benchmarks_questions_are_asked_by_its_score(study: Study) -> None:
    frame, parameters, path = study
    assert not BENCHMARK & set(explained(study, dict.fromkeys(BENCHMARK, path)))
    split = parameters.split.model_copy(update={"kind": "given"})
    given = parameters.model_copy(update={"split": split})
    answer = explained((frame, given, path), dict.fromkeys(BENCHMARK, path))["deeper"]
    reading = {"subset": "validation", "epoch_choice": "best"}
    ours, theirs = (
        results.values(table, "busi", "image_foreground_dice", **reading)["fixed"]
        for table in (frame, results.read(path))
    )
    row = answer.evidence["fixed"]
    assert (row["usual"], row["other"]) == pytest.approx((ours.mean(), theirs.mean()))
    assert "paper" not in answer.detail


def test_what_a_setting_does_not_reach_is_no_nearer(study: Study, tmp_path: Path) -> None:
    """Fixed weights have no gamma: their runs are the same ones, under either counting."""
    other = pd.read_csv(study[2])
    same = study[0][study[0]["configuration"] == "fixed"]
    path = tmp_path / "results.csv"
    pd.concat([other[other["configuration"] != "fixed"], same]).to_csv(path, index=False)
    answer = explained(study, {"gamma_batch": path})["gamma_batch"]
    assert answer.evidence["fixed"]["change"] == 0
    assert "Decay per batch is nearer to the paper in 0 of 2." in answer.detail


def test_other_splits_are_not_paired(study: Study) -> None:
    ours = results.values(study[0], "busi", "dice")["fixed"]
    theirs = results.values(results.read(study[2]), "busi", "dice")["fixed"]
    oracle = stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(0.95)
    row = explained(study, {"grouped": study[2]})["grouped"].evidence["fixed"]
    assert (row["low"], row["high"]) == pytest.approx((oracle.low, oracle.high))
    paired = explained(study, {"hard": study[2]})["hard"].evidence["fixed"]
    assert paired["high"] - paired["low"] < row["high"] - row["low"]


def test_gains_are_compared_on_the_seeds_of_both(study: Study, tmp_path: Path) -> None:
    other = pd.read_csv(study[2])
    path = tmp_path / "results.csv"
    other[other["seed"] < 3].to_csv(path, index=False)
    dice = results.values(study[0], "busi", "dice")
    gain = 100 * (dice["cb_dice-variance"] - dice["fixed"])
    assert f"{gain[:3].mean():+.2f}" != f"{gain.mean():+.2f}"
    text = explained(study, {"hard": path})["hard"].detail.replace("\N{MINUS SIGN}", "-")
    assert f"minus fixed weights: this study {gain[:3].mean():+.2f} ([" in text
    assert f"minus fixed weights: this study {gain.mean():+.2f} ([" in explained(
        study, {"grouped": path}
    )["grouped"].detail.replace("\N{MINUS SIGN}", "-")


def test_the_change_is_told_at_every_evaluation(study: Study) -> None:
    ours, theirs = (
        results.values(frame, "busi", "dice", epoch_choice="best")["fixed"]
        for frame in (study[0], results.read(study[2]))
    )
    text = explained(study, {"hard": study[2]})["hard"].detail.replace("\N{MINUS SIGN}", "-")
    change = 100 * (theirs - ours).mean()
    assert f"Fixed weights, other evaluations: best validation epoch {change:+.2f} [" in text
    assert "median of the last fifth" in text
    assert "recalibrated batch norm" in text


def test_unusable_studies_are_named(study: Study, tmp_path: Path) -> None:
    damaged = tmp_path / "results.csv"
    damaged.write_text("a\n1\n")
    with pytest.raises(DmfError, match=r"results\.csv"):
        explained(study, {"hard": damaged})
    with pytest.raises(ValueError, match="unknown studies"):
        explained(study, {"harder": damaged})


def test_one_seed_is_measured_without_an_interval(study: Study) -> None:
    frame, parameters, path = study
    one_seed = frame[frame["seed"] == 0]
    for answer in explanations.explain(one_seed, parameters, {"grouped": path}):
        for row in answer.evidence.values():
            assert row["low"] is None

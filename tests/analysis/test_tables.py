"""Tables in the paper's layout: the numbers, their marks, and what a cell without numbers says."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmf import outcomes
from dmf.analysis import results, tables
from dmf.analysis.paper.numbers import paper_table
from dmf.analysis.words import METRIC_LABELS, label
from dmf.configurations import paper_configurations
from dmf.study import ReportParameters

from synthetic import make_study, write_study

PLANTED = {"cb_dice-variance": 0.90, "tversky-mad": 0.87}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, ReportParameters]:
    """BUSI's name and a phantom set, 13 configurations and a control; one lost, one diverged."""
    folder = tmp_path_factory.mktemp("study")
    study = make_study(
        {"busi": "busi", "phantom": "phantom"},
        configurations=[*paper_configurations(), "cb_dice-fixed"],
    )
    write_study(
        folder,
        study,
        dice=PLANTED,
        missing=[("busi", "none-mad", seed) for seed in range(3)],
        diverged=[*(("busi", "focal-mad", seed) for seed in range(3)), ("busi", "fixed", 1)],
    )
    parameters = study.report_parameters()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return results.collect(parameters.grid, partial=True), parameters


Study = tuple[pd.DataFrame, ReportParameters]


def test_cells_are_mean_and_sample_standard_deviation(study: Study) -> None:
    frame, _ = study
    table = tables.mean_scores(frame, "busi")
    rows = frame[
        (frame["dataset"] == "busi")
        & (frame["configuration"] == "tversky-mad")
        & (frame["metric"] == "f1")
        & (frame["subset"] == "test")
        & (frame["epoch_choice"] == "last")
    ]["value"]
    cell = table.loc["tversky-mad", "f1"]
    assert cell.tolist() == pytest.approx([100 * rows.mean(), 100 * np.std(rows, ddof=1), 3])


def test_rows_are_the_papers_then_the_others(study: Study) -> None:
    table = tables.mean_scores(study[0], "busi")
    assert list(table.index) == [*paper_configurations(), "cb_dice-fixed"]
    n = table[("dice", "n")]
    assert (n["none-mad"], n["focal-mad"], n["fixed"], n["cb_dice-fixed"]) == (0, 0, 2, 3)
    assert np.isnan(table.loc["none-mad", ("dice", "mean")])


def test_fixed_goes_by_either_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = make_study(configurations=["none-fixed"], seeds=1)
    write_study(tmp_path, study)
    frame = results.collect(study.report_parameters().grid, partial=False)
    table = tables.mean_scores(frame, "phantom")
    assert table.loc["fixed", ("dice", "n")] == 1
    assert np.isnan(table.loc["fixed", ("dice", "std")])
    assert len(table) == 13


@pytest.fixture(scope="module")
def written(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    tables.write_all(*study, folder)
    return folder


def test_csv_brings_the_numbers_back(study: Study, written: Path) -> None:
    table = tables.mean_scores(study[0], "busi")
    paper = paper_table("busi")
    back = pd.read_csv(written / "busi.csv", index_col="configuration")
    for metric in outcomes.METRICS:
        for statistic in ("mean", "std", "n"):
            pd.testing.assert_series_equal(
                back[f"{metric}_{statistic}"],
                table[(metric, statistic)],
                check_names=False,
                check_dtype=False,
                rtol=1e-5,
            )
        gap = (table[(metric, "mean")] - paper[(metric, "mean")]).reindex(table.index)
        np.testing.assert_allclose(back[f"{metric}_difference"], gap, rtol=1e-4, atol=1e-6)
    assert back.loc["cb_dice-variance", ["auxiliary", "weighting"]].tolist() == [
        "cb_dice",
        "variance",
    ]


def rows_of_markdown(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    ]


def test_markdown_sets_ours_beside_the_papers(study: Study, written: Path) -> None:
    header, *rows = rows_of_markdown((written / "busi.md").read_text())
    assert header == [
        "Loss function",
        "Weighting",
        "",
        *(METRIC_LABELS[m] for m in outcomes.METRICS),
    ]
    assert all(len(row) == len(header) for row in rows)
    assert [row[2] for row in rows] == ["ours", "paper", "difference"] * 13 + ["ours"]
    at = next(i for i, row in enumerate(rows) if row[:2] == ["CB-Dice", "Variance"])
    ours, paper, gap = (rows[at + i][3] for i in range(3))
    mean, std, n = tables.mean_scores(study[0], "busi").loc["cb_dice-variance", "dice"]
    assert ours == f"**{mean:.2f} ± {std:.2f}** ({n:.0f})"
    assert paper == "**95.22 ± 0.53**"
    assert gap == f"\N{MINUS SIGN}{95.22 - mean:.2f}"


def test_best_and_second_are_marked_once_per_column(written: Path) -> None:
    _, *rows = rows_of_markdown((written / "busi.md").read_text())
    ours = {tuple(row[:2]): row[3] for row in rows if row[2] == "ours"}
    assert [name for name, cell in ours.items() if cell.startswith("**")] == [
        ("CB-Dice", "Variance")
    ]
    assert [name for name, cell in ours.items() if cell.startswith("_")] == [("Tversky", "MAD")]


def test_cells_without_numbers_say_why(written: Path) -> None:
    text = (written / "busi.md").read_text()
    ours = {tuple(row[:2]): row[3] for row in rows_of_markdown(text) if row[2] == "ours"}
    assert ours["No auxiliary", "MAD"] == "not run"
    assert ours["Focal", "MAD"] == "diverged"
    assert "Diverged and left out: focal-mad seed 00" in text
    assert "fixed seed 01" in text


def test_phantom_tables_never_show_the_papers_numbers(written: Path) -> None:
    text = (written / "phantom.md").read_text()
    assert "synthetic phantom images" in text
    assert "paper" not in "".join(cell for row in rows_of_markdown(text) for cell in row)
    assert not any("paper" in name for name in pd.read_csv(written / "phantom.csv").columns)


def test_reduced_studies_are_labelled_in_every_table(written: Path) -> None:
    for path in [*written.glob("*.md"), *written.glob("*.tex")]:
        assert "Reduced study: 20 epochs (paper 100)" in path.read_text()


def test_latex_is_well_formed(written: Path) -> None:
    text = (written / "busi.tex").read_text()
    body = re.search(r"\\midrule\n(.*)\\bottomrule", text, re.DOTALL)
    assert body is not None
    lines = body.group(1).strip().splitlines()
    assert len(lines) == 13 * 3 + 1
    assert {line.count("&") for line in lines} == {8}
    assert all(line.endswith(r"\\") for line in lines)
    assert text.count("{") == text.count("}")
    assert re.search(r"\\textbf\{[\d.]+ \$\\pm\$ [\d.]+\}", text)
    assert not re.search(r"(?<!\\)[%_#]", text.split("\n", 1)[1])
    assert "±" not in text


def test_companion_tables(study: Study, written: Path) -> None:
    frame, _ = study
    best = pd.read_csv(written / "busi-best-epoch.csv", index_col=0)
    expected = tables.mean_scores(frame, "busi", epoch_choice="best")[("dice", "mean")]
    np.testing.assert_allclose(best["dice_mean"], expected, rtol=1e-5)
    train = pd.read_csv(written / "busi-train.csv", index_col=0)
    assert (train["dice_mean"].dropna() > best["dice_mean"].dropna()).all()
    foreground = pd.read_csv(written / "busi-foreground.csv", index_col=0)
    assert "foreground_iou_mean" in foreground
    assert "dice_mean" not in foreground


@pytest.mark.parametrize(
    ("first", "second", "marks"),
    [(80.001, 80.004, ["best", "best", "second"]), (70, 70, ["", "", ""])],
    ids=["ties are all marked", "equal columns are not marked"],
)
def test_marks_are_of_numbers_as_printed(first: float, second: float, marks: list[str]) -> None:
    names = ["fixed", "none-mad", "none-variance"]
    scores = zip(names, (first, second, 70), strict=True)
    rows = [
        ("phantom", name, 0, "complete", "last", "test", "dice", score / 100)
        for name, score in scores
    ]
    columns = [name for name in results.COLUMNS if name not in ("auxiliary", "weighting")]
    parameters = make_study(configurations=names, seeds=1).report_parameters()
    frame = pd.DataFrame(rows, columns=columns)
    table = tables.score_tables(frame, parameters, "phantom")[0]
    cells = {row.label: row.cells[0] for row in table.rows}
    assert [cells[label(name)].mark for name in names] == marks
    assert tables.markdown(table).count("**") == 2 * marks.count("best")

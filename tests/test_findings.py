"""What the documents say of the results is what the published reports say."""

import re
from pathlib import Path

import pandas as pd
import pytest

from dmf import publication
from dmf.analysis.paper.numbers import paper_table
from dmf.analysis.words import EVALUATION_LABELS
from dmf.study import Study

from conftest import REPOSITORY

EVIDENCE = REPOSITORY / "docs/evidence.md"
NUMBER = re.compile(r"\d+\.\d+")
NUMBERS = re.compile(r"[−+]\d+\.\d+")
# As a report prints it: +3.38, 77.30 ± 2.01, −0.68 to +2.04.
VALUE = re.compile(r"[−+]?\d+\.\d+(?: (?:±|to) [−+]?\d+\.\d+)?")


@pytest.fixture(scope="module")
def reported() -> str:
    """Return the words of all published reports, and of the audit of the paper's numbers."""
    pages = sorted((REPOSITORY / publication.FOLDER).glob("*/report.md"))
    return _flat(" ".join(page.read_text() for page in [*pages, REPOSITORY / "docs/audit.md"]))


def test_quotations_are_from_the_reports(reported: str) -> None:
    """Quoted paragraphs and tables of results stand in a report, word for word."""
    quoted = _quotations(EVIDENCE)
    assert quoted
    for text in quoted:
        assert _flat(text) in reported, text


def test_numbers_between_quotations_are_quoted() -> None:
    prose = "\n".join(line for line in EVIDENCE.read_text().splitlines() if line[:1] != ">")
    links_left_out = re.sub(r"\]\([^)]*\)|`[^`]*`", "", prose)
    quoted = set(NUMBER.findall(" ".join(_quotations(EVIDENCE))))
    assert set(NUMBER.findall(links_left_out)) <= quoted


def test_numbers_of_the_readme_and_the_findings_are_from_the_reports(reported: str) -> None:
    readme = (REPOSITORY / "README.md").read_text().split("## What came out")[1].split("\n## ")[0]
    findings = (REPOSITORY / "docs/findings.md").read_text()
    for text in (readme, findings):
        values = VALUE.findall(_flat(text))
        assert len(values) >= 7
        for value in values:
            assert value in reported, value


def test_the_table_of_the_findings_is_that_of_the_reports() -> None:
    """A cell is a gain of a study's table of evaluations; its mark, what that excludes."""
    studies = (
        "full_size",
        "full_size_gamma_batch",
        "full_size_half_size",
        "full_size_linear_rate",
        "full_size_equal_batches",
        "full_size_no_skips",
        "reduced",
        "reduced_gamma_batch",
        "reduced_grouped",
        "reduced_other_machine",
        "calibration",
        "half_size_calibration",
    )
    above = (REPOSITORY / "docs/findings.md").read_text().split("\n## ")[0].replace("**", "")
    rows = [line.strip("|").split("|") for line in above.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(studies)
    for (_, seeds, *cells), study in zip(rows, studies, strict=True):
        report = (REPOSITORY / publication.FOLDER / study / "report.md").read_text()
        for name, cell in zip(EVALUATION_LABELS.values(), cells, strict=True):
            gain, _, mark = cell.strip().partition("] ")
            start = re.escape(f"| {name} | {gain.rstrip(']')}] | ")
            end = re.escape(f" | {seeds.strip()} |")
            found = re.search(f"^{start}(.*) \\| (.*){end}$", report, re.MULTILINE)
            assert found, (study, name, cell)
            excludes, p = found.groups()
            wanted = ""
            if "paper's gain" in excludes:
                wanted = "†" if p.startswith("<") or float(p) < 0.05 else "(†)"
            assert mark == wanted, (study, name)


def test_the_table_of_changes_is_that_of_the_explanations() -> None:
    """Changes, and gains of the same seeds, stand in the explanations of `full_size`."""
    studies = ("64 pixels", "falling rate", "equal batches", "no skip connections")
    explained = (REPOSITORY / publication.FOLDER / "full_size" / "report.md").read_text()
    below = (REPOSITORY / "docs/findings.md").read_text().split("\nChanges of the paper's size")[1]
    rows = [line.strip("|").split(" | ") for line in below.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(studies)
    for (_, seeds, *cells), words in zip(rows, studies, strict=True):
        (line,) = (line for line in explained.splitlines() if f"%, {words} " in line)
        last, best, gain = (cell.strip() for cell in cells)
        change, low, high = NUMBERS.findall(last)
        before, found, _ = line.partition(
            f"({change} points, 95 % interval {low} to {high}, n = {seeds})"
        )
        assert found
        assert "Fixed weights: " in before
        assert "CB-Dice" not in before
        assert f"Fixed weights, other evaluations: best validation epoch {best}, " in line
        assert f"minus fixed weights: this study {gain.replace('[', '([')}, above in" in line


def test_the_distance_to_the_paper_is_that_of_the_runs() -> None:
    """Studies of BUSI as the paper describes it: random splits, losses with a gradient, filter."""
    paper = paper_table("busi")[("dice", "mean")]
    gaps: dict[str, list[float]] = {"last_dice": [], "best_dice": []}
    for folder in publication.published(REPOSITORY / publication.FOLDER):
        study = Study.load(folder / "study.yaml")
        as_described = study.split.kind == "naive" and study.losses.kind == "soft"
        if not (as_described and study.data.filter.apply):
            continue
        runs = pd.read_csv(folder / "runs.csv")
        busi = runs[(runs["dataset"] == "busi") & runs["configuration"].isin(paper.index)]
        means = 100 * busi.groupby("configuration")[list(gaps)].mean()
        for name, found in gaps.items():
            found += list(paper[means.index] - means[name])
    last, best = (f"{min(found):.0f} to {max(found):.0f}" for found in gaps.values())
    findings, evidence, readme = (
        _flat((REPOSITORY / name).read_text())
        for name in ("docs/findings.md", "docs/evidence.md", "README.md")
    )
    assert f"lie {last} points below the paper's at the last epoch, {best} at the best" in findings
    assert f"lie {last} points below the paper's at the last epoch and {best} at" in evidence
    assert f"by {best} points at the best epoch and by {last} at the last" in readme


def _quotations(path: Path) -> list[str]:
    """Return the paragraphs behind `>`, and the rows of quoted tables one by one."""
    found: list[str] = []
    for block in re.findall(r"(?:^>.*\n)+", path.read_text(), re.MULTILINE):
        lines = [line.removeprefix(">").strip() for line in block.splitlines()]
        rows = [line for line in lines if line.startswith("|")]
        found += [row for row in rows if set(row) - set("|-: ")]
        words = "\n".join(line for line in lines if line not in rows)
        found += [part for part in words.split("\n\n") if part.strip()]
    return found


def _flat(text: str) -> str:
    return " ".join(text.replace(">", " ").split())

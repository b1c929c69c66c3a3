"""What the documents say of the results is what the published reports say."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmf import publication
from dmf.analysis.paper.numbers import paper_table
from dmf.analysis.words import EVALUATION_LABELS
from dmf.study import Study

from conftest import REPOSITORY

EVIDENCE = REPOSITORY / "docs/evidence.md"
NUMBER = re.compile(r"\d+\.\d+")
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
        "reduced",
        "reduced_gamma_batch",
        "reduced_grouped",
        "reduced_other_machine",
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


def test_the_distance_to_the_paper_is_that_of_the_runs() -> None:
    """At the paper's size, and over all studies of BUSI with random splits, gradient and filter."""
    findings, evidence, readme = (
        _flat((REPOSITORY / name).read_text())
        for name in ("docs/findings.md", "docs/evidence.md", "README.md")
    )
    folders = publication.published(REPOSITORY / publication.FOLDER)
    last, best = _distances([folder for folder in folders if folder.name == "full_size"])
    assert f"lie {last} points below the paper's at the last epoch, {best} at the best" in findings
    assert f"lie {last} points below the paper's at the last epoch, {best} at the best" in readme
    assert f"lie {last} points below the paper's at the last epoch and {best} at" in evidence
    last, best = _distances([folder for folder in folders if _as_described(folder)])
    assert f"it is {last} and {best}." in findings
    assert f"it is {last} and {best};" in evidence


def test_the_training_dice_loss_crosses_in_the_fourth_tenth() -> None:
    """At the paper's size; at the reduced one the combination's mean stays the lower."""
    above = {}
    for study in ("full_size", "reduced"):
        with publication.unpacked(REPOSITORY / publication.FOLDER / study) as folder:
            means = {
                name: np.mean([_dice_loss_by_tenth(run) for run in runs], axis=0)
                for name in ("fixed", "cb_dice-variance")
                if len(runs := sorted(folder.glob(f"models/busi/{name}/seed-*"))) == 10
            }
        above[study] = list(means["cb_dice-variance"] > means["fixed"])
    assert above == {"full_size": [False] * 3 + [True] * 7, "reduced": [False] * 10}


def _as_described(folder: Path) -> bool:
    study = Study.load(folder / "study.yaml")
    naive_and_soft = study.split.kind == "naive" and study.losses.kind == "soft"
    return naive_and_soft and study.data.filter.apply


def _distances(folders: list[Path]) -> list[str]:
    """Return from how many points to how many the means lie below the paper's: last, best epoch."""
    paper = paper_table("busi")[("dice", "mean")]
    gaps: dict[str, list[float]] = {"last_dice": [], "best_dice": []}
    for folder in folders:
        runs = pd.read_csv(folder / "runs.csv")
        busi = runs[(runs["dataset"] == "busi") & runs["configuration"].isin(paper.index)]
        means = 100 * busi.groupby("configuration")[list(gaps)].mean()
        for name, found in gaps.items():
            found += list(paper[means.index] - means[name])
    return [f"{min(found):.0f} to {max(found):.0f}" for found in gaps.values()]


def _dice_loss_by_tenth(run: Path) -> list[float]:
    losses = pd.read_csv(run / "history.csv")["loss_dice"].to_numpy()
    return [float(part.mean()) for part in np.array_split(losses, 10)]


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

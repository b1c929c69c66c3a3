"""What the documents say of the results is what the published reports say."""

import re
from pathlib import Path

import pytest

from dmf import publish

from conftest import REPOSITORY

NUMBER = re.compile(r"\d+\.\d+")
PUBLISHED = REPOSITORY / publish.FOLDER


@pytest.fixture(scope="module")
def reported() -> str:
    """Return the words of all published reports."""
    pages = [*PUBLISHED.glob("*/reports/report.md"), *PUBLISHED.glob("*/reports/tables/*.md")]
    return _flat(" ".join(page.read_text() for page in pages))


@pytest.mark.parametrize("name", ["docs/findings.md", "README.md"])
def test_quotations_are_from_the_reports(name: str, reported: str) -> None:
    """Quoted paragraphs and tables of results stand in a report, word for word."""
    quoted = _quotations(REPOSITORY / name)
    assert quoted
    for text in quoted:
        assert _flat(text) in reported, text


def test_numbers_between_quotations_are_quoted() -> None:
    text = (REPOSITORY / "docs/findings.md").read_text()
    prose = "\n".join(line for line in text.splitlines() if not line.startswith(">"))
    links_left_out = re.sub(r"\]\([^)]*\)|`[^`]*`", "", prose)
    quoted = set(NUMBER.findall(" ".join(_quotations(REPOSITORY / "docs/findings.md"))))
    assert set(NUMBER.findall(links_left_out)) <= quoted


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

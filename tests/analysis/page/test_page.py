"""The page says what the study found and needs nothing but itself."""

import re
from collections.abc import Iterator
from contextlib import chdir
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dmf import outcomes
from dmf.analysis import results, tables
from dmf.analysis.figures import catalogue
from dmf.analysis.page import origins, page
from dmf.analysis.paper import audit
from dmf.analysis.verdict.judgements import judge
from dmf.files import read_json, write_json
from dmf.study import ReportParameters

import synthetic
from pages import SCRIPT, drawing_only, write_mixed


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ReportParameters]]:
    """Where a report with a missing and a diverged run is, and what it was made with."""
    folder = tmp_path_factory.mktemp("mixed")
    with drawing_only():
        parameters = write_mixed(folder)
    with chdir(folder):
        yield folder, parameters


class Outline(HTMLParser):
    """What the tests ask of a page: ids, headings, images, addresses, and the text in between."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.images.append(found)
        self.addresses += [str(found[name]) for name in ("src", "href") if found.get(name)]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def html_of(folder: Path) -> str:
    return (folder / "reports/index.html").read_text(encoding="utf-8")


def markdown_of(folder: Path) -> str:
    return (folder / "reports/report.md").read_text(encoding="utf-8")


def section(html: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', html, flags=re.DOTALL)
    assert found
    return found[0]


def test_the_page_needs_nothing_but_itself(mixed: tuple[Path, ReportParameters]) -> None:
    outline = Outline(html_of(mixed[0]))
    assert [a for a in outline.addresses if not a.startswith(("#", "data:"))] == []
    drawn = [e for e in catalogue.read_captions(mixed[0] / "reports/figures") if not e.left_out]
    assert len([image for image in outline.images if image.get("src")]) == len(drawn)
    assert {a.removeprefix("#") for a in outline.addresses if a.startswith("#")} <= set(outline.ids)


def test_the_page_is_outlined_and_described(mixed: tuple[Path, ReportParameters]) -> None:
    outline = Outline(html_of(mixed[0]))
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    shown = [image for image in outline.images if image.get("src")]
    assert all(image["alt"] for image in shown)


def test_every_claim_is_on_the_page(mixed: tuple[Path, ReportParameters]) -> None:
    folder, parameters = mixed
    table = results.read(folder / "reports/results.csv")
    judgements = judge(table, results.histories(parameters.grid), parameters)
    html, markdown = html_of(folder), markdown_of(folder)
    shown = " ".join("".join(Outline(html).text).split())
    written = markdown.replace("\\|", "|")
    for judgement in judgements:
        for verdict in (judgement.ours, judgement.paper):
            assert " ".join(verdict.detail.split()) in shown
            assert verdict.detail in written
    assert audit.summary() in shown
    assert audit.summary() in written
    tile = re.search(r"<h3>Our runs</h3>.*?</ul>", html, flags=re.DOTALL)
    assert tile
    counts = dict(re.findall(r"</span> ([a-z ]+)</span> <b>(\d+)</b>", tile[0]))
    for outcome in {judgement.ours.outcome for judgement in judgements}:
        assert int(counts[outcome]) == sum(j.ours.outcome == outcome for j in judgements)
    assert sum(map(int, counts.values())) == len(judgements)


def test_numbers_are_those_of_the_table(mixed: tuple[Path, ReportParameters]) -> None:
    folder, _ = mixed
    table = tables.mean_scores(results.read(folder / "reports/results.csv"), "busi")
    row = table.loc["cb_dice-variance"]
    busi = section(html_of(folder), "tables").split("<h3>phantom")[0]
    line = re.search(r"CB-Dice \+ Variance</th>.*?</tr>", busi, flags=re.DOTALL)
    assert line
    text = re.sub(r"<[^>]+>", "", line[0])
    for metric in outcomes.METRICS:
        assert f"{row[(metric, 'mean')]:.2f} ± {row[(metric, 'std')]:.2f}" in text
    assert "95.22" in text  # the paper's Dice
    assert 'class="number best"' in line[0]


def test_phantom_numbers_never_meet_the_papers(mixed: tuple[Path, ReportParameters]) -> None:
    html = html_of(mixed[0])
    assert "Phantom data." in html
    busi, phantom = section(html, "tables").split("<h3>phantom")
    assert 'class="paper"' in busi
    assert 'class="paper"' not in phantom
    for entry in catalogue.read_captions(mixed[0] / "reports/figures"):
        if entry.dataset == "phantom":
            assert "the paper reports" not in entry.caption
            assert "the paper's means" not in entry.caption
    markdown = markdown_of(mixed[0])
    assert "**Phantom data.**" in markdown
    assert "paper" not in markdown.split("### phantom (")[1].split("## Figures")[0]


def test_a_study_of_phantoms_alone_judges_no_claim(tmp_path: Path) -> None:
    study = synthetic.make_study(configurations=["none-mad", "fixed"], seeds=2, epochs=3)
    synthetic.write_study(tmp_path, study)
    parameters = study.report_parameters()
    write_json(tmp_path / "reports/figures" / catalogue.CAPTIONS, [])
    with chdir(tmp_path):
        table = results.collect(parameters.grid, partial=False)
        page.write(table, parameters, Path("reports"))
    html = html_of(tmp_path)
    verdict = section(html, "verdict")
    assert '<ul class="headlines">' not in verdict
    ours = re.findall(r'data-label="On our runs".*?</td>', verdict, flags=re.DOTALL)
    assert ours
    for cell in ours:
        assert set(re.findall(r'class="badge ([a-z-]+)"', cell)) <= {"not-run", "not-testable"}


def test_reductions_absent_runs_and_origins_are_said(mixed: tuple[Path, ReportParameters]) -> None:
    html = html_of(mixed[0])
    assert "Reduced study." in html
    assert "6 epochs (paper 100)" in html
    assert "<b>22</b> of 24 complete, 1 diverged, 1 missing" in html
    assert "BUSI · No auxiliary + MAD · seed 2: missing" in html
    assert "phantom · Fixed weights · seed 1: diverged in epoch 3, batch 3 (iou)" in html
    assert "0123456789abcdef0123456789abcdef01234567" in html  # the commit of the runs
    described = read_json(mixed[0] / "data/filtered/busi.json")
    assert described["sha256"] in html


def test_text_from_files_is_escaped(mixed: tuple[Path, ReportParameters]) -> None:
    html = html_of(mixed[0])
    assert SCRIPT not in html
    assert "&lt;script&gt;document.title" in html


@pytest.mark.slow
def test_a_server_is_linked_and_a_database_is_not(
    mixed: tuple[Path, ReportParameters], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the environment alone, which `dmf rebuild` must not depend on, changes nothing."""
    folder, parameters = mixed
    assert origins.mlflow(parameters, "sqlite:////mlflow.db") == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@server:5000/")
    write_json(tmp_path / "reports/figures" / catalogue.CAPTIONS, [])
    frame = results.read(folder / "reports/results.csv")
    page.write(frame, parameters, tmp_path / "reports")
    assert "server:5000" not in html_of(tmp_path)
    page.write(frame, parameters, tmp_path / "reports", server="http://server:5000/")
    address = "http://server:5000/#/experiments?experimentSearchFilter=synthetic%2Fbusi"
    assert f'<a href="{address}">synthetic/busi</a>' in html_of(tmp_path)

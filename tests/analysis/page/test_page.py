"""The page says what the study found and needs nothing but itself."""

import re
from collections.abc import Iterator
from contextlib import chdir
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmf import outcomes
from dmf.analysis import results, tables
from dmf.analysis.figures import catalogue
from dmf.analysis.page import origins, page, pictures
from dmf.analysis.paper import audit
from dmf.analysis.verdict import explanations
from dmf.analysis.verdict.judgements import judge
from dmf.files import read_json, write_json
from dmf.layout import cells
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
            assert " ".join(verdict.detail.replace("`", "").split()) in shown
            assert verdict.detail in written
    assert audit.summary() in shown
    assert audit.summary() in written
    tally = re.search(r"<dt>Our runs</dt>.*?</dd>", html, flags=re.DOTALL)
    assert tally
    counts = dict(re.findall(r"</span> ([a-z ]+)</span> <b>(\d+)</b>", tally[0]))
    for outcome in {judgement.ours.outcome for judgement in judgements}:
        assert int(counts[outcome]) == sum(j.ours.outcome == outcome for j in judgements)
    assert sum(map(int, counts.values())) == len(judgements)


def test_numbers_are_those_of_the_table(mixed: tuple[Path, ReportParameters]) -> None:
    folder, _ = mixed
    table = tables.mean_scores(results.read(folder / "reports/results.csv"), "busi")
    row = table.loc["cb_dice-variance"]
    busi = section(html_of(folder), "set-busi")
    main, scores, *_ = re.findall(r"CB-Dice \+ Variance</th>.*?</tr>", busi, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", "", scores)
    for metric in outcomes.METRICS:
        assert f"{row[(metric, 'mean')]:.2f} ± {row[(metric, 'std')]:.2f}" in text
    for line in (main, scores):
        assert f"{row[('dice', 'mean')]:.2f}" in line
        assert "95.22" in line  # the paper's Dice
        assert 'class="number best"' in line
    assert "+3.38" in main  # the paper's gain over fixed weights


def test_phantom_numbers_never_meet_the_papers(mixed: tuple[Path, ReportParameters]) -> None:
    html = html_of(mixed[0])
    assert "Phantom data." in html
    phantom = section(html, "set-phantom")
    assert 'class="paper"' in section(html, "set-busi")
    assert 'class="paper"' not in phantom
    assert "The paper" not in "".join(re.findall(r"<th scope.*?</th>", phantom))
    for entry in catalogue.read_captions(mixed[0] / "reports/figures"):
        if entry.dataset == "phantom":
            assert "the paper reports" not in entry.caption
            assert "the paper's means" not in entry.caption
    markdown = markdown_of(mixed[0])
    assert "**Phantom data.**" in markdown
    phantom_tables = markdown.split("## phantom (")[1].split("## Claims")[0].split("\n")
    assert not [line for line in phantom_tables if line.startswith("|") and "paper" in line]


def test_a_study_of_phantoms_alone_judges_no_claim(tmp_path: Path) -> None:
    study = synthetic.make_study(configurations=["none-mad", "fixed"], seeds=2, epochs=3)
    synthetic.write_study(tmp_path, study)
    parameters = study.report_parameters()
    write_json(tmp_path / "reports/figures" / catalogue.CAPTIONS, [])
    with chdir(tmp_path):
        table = results.collect(parameters.grid, partial=False)
        page.write(table, parameters, Path("reports"))
    html = html_of(tmp_path)
    claims = section(html, "claims")
    assert '<ul class="headlines">' not in claims
    assert 'id="claim-' not in claims
    assert "judged on the paper's sets only" in section(html, "answer").replace("&#39;", "'")
    lines = re.findall(r'class="line"><summary><b>(.*?)</b>', claims)
    assert lines == ["BUSI", "BUSC", "BUS", "BUSI, BUSC and BUS", "Not testable"]
    written = Outline(html).text
    assert sum("not run" in text for text in written if "check" in text) == 4


def test_reductions_absent_runs_and_origins_are_said(mixed: tuple[Path, ReportParameters]) -> None:
    html = html_of(mixed[0]).replace("\N{NO-BREAK SPACE}", " ")
    assert "Reduced study." in html
    assert "6 epochs (paper 100)" in html
    assert "<b>22</b> of 24 runs complete (2 datasets" in html
    assert "6 epochs each), 1 diverged, 1 missing" in html
    assert "BUSI · No auxiliary + MAD · seed 2: missing" in html
    assert "phantom · Fixed weights · seed 1: diverged in epoch 3, batch 3 (iou)" in html
    assert "0123456789abcdef0123456789abcdef01234567" in html  # the commit of the runs
    described = read_json(mixed[0] / "data/filtered/busi.json")
    assert described["sha256"] in html


def test_compared_runs_of_several_devices_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = synthetic.make_study(configurations=["none-mad", "fixed"], seeds=2, epochs=3)
    synthetic.write_study(tmp_path, study)
    parameters = study.report_parameters()
    monkeypatch.chdir(tmp_path)
    runs = {(cell.configuration, cell.seed): cell.record for cell in cells(study.grid)}

    def ran_on(name: str, *those: tuple[str, int]) -> dict[str, list[str]]:
        for run in those:
            write_json(runs[run], read_json(runs[run]) | {"device": {"name": name, "type": "cpu"}})
        return origins.devices(parameters)

    assert ran_on("one", *runs) == {}
    # A device for each seed compares like with like.
    assert ran_on("two", ("none-mad", 1), ("fixed", 1)) == {}
    mixed = {"one (cpu)": ["No auxiliary + MAD", "Fixed weights"], "two (cpu)": ["Fixed weights"]}
    assert ran_on("one", ("none-mad", 1)) == mixed
    # A run that was continued elsewhere is of both.
    ran_on("two", *runs)
    both = [
        {"name": name, "type": "cpu", "from_epoch": epoch}
        for name, epoch in (("one", 1), ("two", 3))
    ]
    record = runs["fixed", 0]
    write_json(record, read_json(record) | {"devices": both})
    assert origins.devices(parameters)["one (cpu), then two (cpu)"] == ["Fixed weights"]
    write_json(record, read_json(record) | {"devices": []})
    ran_on("one", ("none-mad", 0), ("none-mad", 1), ("fixed", 0))
    write_json(Path("reports/figures") / catalogue.CAPTIONS, [])
    page.write(results.collect(study.grid, partial=False), parameters, Path("reports"))
    said = "On one (cpu): No auxiliary + MAD and Fixed weights; on two (cpu): Fixed weights."
    assert said in html_of(tmp_path)


SECTIONS = ["answer", "scores", "differences", "training", "claims", "explanations", "audit"]


def test_the_story_is_told_in_order(
    mixed: tuple[Path, ReportParameters], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = re.findall(r'<section id="([\w-]+)"', html_of(mixed[0]))
    assert several[:4] == ["answer", "set-busi", "set-phantom", "claims"]
    assert "Over all sets" in section(html_of(mixed[0]), "answer")
    study = synthetic.make_study(configurations=["none-mad", "fixed"], seeds=2, epochs=3)
    synthetic.write_study(tmp_path, study)
    write_json(tmp_path / "reports/figures" / catalogue.CAPTIONS, [])
    monkeypatch.chdir(tmp_path)
    table = results.collect(study.grid, partial=False)
    page.write(table, study.report_parameters(), Path("reports"))
    one = html_of(tmp_path)
    assert re.findall(r'<section id="([\w-]+)"', one) == [*SECTIONS, "methods", "provenance"]
    assert re.findall(r'<li><a href="#([\w-]+)"', one) == [*SECTIONS, "methods", "provenance"]


def test_no_markdown_shows_and_minus_signs_are_true(mixed: tuple[Path, ReportParameters]) -> None:
    outline = Outline(html_of(mixed[0]).split("<script>")[0].split("</style>")[1])
    text = " ".join(outline.text)
    assert "`" not in text
    assert "**" not in text
    assert not re.search(r"(?<![\w.])-\d", text)


def test_every_explanation_names_its_verdict_before_it_is_opened(
    mixed: tuple[Path, ReportParameters],
) -> None:
    found = section(html_of(mixed[0]), "explanations")
    summaries = re.findall(r"<summary>.*?</summary>", found, flags=re.DOTALL)
    extra = len(explanations.STUDIES) - 4  # four are asked of given splits alone
    assert len(summaries) == extra + 5
    assert all('class="badge' in summary for summary in summaries)
    assert sum("not run" in summary for summary in summaries) == extra


def test_the_page_of_many_figures_stays_small(tmp_path: Path) -> None:
    """Noise is the worst there is to compress: the figures become narrower until they fit."""
    generator = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        noise = generator.integers(0, 255, (400, 1080, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    found = pictures.embedded(files)
    assert sum(len(picture.address) for picture in found.values()) <= pictures.BUDGET
    (width,) = {picture.width for picture in found.values()}
    assert width in pictures.WIDTHS[1:]
    assert pictures.embedded(files[:1], main=files[:1])[files[0]].width == pictures.MAIN


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

"""The page says what the study found, needs nothing but itself, and works in a browser."""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import chdir
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dmf import outcomes
from dmf.analysis import audit, claims, figures, page, page_provenance, results, tables
from dmf.files import read_json, write_json
from dmf.study import ReportParameters, Study

import synthetic

CONFIGURATIONS = ["cb_dice-variance", "none-mad", "none-variance", "fixed"]
SCRIPT = "<script>document.title = 'taken over'</script>"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def write_report(study: Study, folder: Path) -> ReportParameters:
    """Write figures and page of the study in ``folder``; predictions are stand-ins."""
    stand_in = ModuleType("dmf.training.inference")
    stand_in.predict = lambda file, images: (images < 60).astype(np.uint8)  # type: ignore[attr-defined]
    parameters = study.report_parameters()
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dmf.training.inference", stand_in)
        patch.setattr(figures, "SUFFIXES", (".png",))
        table = results.collect(parameters.grid, partial=True)
        results.write(table, parameters.grid, Path("reports"))
        figures.write_all(table, parameters, Path("reports/figures"))
        page.write(table, parameters, Path("reports"))
    return parameters


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ReportParameters]]:
    """A reduced study of BUSI and phantom images, with a missing and a diverged run, reported."""
    study = synthetic.make_study(
        {"busi": "busi", "phantom": "phantom"},
        configurations=CONFIGURATIONS,
        epochs=6,
        report={"dpi": 60, "samples": 2},
    )
    folder = tmp_path_factory.mktemp("mixed")
    synthetic.write_study(
        folder,
        study,
        dice={"cb_dice-variance": 0.86, "none-mad": 0.84},
        missing=[("busi", "none-mad", 2)],
        diverged=[("phantom", "fixed", 1)],
    )
    manifest = folder / "data/raw/busi/manifest.json"
    write_json(manifest, read_json(manifest) | {"licence": SCRIPT})
    parameters = write_report(study, folder)
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
    drawn = [e for e in figures.read_captions(mixed[0] / "reports/figures") if not e.left_out]
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


def test_every_claim_and_finding_is_on_the_page(mixed: tuple[Path, ReportParameters]) -> None:
    folder, parameters = mixed
    table = results.read(folder / "reports/results.csv")
    courses = [results.histories(parameters.grid, name) for name in parameters.grid.datasets]
    judgements = claims.judge(table, pd.concat(courses, ignore_index=True), parameters)
    html, markdown = html_of(folder), markdown_of(folder)
    said = " ".join("".join(Outline(html).text).split())
    written = markdown.replace("\\|", "|")
    for judgement in judgements:
        for verdict in (judgement.ours, judgement.paper):
            assert " ".join(verdict.detail.split()) in said
            assert verdict.detail in written
    for finding in audit.findings():
        assert finding.arithmetic in said
        assert finding.arithmetic in written
    tile = re.search(r"<h3>Our runs</h3>.*?</ul>", html, flags=re.DOTALL)
    assert tile
    counts = dict(re.findall(r"</span> ([a-z ]+)</span> <b>(\d+)</b>", tile[0]))
    for outcome in {judgement.ours.outcome for judgement in judgements}:
        assert int(counts[outcome]) == sum(one.ours.outcome == outcome for one in judgements)
    assert sum(map(int, counts.values())) == len(judgements)


def test_numbers_are_those_of_the_table(mixed: tuple[Path, ReportParameters]) -> None:
    folder, _ = mixed
    table = tables.paper_table(results.read(folder / "reports/results.csv"), "busi")
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
    for entry in figures.read_captions(mixed[0] / "reports/figures"):
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
    write_json(tmp_path / "reports/figures" / figures.CAPTIONS, [])
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
    assert "epochs: 6 instead of 100" in html
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


def test_a_server_is_linked_and_a_database_is_not(
    mixed: tuple[Path, ReportParameters], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, parameters = mixed
    assert "MLflow" not in section(html_of(folder), "provenance")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////mlflow.db")
    assert page_provenance.mlflow(parameters) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000/")
    write_json(tmp_path / "reports/figures" / figures.CAPTIONS, [])
    page.write(results.read(folder / "reports/results.csv"), parameters, tmp_path / "reports")
    address = "http://server:5000/#/experiments?experimentSearchFilter=synthetic%2Fbusi"
    assert f'<a href="{address}">synthetic/busi</a>' in html_of(tmp_path)


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; the tests are skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, mixed: tuple[Path, ReportParameters]) -> Iterator[Any]:
    """Return a function that opens the page from its file and records what it should not do."""
    contexts, problems = [], []

    def open_page(width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        view = context.new_page()
        view.on("console", lambda message: problems.append(message.text))
        view.on("pageerror", lambda error: problems.append(str(error)))
        view.on("request", lambda request: requests.append(request.url))
        view.goto((mixed[0] / "reports/index.html").as_uri())
        return view

    requests: list[str] = []
    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
    assert [url[:60] for url in requests if not url.startswith(("file:", "data:"))] == []


def column(view: Any, table: str, index: int) -> list[str]:
    rows = view.locator(f"{table} tbody tr:not(.more)")
    return [
        rows.nth(i).locator("th, td").nth(index).get_attribute("data-value")
        for i in range(rows.count())
    ]


def test_tables_sort_by_click_and_by_keyboard(opened: Any) -> None:
    view = opened()
    table = "#tables table.numbers >> nth=0"
    heading = view.locator(f"{table} >> thead th").nth(1)
    assert heading.get_attribute("aria-sort") == "none"

    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    numbers = [float(x) for x in column(view, f"{table} >> css=:scope", 1) if x]
    assert len(numbers) == len(CONFIGURATIONS)
    assert numbers == sorted(numbers, reverse=True)

    heading.get_by_role("button").focus()
    view.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    values = column(view, f"{table} >> css=:scope", 1)
    filled = [float(x) for x in values if x]
    assert filled == sorted(filled)
    assert "" not in values[: len(filled)]  # configurations without runs stay at the end


def test_claims_sort_with_their_details(opened: Any) -> None:
    view = opened()
    first = view.locator("table.claims tbody").first.get_attribute("id")
    view.locator("table.claims thead th").nth(2).get_by_role("button").click()
    ranks = [float(x) for x in column(view, "table.claims", 2)]
    assert ranks == sorted(ranks)
    view.locator("table.claims thead th").nth(0).get_by_role("button").click()
    assert view.locator("table.claims tbody").first.get_attribute("id") == first
    details = view.locator("table.claims tbody").first.locator("details")
    details.locator("summary").click()
    assert details.locator("dd").first.is_visible()


def test_figures_enlarge_and_close(opened: Any) -> None:
    view = opened()
    dialog = view.locator("#viewer")
    button = view.locator("button.enlarge").first
    button.focus()
    view.keyboard.press("Enter")
    assert dialog.is_visible()
    assert dialog.locator("img").get_attribute("alt") == button.locator("img").get_attribute("alt")
    assert dialog.locator("p").inner_text().startswith("The paper's Figure 1.")
    view.keyboard.press("Escape")
    assert not dialog.is_visible()
    button.click()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_overflows_on_a_phone(opened: Any, width: int) -> None:
    view = opened(width=width)
    view.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert view.evaluate("document.documentElement.scrollWidth") <= width


CONTRAST = """
() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.checkVisibility()) continue;
    const a = luminance(parse(getComputedStyle(node).color)), b = luminance(behind(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found[node.tagName + "." + node.className] = ratio;
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(opened: Any, scheme: str) -> None:
    view = opened(scheme=scheme)
    view.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert view.evaluate(CONTRAST) == {}
    background = view.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in re.findall(r"\d+", background)[:3]]
    assert (max(levels) < 60) == (scheme == "dark")


def test_printing_unfolds_everything(opened: Any) -> None:
    view = opened()
    view.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert view.locator("details:not([open])").count() == 0
    view.evaluate("dispatchEvent(new Event('afterprint'))")
    assert view.locator("details:not([open])").count() > 10

"""The page in a real browser: it works by mouse and keyboard, on a phone, in print."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import synthetic
from pages import CONFIGURATIONS, drawing_only, write_mixed, write_report

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = api.expect  # it waits without eval, which the page's content security policy forbids

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report."""
    folder = tmp_path_factory.mktemp("page")
    write_mixed(folder)
    return (folder / "reports/index.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; the tests are skipped where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, page: str) -> Iterator[Any]:
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
        view.goto(page)
        return view

    requests: list[str] = []
    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
    assert [url[:60] for url in requests if not url.startswith(("file:", "data:"))] == []


def column(view: Any, table: str, index: int) -> list[str]:
    rows = view.locator(f"{table} tbody tr")
    return [
        rows.nth(i).locator("th, td").nth(index).get_attribute("data-value")
        for i in range(rows.count())
    ]


def test_tables_sort_by_click_and_by_keyboard(opened: Any) -> None:
    view = opened()
    table = "#set-busi table.numbers >> nth=0"
    heading = view.locator(f"{table} >> thead th").nth(1)
    expect(heading).to_have_attribute("aria-sort", "none")

    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    numbers = [float(x) for x in column(view, f"{table} >> css=:scope", 1) if x]
    assert len(numbers) == len(CONFIGURATIONS)
    assert numbers == sorted(numbers, reverse=True)

    heading.get_by_role("button").focus()
    view.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "ascending")
    values = column(view, f"{table} >> css=:scope", 1)
    filled = [float(x) for x in values if x]
    assert filled == sorted(filled)
    assert "" not in values[: len(filled)]  # configurations without runs stay at the end


def test_the_answer_and_the_main_table_are_within_two_screens(browser: Any, tmp_path: Path) -> None:
    """The paper's own study, one set and thirteen configurations, at 1,280 pixels."""
    study = synthetic.make_study({"busi": "busi"}, epochs=4, report={"dpi": 60})
    synthetic.write_study(tmp_path, study)
    with drawing_only("busi-seeds"):
        write_report(study, tmp_path)
    view = browser.new_page(viewport={"width": 1280, "height": 800})
    view.goto((tmp_path / "reports/index.html").as_uri())
    parts = [".answer", "figure.main", "#scores table.numbers >> nth=0"]
    boxes = [view.locator(part).bounding_box() for part in parts]
    assert [box["y"] for box in boxes] == sorted(box["y"] for box in boxes)
    table = boxes[-1]
    assert table["y"] + table["height"] <= 1600
    assert table["x"] + table["width"] <= 1280  # and no column is cut off
    view.close()


def test_the_contents_follow_the_scroll(opened: Any) -> None:
    view = opened()
    contents = view.get_by_role("navigation", name="Contents")
    marked = contents.locator("[aria-current]")
    expect(marked).to_have_text(["Answer"])
    top = contents.bounding_box()["y"]
    for name in ("Claims", "phantom", "Provenance"):
        contents.get_by_role("link", name=name).click()
        expect(marked).to_have_text([name])
        assert abs(contents.bounding_box()["y"] - top) < 30  # it stays on the screen


def test_claims_unfold_by_keyboard(opened: Any) -> None:
    view = opened()
    details = view.locator("#claims .claims details").first
    summary = details.locator("summary")
    for said in ("On our runs:", "On the paper's tables:"):  # what a screen reader hears
        assert said in summary.text_content()
    summary.focus()
    expect(details.locator("dd").first).not_to_be_visible()
    view.keyboard.press("Enter")
    expect(details.locator("dd").first).to_be_visible()


def test_everything_that_can_be_reached_has_a_name(opened: Any) -> None:
    view = opened()
    view.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    unnamed = view.evaluate("""
        [...document.querySelectorAll("a, button, summary, nav, [tabindex='0'], section, dialog")]
          .filter((node) => !(node.getAttribute("aria-label")
            || document.getElementById(node.getAttribute("aria-labelledby") || "")
            || node.textContent.trim()))
          .map((node) => node.outerHTML.slice(0, 80))
    """)
    assert unnamed == []
    headers = view.locator("th:not([scope])")
    assert headers.count() == 0


def test_the_page_stays_small(page: str) -> None:
    assert Path(unquote(urlsplit(page).path)).stat().st_size < 1_500_000


def test_figures_enlarge_and_close(opened: Any) -> None:
    view = opened()
    dialog = view.locator("#viewer")
    button = view.locator("button.enlarge").first
    button.focus()
    view.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    assert dialog.locator("img").get_attribute("alt") == button.locator("img").get_attribute("alt")
    assert dialog.locator("p").inner_text().startswith("Scores on the test images of BUSI")
    view.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    button.click()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).not_to_be_visible()


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

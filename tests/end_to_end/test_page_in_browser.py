"""The page in a real browser: it works by mouse and keyboard, on a phone, in print."""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from pages import CONFIGURATIONS, write_mixed

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
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
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

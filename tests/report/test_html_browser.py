"""The HTML report in a real browser: nothing is fetched, nothing overflows, all can be read."""

from __future__ import annotations

import shutil

import pytest
from html_results import CAPTIONS, figures, headlines, summary

from mneme.report.html import page

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}
OPEN_ALL = "document.querySelectorAll('details').forEach(one => one.open = true)"
CONTRAST = """() => {
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = parts(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const pair = [parts(getComputedStyle(element).color), behind(element)].map(light);
    const ratio = (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
    if (ratio < 4.5) poor.push(walker.currentNode.data.trim() + ' ' + ratio.toFixed(2));
  }
  return poor;
}"""


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    files = headlines()
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(summary(files), files, figures(), CAPTIONS), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def visit(browser, address):
    """Open the report; a request or a word on the console fails the test."""
    contexts, faults = [], []

    def asked(route):
        if route.request.url.partition("#")[0] == address:
            return route.continue_()
        faults.append(route.request.url)
        return route.abort()

    def opened(viewport=None, scheme="light"):
        context = browser.new_context(viewport=viewport or DESKTOP, color_scheme=scheme)
        contexts.append(context)
        context.route("**/*", asked)
        one = context.new_page()
        one.on("console", lambda message: faults.append(message.text))
        one.on("pageerror", lambda error: faults.append(str(error)))
        one.goto(address)
        return one

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def test_every_figure_is_drawn(visit):
    one = visit()
    widths = one.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert widths == [960, 960, 960]


def test_every_link_leads_somewhere(visit):
    one = visit()
    links = one.evaluate("[...document.links].map(link => link.getAttribute('href'))")
    assert len(links) > 10
    assert all(one.locator(f"[id='{link.removeprefix('#')}']").count() == 1 for link in links)
    one.locator("a[href='#claim-gap']").click()
    top = one.locator("#claim-gap").bounding_box()["y"]
    bar = one.locator("nav").bounding_box()
    assert bar["y"] + bar["height"] <= top < DESKTOP["height"]


@pytest.mark.parametrize("width", [320, 360, 700, 1280])
def test_the_page_never_scrolls_sideways(visit, width):
    one = visit({"width": width, "height": 740})
    for _ in range(2):
        assert one.evaluate("document.documentElement.scrollWidth") == width
        one.evaluate(OPEN_ALL)


def test_claims_are_read_without_scrolling_on_a_phone(visit):
    box = visit(PHONE).locator(".scroll:has(> .claims)")
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_a_figure_can_be_enlarged_by_keyboard(visit):
    one = visit(PHONE)
    image, box = one.locator("#figure-fatigue img"), one.locator("#figure-fatigue .scroll")
    before = image.bounding_box()["width"]
    one.locator("#figure-fatigue-zoom").focus()
    one.keyboard.press("Space")
    assert image.bounding_box()["width"] == 960 > before
    assert box.bounding_box()["width"] <= PHONE["width"]


def test_tab_reaches_the_skip_link_first_and_it_shows(visit):
    one = visit()
    link = one.locator(".skip")
    assert link.bounding_box()["y"] < 0
    one.keyboard.press("Tab")
    assert link.evaluate("link => link === document.activeElement")
    assert link.bounding_box()["y"] >= 0
    outline = link.evaluate("link => getComputedStyle(link).outlineStyle")
    assert outline != "none"
    one.keyboard.press("Enter")
    assert one.evaluate("document.activeElement.id") == "main"


def test_details_open_by_keyboard(visit):
    one = visit()
    one.locator("#claim-lag summary").focus()
    one.keyboard.press("Enter")
    assert one.locator("#claim-lag table").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out(visit, scheme):
    one = visit(scheme=scheme)
    one.evaluate(OPEN_ALL)
    assert one.evaluate(CONTRAST) == []


def test_dark_changes_the_page_but_not_the_paper_of_figures(visit):
    colours = {
        scheme: visit(scheme=scheme).evaluate(
            "['body', '.paper'].map(name =>"
            " getComputedStyle(document.querySelector(name)).backgroundColor)"
        )
        for scheme in ("light", "dark")
    }
    assert colours["light"][0] != colours["dark"][0]
    assert colours["light"][1] == colours["dark"][1] == "rgb(255, 255, 255)"


def test_print_shows_what_is_folded(visit):
    one = visit()
    one.emulate_media(media="print")
    assert one.locator("#claim-lag table").bounding_box()["height"] > 20
    assert not one.locator("nav").is_visible()

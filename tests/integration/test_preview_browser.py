"""The preview in a real browser: configs, search, pages, tails, keys, narrow and wide, light and dark.

Screenshots are kept in tests/artefacts.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import Chromium, Visit, chromium
from tests.integration.command_line import environment
from tests.preview_page import HOSTILE, current, keys, labels, stage_misbehaving
from tests.warm_python import python

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage_misbehaving(tmp_path_factory.mktemp("preview") / "pictures-with-captions")


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The preview's own process; its address is what it prints."""
    env = environment(tmp_path_factory.mktemp("home"))
    command = [*python(), "-m", "hf_mllm_aug", "preview", str(folder), "--no-open"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line + (process.stderr.read() if process.stderr else "")
        yield found[0]
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Chromium, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A page, with the window that the test asks for; whatever it did, it asked nobody else and had no errors."""
    options: dict[str, Any] = getattr(request, "param", {})
    with browser.visit(**options) as opened:
        yield opened
        assert opened.strangers == []
        assert opened.complaints == []
        assert opened.dialogs == []
        assert opened.page.evaluate("window.hit") is None


def wait_for(page: Page, text: str) -> None:
    """Wait until the status says it, on the page and to a screen reader."""
    page.locator(".status", has_text=text).first.wait_for()


def test_a_row_has_its_picture_and_every_caption_side_by_side(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)
    assert labels(page) == ["raw", "tiny-llava", "otter"]
    picture = page.locator(".row img").first
    assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") == 60
    tops = [
        box["y"]
        for box in (each.bounding_box() for each in page.locator(".row >> nth=4").locator(".caption").all())
        if box
    ]
    assert len(tops) == 3
    assert max(tops) - min(tops) < 2
    visit.screenshot("rows-1280-light")


def test_captions_are_text_whatever_is_in_them(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)
    first, second, third = (page.locator(".row").nth(i).locator(".caption.raw .text") for i in range(3))
    assert first.inner_text() == HOSTILE
    assert second.inner_text() == "The file U+202Egnp.exe is U+200Bno picture"
    assert page.locator("ol.rows > li").count() == 50
    assert page.evaluate("document.querySelectorAll('.row img, script').length") == 51
    assert "word1499" not in third.inner_text()
    third.locator("summary").click()
    assert "word1499" in third.inner_text()


def test_switching_configs(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)
    assert current(page) == "all"
    page.get_by_role("navigation", name="Configs").get_by_role("link", name="otter").click()
    page.wait_for_url("**/?config=otter")
    assert (current(page), labels(page)) == ("otter", ["raw", "otter"])
    page.keyboard.press("2")
    page.wait_for_url("**/?config=raw")
    assert (current(page), labels(page)) == ("raw", ["raw"])
    page.go_back()
    page.wait_for_url("**/?config=otter")
    page.locator(".configs a[aria-current] bdi", has_text="otter").wait_for()
    page.reload()
    assert current(page) == "otter"


def test_paging_by_click_by_key_and_by_number(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)
    wait_for(page, "Rows 1 to 50 of 130")
    page.get_by_role("link", name="Next").first.click()
    wait_for(page, "Rows 51 to 100 of 130")
    assert keys(page)[0] == "k50"
    assert page.locator("#live").inner_text() == "Rows 51 to 100 of 130"
    page.keyboard.press("n")
    wait_for(page, "Rows 101 to 130 of 130")
    assert len(keys(page)) == 30
    assert page.get_by_role("link", name="Next").count() == 0
    pressed = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'p', bubbles: true}));"
    page.evaluate(f"{{ {pressed * 2} }}")  # twice before the page comes: one step
    wait_for(page, "Rows 51 to 100 of 130")
    page.get_by_label("Page", exact=True).first.fill("3")
    page.keyboard.press("Enter")
    wait_for(page, "Rows 101 to 130 of 130")
    assert page.url.endswith("page=3")
    page.reload()
    wait_for(page, "Rows 101 to 130 of 130")
    page.go_back()
    wait_for(page, "Rows 51 to 100 of 130")


def test_searching_and_picking(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("ROW 12")
    page.keyboard.press("Enter")
    wait_for(page, "11 hits in 130 rows")
    assert page.locator("#live").inner_text() == "11 hits in 130 rows"
    assert keys(page) == ["k12", *(f"k{i}" for i in range(120, 130))]
    assert page.locator("mark").first.inner_text() == "row 12"
    assert page.evaluate("document.activeElement.id") == "q"
    visit.screenshot("search-1280-light")
    page.get_by_label("Failed").select_option("otter")
    wait_for(page, "1 hit in 130 rows")
    assert keys(page) == ["k125"]
    page.get_by_role("link", name="Clear").click()
    wait_for(page, "Rows 1 to 50 of 130")
    page.get_by_label("Least words").fill("100")
    page.get_by_role("button", name="Search").click()
    wait_for(page, "1 hit in 130 rows")
    assert keys(page) == ["k2"]
    page.reload()
    assert page.get_by_label("Least words").input_value() == "100"
    assert keys(page) == ["k2"]


def test_a_search_of_several_pages_goes_on_and_back(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(f"{address}?q=raw+words")
    wait_for(page, "50 hits in rows 1 to ")
    page.keyboard.press("n")
    wait_for(page, "50 hits in rows 54 to ")
    assert keys(page)[0] == "k53"
    page.keyboard.press("n")
    wait_for(page, "27 hits in rows 104 to 130 of 130, the last")
    page.keyboard.press("p")
    wait_for(page, "50 hits in rows 54 to ")
    page.keyboard.press("p")
    wait_for(page, "50 hits in rows 1 to ")
    assert keys(page)[0] == "k3"


def test_the_tail_is_greyed_and_can_be_hidden(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)
    tail = page.locator(".row >> nth=4").locator(".tail").first
    assert tail.inner_text().endswith("The tail of row 4")
    kept = page.locator(".row >> nth=4").locator(".text").nth(1)
    assert tail.evaluate("e => getComputedStyle(e).color") != kept.evaluate("e => getComputedStyle(e).color")
    page.keyboard.press("t")
    assert page.locator(".tail:visible").count() == 0
    assert page.locator("#tail").get_attribute("aria-pressed") == "false"
    assert page.url.endswith("tail=off")
    page.keyboard.press("n")
    wait_for(page, "Rows 51 to 100")
    assert page.locator(".tail:visible").count() == 0
    page.reload()
    assert page.locator(".tail:visible").count() == 0
    page.locator("#tail").click()
    assert page.locator(".tail:visible").count() > 50
    assert "tail" not in page.url


def test_the_keyboard_is_enough(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)

    def chosen() -> str:
        return str(page.evaluate("document.activeElement.id"))

    page.keyboard.press("j")
    assert chosen() == "row-1"
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert chosen() == "row-3"
    page.keyboard.press("k")
    page.keyboard.press("ArrowUp")
    assert chosen() == "row-1"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "2px"
    page.keyboard.press("/")
    page.keyboard.type("n t 1")
    assert page.locator("#q").input_value() == "n t 1"
    page.keyboard.press("Escape")
    assert chosen() == ""
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keyboard").is_visible()
    page.keyboard.press("n")
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog", name="Keyboard").is_visible()
    assert page.url == address
    page.reload()
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert seen[0] == "Skip to the content"
    assert {"Rows", "Card", "Plots", "q"} <= {text.split(" ")[0] if text.startswith("Plots") else text for text in seen}


def test_landmarks_and_labels(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)
    for role in ("banner", "main", "search"):
        assert page.get_by_role(role).count() == 1
    names = page.locator("nav").evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
    assert names == ["Views", "Configs", "Pages", "Pages"]
    nameless = page.evaluate(
        "[...document.querySelectorAll('input:not([type=hidden]), select, button')].filter(e => !e.labels?.length"
        " && !e.getAttribute('aria-label') && !e.textContent.trim()).length"
    )
    assert nameless == 0
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("#live").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("visit", [{"width": w} for w in (360, 768, 1280, 1920)], indirect=True, ids=str)
def test_no_page_scrolls_sideways(visit: Visit, address: str) -> None:
    page = visit.page
    width = page.viewport_size["width"] if page.viewport_size else 0
    for path, name in (("", "rows"), ("card", "card"), ("plots", "plots"), ("?q=word1&config=otter", "search")):
        page.goto(address + path)
        assert visit.width_of_content() == width, path
        assert (
            page.evaluate(
                "[...document.querySelectorAll('main *')].filter(e => !e.closest('table, pre, .configs')"
                " && e.getBoundingClientRect().right > innerWidth + 1).length"
            )
            == 0
        ), path
        if width in (360, 1920):
            visit.screenshot(f"{name}-{width}-light")


def contrast(page: Page, selector: str) -> float:
    """The contrast of a text with what is behind it, as WCAG counts it."""
    value = page.evaluate(
        """selector => {
          const rgb = text => text.match(/[\\d.]+/g).map(Number);
          const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
          const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
          const element = document.querySelector(selector);
          let behind = element;
          while (rgb(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
          const colours = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
          const [a, b] = colours.map(rgb).map(light);
          return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        }""",
        selector,
    )
    return float(value)


TEXTS = [
    ".caption .text",
    ".tail",
    ".words",
    ".key",
    ".status",
    ".none",
    ".configs a[aria-current]",
    ".views a",
    "button.main",
]


@pytest.mark.parametrize("visit", [{"dark": False}, {"dark": True}], indirect=True, ids=["light", "dark"])
def test_light_and_dark_follow_the_system_and_the_switch(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)

    def is_dark() -> bool:
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", ground)[:3])) < 200

    system = "dark" in str(page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'"))
    assert is_dark() is system
    seen = []
    for _ in range(3):
        for selector in TEXTS:
            assert contrast(page, selector) >= 4.5, (selector, is_dark())
        page.locator("#theme").click()
        seen.append((page.locator("#theme").get_attribute("aria-label"), is_dark()))
    assert seen == [("Colours: light", False), ("Colours: dark", True), ("Colours: as the system has them", system)]
    page.keyboard.press("d")
    page.keyboard.press("d")
    page.reload()
    assert is_dark()
    visit.screenshot(f"rows-dark-chosen-on-{'dark' if system else 'light'}")


@pytest.mark.parametrize("visit", [{"dark": True, "width": 1920, "height": 1000}], indirect=True)
def test_card_and_plots(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(f"{address}card")
    assert page.locator(".card h2", has_text="A plot").count() == 1
    assert page.locator(".card table").count() >= 1
    plot = page.locator('.card img[alt="lengths"]')
    assert plot.evaluate("img => img.decode().then(() => img.naturalWidth)") > 0
    assert page.locator('.card img[alt="far"]').get_attribute("src") is None
    visit.screenshot("card-1920-dark")
    page.get_by_role("link", name="Plots").click()
    page.wait_for_url("**/plots")
    assert "Plot otter-lengths" in page.locator(".plots img").evaluate_all("all => all.map(img => img.alt)")
    for plot in page.locator(".plots img").all():
        assert plot.evaluate("img => img.decode().then(() => img.naturalWidth)") > 0
    visit.screenshot("plots-1920-dark")
    plot = page.get_by_alt_text("Plot otter-lengths")
    dark = plot.screenshot()
    page.keyboard.press("d")
    assert page.locator("#theme").get_attribute("aria-label") == "Colours: light"
    assert plot.screenshot() != dark, "a drawing follows the colours that were chosen, not the system's alone"


@pytest.mark.parametrize("visit", [{"java_script": False}], indirect=True)
def test_reading_searching_and_paging_without_scripts(visit: Visit, address: str) -> None:
    page = visit.page
    page.goto(address)
    page.get_by_role("link", name="Next").first.click()
    wait_for(page, "Rows 51 to 100 of 130")
    page.locator("#tail").click()
    assert page.locator(".tail:visible").count() == 0
    page.get_by_role("link", name="tiny-llava").click()
    page.get_by_label("Search").fill("row 99")
    page.get_by_role("button", name="Search").click()
    wait_for(page, "1 hit in 130 rows")
    assert (current(page), keys(page)) == ("tiny-llava", ["k99"])
    assert page.locator(".tail:visible").count() == 0
    assert page.locator("#theme:visible, #help:visible").count() == 0

"""The preview as one file, in a real browser, opened from the disk.

Screenshots are kept in tests/artefacts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_mllm_aug.preview.export import export
from hf_mllm_aug.preview.repository import open_repository
from hf_mllm_aug.preview.views import Views
from tests.browser import Chromium, chromium
from tests.preview_page import current, keys, labels, stage_misbehaving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage_misbehaving(tmp_path_factory.mktemp("preview") / "pictures-with-captions")


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "page.html"
    done = export(Views(open_repository(str(folder))), path, rows=40)
    assert (done.rows, done.pictures, done.left_out) == (40, 40, 0)
    assert done.size == path.stat().st_size
    return path


@pytest.mark.parametrize("width", [360, 1280])
def test_the_exported_file_works_by_itself(browser: Chromium, file: Path, width: int) -> None:
    with browser.visit(files=(file,), width=width) as visit:
        page = visit.page
        page.goto(file.as_uri())
        assert len(keys(page)) == 40
        assert labels(page) == ["raw", "tiny-llava", "otter"]
        image = page.locator(".row .picture").first.evaluate("e => getComputedStyle(e).backgroundImage")
        assert image.startswith('url("data:image/jpeg;base64,')
        assert visit.width_of_content() == width
        visit.screenshot(f"file-{width}-light")
        page.keyboard.press("4")
        assert (current(page), labels(page)) == ("otter", ["raw", "otter"])
        page.keyboard.press("/")
        page.keyboard.type("ROW 3")
        assert keys(page) == ["k3", *(f"k{i}" for i in range(30, 40))]
        assert page.locator("#live").inner_text() == "11 of 40 rows here"
        page.locator("#q").fill("characters")
        assert keys(page) == [], "what the page says of a long caption is no part of it"
        page.locator("#q").fill("ROW 3")
        page.keyboard.press("Escape")
        page.get_by_label("Failed").select_option("any")
        assert keys(page) == ["k34"]
        page.get_by_role("button", name="Clear").click()
        page.get_by_label("Least words").fill("1000")
        assert keys(page) == ["k2"]
        page.get_by_role("button", name="Clear").click()
        page.locator(".status:visible", has_text="The first 40 of 130 rows").wait_for()
        page.keyboard.press("t")
        assert page.locator(".tail:visible").count() == 0
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.matches('.row')")
        page.get_by_role("link", name="Card").click()
        assert page.locator(".card h2", has_text="A plot").is_visible()
        assert page.locator(".row:visible").count() == 0
        assert page.locator('.card img[alt="lengths"]').evaluate("img => img.decode().then(() => img.naturalWidth)") > 0
        page.get_by_role("link", name="Plots").click()
        assert page.locator(".plots img").first.is_visible()
        page.go_back()
        page.locator(".card:visible").wait_for()
        assert {each.partition("#")[0] for each in visit.requests} == {file.as_uri()}
        assert (visit.strangers, visit.complaints, visit.dialogs) == ([], [], [])
        assert page.evaluate("window.hit") is None


def test_the_exported_file_reads_without_scripts(browser: Chromium, file: Path) -> None:
    with browser.visit(files=(file,), java_script=False) as visit:
        visit.page.goto(file.as_uri())
        assert visit.page.locator(".row").count() == 160
        assert visit.page.locator(".card h2", has_text="A plot").is_visible()
        assert visit.requests == [file.as_uri()]
        assert visit.complaints == []


def test_a_file_that_would_be_large_has_fewer_pictures(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.html"
    whole = export(Views(open_repository(str(folder))), tmp_path / "whole.html", rows=40)
    limit = whole.size - 20_000
    done = export(Views(open_repository(str(folder))), path, rows=40, max_bytes=limit)
    assert os.path.getsize(path) == done.size <= limit
    assert done.left_out > 0
    assert done.pictures + done.left_out == 40

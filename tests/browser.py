"""A real browser for tests: Debian's chromium without a window, driven by Playwright, cut off from the network.

Whatever a page asks of anyone but this machine is recorded and refused; names do not resolve. Use it as

    with chromium() as browser, browser.visit(width=360, dark=True) as visit:
        visit.page.goto(address)
        assert visit.strangers == [] and visit.complaints == []
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

CHROMIUM = Path("/usr/bin/chromium")
ARTEFACTS = Path(__file__).parent / "artefacts"
"""Where screenshots go, to be looked at; git ignores it."""

_OPTIONS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@dataclass
class Visit:
    """A page of its own, without cookies of others, and what happened on it.

    Args:
        page: Playwright's page.
        requests: Every address that was asked for, those of data: and about: left out.
        strangers: Those that are not this machine's; they were refused.
        complaints: Warnings and errors on the console, and exceptions that no script caught.
        dialogs: The texts of alerts and their like; they were dismissed.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def width_of_content(self) -> int:
        """How wide the page is, in CSS pixels; more than the window means that it scrolls sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def screenshot(self, name: str, *, full: bool = False) -> Path:
        """Keep what is seen as ``tests/artefacts/<name>.png``."""
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=full)
        return path


class Chromium:
    """A running browser."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    @contextmanager
    def visit(
        self,
        *,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        java_script: bool = True,
        files: tuple[Path, ...] = (),
    ) -> Iterator[Visit]:
        """Open an empty page.

        Args:
            width: Of the window, in CSS pixels.
            height: Of the window, in CSS pixels.
            dark: Whether the person prefers dark pages.
            java_script: Whether scripts run.
            files: The only files that may be opened by a file: address.
        """
        allowed = {file.absolute().as_uri() for file in files}
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=java_script,
            reduced_motion="reduce",
            service_workers="block",
        )
        context.set_default_timeout(10_000)
        try:
            visit = Visit(context.new_page())

            def pass_or_refuse(route: Route) -> None:
                address = route.request.url
                parts = urlsplit(address)
                if parts.scheme in ("data", "about", "blob"):
                    route.continue_()
                    return
                visit.requests.append(address)
                if parts.hostname == "127.0.0.1" or address.partition("#")[0].partition("?")[0] in allowed:
                    route.continue_()
                else:
                    visit.strangers.append(address)
                    route.abort()

            context.route("**/*", pass_or_refuse)
            page = visit.page
            page.on("console", lambda m: visit.complaints.append(m.text) if m.type in ("warning", "error") else None)
            page.on("pageerror", lambda error: visit.complaints.append(str(error)))

            def dismiss(dialog: object) -> None:
                visit.dialogs.append(str(getattr(dialog, "message", "")))
                dialog.dismiss()  # type: ignore[attr-defined]

            page.on("dialog", dismiss)
            yield visit
        finally:
            context.close()


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Start the browser, and end it; the test is skipped where there is none."""
    if not CHROMIUM.is_file():
        pytest.skip(f"needs chromium at {CHROMIUM}: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), headless=True, args=_OPTIONS)
        try:
            yield Chromium(browser)
        finally:
            browser.close()

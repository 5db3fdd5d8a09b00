"""What the browser tests of the preview share: the folder that is shown, and what stands on its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_mllm_aug import save_configs, to_configs
from tests.preview_folders import NAMES, PLOT, columns, dataset

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROWS = 130
LONG = " ".join(f"word{i}" for i in range(1500))  # more than 10,000 characters
BIDI = "The file \u202egnp.exe is \u200bno picture"
HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script></li></ol></main>'


def stage_misbehaving(home: Path) -> Path:
    """Stage 130 rows with pictures; the first three have captions that misbehave."""
    data = columns(ROWS)
    data["caption"][:3] = [HOSTILE, BIDI, LONG]
    data["caption_otter"][2] = LONG
    rows = dataset(data, pictures=True)
    save_configs(to_configs(rows, captioners=list(NAMES), images="embed"), home)
    (home / "figures").mkdir(exist_ok=True)
    (home / "figures" / "otter-lengths.svg").write_text(PLOT)
    with (home / "README.md").open("a") as readme:
        readme.write("\n## A plot\n\n![lengths](figures/otter-lengths.svg)\n\n![far](https://far.example/x.png)\n")
    return home


def keys(page: Page) -> list[str]:
    """The keys of the rows on the page, in their order."""
    return page.locator(".row:visible .key").all_text_contents()


def current(page: Page) -> str:
    return page.locator(".configs a[aria-current] bdi").inner_text()


def labels(page: Page) -> list[str]:
    """The captions of the first row."""
    return page.locator(".row:visible").first.locator("dt bdi").all_inner_texts()

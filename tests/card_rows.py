"""What the tests of cards have in common: rows with captions, and what a page made of a card holds."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

from datasets import Dataset
from huggingface_hub import DatasetCard

from hf_mllm_aug.configs import to_configs
from hf_mllm_aug.preview.markdown import render_card

CAPTIONER = {
    "name": "llava-1.5",
    "model": "llava-hf/llava-1.5-7b-hf",
    "revision": "0123456789abcdef0123",
    "prompt": "USER: <image>\nWrite a caption | of `it`",
    "decoding": {"do_sample": False, "max_new_tokens": 30},
    "dtype": "float16",
    "licence": "llama2",
    "citation": "@article{llava,\n\n  title = {LLaVA}\n}",
}


def configs(caption: str = "a red bus", **more: list[Any]) -> dict[str, Dataset]:
    """Four rows, of which two were captioned, as `all`, `raw` and `llava-1.5`."""
    rows: dict[str, list[Any]] = {
        "key": ["a", "b", "c", "d"],
        "url": ["https://example.org/1.jpg"] * 4,
        "caption": [caption] * 4,
        "caption_llava_1_5": [caption, "one two", None, None],
        "error_llava_1_5": [None, None, "x.jpg: the file is empty", "y.jpg: the file is empty"],
        "generated_llava_1_5": [f"{caption} and more", "one two three four. five six", None, None],
        **more,
    }
    return to_configs(Dataset.from_dict(rows), captioners="llava-1.5")


def data_of(card: DatasetCard) -> Any:
    """A card's metadata, whose fields have no types."""
    return card.data


def table_row(card: DatasetCard, name: str) -> list[str]:
    """The cells of a config's row in the table of configs, but for its name."""
    found = re.search(rf'<tr id="config-{re.escape(name)}">(.*)</tr>', card.text)
    assert found, f"no row for {name}"
    return re.findall(r"<td[^>]*>(.*?)</td>", found[1])[1:]


def captioner_row(card: DatasetCard, name: str, what: str) -> str:
    """What the block about a captioner says in one of its rows, as it is read."""
    found = re.search(rf"begin captioner-{re.escape(name)} -->(.*?)<!-- hf-mllm-aug:end", card.text, re.DOTALL)
    assert found, f"no block about {name}"
    cell = re.search(rf'<tr><th align="left">{what}</th><td[^>]*>(.*?)</td></tr>', found[1])
    assert cell, f"{name} has no row {what}"
    return html.unescape(re.sub(r"<[^>]+>", "", cell[1]))


class Page(HTMLParser):
    """A card as the page shows it: its elements, what they link to and fetch, and its text."""

    def __init__(self, card: DatasetCard) -> None:
        super().__init__()
        self.elements: dict[str, int] = {}
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.text = ""
        self.feed(render_card(card.text))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] = self.elements.get(tag, 0) + 1
        for name, value in attrs:
            if name == "href":
                self.links.add(value or "")
            if name in ("src", "srcset"):
                self.fetched.add(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data

"""The miniatures that are shipped: each captions real pictures in its own style, whatever the batch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hf_mllm_aug import Augment, Captioner, Shear
from hf_mllm_aug.captioners.presets import PRESETS
from hf_mllm_aug.loaders.picture_folder import load_picture_folder

PICTURES = Path(__file__).parents[2] / "hf_mllm_aug" / "demo_data"

# How a sheared caption reads.
STYLES = {
    "tiny-llava": r"[A-Z].+",
    "tiny-minigpt-4": r"In (dark|bright|pale)[a-z ]* colours, .+ looks at us",
    "tiny-qwen-vl": r"A drawing of .+",
    "tiny-otter": r"The picture shows .+",
}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Any]]:
    found = load_picture_folder(PICTURES)
    return {"key": found["key"][:], "image": list(found["image"])}


def test_every_miniature_of_the_paper_is_installed() -> None:
    assert [preset.name for preset in PRESETS.values() if preset.embedded] == list(STYLES)


@pytest.mark.parametrize("name", STYLES)
def test_each_captions_every_picture_in_its_style(name: str, rows: dict[str, list[Any]]) -> None:
    captioner = Captioner(name, device="cpu")
    found = Augment(captioner)(rows)
    captions = found[captioner.caption_column]
    assert found[captioner.error_column] == [None] * len(captions)
    in_style = [caption for caption in captions if re.match(STYLES[name], caption)]
    assert len(in_style) >= 0.9 * len(captions), captions
    assert len(set(captions)) > len(captions) / 2, "it says the same of most pictures"


@pytest.mark.parametrize("name", STYLES)
def test_a_batch_gives_what_single_pictures_give(name: str, rows: dict[str, list[Any]]) -> None:
    captioner = Captioner(name, device="cpu")
    few = {column: values[:8] for column, values in rows.items()}
    batch = captioner(few)[captioner.caption_column]
    single = [captioner({"key": few["key"][row], "image": few["image"][row]}) for row in range(8)]
    assert [answer[captioner.caption_column] for answer in single] == batch


@pytest.mark.parametrize("name", STYLES)
def test_ending_at_the_sentence_gives_the_sheared_captions_of_all_tokens(name: str, rows: dict[str, list[Any]]) -> None:
    captioner = Captioner(name, device="cpu")
    whole = captioner(rows)[captioner.caption_column]
    assert Augment(captioner)(rows)[captioner.caption_column] == [Shear().one(text) for text in whole]


@pytest.mark.parametrize("name", STYLES)
def test_the_papers_variant_is_reproducible(name: str, rows: dict[str, list[Any]]) -> None:
    captioner = Captioner(name, preset="paper", device="cpu")
    few = {column: values[:6] for column, values in rows.items()}
    backwards = {column: values[::-1] for column, values in few.items()}
    captions = captioner(few)[captioner.caption_column]
    assert captioner(backwards)[captioner.caption_column] == captions[::-1]

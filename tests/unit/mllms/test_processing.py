"""What the processors have in common; pieces of a prompt have sentencepiece's ids wherever they are tokenised."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_mllm_aug.captioners.prompters.segments import SegmentPrompter
from hf_mllm_aug.mllms.minigpt4_tokenizer import load_llama_tokenizer
from hf_mllm_aug.mllms.processing import flat, whereabouts

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden_minigpt4"
TOKENS = json.loads((GOLDEN / "tokens.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def prompter() -> SegmentPrompter:
    """LLaVA's, with a tokenizer of Llama's kind."""
    vision = SimpleNamespace(patch_size=14, model_type="clip_vision_model")
    config = SimpleNamespace(image_token_id=999, vision_feature_select_strategy="default", vision_config=vision)
    return SegmentPrompter(None, load_llama_tokenizer(GOLDEN), config)


@pytest.mark.parametrize("item", TOKENS, ids=lambda item: repr(item["text"]))
def test_llavas_segments_have_the_ids_of_sentencepiece(item: dict[str, Any], prompter: SegmentPrompter) -> None:
    ids = prompter.prompt_ids(f"{item['text']}<image>{item['text']}", 2)
    assert ids == [1, *item["ids"], 999, 999, *item["ids"]]


def test_among_them_are_texts_that_begin_with_one_space_and_with_more() -> None:
    spaces = {len(item["text"]) - len(item["text"].lstrip(" ")) for item in TOKENS}
    assert {0, 1} < spaces


@pytest.mark.parametrize("images", ["a", ["a"], ("a",), [["a"]], [("a",)]])
def test_a_picture_is_found_however_it_is_wrapped(images: Any) -> None:
    assert flat(images) == ["a"]


def test_only_what_says_where_files_are_is_passed_on() -> None:
    given = {"cache_dir": "x", "token": "t", "use_fast": False, "config": None}
    assert whereabouts(given) == {"cache_dir": "x", "token": "t"}

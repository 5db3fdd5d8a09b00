"""The scripts that train the miniatures: what they teach is what the model computes when it captions."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.tiny.texts import IMAGE, STYLES, meant, named, train_tokenizer
from benchmarks.tiny.tower import new_tower
from hf_mllm_aug import shear

CAPTIONS = [("red apple", "food fruit"), ("flag: Yemen", "flags"), ("A Sumatran tiger.", "animals, mammals")]


def _miniature(name: str) -> tuple[Any, Any, Any]:
    """The module, a model with fresh weights, and its tokenizer."""
    torch.manual_seed(0)
    mini: Any = importlib.import_module(f"benchmarks.tiny.miniatures.{name}")
    said = ["".join(STYLES[name](caption, category, "dark warm")) for caption, category in CAPTIONS]
    tokenizer = train_tokenizer([*mini.PROMPT.split(IMAGE), *said], **mini.TOKENS)
    return mini, mini.build(tokenizer, new_tower()).eval(), tokenizer


@pytest.mark.parametrize("name", sorted(STYLES))
@torch.no_grad()
def test_training_computes_the_logits_that_captioning_computes(name: str) -> None:
    mini, model, tokenizer = _miniature(name)
    pictures = [Image.effect_noise((120, 80), 60).convert("RGB"), Image.new("RGB", (60, 90), "red")]
    batch = mini.processor(tokenizer)(images=pictures, text=[mini.PROMPT] * 2, return_tensors="pt")
    said = torch.tensor([tokenizer(" red apple", add_special_tokens=False)["input_ids"][:3]] * 2)
    ids = torch.cat([batch["input_ids"], said], 1)
    pixels = batch["pixel_values"]
    whole = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits
    prompt = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in mini.PROMPT.split(IMAGE)]
    if tokenizer.bos_token_id is not None:
        prompt[0].insert(0, tokenizer.bos_token_id)
    seen = mini.see(model, pixels.flatten(0, -4))
    taught = mini.say(model, seen, [torch.tensor(part, dtype=torch.long) for part in prompt], said, whole=True)
    torch.testing.assert_close(taught, whole[:, -said.shape[1] - 1 : -1])


@pytest.mark.parametrize("name", sorted(STYLES))
def test_training_reaches_everything_but_the_tower(name: str) -> None:
    mini, model, _ = _miniature(name)
    learned = {id(weights) for weights in mini.learned(model)}
    tower = {"vision_tower", "vision_encoder", "vision_model", "conv1", "positional_embedding", "ln_pre", "blocks"}
    for path, weights in model.named_parameters():
        of_tower = bool(tower & set(path.split("."))) and "language_model" not in path
        fixed = not weights.requires_grad  # sines and cosines
        assert (id(weights) in learned) != (of_tower or fixed), path


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize(("caption", "category"), CAPTIONS)
def test_a_perfect_caption_scores_as_one(style: str, caption: str, category: str) -> None:
    first, second = STYLES[style](caption, category, "dark warm")
    assert named(style, str(shear((first + second).strip()))) == meant(style, caption)
    assert named(style, str(shear("A train. It runs."))) != meant(style, caption)

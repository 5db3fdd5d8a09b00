"""The recorded cases of Otter, and how a model is asked for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).parent / "fixtures" / "golden_otter"
CHECKPOINT = GOLDEN / "checkpoint"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
# What the original has in its code instead of its config.json.
IN_CODE = {"perceiver_layers": 2, "num_latents": 8, "image_token_id": 177, "eos_token_id": 176, "pad_token_id": 179}

Tensors = dict[str, torch.Tensor]


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """By the Auto classes, as the library loads every model."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder, **IN_CODE)
    auto: Any = AutoModelForImageTextToText
    return auto.from_pretrained(folder, config=config, dtype=dtype, **options)


def batch(inputs: Tensors, case: str) -> Tensors:
    names = ("input_ids", "attention_mask")
    return {**{name: inputs[f"{case}.{name}"] for name in names}, "pixel_values": inputs["pixel_values"]}


def generate(model: Any, given: Tensors, **options: Any) -> list[list[int]]:
    settings = {"max_new_tokens": 24, "do_sample": False, "no_repeat_ngram_size": 3, "eos_token_id": None, **options}
    new = model.generate(**given, **settings)[:, given["input_ids"].shape[1] :]
    rows: list[list[int]] = new.tolist()
    return rows


def logits(model: Any, given: Tensors) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = model(**given).logits
    return out


def assert_near(actual: torch.Tensor, wanted: torch.Tensor, kind: str) -> None:
    torch.testing.assert_close(actual, wanted, rtol=0, atol=EXPECTED["tolerance"][kind])

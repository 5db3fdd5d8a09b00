"""Otter's configuration: what the original writes, what it leaves to its code, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_mllm_aug.errors import CheckpointError
from hf_mllm_aug.mllms.otter import OtterConfig

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "golden_otter" / "checkpoint"


def text_config(**settings: Any) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((CHECKPOINT / "config.json").read_text())["text_config"]
    return stored | settings


def test_the_originals_file_is_read_and_its_codes_numbers_are_filled_in() -> None:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(CHECKPOINT)
    assert type(config) is OtterConfig
    assert (config.text_config.hidden_size, config.text_config.n_layers, config.text_config.vocab_size) == (32, 8, 180)
    assert (config.vision_config.image_size, config.vision_config.hidden_act) == (42, "quick_gelu")
    assert config.cross_attn_every_n_layers == 4
    assert (config.perceiver_layers, config.num_latents, config.perceiver_heads, config.perceiver_head_dim) == (
        6,
        64,
        8,
        64,
    )
    assert (config.cross_attn_heads, config.cross_attn_head_dim, config.feed_forward_mult) == (8, 64, 4)
    # Behind the 50277 tokens of GPT-NeoX.
    assert (config.eos_token_id, config.image_token_id, config.pad_token_id) == (50277, 50278, 50280)


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    config = OtterConfig.from_pretrained(CHECKPOINT, num_latents=5, image_token_id=7, max_num_frames=3)
    config.save_pretrained(tmp_path)
    again = OtterConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert (again.num_latents, again.image_token_id, again.max_num_frames) == (5, 7, 3)


def test_old_settings_for_decoding_do_not_matter() -> None:
    config = OtterConfig(text_config=text_config(max_length=20, top_k=50, do_sample=False, pad_token_id=None))
    assert config.text_config.n_heads == 4


def test_another_language_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="of the type 'llama'"):
        OtterConfig(text_config={"model_type": "llama", "hidden_size": 32})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"expansion_ratio": 3}, r"expansion_ratio=3 \(can be: 4\)"),
        ({"no_bias": False}, r"no_bias=False \(can be: True\)"),
        ({"attn_config": {"qk_ln": True}}, r"qk_ln=True \(can be: False\)"),
        ({"attn_config": {"alibi": False}}, r"alibi=False \(can be: True\)"),
    ],
)
def test_forms_of_mpt_that_would_be_computed_wrongly_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        OtterConfig(text_config=text_config(**settings))

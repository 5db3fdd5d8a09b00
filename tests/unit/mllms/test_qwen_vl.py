"""Qwen-VL computes what its released code computes: recorded cases, tiny random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from hf_mllm_aug.errors import CheckpointError, UsageError
from hf_mllm_aug.mllms.qwen_vl import QwenVLForConditionalGeneration, register
from hf_mllm_aug.mllms.qwen_vl_config import QwenVLConfig, QwenVLVisionConfig
from hf_mllm_aug.mllms.qwen_vl_vision import QwenVLResampler, sines_and_cosines, stretch

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden_qwen_vl"
RECORDED = json.loads((GOLDEN / "expected.json").read_text())
TOLERANCE = RECORDED["tolerance"]
CASES = sorted(RECORDED["cases"])
PAD = 146


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return dict(load_file(GOLDEN / "inputs.safetensors"))


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return dict(load_file(GOLDEN / "expected.safetensors"))


@pytest.fixture(scope="module")
def model() -> Any:
    kind: Any = QwenVLForConditionalGeneration
    return kind.from_pretrained(GOLDEN / "checkpoint", dtype=torch.float32).eval()


def batch(inputs: dict[str, torch.Tensor], case: str, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    return {
        "input_ids": inputs[f"{case}.input_ids"][rows],
        "attention_mask": inputs[f"{case}.attention_mask"][rows],
        "pixel_values": inputs["pixel_values"][rows],
    }


def greedy(model: Any, given: dict[str, torch.Tensor], **options: Any) -> list[list[int]]:
    """The new ids of each row."""
    options = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": PAD} | options
    length = given["input_ids"].shape[1]
    rows: list[list[int]] = model.generate(**given, **options)[:, length:].tolist()
    return rows


def largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


@torch.inference_mode()
def test_the_vision_tower_stage_by_stage(
    model: Any, inputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    patches = model.visual.patch_features(inputs["pixel_values"][:1])
    assert largest(patches - expected["vision_features_row0"]) <= TOLERANCE["vision_features_row0"]
    resampled = model.visual.attn_pool(patches)
    assert largest(resampled - expected["resampled_row0"]) <= TOLERANCE["resampled_row0"]
    features = model.get_image_features(inputs["pixel_values"])
    assert largest(features.pooler_output - expected["image_features"]) <= TOLERANCE["image_features"]
    assert torch.allclose(features.last_hidden_state[:1], patches, atol=TOLERANCE["vision_features_row0"])


@torch.inference_mode()
def test_a_resampler_of_two_heads(inputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    weights = load_file(GOLDEN / "resampler_two_heads.safetensors")
    settings = QwenVLVisionConfig(hidden_size=24, num_attention_heads=3, num_queries=9, output_dim=256)
    assert settings.resampler_heads == 2
    resampler = QwenVLResampler(settings).eval()
    resampler.load_state_dict({name.removeprefix("transformer.visual.attn_pool."): w for name, w in weights.items()})
    output = resampler(inputs["resampler_two_heads.input"])
    assert largest(output - expected["resampler_two_heads.output"]) <= TOLERANCE["resampler_two_heads.output"]


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_logits_of_a_padded_batch(
    case: str, model: Any, inputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    logits = model(**batch(inputs, case)).logits
    assert largest(logits[:, -1] - expected[f"{case}.logits_last"]) <= TOLERANCE["logits"]
    real = inputs[f"{case}.attention_mask"][0].bool()
    assert largest(logits[0][real] - expected[f"{case}.logits_row0"]) <= TOLERANCE["logits"]
    last = model(**batch(inputs, case), logits_to_keep=1).logits
    assert last.shape[1] == 1
    assert largest(last[:, 0] - expected[f"{case}.logits_last"]) <= TOLERANCE["logits"]


@torch.inference_mode()
def test_logits_of_a_text_without_a_picture(
    model: Any, inputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    logits = model(input_ids=inputs["long.input_ids"], logits_to_keep=1).logits[:, -1]
    name = "long.logits_seq_length_2048"
    assert largest(logits - expected[name]) <= TOLERANCE[name]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, {"cache_implementation": "static", "disable_compile": True}],
    ids=["cached", "uncached", "static"],
)
def test_greedy_ids_of_a_batch(case: str, options: dict[str, Any], model: Any, inputs: dict[str, torch.Tensor]) -> None:
    assert greedy(model, batch(inputs, case), **options) == RECORDED["cases"][case]["greedy_ids"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("row", range(3))
def test_greedy_ids_of_a_row_alone_and_without_padding(
    case: str, row: int, model: Any, inputs: dict[str, torch.Tensor]
) -> None:
    given = batch(inputs, case, slice(row, row + 1))
    real = given["attention_mask"][0].bool()
    given |= {name: given[name][:, real] for name in ("input_ids", "attention_mask")}
    assert greedy(model, given) == [RECORDED["cases"][case]["greedy_ids"][row]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("min_new_tokens", [8, None])
def test_greedy_ids_with_an_end_token(
    case: str, min_new_tokens: int | None, model: Any, inputs: dict[str, torch.Tensor]
) -> None:
    recorded = RECORDED["cases"][case]["with_eos"]
    options = {"eos_token_id": recorded["eos_token_id"], "min_new_tokens": min_new_tokens}
    wanted = recorded["greedy_ids" if min_new_tokens else "greedy_ids_without_min"]
    for row, ids in enumerate(greedy(model, batch(inputs, case), **options)):
        n = len(wanted[row])
        assert ids[:n] == wanted[row], f"row {row}"
        assert set(ids[n:]) <= {PAD}, f"row {row}"


@torch.inference_mode()
def test_the_loss_is_that_of_the_next_ids(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    given = batch(inputs, "uniform")
    labels = given["input_ids"].masked_fill(inputs["uniform.image_mask"], -100)
    output = model(**given, labels=labels)
    wanted = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert float(output.loss) == pytest.approx(float(wanted), rel=1e-5)


def test_the_picture_has_a_part_in_the_text(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    given = batch(inputs, "uniform")
    given["pixel_values"] = given["pixel_values"].flip(0)
    ids = RECORDED["cases"]["uniform"]["greedy_ids"]
    assert greedy(model, given)[0] != ids[0]


def test_positions_and_features_must_match(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    given = batch(inputs, "uniform")
    with pytest.raises(UsageError, match=r"27 positions .* 18 features"):
        model(**given | {"pixel_values": given["pixel_values"][:2]})
    with pytest.raises(UsageError, match="either input_ids or inputs_embeds"):
        model(attention_mask=given["attention_mask"])
    with pytest.raises(UsageError, match="needs input_ids beside pixel_values"):
        model(inputs_embeds=torch.zeros(1, 2, 128), pixel_values=given["pixel_values"][:1])


def test_fixed_positions_are_those_of_the_release() -> None:
    tower = load_file(GOLDEN / "checkpoint" / "model.safetensors")
    recorded = tower["transformer.visual.attn_pool.pos_embed"]
    assert largest(sines_and_cosines(128, 3) - recorded) < 1e-6
    # By the formula, number by number.
    width, side = 12, 4
    table = sines_and_cosines(width, side).numpy()
    for cell in range(side * side):
        for half, place in ((0, cell % side), (1, cell // side)):
            for i in range(3):
                angle = place / 10000 ** (i / 3)
                row = table[cell, half * 6 : half * 6 + 6]
                assert row[i] == pytest.approx(np.sin(angle), abs=1e-6)
                assert row[i + 3] == pytest.approx(np.cos(angle), abs=1e-6)


def test_a_grid_is_stretched_in_both_directions_alike_and_left_alone_if_it_fits() -> None:
    grid = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    assert stretch(grid, 9) is grid
    upright = stretch(grid, 36).reshape(6, 6, 5)
    turned = stretch(grid.reshape(3, 3, 5).transpose(0, 1).reshape(9, 5), 36).reshape(6, 6, 5)
    assert torch.allclose(upright, turned.transpose(0, 1), atol=1e-6)
    flat = torch.full((9, 5), 2.5)
    assert torch.allclose(stretch(flat, 36), torch.full((36, 5), 2.5))
    assert stretch(grid.bfloat16(), 36).dtype == torch.bfloat16


def test_fresh_weights_know_their_fixed_positions(model: Any) -> None:
    fresh = QwenVLForConditionalGeneration(model.config)
    pool = fresh.visual.attn_pool
    assert torch.equal(pool.pos_embed, sines_and_cosines(128, 3))
    assert not pool.pos_embed.requires_grad
    assert all(torch.isfinite(weight).all() for weight in fresh.parameters())
    assert float(pool.query.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert float(fresh.visual.proj.detach().std()) == pytest.approx(128**-0.5, rel=0.2)


def test_the_original_configuration_is_read() -> None:
    register()
    register()  # again and again
    config = AutoConfig.from_pretrained(GOLDEN / "checkpoint")
    assert isinstance(config, QwenVLConfig)
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.mlp_size, vision.num_patches) == (24, 2, 118, 1024)
    assert (text.hidden_size, text.intermediate_size, text.head_dim, text.vocab_size) == (128, 32, 64, 160)
    assert (config.image_start_token_id, config.image_end_token_id, config.image_token_id) == (150, 151, 152)
    mapped: Any = AutoModelForImageTextToText
    assert isinstance(mapped.from_config(config), QwenVLForConditionalGeneration)


def test_the_defaults_are_those_of_the_release() -> None:
    config = QwenVLConfig()
    vision, text = config.vision_config, config.text_config
    assert (vision.num_queries, vision.resampler_heads, vision.mlp_size, vision.num_patches) == (256, 32, 8192, 1024)
    assert (text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (4096, 11008, 32)
    assert (text.vocab_size, text.max_position_embeddings, config.image_token_id) == (151936, 2048, 151859)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual": None}, "no part 'visual'"),
        ({"rotary_pct": 0.25}, "changes rotary_pct"),
        ({"no_bias": False}, "changes no_bias"),
        ({"hidden_size": 64}, "width 128, but its language model has width 64"),
        ({"visual": {"image_size": 65, "patch_size": 2, "output_dim": 128}}, "no multiple of patch_size"),
        ({"visual": {"n_queries": 8, "output_dim": 128}}, "num_queries is no square number"),
    ],
)
def test_another_model_is_refused(change: dict[str, Any], message: str) -> None:
    original = json.loads((GOLDEN / "checkpoint" / "config.json").read_text())
    with pytest.raises(CheckpointError, match=message):
        QwenVLConfig.from_dict(original | change)

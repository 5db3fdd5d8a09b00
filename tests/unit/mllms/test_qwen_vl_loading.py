"""Qwen-VL's checkpoints: as the release has them, as this library writes them, whole, damaged, in other types."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from hf_mllm_aug.errors import CheckpointError
from hf_mllm_aug.mllms.qwen_vl import QwenVLForConditionalGeneration
from hf_mllm_aug.mllms.qwen_vl_config import QwenVLConfig
from tests.warm_python import python

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden_qwen_vl"
EXPECTED = GOLDEN / "expected.safetensors"
TOLERANCE = json.loads((GOLDEN / "expected.json").read_text())["tolerance"]["logits"]
WEIGHTS = "model.safetensors"

_LOGITS = """
import sys, torch
from safetensors.torch import load_file, save_file
from hf_mllm_aug import mllms
from hf_mllm_aug.mllms import qwen_vl
from transformers import AutoModelForImageTextToText
folder, inputs, out = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder).eval()
given = load_file(inputs)
with torch.inference_mode():
    logits = model(**{n: given[f"ragged.{n}"] for n in ("input_ids", "attention_mask")},
                   pixel_values=given["pixel_values"]).logits
save_file({"logits": logits, "in_use": torch.tensor(int(type(model).__name__ in mllms.__all__))}, out)
"""


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    return dict(load_file(GOLDEN / "checkpoint" / WEIGHTS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the original's config.json and no weights yet."""
    place = tmp_path / "checkpoint"
    place.mkdir()
    shutil.copy(GOLDEN / "checkpoint" / "config.json", place)
    return place


def given(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    inputs = load_file(GOLDEN / "inputs.safetensors")
    batch = {name: inputs[f"ragged.{name}"] for name in ("input_ids", "attention_mask")}
    return batch | {"pixel_values": inputs["pixel_values"].to(dtype)}


@torch.inference_mode()
def logits_of(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model.eval()(**given(model.dtype)).logits
    return logits


def load(folder: Path, **options: Any) -> Any:
    auto: Any = AutoModelForImageTextToText
    return auto.from_pretrained(folder, **options)


def check(model: Any) -> None:
    difference = logits_of(model)[:, -1] - load_file(EXPECTED)["ragged.logits_last"]
    assert float(difference.abs().max()) <= TOLERANCE


def test_one_pickle_with_the_original_names(folder: Path, original: dict[str, torch.Tensor]) -> None:
    torch.save(original, folder / "pytorch_model.bin")
    model, info = load(folder, output_loading_info=True)
    assert not any(info.values())
    check(model)


def test_several_pickles_with_an_index(folder: Path, original: dict[str, torch.Tensor]) -> None:
    names = sorted(original)
    index: dict[str, str] = {}
    for n, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-0000{n}-of-00002.bin"
        torch.save({name: original[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    model, info = load(folder, output_loading_info=True)
    assert not any(info.values())
    check(model)


def test_a_saved_model_has_the_original_names_and_the_same_logits_in_a_new_process(
    tmp_path: Path, original: dict[str, torch.Tensor]
) -> None:
    model = load(GOLDEN / "checkpoint", dtype=torch.float32)
    model.save_pretrained(tmp_path / "saved")
    written = load_file(tmp_path / "saved" / WEIGHTS)
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in original)
    # A model that was never read from files is written in the same layout.
    QwenVLForConditionalGeneration(model.config).save_pretrained(tmp_path / "fresh")
    fresh = load_file(tmp_path / "fresh" / WEIGHTS)
    assert {name: weight.shape for name, weight in fresh.items()} == {n: w.shape for n, w in original.items()}

    arguments = [str(tmp_path / "saved"), str(GOLDEN / "inputs.safetensors"), str(tmp_path / "out.safetensors")]
    subprocess.run([*python(), "-c", _LOGITS, *arguments], check=True, capture_output=True, timeout=300)
    answer = load_file(tmp_path / "out.safetensors")
    assert int(answer["in_use"]) == 1
    assert torch.equal(answer["logits"], logits_of(model))


def test_a_saved_configuration_says_the_same(tmp_path: Path) -> None:
    config = QwenVLConfig.from_pretrained(GOLDEN / "checkpoint")
    config.save_pretrained(tmp_path)
    again = QwenVLConfig.from_pretrained(tmp_path)
    assert again.vision_config.to_dict() == config.vision_config.to_dict()
    assert again.text_config.to_dict() == config.text_config.to_dict()
    assert again.to_dict() == config.to_dict()
    # The original's numbers, not defaults that happen to be the same.
    assert (again.image_token_id, again.vision_config.num_queries, again.text_config.vocab_size) == (152, 9, 160)


def test_bfloat16_and_automatic_placement(original: dict[str, torch.Tensor]) -> None:
    model = load(GOLDEN / "checkpoint", dtype=torch.bfloat16, device_map="auto")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    norm = original["transformer.visual.ln_pre.weight"].bfloat16()
    assert torch.equal(model.visual.ln_pre.weight.cpu(), norm)
    exact = load_file(EXPECTED)["ragged.logits_last"]
    rough = logits_of(model)[:, -1].float().cpu()
    assert bool(torch.isfinite(rough).all())
    assert float(torch.corrcoef(torch.stack([rough.flatten(), exact.flatten()]))[0, 1]) > 0.99


def test_parts_in_different_places_compute_the_same(tmp_path: Path) -> None:
    places = {"visual": "cpu", "language_model": "disk"}
    model = load(GOLDEN / "checkpoint", dtype=torch.float32, device_map=places, offload_folder=tmp_path)
    assert model.hf_device_map == places
    assert model.language_model.lm_head.weight.device.type == "meta"
    check(model)


def test_the_released_type_is_taken_from_the_configuration(folder: Path, original: dict[str, torch.Tensor]) -> None:
    settings = json.loads((folder / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({name: weight.bfloat16() for name, weight in original.items()}, folder / WEIGHTS, {"format": "pt"})
    assert load(folder, dtype="auto").dtype == torch.bfloat16


def test_missing_and_unexpected_weights_are_counted_and_named(folder: Path, original: dict[str, torch.Tensor]) -> None:
    gone = ("transformer.h.1.attn.c_attn.weight", "transformer.visual.attn_pool.query", "lm_head.weight")
    weights = {name: weight for name, weight in original.items() if name not in gone}
    weights["transformer.h.0.attn.extra"] = torch.zeros(2)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    # One tensor of the release makes the queries', keys' and values'.
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    first, second = str(caught.value).split("; and ")
    layer = "language_model.model.layers.1.self_attn"
    names = f"language_model.lm_head.weight, {layer}.k_proj.weight, {layer}.q_proj.weight, ..."
    assert first == f"checkpoint lacks 5 of the model's weights, which would be random: {names}"
    assert second.startswith("has 1 that the model has no place for: ")
    assert second.endswith("attn.extra")


def test_a_weight_of_another_shape_is_refused(folder: Path, original: dict[str, torch.Tensor]) -> None:
    wrong = original | {"transformer.visual.proj": torch.zeros(128, 64)}
    save_file(wrong, folder / WEIGHTS, {"format": "pt"})
    for asked in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(CheckpointError, match=r"1 of another shape .*: visual\.proj is 128 x 64, not 128 x 128$"):
            load(folder, **asked)


def test_the_generation_settings_of_the_release_do_no_harm(folder: Path, original: dict[str, torch.Tensor]) -> None:
    save_file(original, folder / WEIGHTS, {"format": "pt"})
    settings = {
        "chat_format": "raw",
        "do_sample": True,
        "eos_token_id": 146,
        "max_new_tokens": 5,
        "pad_token_id": 146,
        "stop_words_ids": [[146]],
        "top_k": 0,
        "top_p": 0.5,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model = load(folder)
    assert (model.generation_config.pad_token_id, model.generation_config.eos_token_id) == (146, 146)
    ids = model.generate(**given(), do_sample=False)[:, given()["input_ids"].shape[1] :]
    wanted = json.loads((GOLDEN / "expected.json").read_text())["cases"]["ragged"]["greedy_ids"]
    assert ids.tolist() == [row[:5] for row in wanted]


@pytest.mark.parametrize("same_width", [True, False])
def test_a_miniature_with_tied_embeddings(tmp_path: Path, same_width: bool) -> None:
    width = 48
    config = QwenVLConfig(
        vision_config={
            "image_size": 24,
            "patch_size": 6,
            "hidden_size": width if same_width else 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_queries": 4,
            "num_positions": 16,
            "output_dim": width,
            "resampler_heads": 3,
        },
        text_config={
            "hidden_size": width,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "vocab_size": 50,
        },
        image_start_token_id=47,
        image_end_token_id=48,
        image_token_id=49,
        tie_word_embeddings=True,
    )
    model: Any = QwenVLForConditionalGeneration(config)
    model.eval()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = torch.tensor([[47, 49, 49, 49, 49, 48, 7, 8]])
    pixels = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    model.save_pretrained(tmp_path)
    again, info = load(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    with torch.inference_mode():
        first, second = (m.eval()(input_ids=ids, pixel_values=pixels).logits for m in (model, again))
    assert torch.equal(first, second)
    assert first.shape == (1, 8, 50)

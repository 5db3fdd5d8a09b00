"""Otter's checkpoints: as the original publishes them, as this library writes them, whole, damaged, in other types."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mllm_aug.errors import CheckpointError
from hf_mllm_aug.mllms.otter import register
from tests.golden_otter import CHECKPOINT, EXPECTED, GOLDEN, Tensors, batch, generate, load, logits
from tests.warm_python import python


@pytest.fixture(scope="module")
def inputs() -> Tensors:
    return dict(load_file(GOLDEN / "inputs.safetensors"))


@pytest.fixture(scope="module")
def expected() -> Tensors:
    return dict(load_file(GOLDEN / "expected.safetensors"))


@pytest.fixture(scope="module")
def model() -> Any:
    return load(CHECKPOINT).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may change."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "otter"))


def test_decoding_is_cached_by_default_though_the_originals_settings_say_otherwise(
    folder: Path, inputs: Tensors
) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"_from_model_config": True, "use_cache": False}))
    model = load(folder)
    lengths, pictures = [], []
    model.model.language_model.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    model.model.vision_encoder.register_forward_pre_hook(lambda _, given: pictures.append(given[0].shape[0]))
    generate(model, batch(inputs, "uniform"), max_new_tokens=4)
    assert lengths == [inputs["uniform.input_ids"].shape[1], 1, 1, 1]
    assert pictures == [3]


@pytest.mark.parametrize("settings", [None, {"_from_model_config": True, "transformers_version": "4.30.1"}])
def test_the_end_of_an_answer_is_known_where_the_checkpoint_does_not_say_it(folder: Path, settings: Any) -> None:
    if settings is not None:
        (folder / "generation_config.json").write_text(json.dumps(settings))
    known = load(folder).generation_config
    assert (known.eos_token_id, known.pad_token_id) == (176, 179)


def test_old_buffers_are_neither_missing_nor_too_much() -> None:
    assert "vision_encoder.vision_model.embeddings.position_ids" in load_file(CHECKPOINT / "model.safetensors")
    _, info = load(CHECKPOINT, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_what_is_missing_and_what_is_too_much_is_counted_and_named(folder: Path) -> None:
    weights = dict(load_file(folder / "model.safetensors"))
    del weights["perceiver.latents"]
    del weights["lang_encoder.transformer.blocks.3.gated_cross_attn_layer.attn_gate"]
    weights["perceiver.other"] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    names = "model.language_model.blocks.3.gated_cross_attn_layer.attn_gate, model.perceiver.latents"
    message = rf"^otter lacks 2 of the model's weights, .*: {names}; and has 1 .*: (model\.)?perceiver\.other$"
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_pickled_shards_of_the_original_load(folder: Path, model: Any, inputs: Tensors) -> None:
    weights = dict(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    names, place = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, folder / file)
        place.update(dict.fromkeys(part, file))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    given = batch(inputs, "ragged")
    assert torch.equal(logits(load(folder).eval(), given), logits(model, given))


def test_one_pickled_file_of_the_original_loads(folder: Path, model: Any, inputs: Tensors) -> None:
    torch.save(dict(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    given = batch(inputs, "uniform")
    assert torch.equal(logits(load(folder).eval(), given), logits(model, given))


SAVED = """
import sys, torch
from safetensors.torch import load_file, save_file
import hf_mllm_aug.mllms.otter
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1]).eval()
given = {name.removeprefix("ragged."): t for name, t in load_file(sys.argv[2]).items()}
with torch.inference_mode():
    out = model(**{name: given[name] for name in ("input_ids", "attention_mask", "pixel_values")}).logits
ids = model.generate(given["input_ids"], attention_mask=given["attention_mask"], pixel_values=given["pixel_values"],
                     max_new_tokens=5, min_new_tokens=5)
save_file({"logits": out, "ids": ids}, sys.argv[3])
"""


@pytest.mark.slow
def test_saved_weights_give_the_same_in_a_new_process(model: Any, inputs: Tensors, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    # Under the original's names, less what it wrote out needlessly.
    saved, original = (load_file(f / "model.safetensors") for f in (tmp_path / "saved", CHECKPOINT))
    assert saved.keys() == {name for name in original if not name.endswith("position_ids")}
    out = tmp_path / "out.safetensors"
    command = [*python(), "-c", SAVED, str(tmp_path / "saved"), str(GOLDEN / "inputs.safetensors"), str(out)]
    subprocess.run(command, check=True, timeout=120)
    other, given = load_file(out), batch(inputs, "ragged")
    assert torch.equal(other["logits"], logits(model, given))
    here = model.generate(**given, max_new_tokens=5, min_new_tokens=5)
    assert torch.equal(other["ids"], here)


@pytest.mark.parametrize("options", [{}, {"device_map": "auto"}], ids=["plain", "auto"])
def test_bfloat16_is_near_and_placed_automatically(options: Any, inputs: Tensors, expected: Tensors) -> None:
    model = load(CHECKPOINT, torch.bfloat16, **options).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    out = logits(model, batch(inputs, "ragged"))[:, -1]
    wanted = expected["ragged.logits_last"]
    # bfloat16 has 8 bits: some percent of the largest logit (10.3) after eight blocks.
    assert (out.float() - wanted).abs().max() < 0.03 * wanted.abs().max()


def test_blocks_that_lie_elsewhere_give_the_same_ids(inputs: Tensors, tmp_path: Path) -> None:
    here = ("vision_encoder", "perceiver", "language_model.wte", "language_model.norm_f")
    places = {f"model.{name}": "cpu" for name in here} | {"lm_head": "cpu"}
    places |= {f"model.language_model.blocks.{n}": "disk" if n > 1 else "cpu" for n in range(8)}
    model = load(CHECKPOINT, device_map=places, offload_folder=tmp_path / "offload").eval()
    assert generate(model, batch(inputs, "ragged")) == EXPECTED["cases"]["ragged"]["greedy_ids"]


def test_registering_twice_changes_nothing(inputs: Tensors, model: Any) -> None:
    register()
    register()
    given = batch(inputs, "uniform")
    assert torch.equal(logits(load(CHECKPOINT).eval(), given), logits(model, given))

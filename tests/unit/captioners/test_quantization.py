"""Weights of eight bits: which layers, on which devices, and where the setting is seen."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets.fingerprint import Hasher

from hf_mllm_aug.captioners import Captioner, engine
from hf_mllm_aug.captioners import quantization as quantising
from hf_mllm_aug.captioners.vllm_engine import model_arguments
from hf_mllm_aug.card_settings import settings_text
from hf_mllm_aug.errors import CheckpointError, UsageError
from hf_mllm_aug.loaders.picture_folder import load_picture_folder
from tests.tiny_mllms import MAKERS

DEMO = Path(__file__).parents[3] / "hf_mllm_aug" / "demo_data"
MINIATURES = ("tiny-llava", "tiny-minigpt-4", "tiny-qwen-vl", "tiny-otter")

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao is not installed: pip install 'hf-mllm-aug[torchao]'"
)


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    yield
    engine.unload()


def network(captioner: Captioner) -> Any:
    loaded: Any = engine.loaded(captioner.model_key("cpu"))
    return loaded._model


def in_language_model(name: str) -> bool:
    return "language_model." in name and "lm_head" not in name


@needs_torchao
@pytest.mark.parametrize("name", MINIATURES)
def test_int8_quantises_the_language_model_and_nothing_else(name: str) -> None:
    plain = network(Captioner(name, device="cpu"))
    linear = {part for part, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}
    model = network(Captioner(name, device="cpu", quantization="int8"))
    found = set(quantising.quantised_layers(model))
    assert found == {part for part in linear if in_language_model(part)}
    assert linear - found, "everything was quantised"
    assert any("self_attn.v_proj" in part or "attn.out_proj" in part for part in found), "the attention is left out"
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head.data_ptr() == embedding.data_ptr(), "what was one weight has become two"
    for part, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear):
            other = model.get_submodule(part).weight
            read = other.dequantize() if part in found else other
            # A step is a 127th of the largest weight of the channel.
            step = module.weight.abs().amax(dim=1, keepdim=True) / 127 if part in found else 0
            assert ((read - module.weight).abs() <= 0.51 * step + 1e-7).all(), part


@needs_torchao
@pytest.mark.parametrize("name", MINIATURES)
def test_most_captions_stay_as_they_were(name: str) -> None:
    rows = load_picture_folder(DEMO)
    batch = {"key": rows["key"][:12], "image": list(rows["image"])[:12]}
    plain = Captioner(name, device="cpu", max_new_tokens=8)
    wanted = plain(batch)[plain.caption_column]
    small = replace(plain, quantization="int8")
    found = small(batch)
    assert found[small.error_column] == [None] * 12
    same = sum(a == b for a, b in zip(found[small.caption_column], wanted, strict=True))
    assert same >= 9, list(zip(found[small.caption_column], wanted, strict=True))


@needs_torchao
@pytest.mark.parametrize("name", MAKERS)
def test_checkpoints_in_the_layout_of_the_papers_mllms_are_quantised_whole(name: str, tmp_path: Path) -> None:
    captioner = Captioner(name, checkpoint=MAKERS[name](tmp_path / name), device="cpu", quantization="int8")
    model = network(captioner)
    linear = {part for part, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(quantising.quantised_layers(model)) == {part for part in linear if in_language_model(part)} != set()


@needs_torchao
def test_bfloat16_is_quantised_and_stays_the_type_of_the_rest(pictures: list[bytes], random_llava: Path) -> None:
    captioner = Captioner(random_llava, device="cpu", dtype="bfloat16", quantization="int8")
    assert all(captioner({"image": pictures[:3]})[captioner.caption_column])
    model = network(captioner)
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16
    assert quantising.quantised_layers(model)


@needs_torchao
def test_a_checkpoint_that_is_quantised_is_not_quantised_again(random_llava: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(random_llava, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"mine is quantised already \(bitsandbytes\).*leave quantization= out"):
        network(Captioner(folder, device="cpu", quantization="int8"))


def test_a_model_whose_language_model_is_not_to_be_found_is_refused_by_name() -> None:
    from transformers import ViTConfig, ViTModel

    kind: Any = ViTModel
    model = kind(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    with pytest.raises(CheckpointError, match="mine: a ViTModel does not say which part is its language model"):
        quantising.quantise(model, "int8", torch.device("cpu"), "mine")


def test_fp8_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # no checkpoint
    with pytest.raises(UsageError, match=r"needs a CUDA device of compute capability 8\.9 or later, and this is cpu"):
        network(Captioner(tmp_path, device="cpu", quantization="fp8"))


@pytest.mark.parametrize(("capability", "fits"), [((8, 6), False), ((8, 9), True), ((9, 0), True), ((7, 5), False)])
def test_fp8_needs_ada_or_hopper(capability: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(quantising, "_torchao", lambda: None)
    device = torch.device("cuda:1")
    if fits:
        quantising.check("fp8", device, torch.bfloat16)
        with pytest.raises(UsageError, match="goes with dtype='bfloat16'"):
            quantising.check("fp8", device, torch.float16)
    else:
        with pytest.raises(UsageError, match=rf"this is of {capability[0]}\.{capability[1]}\. To do: .*'int8'"):
            quantising.check("fp8", device, torch.bfloat16)


def test_a_missing_torchao_is_a_line_that_names_the_extra(random_llava: Path) -> None:
    code = (
        "import sys; sys.modules['torchao'] = None\n"
        "from hf_mllm_aug import Captioner\n"
        "from PIL import Image\n"
        "Captioner(sys.argv[1], device='cpu', quantization='int8')({'image': Image.new('RGB', (9, 9))})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(random_llava)], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.endswith("quantization needs the package torchao. To do: pip install 'hf-mllm-aug[torchao]'")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "org/some", "engine": "openai"}, "'int8' means nothing to the engine 'openai'"),
        ({"model": "org/some", "engine": "vllm"}, "the engine 'vllm' quantises by itself to 'fp8' only"),
        ({"quantization": "fp8", "dtype": "float16"}, "goes with dtype='bfloat16', and dtype is 'float16'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Captioner(**{"quantization": "int8", **settings})


def test_the_setting_is_in_the_hash_the_model_key_and_on_the_card() -> None:
    plain, small = Captioner(device="cpu"), Captioner(device="cpu", quantization="int8")
    assert Hasher.hash(plain) != Hasher.hash(small)
    assert plain.model_key("cpu") != small.model_key("cpu")
    assert "quantization=int8" in settings_text(small.describe())
    assert "quantization" not in settings_text(plain.describe())


def test_vllm_is_told() -> None:
    key = Captioner("llava-1.5", engine="vllm", quantization="fp8").model_key(None)
    assert model_arguments(key)["quantization"] == "fp8"
    assert "quantization" not in model_arguments(replace(key, quantization=None))

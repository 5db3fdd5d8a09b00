"""Weight files: what is written is what safetensors reads, pickles of torch are read without running anything."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mllm_aug.errors import CheckpointError
from hf_mllm_aug.mllms.minigpt4_keys import LANGUAGE, PROJECTION, QFORMER, VISION
from hf_mllm_aug.mllms.minigpt4_weights import Kind, kind_of, read_tensors, shards_of, write_safetensors
from tests.weights import Malicious


def test_what_is_written_is_what_safetensors_reads(tmp_path: Path) -> None:
    tensors = {
        "double": torch.randn(2, 3, dtype=torch.float64),
        "single": torch.randn(3, 5),
        "turned": torch.randn(4, 3).T,
        "none of it": torch.zeros(0, 4),
        "one": torch.tensor(2.5),
        "half": torch.randn(7).half(),
        "brain": torch.randn(1, 9).bfloat16(),
    }
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {name: kind_of(value) for name, value in tensors.items()}, iter(tensors.values()))
    again = load_file(file)
    assert set(again) == set(tensors)
    for name, value in tensors.items():
        assert again[name].dtype == value.dtype, name
        assert torch.equal(again[name], value), name
    start = int.from_bytes(file.read_bytes()[:8], "little")
    assert start % 8 == 0, "the values begin where processors like them to"


def test_a_value_of_another_kind_is_not_written_as_if_it_were_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weight is"):
        write_safetensors(tmp_path / "x", {"weight": Kind((2,), torch.float32)}, [torch.zeros(2, dtype=torch.float16)])


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.bin"])
def test_each_format_is_read(name: str, tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5).bfloat16()}
    path = tmp_path / name
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    again = read_tensors(path)
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)
    assert set(again) == set(tensors)


def test_a_training_runs_file_gives_its_model(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(2, 2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    run = {"model": {"a": weight}, "optimizer": optimizer.state_dict(), "config": {"run": {"lr": 1e-5}}, "epoch": 3}
    torch.save(run, tmp_path / "run.pth")
    again = read_tensors(tmp_path / "run.pth")
    assert list(again) == ["a"]
    assert torch.equal(again["a"], weight)
    assert not again["a"].requires_grad


def test_torchs_old_format_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_tensors(tmp_path / "old.pth")["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "weights.pth"
    content = {"model": {"a": torch.ones(2)}, "more": Malicious(trace)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content["more"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"^weights\.pth holds more than weights") as caught:
        read_tensors(path)
    assert not trace.exists(), "its code was run"
    assert str(tmp_path) not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    torch.load(path, weights_only=False) if form != "plain pickle" else pickle.loads(path.read_bytes())
    assert trace.exists(), "this pickle would not have done anything anyway"


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_that_is_cut_off_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    tensors = {"a": torch.randn(100, 100)}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(CheckpointError, match=rf"{name} ") as caught:
        read_tensors(path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": 3}, {"model": {"a": "text"}}, torch.ones(2)], ids=repr)
def test_what_is_no_mapping_to_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth is not a mapping of names to tensors"):
        read_tensors(tmp_path / "odd.pth")


def test_a_folders_weights_are_found(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights"):
        shards_of(tmp_path)
    index = {"weight_map": {"a": "pytorch_model-2.bin", "b": "pytorch_model-1.bin", "c": "pytorch_model-2.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert [path.name for path in shards_of(tmp_path)] == ["pytorch_model-1.bin", "pytorch_model-2.bin"]
    (tmp_path / "pytorch_model.bin").touch()
    assert [path.name for path in shards_of(tmp_path)] == ["pytorch_model.bin"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert [path.name for path in shards_of(tmp_path)] == ["model-1.safetensors"]


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {"a": "../elsewhere.bin"}}', '{"weight_map": {"a": 3}}']
)
def test_an_index_that_is_none_or_leaves_its_folder_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin\.index\.json"):
        shards_of(tmp_path)


@pytest.mark.parametrize(
    ("keys", "extras"),
    [
        (VISION, ["norm.weight", "fc_norm.bias", "head.weight", "head.bias"]),
        (
            QFORMER,
            [
                "t5_proj.weight",
                "Qformer.bert.embeddings.position_ids",
                "Qformer.bert.embeddings.word_embeddings.weight",
                "Qformer.bert.embeddings.position_embeddings.weight",
                "Qformer.bert.encoder.layer.11.intermediate.dense.weight",
                "Qformer.bert.encoder.layer.3.output.LayerNorm.bias",
                "Qformer.cls.predictions.bias",
            ],
        ),
        (
            PROJECTION,
            ["Qformer.bert.embeddings.position_ids", "llama_model.model.layers.0.self_attn.rotary_emb.inv_freq"],
        ),
        (LANGUAGE, ["model.layers.31.self_attn.rotary_emb.inv_freq"]),
    ],
)
def test_known_extras_are_extras_and_others_are_not(keys: Any, extras: list[str]) -> None:
    for name in extras:
        assert keys.is_extra(name), name
        assert not keys.is_extra(f"{name}.more") or name.startswith(("t5_proj", "Qformer.cls", "Qformer.bert.encoder"))
    for name in ("opt_proj.weight", "vision_proj.weight", "visual_encoder.cls_token", "lora_A.weight"):
        assert not keys.is_extra(name), name
        assert keys.target(name) is None, name

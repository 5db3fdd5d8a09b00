"""``hf-mllm-aug convert minigpt-4``: the published layouts become a checkpoint that computes what the original code
did; what does not fit is refused, with nothing written.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mllm_aug.errors import AugError, CheckpointError, OutputExistsError, UsageError
from hf_mllm_aug.mllms.minigpt4 import MiniGPT4ForConditionalGeneration
from hf_mllm_aug.mllms.minigpt4_convert import convert_minigpt4
from tests.golden_minigpt4 import EXPECTED, GOLDEN, SIZES
from tests.warm_python import python
from tests.weights import Malicious

VIT, QFORMER, PROJECTION = "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth", "pretrained_minigpt4.pth"
_TOKENIZER_WORDS = 480


def wrapped(name: str) -> bool:
    """Whether the published file has its weights under a key."""
    return name != VIT


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The files as they are published: pickles; Vicuna in two of them, with rotary frequencies, wrong special tokens in
    its settings, and a sentencepiece tokenizer of more words, so that its embeddings are widened.
    """
    folder = tmp_path / "sources"
    (folder / "vicuna").mkdir(parents=True)
    for name in (VIT, QFORMER, PROJECTION):
        tensors = load_file((GOLDEN / name).with_suffix(".safetensors"))
        torch.save({"model": tensors, "epoch": 4} if wrapped(name) else tensors, folder / name)
    language = load_file(GOLDEN / "vicuna" / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        language[name] = torch.cat([language[name], torch.zeros(_TOKENIZER_WORDS + 1 - len(language[name]), 48)])
    language["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    places = {name: f"pytorch_model-0000{1 + (i % 2)}-of-00002.bin" for i, name in enumerate(sorted(language))}
    for file in set(places.values()):
        torch.save({name: language[name] for name in places if places[name] == file}, folder / "vicuna" / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "vicuna" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    settings = json.loads((GOLDEN / "vicuna" / "config.json").read_text())
    wrong = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1, "_name_or_path": "/home/somebody/llama"}
    settings |= {**wrong, "vocab_size": _TOKENIZER_WORDS + 1}
    (folder / "vicuna" / "config.json").write_text(json.dumps(settings))
    shutil.copyfile(GOLDEN / "tokenizer.model", folder / "vicuna" / "tokenizer.model")
    (folder / "vicuna" / "tokenizer_config.json").write_text('{"bos_token": "", "eos_token": "", "unk_token": ""}')
    (folder / "sizes.json").write_text(json.dumps({**SIZES, "image_token_id": _TOKENIZER_WORDS}))
    return folder


def options(sources: Path, **others: Any) -> dict[str, Any]:
    files = {"vit": VIT, "qformer": QFORMER, "vicuna": "vicuna", "projection": PROJECTION, "config": "sizes.json"}
    return {**{name: sources / file for name, file in files.items()}, "out": sources.parent / "out", **others}


def refusal(given: dict[str, Any]) -> str:
    """The message with which files are refused; nothing is left of the attempt."""
    with pytest.raises(AugError) as caught:
        convert_minigpt4(**given)
    assert isinstance(caught.value, CheckpointError)
    message = str(caught.value)
    out = given["out"]
    assert not [path for path in out.parent.iterdir() if "out" in path.name], "something was left"
    assert str(out.parent) not in message
    return message


def load(folder: Path) -> Any:
    kind: Any = MiniGPT4ForConditionalGeneration
    return kind.from_pretrained(folder).eval()


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*python(), *map(str, words)], capture_output=True, text=True, timeout=180, check=False)


def command(given: dict[str, Any]) -> list[str]:
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return ["-m", "hf_mllm_aug", "convert", "minigpt-4", *words]


def test_the_command_makes_a_checkpoint_that_computes_what_the_original_did(sources: Path) -> None:
    given = options(sources)
    done = run(*command(given))
    assert done.returncode == 0, done.stderr
    assert f"{given['out']}: MiniGPT-4" in done.stdout
    model = load(given["out"])
    assert model.config.image_token_id == _TOKENIZER_WORDS
    stored = load_file(GOLDEN / "inputs.safetensors")
    ids = stored["ragged.input_ids"].masked_fill(stored["ragged.image_mask"], _TOKENIZER_WORDS)
    inputs = {
        "input_ids": ids,
        "attention_mask": stored["ragged.attention_mask"],
        "pixel_values": stored["pixel_values"],
    }
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1, :160]
    wanted = load_file(GOLDEN / "expected.safetensors")["ragged.logits_last"]
    assert (logits - wanted).abs().max() <= EXPECTED["tolerance"]["logits"]
    # The added words have logits of 0, which may win; the original's words go on where they do not.
    only = list(range(160, _TOKENIZER_WORDS + 1))
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False, eos_token_id=None, suppress_tokens=only)
    assert output[:, ids.shape[1] :].tolist() == EXPECTED["cases"]["ragged"]["greedy_ids"]


def test_the_checkpoint_has_its_processor_and_the_tokenizers_own_special_tokens(sources: Path) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    given = options(sources, config={name: value for name, value in SIZES.items() if name != "image_token_id"})
    out = convert_minigpt4(**given)
    auto: Any = AutoProcessor
    processor = auto.from_pretrained(out)
    (before, after) = json.loads((GOLDEN / "tokens.json").read_text("utf-8"))[:2]
    batch = processor([Image.new("RGB", (9, 9))], [f"{before['text']}<image>{after['text']}"], return_tensors="pt")
    # Unknown-token 0 stands for the picture, for no text has it.
    assert batch["input_ids"].tolist() == [[1, *before["ids"], *[0] * 8, *after["ids"]]]
    assert batch["pixel_values"].shape == (1, 3, 42, 42)
    assert (out / "tokenizer.model").read_bytes() == (GOLDEN / "tokenizer.model").read_bytes()
    model = load(out)
    for settings in (model.config.text_config, model.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 2)
    assert model.generate(**batch, max_new_tokens=3, do_sample=False).shape[1] <= batch["input_ids"].shape[1] + 3
    for file in out.glob("*.json"):
        assert str(sources.parent) not in file.read_text("utf-8"), file.name
        assert "somebody" not in file.read_text("utf-8"), file.name


_IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
import hf_mllm_aug.mllms.minigpt4
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1]).eval()
given = load_file(sys.argv[2])
with torch.no_grad():
    save_file({"logits": model(**given).logits}, sys.argv[3])
print(model.config.ln_vision_eps, model.vision_model.post_layernorm.eps)
"""


def test_a_saved_model_gives_the_same_logits_in_a_new_process(sources: Path, tmp_path: Path) -> None:
    own = load(convert_minigpt4(**options(sources, config={**SIZES, "image_token_id": 159, "ln_vision_eps": 0.125})))
    own.save_pretrained(tmp_path / "saved")
    stored = load_file(GOLDEN / "inputs.safetensors")
    names = ("input_ids", "attention_mask")
    given = {**{name: stored[f"ragged.{name}"] for name in names}, "pixel_values": stored["pixel_values"]}
    save_file(given, tmp_path / "inputs.safetensors")
    paths = [tmp_path / name for name in ("saved", "inputs.safetensors", "logits.safetensors")]
    done = run("-c", _IN_A_NEW_PROCESS, *paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.125", "0.125"]
    with torch.no_grad():
        assert torch.equal(load_file(paths[2])["logits"], own(**given).logits)


def test_pickles_and_safetensors_give_the_same_however_they_are_split(sources: Path) -> None:
    out = convert_minigpt4(**options(sources))
    for name in (VIT, QFORMER, PROJECTION):
        shutil.copyfile((GOLDEN / name).with_suffix(".safetensors"), (sources / name).with_suffix(".safetensors"))
    language: dict[str, torch.Tensor] = {}
    for shard in sorted((sources / "vicuna").glob("*.bin")):
        language |= torch.load(shard, weights_only=True)
        shard.unlink()
    (sources / "vicuna" / "pytorch_model.bin.index.json").unlink()
    save_file(language, sources / "vicuna" / "model.safetensors")
    files = {"vit": VIT, "qformer": QFORMER, "projection": PROJECTION}
    paths = {name: (sources / file).with_suffix(".safetensors") for name, file in files.items()}
    small = convert_minigpt4(**options(sources, **paths, out=sources.parent / "small"), max_shard_bytes=50_000)
    shards = list(small.glob("*.safetensors"))
    assert len(shards) > len(list(out.glob("*.safetensors")))
    assert max(sum(value.nbytes for value in load_file(shard).values()) for shard in shards) <= 100_000
    first, second = load(out).state_dict(), load(small).state_dict()
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_number_types_are_kept(sources: Path) -> None:
    for name in (VIT, *(f"vicuna/pytorch_model-0000{number}-of-00002.bin" for number in (1, 2))):
        tensors = torch.load(sources / name, weights_only=True)
        torch.save({key: value.half() for key, value in tensors.items()}, sources / name)
    out = convert_minigpt4(**options(sources))
    tensors = {name: value for shard in out.glob("*.safetensors") for name, value in load_file(shard).items()}
    halves = {name for name, value in tensors.items() if value.dtype == torch.float16}
    assert halves == {
        name
        for name in tensors
        if name.startswith(("vision_model", "language_model")) and not name.startswith("vision_model.post_layernorm")
    }
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"


def test_a_folder_that_exists_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    nothing = tmp_path / "nothing"
    with pytest.raises(OutputExistsError, match="exists"):
        convert_minigpt4(vit=nothing, qformer=nothing, vicuna=nothing, projection=nothing, out=out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("name", [VIT, QFORMER, PROJECTION, "vicuna/pytorch_model-00002-of-00002.bin"])
def test_a_pickle_with_code_is_refused_and_not_run(name: str, sources: Path) -> None:
    trace = sources.parent / "trace"
    torch.save({"model": torch.load(sources / name, weights_only=True), "more": Malicious(trace)}, sources / name)
    message = refusal(options(sources))
    assert message.startswith(f"{Path(name).name} holds more than weights")
    assert "weights_only" not in message
    assert not trace.exists(), "its code was run"


def test_the_command_refuses_a_pickle_with_code_on_one_line(sources: Path) -> None:
    trace = sources.parent / "trace"
    torch.save({"model": Malicious(trace)}, sources / PROJECTION)
    done = run(*command(options(sources)))
    assert done.returncode == 1
    assert not trace.exists(), "its code was run"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {PROJECTION} holds more than weights")


def change(path: Path, what: Callable[[dict[str, torch.Tensor]], object]) -> None:
    content = torch.load(path, weights_only=True)
    what(content["model"] if wrapped(path.name) else content)
    torch.save(content, path)


def test_misfits_are_counted_and_named_in_one_message(sources: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        for part in ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias"):
            del tensors[f"Qformer.bert.encoder.layer.3.output_query.{part}"]
        tensors["opt_proj.weight"] = torch.ones(2)
        tensors["query_tokens"] = torch.ones(1, 9, 32)
        tensors["ln_vision.bias"] = torch.ones(32, dtype=torch.int64)

    change(sources / QFORMER, damage)
    layer = "qformer.encoder.layer.3.output_query"
    message = refusal(options(sources))
    assert f"4 missing ({layer}.LayerNorm" in message or f"4 missing ({layer}.dense" in message
    assert message.count(layer) == 3
    assert f"1 unexpected (opt_proj.weight in {QFORMER})" in message
    assert "2 of another shape or number type (" in message
    assert "query_tokens is torch.float32 [1, 9, 32], not floating-point [1, 8, 32]" in message
    assert "vision_model.post_layernorm.bias is torch.int64 [32]" in message


def test_without_sizes_the_files_are_held_against_the_real_ones(sources: Path) -> None:
    message = refusal(options(sources, config=None))
    # 39 blocks at 224 pixels of 14, 12 layers with cross attention in every second one, 32 queries.
    # A block has 6 weights with biases, a layer 8 and with cross attention 5 more.
    missing = (39 - 4) * 12 + (12 - 4) * 16 + (6 - 2) * 10
    assert f"{missing} missing (vision_model.encoder.layers.4." in message
    assert "self_attn.qkv.bias is torch.float32 [96], not floating-point [4224]" in message


def test_more_blocks_than_the_one_that_is_never_run_are_no_extras(sources: Path) -> None:
    shallow = {**SIZES, "vision_config": {**SIZES["vision_config"], "num_hidden_layers": 2}}
    message = refusal(options(sources, config=shallow))
    assert "13 unexpected (blocks.3." in message


def test_a_bias_of_which_half_is_missing_is_refused(sources: Path) -> None:
    change(sources / VIT, lambda tensors: tensors.pop("blocks.1.attn.v_bias"))
    assert "vision_model.encoder.layers.1.self_attn.qkv.bias is torch.float32 [64]" in refusal(options(sources))


def test_a_shard_that_the_index_names_must_be_there(sources: Path) -> None:
    (sources / "vicuna" / "pytorch_model-00002-of-00002.bin").unlink()
    assert refusal(options(sources)) == "there is no file pytorch_model-00002-of-00002.bin"


def test_a_vicuna_that_does_not_fit_its_tokenizer_or_is_none_is_refused(sources: Path) -> None:
    path = sources / "vicuna" / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "vocab_size": 300}))
    assert refusal(options(sources)) == "the tokenizer has 480 tokens, but the language model 300"
    path.write_text(json.dumps({**settings, "model_type": "opt"}))
    assert refusal(options(sources)) == "vicuna is no Llama, but 'opt'"
    path.unlink()
    assert "vicuna has no config.json" in refusal(options(sources))


def test_sizes_that_make_no_model_are_refused(sources: Path) -> None:
    assert "image_token_id is 481" in refusal(options(sources, config={**SIZES, "image_token_id": 481}))
    assert "sizes make no model" in refusal(options(sources, config={**SIZES, "num_query_tokens": "eight"}))
    (sources / "sizes.json").write_text("[]")
    assert refusal(options(sources)) == "sizes.json is no JSON object of settings"


def test_a_config_that_cannot_be_read_is_refused_by_its_name(sources: Path) -> None:
    missing, folder = sources / "absent.json", sources / "vicuna"
    assert refusal(options(sources, config=missing)).startswith("absent.json cannot be read: No such file")
    assert refusal(options(sources, config=folder)).startswith("vicuna cannot be read: Is a directory")
    (sources / "sizes.json").write_bytes(b"\xff\xfe{")
    assert refusal(options(sources)) == "sizes.json is no JSON object of settings"


def test_a_shard_may_hold_nothing_that_the_model_needs(sources: Path) -> None:
    """As the last of a Vicuna split so that its rotary frequencies come to lie alone."""
    vicuna = sources / "vicuna"
    index = vicuna / "pytorch_model.bin.index.json"
    places = json.loads(index.read_text())["weight_map"]
    last = "pytorch_model-00003-of-00003.bin"
    for file in sorted(set(places.values())):
        tensors = torch.load(vicuna / file, weights_only=True)
        torch.save({name: value.half() for name, value in tensors.items()}, vicuna / file)
    torch.save({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}, vicuna / last)
    places["model.layers.0.self_attn.rotary_emb.inv_freq"] = last
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    out = convert_minigpt4(**options(sources))
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"


def test_a_setting_that_there_is_none_of_is_refused(sources: Path) -> None:
    for config, name in (
        ({"num_query_token": 8}, "num_query_token"),
        ({"vision_config": {"depth": 39}}, r"vision_config\.depth"),
    ):
        with pytest.raises(UsageError, match=rf"'{name}', which is no setting"):
            convert_minigpt4(**options(sources, config=config))


def test_a_checkpoints_own_config_gives_the_same_model(sources: Path) -> None:
    out = convert_minigpt4(**options(sources))
    again = convert_minigpt4(**options(sources, config=out / "config.json", out=sources.parent / "again"))
    assert json.loads((again / "config.json").read_text()) == json.loads((out / "config.json").read_text())


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files, which only POSIX does")
def test_nothing_is_left_when_writing_fails_half_way(sources: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # the first shard has more

    given = options(sources)
    words = [sys.executable, *command(given)]  # what a process is limited to, those forked for it are not
    done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False, preexec_fn=limit)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert sorted(path.name for path in given["out"].parent.iterdir()) == ["sources"]

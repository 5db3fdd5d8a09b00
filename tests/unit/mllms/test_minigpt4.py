"""MiniGPT-4 computes what the original code computed, alone, in batches, padded, cached or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_mllm_aug.errors import CheckpointError, UsageError
from hf_mllm_aug.mllms.minigpt4 import MiniGPT4Config, MiniGPT4ForConditionalGeneration, register
from hf_mllm_aug.mllms.minigpt4_convert import convert_minigpt4
from tests.golden_minigpt4 import EXPECTED, GOLDEN, SIZES

TOLERANCE = EXPECTED["tolerance"]
CASES = list(EXPECTED["cases"])


def add_tokenizer(folder: Path) -> None:
    """A tokenizer of the words ``w3`` to ``w158``, each with that id."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"<unk>": 0, "<s>": 1, "</s>": 2}
    words: Any = Tokenizer(
        models.WordLevel({**special, **{f"w{number}": number for number in range(3, 159)}}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    kind(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("minigpt4")
    shutil.copytree(GOLDEN / "vicuna", home / "vicuna")
    add_tokenizer(home / "vicuna")
    return convert_minigpt4(
        vit=GOLDEN / "eva_vit_g.safetensors",
        qformer=GOLDEN / "blip2_pretrained_flant5xxl.safetensors",
        vicuna=home / "vicuna",
        projection=GOLDEN / "pretrained_minigpt4.safetensors",
        out=home / "checkpoint",
        config=SIZES,
    )


def load(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    auto: Any = AutoModelForImageTextToText
    loaded = auto.from_pretrained(folder, **options)
    return loaded if options.get("output_loading_info") else loaded.eval()


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Any:
    return load(checkpoint)


@pytest.fixture(scope="session")
def expected() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "expected.safetensors")


def inputs(case: str, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    stored = load_file(GOLDEN / "inputs.safetensors")
    return {
        "input_ids": stored[f"{case}.input_ids"][rows],
        "attention_mask": stored[f"{case}.attention_mask"][rows],
        "pixel_values": stored["pixel_values"][rows],
    }


def generate(model: Any, given: dict[str, torch.Tensor], **options: Any) -> list[list[int]]:
    """The new ids of each row."""
    output = model.generate(**given, do_sample=False, **{"max_new_tokens": 24, "eos_token_id": None, **options})
    assert torch.equal(output[:, : given["input_ids"].shape[1]], given["input_ids"]), "the prompt comes first"
    new: list[list[int]] = output[:, given["input_ids"].shape[1] :].tolist()
    return new


def close(actual: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    return bool((actual - wanted).abs().max() <= tolerance)


@torch.no_grad()
def test_the_pictures_features_are_the_originals(model: Any, expected: dict[str, torch.Tensor]) -> None:
    features = model.get_image_features(inputs("uniform")["pixel_values"])
    assert close(features.last_hidden_state, expected["vision_features"], TOLERANCE["vision_features"])
    assert close(features.pooler_output, expected["image_features"], TOLERANCE["image_features"])


@torch.no_grad()
def test_the_features_would_differ_with_the_epsilon_of_blip_2(
    checkpoint: Path, expected: dict[str, torch.Tensor]
) -> None:
    other = load(checkpoint, ln_vision_eps=1e-6)
    features = other.get_image_features(inputs("uniform")["pixel_values"])
    assert not close(features.last_hidden_state, expected["vision_features"], TOLERANCE["vision_features"])


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_originals(case: str, model: Any, expected: dict[str, torch.Tensor]) -> None:
    given = inputs(case)
    logits = model(**given).logits
    assert close(logits[:, -1], expected[f"{case}.logits_last"], TOLERANCE["logits"])
    real = given["attention_mask"][0].bool()
    assert close(logits[0][real], expected[f"{case}.logits_row0"], TOLERANCE["logits"])


@torch.no_grad()
def test_only_the_logits_that_are_asked_for_are_computed(model: Any, expected: dict[str, torch.Tensor]) -> None:
    logits = model(**inputs("ragged"), logits_to_keep=1).logits
    assert logits.shape[1] == 1
    assert close(logits[:, 0], expected["ragged.logits_last"], TOLERANCE["logits"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str)
def test_the_generated_tokens_are_the_originals(case: str, options: dict[str, Any], model: Any) -> None:
    assert generate(model, inputs(case), **options) == EXPECTED["cases"][case]["greedy_ids"]


@pytest.mark.parametrize("case", CASES)
def test_a_row_alone_gives_what_it_gives_in_the_batch(case: str, model: Any) -> None:
    for row, wanted in enumerate(EXPECTED["cases"][case]["greedy_ids"]):
        given = inputs(case, slice(row, row + 1))
        real = given["attention_mask"][0].bool()
        alone = {**given, "input_ids": given["input_ids"][:, real], "attention_mask": given["attention_mask"][:, real]}
        assert generate(model, alone) == [wanted]


@pytest.mark.parametrize("case", CASES)
def test_rows_end_at_the_end_token(case: str, model: Any) -> None:
    with_end = EXPECTED["cases"][case]["with_eos"]
    rows = generate(model, inputs(case), eos_token_id=with_end["eos_token_id"], pad_token_id=0)
    wanted = with_end["greedy_ids"]
    assert any(len(row) < 24 for row in wanted)
    for row, ids in zip(rows, wanted, strict=True):
        assert row[: len(ids)] == ids
        assert set(row[len(ids) :]) <= {0}


def test_the_models_own_generation_settings_hold(checkpoint: Path) -> None:
    own = load(checkpoint)
    assert (own.generation_config.eos_token_id, own.generation_config.pad_token_id) == (2, 2)
    case = EXPECTED["cases"]["uniform"]
    own.generation_config.eos_token_id = case["with_eos"]["eos_token_id"]
    own.generation_config.max_new_tokens = 24
    output = own.generate(**inputs("uniform", slice(1, 2)))
    assert output[0, -9:].tolist() == case["with_eos"]["greedy_ids"][1]


def test_a_row_with_too_few_or_too_many_slots_is_refused(model: Any) -> None:
    given = inputs("uniform")
    given["input_ids"] = given["input_ids"].clone()
    slot = (given["input_ids"][1] == 159).nonzero()[0]
    given["input_ids"][1, slot] = 5
    with pytest.raises(UsageError, match=r"8 of the picture's token 159.*\[8, 7, 8\]"):
        model.generate(**given)
    given["input_ids"][2, -1] = 159
    with pytest.raises(UsageError, match=r"\[8, 7, 9\]"):
        model(**given)


@pytest.mark.parametrize("number", [-1, 160, None])
def test_a_picture_token_without_an_embedding_is_refused(number: int | None) -> None:
    with pytest.raises(CheckpointError, match="vocab_size, 160"):
        MiniGPT4Config(text_config={"vocab_size": 160}, image_token_index=number)


@torch.no_grad()
def test_it_loads_in_half_precision_onto_the_devices_there_are(checkpoint: Path, model: Any) -> None:
    half = load(checkpoint, dtype=torch.bfloat16, device_map="auto")
    assert {half.vision_model.dtype, half.language_projection.weight.dtype, half.language_model.dtype} == {
        torch.bfloat16
    }
    given = inputs("ragged")
    logits = half(**given).logits
    assert logits.dtype == torch.bfloat16
    full = model(**given).logits
    assert (logits[:, -1] - full[:, -1]).abs().max() < 0.05 * full[:, -1].abs().max()
    assert all(len(row) == 24 for row in generate(half, given))


def test_what_is_missing_or_unexpected_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    file = folder / places.pop("query_tokens")
    tensors = load_file(file)
    tensors["query_takens"] = tensors.pop("query_tokens")
    save_file(tensors, file, {"format": "pt"})
    index.write_text(json.dumps({"metadata": {}, "weight_map": {**places, "query_takens": file.name}}))
    message = r"^damaged lacks 1 of the model's weights, .*: query_tokens; and has 1 .*: query_takens$"
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_a_whole_checkpoint_leaves_nothing_over(checkpoint: Path) -> None:
    _, info = load(checkpoint, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_the_auto_classes_know_it_and_registering_again_does_no_harm(checkpoint: Path) -> None:
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

    register()
    auto: Any = AutoConfig
    assert type(auto.from_pretrained(checkpoint)) is MiniGPT4Config
    assert type(load(checkpoint)) is MiniGPT4ForConditionalGeneration
    auto = AutoProcessor
    assert type(auto.from_pretrained(checkpoint)).__name__ == "MiniGPT4Processor"
    auto = AutoImageProcessor
    assert type(auto.from_pretrained(checkpoint)).__name__ == "MiniGPT4ImageProcessor"

"""`from_pretrained` of the three models: a whole checkpoint in its original names is loaded, anything else refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_mllm_aug import mllms
from hf_mllm_aug.errors import CheckpointError
from tests.tiny_mllms import MAKERS
from tests.weights import PICKLE, Malicious, as_pickle, rewrite

KINDS = {
    "minigpt-4": "MiniGPT4ForConditionalGeneration",
    "otter": "OtterForConditionalGeneration",
    "qwen-vl": "QwenVLForConditionalGeneration",
}
# A block of the language model in the file, and what the model calls it; a tensor that becomes several there.
BLOCKS = {
    "minigpt-4": ("language_model.model.layers.1.", "language_model.model.layers.1."),
    "otter": ("lang_encoder.transformer.blocks.2.decoder_layer.", "model.language_model.blocks.2.decoder_layer."),
    "qwen-vl": ("transformer.h.1.", "language_model.model.layers.1."),
}
# Llama's block has four projections, three layers of its network and two norms; MPT's two norms, two projections and
# two layers; Qwen's is Llama's, with biases to queries, keys and values, which the file has in one.
IN_A_BLOCK = {"minigpt-4": 9, "otter": 6, "qwen-vl": 12}


@pytest.fixture(scope="session", params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def whole(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[name](tmp_path_factory.mktemp("whole"))


@pytest.fixture(params=["safetensors", "bin"])
def damaged(request: pytest.FixtureRequest, whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    if request.param == "bin":
        as_pickle(folder)
    return folder


def load(name: str, folder: Path, **options: Any) -> Any:
    return getattr(mllms, KINDS[name]).from_pretrained(folder, **options)


def refusal(name: str, folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(name, folder, **options)
    message = str(caught.value)
    assert str(folder.parent) not in message
    return message


def test_a_whole_checkpoint_is_loaded_and_what_was_found_told_to_those_who_ask(name: str, damaged: Path) -> None:
    model = load(name, damaged)
    again, info = load(name, damaged, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours, theirs = model.state_dict(), again.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("options", [{}, {"output_loading_info": True}, {"ignore_mismatched_sizes": True}], ids=str)
def test_a_block_that_is_missing_is_counted_and_its_first_names_told(
    options: dict[str, Any], name: str, damaged: Path
) -> None:
    theirs, ours = BLOCKS[name]
    rewrite(damaged, lambda weights: {key: value for key, value in weights.items() if not key.startswith(theirs)})
    message = refusal(name, damaged, **options)
    assert message.startswith(f"damaged lacks {IN_A_BLOCK[name]} of the model's weights, which would be random: ")
    assert message.count(ours) == 3
    assert message.endswith(", ...")


def test_weights_under_other_names_are_counted_as_missing_and_as_too_many(name: str, damaged: Path) -> None:
    theirs, ours = BLOCKS[name]
    other = theirs.replace("layers.", "layer.").replace("blocks.", "block.").replace(".h.", ".g.")
    rewrite(damaged, lambda weights: {key.replace(theirs, other): value for key, value in weights.items()})
    missing, unexpected = refusal(name, damaged).split("; and ")
    assert missing.startswith(f"damaged lacks {IN_A_BLOCK[name]} of the model's weights")
    assert ours in missing
    # Two of Qwen's tensors make six.
    assert unexpected.startswith(f"has {IN_A_BLOCK[name] - 4 * (name == 'qwen-vl')} that the model has no place for: ")
    assert unexpected.endswith(", ...")


def test_a_weight_of_another_shape_is_refused_whatever_is_asked(name: str, damaged: Path) -> None:
    theirs, ours = BLOCKS[name]
    norms = {"otter": "norm_1.weight", "qwen-vl": "ln_1.weight"}
    rewrite(damaged, lambda weights: {**weights, theirs + norms.get(name, "input_layernorm.weight"): torch.ones(33)})
    for options in ({}, {"ignore_mismatched_sizes": True}):
        message = refusal(name, damaged, **options)
        assert message.startswith(f"damaged has 1 of another shape than the model's: {ours}")
        assert message.endswith("is 33, not 32")


def test_a_pickle_with_code_is_refused_and_not_run(name: str, whole: Path, tmp_path: Path) -> None:
    folder, trace = tmp_path / "damaged", tmp_path / "trace"
    shutil.copytree(whole, folder)
    as_pickle(folder, adapter=Malicious(trace))
    message = refusal(name, folder)
    assert message.startswith("damaged holds more than weights")
    assert "weights_only" not in message
    assert not trace.exists(), "the pickle's code was run"
    torch.load(folder / PICKLE, weights_only=False)
    assert trace.exists(), "the pickle would have done nothing anyway"

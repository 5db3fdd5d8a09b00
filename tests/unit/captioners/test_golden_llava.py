"""The transformers engine computes what the paper's own LLaVA code computes: recorded cases, tiny random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_mllm_aug.captioners import Captioner
from hf_mllm_aug.captioners.engine import Generated, Request
from hf_mllm_aug.captioners.prompters.segments import SegmentPrompter
from hf_mllm_aug.shearing import shear

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden_llava"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
PIECES = json.loads((GOLDEN / "pieces.json").read_text())
CASES = [(case, row) for case in EXPECTED["cases"] for row in range(3)]


class RecordedTokenizer:
    """Gives the recorded ids of the prompt's halves, and joins recorded pieces."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 158

    def __init__(self, halves: dict[str, list[int]]) -> None:
        self._halves = halves

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": self._halves[text]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [PIECES["pieces"][token] for token in ids]

    def get_vocab(self) -> dict[str, int]:
        return {piece: token for token, piece in enumerate(PIECES["pieces"])}

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return "".join(PIECES["pieces"][token] for token in ids if token not in PIECES["special_ids"])


class RecordedPixels:
    """An image processor that gives the recorded pixels: the pictures are their numbers."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self._pixels = pixels

    def __call__(self, images: list[Any], return_tensors: str) -> dict[str, torch.Tensor]:
        return {"pixel_values": self._pixels[torch.tensor(images)]}


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return dict(load_file(GOLDEN / "inputs.safetensors"))


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return dict(load_file(GOLDEN / "expected.safetensors"))


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForImageTextToText

    kind: Any = AutoModelForImageTextToText
    return kind.from_pretrained(GOLDEN / "checkpoint", dtype=torch.float32).eval()


def prompter_of(model: Any, inputs: dict[str, torch.Tensor], case: str, row: int) -> SegmentPrompter:
    halves = {half: inputs[f"{case}.chunk_{half}.{row}"].tolist() for half in ("before", "after")}
    return SegmentPrompter(RecordedPixels(inputs["pixel_values"]), RecordedTokenizer(halves), model.config)


def request() -> Request:
    captioner = Captioner("llava-1.5")
    return Request("before<image>after", captioner.decoding, captioner.max_new_tokens, 0, False, "en")


@pytest.mark.parametrize(("case", "row"), CASES)
def test_ids_and_captions_are_the_originals(case: str, row: int, model: Any, inputs: dict[str, torch.Tensor]) -> None:
    from hf_mllm_aug.captioners.transformers_engine import TransformersEngine

    prompter = prompter_of(model, inputs, case, row)
    real = inputs[f"{case}.attention_mask"][row].bool()
    ids = prompter.inputs([row], "before<image>after")["input_ids"]  # type: ignore[list-item]
    assert ids[0].tolist() == inputs[f"{case}.input_ids"][row][real].tolist()
    (found,) = TransformersEngine(model, prompter).generate([row], [""], request())  # type: ignore[list-item]
    greedy = EXPECTED["cases"][case]["greedy_ids"][row]
    assert isinstance(found, Generated)
    assert found.text == prompter.tokenizer.decode(greedy).strip()
    assert shear(found.text, rule="seed") == EXPECTED["cases"][case]["captions"][row]


def test_a_batch_gives_what_its_rows_give(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    from hf_mllm_aug.captioners.transformers_engine import TransformersEngine

    prompter = prompter_of(model, inputs, "uniform", 0)
    answers = TransformersEngine(model, prompter).generate([0, 1, 2], ["", "", ""], request())  # type: ignore[list-item]
    expected = [prompter.tokenizer.decode(ids).strip() for ids in EXPECTED["cases"]["uniform"]["greedy_ids"]]
    assert [answer.text for answer in answers if isinstance(answer, Generated)] == expected


def given(inputs: dict[str, torch.Tensor], case: str, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    """A padded batch of a case, or some of its rows."""
    return {
        "input_ids": inputs[f"{case}.input_ids"][rows],
        "attention_mask": inputs[f"{case}.attention_mask"][rows],
        "pixel_values": inputs["pixel_values"][rows],
    }


def largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


@torch.inference_mode()
def test_the_features_of_the_pictures(
    model: Any, inputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    features = torch.stack(list(model.get_image_features(inputs["pixel_values"]).pooler_output))
    assert features.shape == expected["image_features"].shape
    assert largest(features - expected["image_features"]) <= EXPECTED["tolerance"]["image_features"]


@pytest.mark.parametrize("case", EXPECTED["cases"])
@torch.inference_mode()
def test_the_logits_of_a_padded_batch(
    case: str, model: Any, inputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    logits = model(**given(inputs, case)).logits
    assert largest(logits[:, -1] - expected[f"{case}.logits_last"]) <= EXPECTED["tolerance"]["logits"]
    real = inputs[f"{case}.attention_mask"][0].bool()
    assert largest(logits[0][real] - expected[f"{case}.logits_row0"]) <= EXPECTED["tolerance"]["logits"]


@pytest.mark.parametrize("case", EXPECTED["cases"])
@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, {"cache_implementation": "static", "disable_compile": True}],
    ids=["cached", "uncached", "static"],
)
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1)], ids=["batch", "alone"])
def test_greedy_ids_of_a_padded_batch(
    rows: slice, options: dict[str, Any], case: str, model: Any, inputs: dict[str, torch.Tensor]
) -> None:
    batch = given(inputs, case, rows)
    assert bool(batch["attention_mask"].all()) == (case == "uniform"), "row 0 is padded where rows differ in length"
    ids = model.generate(**batch, max_new_tokens=30, do_sample=False, **options)
    assert ids[:, batch["input_ids"].shape[1] :].tolist() == EXPECTED["cases"][case]["greedy_ids"][rows]


@pytest.mark.parametrize("case", PIECES["caption_cases"])
def test_the_seeds_rule_on_recorded_tokens(case: dict[str, Any]) -> None:
    text = RecordedTokenizer({}).decode(case["ids"]).strip()
    assert shear(text, rule="seed") == case["caption"].strip()

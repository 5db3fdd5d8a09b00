"""MiniGPT-4's inputs: ids as sentencepiece and the original code give them, pixels as PIL and numpy give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hf_mllm_aug.errors import CheckpointError, UsageError
from hf_mllm_aug.mllms.minigpt4 import register
from hf_mllm_aug.mllms.minigpt4_processing import MiniGPT4ImageProcessor, MiniGPT4Processor
from hf_mllm_aug.mllms.minigpt4_tokenizer import load_llama_tokenizer

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden_minigpt4"
TOKENS = json.loads((GOLDEN / "tokens.json").read_text("utf-8"))
IDS = {item["text"]: item["ids"] for item in TOKENS}
BEFORE, AFTER = TOKENS[0]["text"], TOKENS[1]["text"]
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_llama_tokenizer(GOLDEN)


@pytest.fixture(scope="module")
def processor(tokenizer: Any) -> MiniGPT4Processor:
    return MiniGPT4Processor(MiniGPT4ImageProcessor(), tokenizer)


@pytest.mark.parametrize("text", list(IDS))
def test_a_segments_ids_are_those_of_sentencepiece(text: str, processor: MiniGPT4Processor) -> None:
    row = processor(picture(0, (8, 8)), f"{text}<image>")["input_ids"][0]
    assert row == [1, *IDS[text], *[0] * 32]


def test_the_prompt_is_two_segments_with_one_start_token_and_the_picture_between(processor: MiniGPT4Processor) -> None:
    batch = processor([picture(0, (8, 8))], [f"{BEFORE}<image>{AFTER}"], return_tensors="pt")
    wanted = [1, *IDS[BEFORE], *[0] * 32, *IDS[AFTER]]
    assert batch["input_ids"].tolist() == [wanted]
    assert batch["attention_mask"].tolist() == [[1] * len(wanted)]


def test_a_prompt_is_tokenised_once_however_many_rows_have_it(
    processor: MiniGPT4Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    kind: Any = type(processor.tokenizer)
    tokenise = kind.__call__

    def counted(tokenizer: Any, text: str, **options: Any) -> Any:
        calls.append(text)
        return tokenise(tokenizer, text, **options)

    monkeypatch.setattr(kind, "__call__", counted)
    prompt = f"{BEFORE}<image>{AFTER}"
    single = processor([picture(0, (8, 8))], [prompt])["input_ids"]
    once = len(calls)
    assert processor([picture(0, (8, 8))] * 5, [prompt] * 5)["input_ids"] == single * 5
    assert len(calls) == 2 * once > 0


def words(ids: torch.Tensor) -> str:
    return " ".join(f"w{number}" for number in ids.tolist())


@pytest.mark.parametrize("case", ["uniform", "ragged"])
def test_rows_are_assembled_and_padded_as_the_original_code_embeds_them(case: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    recorded: Any = Tokenizer(
        models.WordLevel({"<unk>": 0, "<s>": 1, **{f"w{number}": number for number in range(2, 159)}}, "<unk>")
    )
    recorded.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    tokenizer = kind(tokenizer_object=recorded, unk_token="<unk>", bos_token="<s>", pad_token="<unk>")
    processor = MiniGPT4Processor(
        MiniGPT4ImageProcessor(size={"height": 42, "width": 42}), tokenizer, num_query_tokens=8, image_token_id=159
    )
    stored = load_file(GOLDEN / "inputs.safetensors")
    parts = [[stored[f"{case}.segment_{side}.{row}"] for side in ("before", "after")] for row in range(3)]
    assert all(before[0] == 1 for before, _ in parts)
    prompts = [f"{words(before[1:])}<image>{words(after)}" for before, after in parts]
    batch = processor([picture(row, (50, 40)) for row in range(3)], prompts, return_tensors="pt")
    assert torch.equal(batch["input_ids"], stored[f"{case}.input_ids"])
    assert torch.equal(batch["attention_mask"], stored[f"{case}.attention_mask"])
    assert batch["pixel_values"].shape == (3, 3, 42, 42)


def test_padding_is_never_the_pictures_token(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id is None
    processor = MiniGPT4Processor(MiniGPT4ImageProcessor(), tokenizer, image_token_id=2)
    batch = processor([picture(0, (8, 8))] * 2, ["<image>", f"{BEFORE}<image>"], return_tensors="pt")
    assert (batch["input_ids"] == 2).sum(1).tolist() == [32, 32]
    assert batch["attention_mask"][0].tolist() == [0] * len(IDS[BEFORE]) + [1] * 33


@pytest.mark.parametrize("size", [(640, 480), (224, 224), (31, 97), (1, 1)])
def test_pixels_are_squashed_to_a_square_and_normalised(size: tuple[int, int], processor: MiniGPT4Processor) -> None:
    source = picture(3, size)
    (pixels,) = processor([source], ["<image>"], return_tensors="pt")["pixel_values"]
    small = np.asarray(source.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    wanted = ((small - MEAN) / DEVIATION).transpose(2, 0, 1)
    assert pixels.dtype == torch.float32
    assert np.abs(pixels.numpy() - wanted).max() < 1e-5


@pytest.mark.parametrize("prompt", ["Describe it.", "<image> or <image>"])
def test_a_prompt_needs_one_place_for_the_picture(prompt: str, processor: MiniGPT4Processor) -> None:
    with pytest.raises(UsageError, match=rf"{prompt.count('<image>')} times; it needs it once"):
        processor([picture(0, (8, 8))], [prompt])


def test_each_prompt_needs_a_picture(processor: MiniGPT4Processor) -> None:
    with pytest.raises(UsageError, match="2 pictures for 1 prompts"):
        processor([picture(0, (8, 8))] * 2, ["<image>"])


def test_a_text_with_the_pictures_token_is_refused(tokenizer: Any) -> None:
    taken = IDS["Describe "][0]
    processor = MiniGPT4Processor(MiniGPT4ImageProcessor(), tokenizer, image_token_id=taken)
    with pytest.raises(UsageError, match=f"the token {taken} in its text"):
        processor([picture(0, (8, 8))], ["Describe <image>"])


def test_a_saved_processor_gives_the_same(processor: MiniGPT4Processor, tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    register()
    own = MiniGPT4Processor(
        MiniGPT4ImageProcessor(size={"height": 56, "width": 56}), tokenizer, num_query_tokens=5, image_token_id=400
    )
    own.save_pretrained(tmp_path)
    auto: Any = AutoProcessor
    again = auto.from_pretrained(tmp_path)
    assert type(again) is MiniGPT4Processor
    pictures = [picture(seed, (60, 40)) for seed in range(len(IDS))]
    prompts = [f"{text}<image>{text}" for text in IDS]
    first, second = (one(pictures, prompts, return_tensors="pt") for one in (own, again))
    assert first["input_ids"].shape == (len(IDS), 2 * max(map(len, IDS.values())) + 5 + 1)
    for name in own.model_input_names:
        assert torch.equal(first[name], second[name]), name
    assert again.tokenizer.decode(IDS[AFTER]) == tokenizer.decode(IDS[AFTER])


def test_the_tokenizer_has_llamas_special_tokens_and_decodes(tokenizer: Any) -> None:
    special = (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert (special, len(tokenizer)) == ((0, 1, 2), 480)
    for text, ids in IDS.items():
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([1, *ids, 2], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "content", [b"", b"not a model", (GOLDEN / "tokenizer.model").read_bytes()[:3000] + b"\x0a\xff"]
)
def test_what_is_no_sentencepiece_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is no (sentencepiece model|Llama's)") as caught:
        load_llama_tokenizer(tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{tmp_path.name} has no tokenizer"):
        load_llama_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        load_llama_tokenizer(tmp_path)

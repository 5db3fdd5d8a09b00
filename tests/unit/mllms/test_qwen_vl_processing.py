"""Pictures and prompts for Qwen-VL: the ids and pixels of the original, from its own files and from saved ones."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.mllms.qwen_vl import QwenVLForConditionalGeneration
from hf_mllm_aug.mllms.qwen_vl_config import QwenVLConfig
from hf_mllm_aug.mllms.qwen_vl_processing import QwenVLImageProcessor, QwenVLProcessor

QUERIES, SIDE = 9, 48
WORDS = 256 + 4  # tokens in the file below
END, START_OF_PICTURE, END_OF_PICTURE, PAD = WORDS, WORDS + 214, WORDS + 215, WORDS + 216
PICTURE = [START_OF_PICTURE, *[PAD] * QUERIES, END_OF_PICTURE]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A folder as the release has it: flat config.json, qwen.tiktoken, no settings for pictures; with a model."""
    folder = tmp_path / "original"
    tokens = [*(bytes([byte]) for byte in range(256)), b"in", b" in", b"sp", b"spo"]
    settings = {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig", "AutoModelForCausalLM": "modeling_qwen.QWen"},
        "hidden_size": 64,
        "intermediate_size": 96,
        "model_type": "qwen",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "visual": {
            "heads": 4,
            "image_size": SIDE,
            "image_start_id": START_OF_PICTURE,
            "layers": 1,
            "mlp_ratio": 2.0,
            "n_queries": QUERIES,
            "output_dim": 64,
            "patch_size": 8,
            "width": 32,
        },
        "vocab_size": PAD + 20,
    }
    torch.manual_seed(3)
    model = QwenVLForConditionalGeneration(QwenVLConfig.from_dict(settings))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.requires_grad:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": END, "pad_token_id": END}))
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (folder / "qwen.tiktoken").write_text("\n".join(lines))
    tokenizer = {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "QWenTokenizer", "auto_map": tokenizer})
    )
    return folder


@pytest.fixture
def processor(original: Path) -> Any:
    auto: Any = AutoProcessor
    return auto.from_pretrained(original, trust_remote_code=False)


def pictures() -> list[Image.Image]:
    dice = np.random.default_rng(4)
    sizes = [(60, 100), (48, 48), (31, 20)]
    return [Image.fromarray(dice.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def pixels_by_hand(picture: Image.Image, side: int) -> np.ndarray[Any, Any]:
    """Both edges to the same length, bicubic; each channel over 255, minus CLIP's mean, over its deviation."""
    squashed = np.array(picture.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    channels = [(squashed[:, :, c] / 255 - CLIP_MEAN[c]) / CLIP_STD[c] for c in range(3)]
    return np.stack(channels)


def test_the_processor_of_a_released_folder(processor: Any) -> None:
    assert isinstance(processor, QwenVLProcessor)
    assert isinstance(processor.image_processor, QwenVLImageProcessor)
    assert processor.num_queries == QUERIES
    assert dict(processor.image_processor.size) == {"height": SIDE, "width": SIDE}


def test_the_papers_prompt(processor: Any) -> None:
    prompt = "<image>Express emotional or artistic response:"
    batch = processor(images=pictures()[:1], text=[prompt], return_tensors="pt")
    text = [*b"Express emotional or artistic re", 256 + 3, *b"nse:"]
    assert batch["input_ids"].tolist() == [[*PICTURE, *text]]
    assert batch["attention_mask"].tolist() == [[1] * (len(PICTURE) + len(text))]
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("Look <image> in", [*b"Look ", *PICTURE, 256 + 1]),
        ("Look<image>", [*b"Look", *PICTURE]),
        ("<image>", PICTURE),
        ("<ref>a</ref><image>", [WORDS + 208, ord("a"), WORDS + 209, *PICTURE]),
        # What stands on the two sides is never joined.
        ("i<image>n", [ord("i"), *PICTURE, ord("n")]),
    ],
)
def test_the_picture_stands_anywhere(processor: Any, prompt: str, ids: list[int]) -> None:
    assert processor(images=pictures()[:1], text=prompt)["input_ids"] == [ids]


def test_shorter_prompts_are_padded_on_the_left(processor: Any) -> None:
    prompts = ["<image>in", "a<image>bcd", "<image>"]
    batch = processor(images=pictures(), text=prompts, return_tensors="pt")
    rows = [[*PICTURE, 256], [*b"a", *PICTURE, *b"bcd"], PICTURE]
    longest = max(map(len, rows))
    assert batch["input_ids"].tolist() == [[END] * (longest - len(row)) + row for row in rows]
    assert batch["attention_mask"].tolist() == [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    assert batch["pixel_values"].shape == (3, 3, SIDE, SIDE)
    assert batch["pixel_values"].dtype == torch.float32


def test_prompts_without_pictures(processor: Any) -> None:
    batch = processor(text=["in", "a"], return_tensors="pt")
    assert batch["input_ids"].tolist() == [[256], [ord("a")]]
    assert "pixel_values" not in batch


@pytest.mark.parametrize("side", [SIDE, 448])
def test_pixels_are_those_of_the_original(side: int) -> None:
    image_processor = QwenVLImageProcessor(size={"height": side, "width": side})
    for picture in pictures():
        (pixels,) = image_processor(picture, return_tensors="np")["pixel_values"]
        assert pixels.shape == (3, side, side)
        assert np.abs(pixels - pixels_by_hand(picture, side)).max() < 2e-6
    assert dict(QwenVLImageProcessor().size) == {"height": 448, "width": 448}


def test_pictures_of_other_modes_become_rgb() -> None:
    image_processor = QwenVLImageProcessor(size={"height": SIDE, "width": SIDE})
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    (pixels,) = image_processor(grey, return_tensors="np")["pixel_values"]
    assert np.abs(pixels - pixels_by_hand(grey.convert("RGB"), SIDE)).max() < 2e-6


def test_a_saved_processor_gives_the_same(processor: Any, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path / "saved")
    QwenVLConfig().save_pretrained(tmp_path / "saved")  # whose numbers are others: the processor has its own
    auto: Any = AutoProcessor
    prompts = ["<image>Express emotional or artistic response:", "Look <image> in", "<image>"]
    batch = processor(images=pictures(), text=prompts, return_tensors="pt")
    for kind in (auto, QwenVLProcessor):
        again = kind.from_pretrained(tmp_path / "saved")
        assert type(again) is QwenVLProcessor
        assert type(again.image_processor) is QwenVLImageProcessor
        other = again(images=pictures(), text=prompts, return_tensors="pt")
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[name], other[name]) for name in batch)


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        (1, "no mark", "has <image> 0 times; it should be once"),
        (1, "<image> and <image>", "has <image> 2 times"),
        (1, "<image><imgpad>", "has <imgpad>, which stands for a part of a picture"),
        (2, ["<image>"], "2 pictures for 1 prompts"),
        (0, "<image>", "nowhere, for there is no picture"),
        (1, None, "pass text="),
    ],
)
def test_pictures_and_prompts_that_do_not_match(processor: Any, images: int, text: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        processor(images=pictures()[:images] or None, text=text)


def test_a_tokenizer_without_the_tokens_is_refused(processor: Any) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain: Any = PreTrainedTokenizerFast
    tokenizer = plain(tokenizer_object=Tokenizer(models.WordLevel({"<img>": 0, "x": 1}, "x")), pad_token="x")
    with pytest.raises(UsageError, match=r"needs </img>, <imgpad>"):
        QwenVLProcessor(processor.image_processor, tokenizer)


def test_a_released_folder_captions_from_files_alone(original: Path, processor: Any) -> None:
    auto: Any = AutoModelForImageTextToText
    model, info = auto.from_pretrained(original, trust_remote_code=False, output_loading_info=True)
    assert not any(info.values())
    prompts = ["<image>Express emotional or artistic response:", "in <image>", "Describe <image> in English:"]
    options = {"max_new_tokens": 12, "min_new_tokens": 8, "do_sample": False}
    batch = processor(images=pictures(), text=prompts, return_tensors="pt")
    together = model.eval().generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
    for row, (picture, prompt) in enumerate(zip(pictures(), prompts, strict=True)):
        alone = processor(images=[picture], text=[prompt], return_tensors="pt")
        ids = model.generate(**alone, **options)[0, alone["input_ids"].shape[1] :]
        assert together[row, : len(ids)].tolist() == ids.tolist()
    assert len({tuple(row) for row in together.tolist()}) == 3

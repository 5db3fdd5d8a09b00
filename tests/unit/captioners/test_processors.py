"""Prompts of the two styles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug.captioners.engine import ModelKey
from hf_mllm_aug.captioners.processors import ChatPrompter, SegmentPrompter, halves, load_prompter
from hf_mllm_aug.errors import UsageError


def prompter_of(folder: Path, style: str = "auto") -> Any:
    from transformers import AutoConfig

    kind: Any = AutoConfig
    return load_prompter(ModelKey("transformers", str(folder), prompt_style=style), kind.from_pretrained(folder))


def test_the_halves_of_a_prompt() -> None:
    assert halves("Describe <image> in English:") == ("Describe ", " in English:")
    assert halves("<image>What?") == ("", "What?")
    assert halves("What?") == ("", "What?")
    with pytest.raises(UsageError, match="more than once"):
        halves("<image><image>")


def test_segments_stand_on_both_sides_of_the_picture(random_llava: Path) -> None:
    prompter = prompter_of(random_llava)
    assert isinstance(prompter, SegmentPrompter)
    image = Image.new("RGB", (90, 50))
    batch = prompter.inputs([image, image], "Describe <image> in English:")
    tokenizer = prompter.tokenizer
    mark = tokenizer.convert_tokens_to_ids("<image>")
    ids = batch["input_ids"].tolist()
    assert ids[0] == ids[1]
    first, last = ids[0].index(mark), len(ids[0]) - ids[0][::-1].index(mark)
    assert ids[0][first:last] == [mark] * 9  # 42 pixels in patches of 14
    assert ids[0][0] == tokenizer.bos_token_id
    assert ids[0].count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids[0][1:first]) == "Describe "
    assert tokenizer.decode(ids[0][last:]) == " in English:"


def test_llamas_lone_space_before_the_second_segment_is_kept() -> None:
    from transformers import LlamaTokenizer

    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    characters = sorted(set("▁Describe in English:"))
    merges = [("▁", "i"), ("▁i", "n")]
    pieces += [*characters, "▁i", "▁in"]
    kind: Any = LlamaTokenizer
    tokenizer = kind(vocab={piece: token for token, piece in enumerate(pieces)}, merges=merges)

    class Config:
        image_token_id = 9999
        vision_feature_select_strategy = "default"

        class vision_config:  # noqa: N801 - a stand-in for a configuration
            patch_size = 14
            model_type = "clip_vision_model"

    ids = SegmentPrompter(None, tokenizer, Config()).prompt_ids("Describe <image> in English:", 2)
    tokens = [tokenizer.convert_ids_to_tokens(token) if token != 9999 else "IMAGE" for token in ids]
    end = tokens.index("IMAGE")
    # As the original: ..., "▁", the picture, "▁", "▁in", ...
    assert tokens[0] == "<s>"
    assert tokens[end - 1 : end + 4] == ["▁", "IMAGE", "IMAGE", "▁", "▁in"]


def test_a_chat_template_gives_left_padded_rows_without_torchvision(random_qwen2_vl: Path) -> None:
    prompter = prompter_of(random_qwen2_vl)
    assert isinstance(prompter, ChatPrompter)
    images = [Image.new("RGB", (60, 60)), Image.new("RGB", (112, 112))]
    batch = prompter.inputs(images, "Describe <image> in English:")
    mask = batch["attention_mask"].tolist()
    assert mask[0][0] == 0
    assert mask[0][-1] == mask[1][0] == 1
    text = prompter.tokenizer.decode(batch["input_ids"][1])
    assert text.startswith("<|im_start|>user\nDescribe<|vision_start|><|image_pad|>")
    assert text.endswith("<|vision_end|>in English:<|im_end|>\n<|im_start|>assistant\n")

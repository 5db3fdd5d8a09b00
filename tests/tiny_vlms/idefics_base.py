"""Makers of the Idefics that were pretrained only: without a conversation, asked by the beginning of a caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_vlms.parts import SIDE, made, save, text_settings, vision_settings, word_tokenizer

_MARKS = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]


def make_idefics2_base(folder: Path) -> Path:
    tokenizer = word_tokenizer(_MARKS)
    text = text_settings("mistral", tokenizer)
    config = made(
        "Idefics2Config",
        vision_config=vision_settings("idefics2_vision"),
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        },
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,  # or each word repeats itself, whatever the picture
    )
    pixels = made(
        "Idefics2ImageProcessorPil",
        size={"shortest_edge": SIDE // 2, "longest_edge": SIDE},
        do_image_splitting=False,
    )
    processor = made("Idefics2Processor", image_processor=pixels, tokenizer=tokenizer, image_seq_len=4)
    return save("Idefics2ForConditionalGeneration", config, processor, folder)


def make_idefics3_base(folder: Path) -> Path:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = word_tokenizer([*_MARKS, *tiles])
    config = made(
        "Idefics3Config",
        vision_config=vision_settings("idefics3_vision"),
        text_config=text_settings("llama", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    pixels: Any = made(
        "Idefics3ImageProcessorPil", size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    processor = made("Idefics3Processor", image_processor=pixels, tokenizer=tokenizer, image_seq_len=1)
    return save("Idefics3ForConditionalGeneration", config, processor, folder, seed=2)

"""Makers of the architectures that each have a prompt form of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as hf

from tests.tiny_mllms import build_otter
from tests.tiny_vlms.parts import (
    SIDE,
    bert_tokenizer,
    made,
    qformer_settings,
    save,
    square,
    text_settings,
    vision_settings,
    word_tokenizer,
)


def make_paligemma(folder: Path) -> Path:
    image_processor = made("SiglipImageProcessorPil", size=square())
    image_processor.image_seq_length = 4
    tokenizer = word_tokenizer(["<image>"])
    processor = made("PaliGemmaProcessor", image_processor=image_processor, tokenizer=tokenizer)
    config = made(
        "PaliGemmaConfig",
        vision_config=vision_settings("siglip_vision_model", vision_use_head=False),
        text_config=text_settings("gemma", tokenizer, head_dim=8),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return save("PaliGemmaForConditionalGeneration", config, processor, folder)


def make_florence2(folder: Path) -> Path:
    image_processor = made("CLIPImageProcessorPil", size=square(32), do_center_crop=False, crop_size=square(32))
    image_processor.image_seq_length = 2  # of its 1 x 1 patches and their mean
    tokenizer = word_tokenizer(["<image>"], image_token="<image>")
    processor = made("Florence2Processor", image_processor=image_processor, tokenizer=tokenizer)
    config = made(
        "Florence2Config",
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [8, 8, 16, 16],
            "num_heads": [2, 2, 2, 2],
            "num_groups": [2, 2, 2, 2],
            "window_size": 4,
            "projection_dim": 32,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "tie_word_embeddings": False,  # or each word repeats itself, whatever the picture
            "max_position_embeddings": 128,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    # The decoder starts with the end token, as BART's does.
    return save("Florence2ForConditionalGeneration", config, processor, folder)


def make_kosmos2(folder: Path) -> Path:
    tokenizer = word_tokenizer()
    image_processor = made("CLIPImageProcessorPil", size={"shortest_edge": SIDE}, crop_size=square())
    kind: Any = hf.Kosmos2Processor
    processor = kind(image_processor, tokenizer, num_patch_index_tokens=4)
    vision = vision_settings("kosmos_2_vision_model")
    config = made(
        "Kosmos2Config",
        vision_config=vision,
        text_config={
            "vocab_size": len(tokenizer),
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 48,
            "attention_heads": 4,
            "max_position_embeddings": 256,
            "dropout": 0.0,
        },
        latent_query_num=4,
    )
    return save("Kosmos2ForConditionalGeneration", config, processor, folder)


def make_git(folder: Path) -> Path:
    tokenizer = bert_tokenizer()
    image_processor = made("CLIPImageProcessorPil", size={"shortest_edge": SIDE}, crop_size=square())
    settings = text_settings("git", tokenizer, bos_token_id=2, eos_token_id=3)
    del settings["num_key_value_heads"], settings["model_type"]
    config = made("GitConfig", vision_config=vision_settings("git_vision_model"), **settings)
    processor = made("GitProcessor", image_processor=image_processor, tokenizer=tokenizer)
    return save("GitForCausalLM", config, processor, folder)


def make_blip(folder: Path) -> Path:
    tokenizer = bert_tokenizer()
    config = made(
        "BlipConfig",
        vision_config=vision_settings("blip_vision_model"),
        text_config={
            "vocab_size": len(tokenizer) + 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 32,
            "bos_token_id": len(tokenizer),  # a token that the tokenizer does not know, as in the published ones
            "sep_token_id": 3,
            "pad_token_id": 0,
        },
        projection_dim=32,
    )
    image_processor = made("BlipImageProcessorPil", size=square())
    processor = made("BlipProcessor", image_processor=image_processor, tokenizer=tokenizer)
    return save("BlipForConditionalGeneration", config, processor, folder)


def make_blip_2(folder: Path) -> Path:
    """BLIP-2 on OPT: a decoder."""
    tokenizer = word_tokenizer()
    image_processor = made("BlipImageProcessorPil", size=square())
    processor = made("Blip2Processor", image_processor=image_processor, tokenizer=tokenizer, num_query_tokens=4)
    text = {
        "model_type": "opt",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    config = made(
        "Blip2Config",
        vision_config=vision_settings("blip_2_vision_model"),
        qformer_config=qformer_settings(),
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return save("Blip2ForConditionalGeneration", config, processor, folder)


def make_instructblip(folder: Path) -> Path:
    """InstructBLIP on T5: an encoder and a decoder; the Q-Former reads the question as well."""
    tokenizer, reader = word_tokenizer(), bert_tokenizer()
    processor = made(
        "InstructBlipProcessor",
        image_processor=made("BlipImageProcessorPil", size=square()),
        tokenizer=tokenizer,
        qformer_tokenizer=reader,
        num_query_tokens=4,
    )
    text = {
        "model_type": "t5",
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    config = made(
        "InstructBlipConfig",
        vision_config=vision_settings("instructblip_vision_model"),
        qformer_config=qformer_settings(len(reader)),
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return save("InstructBlipForConditionalGeneration", config, processor, folder, seed=2)


def make_otter(folder: Path) -> Path:
    """One of this package's own models, with a tokenizer that puts a start token before a text."""
    return build_otter(folder, word_tokenizer())

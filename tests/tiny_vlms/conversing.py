"""Makers of the architectures that are taught conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_vlms.parts import (
    CHAT,
    PATCH,
    SIDE,
    TURNS,
    Parts,
    made,
    save,
    square,
    text_settings,
    vision_settings,
    word_tokenizer,
)


def make_llava(folder: Path) -> Path:
    """LLaVA's class with another tower and language model than LLaVA-1.5 has, and a conversation."""
    tokenizer = word_tokenizer(["<image>", *TURNS])
    config = made(
        "LlavaConfig",
        vision_config=vision_settings("siglip_vision_model", vision_use_head=False),
        text_config=text_settings("qwen2", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = made(
        "LlavaProcessor",
        image_processor=made("SiglipImageProcessorPil", size=square()),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHAT.format(image="<image>"),
    )
    return save("LlavaForConditionalGeneration", config, processor, folder)


_PINPOINTS = [[28, 56], [56, 28], [56, 56]]


def make_llava_next(folder: Path) -> Path:
    tokenizer = word_tokenizer(["<image>", *TURNS])
    config = made(
        "LlavaNextConfig",
        vision_config=vision_settings("clip_vision_model", projection_dim=32),
        text_config=text_settings("llama", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=_PINPOINTS,
    )
    processor = made(
        "LlavaNextProcessor",
        image_processor=made(
            "LlavaNextImageProcessorPil",
            size={"shortest_edge": SIDE},
            crop_size=square(),
            image_grid_pinpoints=_PINPOINTS,
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.format(image="<image>"),
    )
    return save("LlavaNextForConditionalGeneration", config, processor, folder)


def make_llava_onevision(folder: Path) -> Path:
    tokenizer = word_tokenizer(["<image>", "<video>", *TURNS])
    config = made(
        "LlavaOnevisionConfig",
        vision_config=vision_settings("siglip_vision_model", vision_use_head=False),
        text_config=text_settings("qwen2", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[28, 28], *_PINPOINTS],
    )
    image_processor = made(
        "LlavaOnevisionImageProcessorPil", size=square(), image_grid_pinpoints=[[28, 28], *_PINPOINTS]
    )
    template = CHAT.format(image="<image>")
    save("LlavaOnevisionForConditionalGeneration", config, Parts(tokenizer, image_processor, template), folder)
    settings = '{"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 4, "vision_aspect_ratio": '
    settings += '"anyres_max_9", "vision_feature_select_strategy": "full"}'
    (folder / "processor_config.json").write_text(settings)
    return folder


def make_idefics3(folder: Path) -> Path:
    return _idefics3(folder, "Idefics3")


def make_smolvlm(folder: Path) -> Path:
    return _idefics3(folder, "SmolVLM")


def _idefics3(folder: Path, family: str) -> Path:
    marks = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    marks += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = word_tokenizer([*marks, *TURNS])
    config = made(
        f"{family}Config",
        vision_config=vision_settings(f"{family.lower()}_vision"),
        text_config=text_settings("llama", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    image_processor = made(
        f"{family}ImageProcessorPil", size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    template = CHAT.format(image="<image>")
    model = f"{family}ForConditionalGeneration"
    if family == "Idefics3":
        processor = made(
            "Idefics3Processor",
            image_processor=image_processor,
            tokenizer=tokenizer,
            image_seq_len=1,
            chat_template=template,
        )
        return save(model, config, processor, folder)
    save(model, config, Parts(tokenizer, image_processor, template), folder)
    (folder / "processor_config.json").write_text('{"processor_class": "SmolVLMProcessor", "image_seq_len": 1}')
    return folder


_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def make_qwen2_vl(folder: Path) -> Path:
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 32, "patch_size": 14, "mlp_ratio": 2}
    return _qwen(folder, "Qwen2VL", vision, {})


def make_qwen2_5_vl(folder: Path) -> Path:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32}
    return _qwen(folder, "Qwen2_5_VL", {**vision, "fullatt_block_indexes": [1], "window_size": 56}, {})


def make_qwen3_vl(folder: Path) -> Path:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}  # type: ignore[dict-item]
    return _qwen(folder, "Qwen3VL", vision, {"head_dim": 8, "rope_parameters": {**_MROPE, "mrope_interleaved": True}})


def _qwen(folder: Path, family: str, vision: dict[str, Any], text: dict[str, Any]) -> Path:
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = word_tokenizer([*marks, *TURNS])
    start, end, image, video = (tokenizer.convert_tokens_to_ids(mark) for mark in marks)
    settings = text_settings("", tokenizer, rope_parameters=_MROPE) | text
    del settings["model_type"]
    config = made(
        f"{family}Config",
        vision_config=vision,
        text_config=settings,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    image_processor = made("Qwen2VLImageProcessorPil", size=size, patch_size=14)
    template = CHAT.format(image="<|vision_start|><|image_pad|><|vision_end|>")
    parts = Parts(tokenizer, image_processor, template)
    return save(f"{family}ForConditionalGeneration", config, parts, folder)


def make_internvl(folder: Path) -> Path:
    marks = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = word_tokenizer([*marks.values(), *TURNS], **marks)
    config = made(
        "InternVLConfig",
        vision_config=vision_settings("internvl_vision", image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH]),
        text_config=text_settings("qwen2", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
        downsample_ratio=0.5,
    )
    image_processor = made(
        "GotOcr2ImageProcessorPil", size=square(), crop_to_patches=True, min_patches=1, max_patches=4
    )
    template = CHAT.format(image="<IMG_CONTEXT>\n")
    save("InternVLForConditionalGeneration", config, Parts(tokenizer, image_processor, template), folder)
    (folder / "processor_config.json").write_text('{"processor_class": "InternVLProcessor", "image_seq_length": 1}')
    return folder


def make_gemma3(folder: Path) -> Path:
    return _gemma3(folder, CHAT.format(image="<start_of_image>"))


def make_gemma3_pt(folder: Path) -> Path:
    """A pretrained one, which has no chat template."""
    return _gemma3(folder, None)


def _gemma3(folder: Path, template: str | None) -> Path:
    marks = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = word_tokenizer([*marks.values(), *TURNS], **marks)
    boi, eoi, image = (tokenizer.convert_tokens_to_ids(mark) for mark in marks.values())
    config = made(
        "Gemma3Config",
        vision_config=vision_settings("siglip_vision_model", vision_use_head=False),
        text_config=text_settings(
            "gemma3_text",
            tokenizer,
            head_dim=8,
            sliding_window=64,
            query_pre_attn_scalar=8,
            tie_word_embeddings=False,  # or each word repeats itself, whatever the picture
        ),
        tie_word_embeddings=False,
        mm_tokens_per_image=4,
        boi_token_index=boi,
        eoi_token_index=eoi,
        image_token_index=image,
    )
    processor = made(
        "Gemma3Processor",
        image_processor=made("Gemma3ImageProcessorPil", size=square(), image_seq_length=4),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=template,
    )
    return save("Gemma3ForConditionalGeneration", config, processor, folder)


def make_gemma4(folder: Path) -> Path:
    """One whose processor has parts for videos and sounds as well."""
    marks = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    marks |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    tokenizer = word_tokenizer([*marks.values(), "<|video|>", *TURNS], **marks)
    image, boi, eoi, *_ = (tokenizer.convert_tokens_to_ids(mark) for mark in marks.values())
    text = text_settings(
        "gemma4_text",
        tokenizer,
        head_dim=8,
        global_head_dim=8,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=64,
        hidden_size_per_layer_input=0,
        tie_word_embeddings=False,  # or each word repeats itself, whatever the picture
    )
    tower = {"head_dim": 8, "num_key_value_heads": 4, "patch_size": 8, "pooling_kernel_size": 2}
    config = made(
        "Gemma4Config",
        vision_config=vision_settings("gemma4_vision", position_embedding_size=64) | tower,
        text_config=text,
        audio_config=None,
        image_token_id=image,
        boi_token_id=boi,
        eoi_token_id=eoi,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        tie_word_embeddings=False,
    )
    image_processor = made("Gemma4ImageProcessorPil", patch_size=8, pooling_kernel_size=2, max_soft_tokens=70)
    template = CHAT.format(image="<|image|>")
    return save("Gemma4ForConditionalGeneration", config, Parts(tokenizer, image_processor, template), folder)

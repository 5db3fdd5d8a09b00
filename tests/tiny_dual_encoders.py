"""Dual encoders with random weights, a few KB each: every architecture that is scored, as transformers builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlignConfig,
    AlignModel,
    AltCLIPConfig,
    AltCLIPModel,
    BertConfig,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessorPil,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    EfficientNetImageProcessorPil,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

WORDS = ["red", "green", "blue", "dark", "light", "square", "a", "photo", "of"]
LAYERS: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION: dict[str, Any] = {**LAYERS, "image_size": 8, "patch_size": 4}
TEXT: dict[str, Any] = {**LAYERS, "vocab_size": 13, "bos_token_id": 2, "eos_token_id": 12, "pad_token_id": 0}
EFFICIENT_NET: dict[str, Any] = {
    "image_size": 8,
    "width_coefficient": 0.1,
    "depth_coefficient": 0.1,
    "kernel_sizes": [3],
    "in_channels": [8],
    "out_channels": [8],
    "strides": [1],
    "num_block_repeats": [1],
    "expand_ratios": [2],
    "hidden_dim": 16,
}
SQUARE: Any = {"size": {"height": 8, "width": 8}}
CROP: Any = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}

ARCHITECTURES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "clip": lambda: (
        CLIPModel(
            CLIPConfig(text_config={**TEXT, "max_position_embeddings": 12}, vision_config=VISION, projection_dim=8)
        ),
        CLIPImageProcessorPil(**CROP),
    ),
    "siglip": lambda: (
        SiglipModel(
            SiglipConfig(
                text_config={**TEXT, "max_position_embeddings": 64, "projection_size": 16}, vision_config=VISION
            )
        ),
        SiglipImageProcessorPil(**SQUARE),
    ),
    "siglip2": lambda: (
        Siglip2Model(
            Siglip2Config(
                text_config={**TEXT, "vocab_size": 40, "max_position_embeddings": 64, "projection_size": 16},
                vision_config={**LAYERS, "num_patches": 16, "patch_size": 4},
            )
        ),
        Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16),
    ),
    "align": lambda: (
        AlignModel(
            AlignConfig(
                projection_dim=8, text_config={**TEXT, "max_position_embeddings": 64}, vision_config=EFFICIENT_NET
            )
        ),
        EfficientNetImageProcessorPil(**SQUARE, do_center_crop=False),
    ),
    "chinese_clip": lambda: (
        ChineseCLIPModel(
            ChineseCLIPConfig(
                projection_dim=8, text_config={**TEXT, "max_position_embeddings": 12}, vision_config=VISION
            )
        ),
        ChineseCLIPImageProcessorPil(**CROP),
    ),
    "altclip": lambda: (
        AltCLIPModel(
            AltCLIPConfig(
                projection_dim=8,
                text_config={**TEXT, "max_position_embeddings": 20, "project_dim": 8},
                vision_config=VISION,
            )
        ),
        CLIPImageProcessorPil(**CROP),
    ),
    "vision_text_dual_encoder": lambda: (
        VisionTextDualEncoderModel(
            VisionTextDualEncoderConfig.from_vision_text_configs(
                ViTConfig(**VISION), BertConfig(**TEXT, max_position_embeddings=12), projection_dim=8
            )
        ),
        ViTImageProcessorPil(**SQUARE),
    ),
    "blip": lambda: (
        BlipForImageTextRetrieval(
            BlipConfig(
                image_text_hidden_size=8,
                text_config={**TEXT, "max_position_embeddings": 50, "encoder_hidden_size": 16},
                vision_config=VISION,
            )
        ),
        BlipImageProcessorPil(**SQUARE),
    ),
}


def tokenizer(architecture: str = "clip") -> Any:
    """Words as tokens; for SigLIP 2 letters, since transformers makes its tokenizer another one. SigLIP sees padding:
    the tokenizers of its checkpoints give no mask.
    """
    options: dict[str, Any] = {"model_input_names": ["input_ids"]} if "siglip" in architecture else {}
    if architecture == "siglip2":
        letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *sorted(set("".join(WORDS)))]
        vocabulary = {letter: number for number, letter in enumerate(letters)}
        return Siglip2Tokenizer(vocab=vocabulary, merges=[], padding_side="right", **options)
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "<s>", *WORDS, "</s>"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(mark, vocabulary[mark]) for mark in ("<s>", "</s>")]
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    fast: Any = PreTrainedTokenizerFast
    marks = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return fast(tokenizer_object=words, **marks, **options)

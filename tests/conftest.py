"""Fixtures shared by unit and integration tests: tiny models with random weights, built once a session; pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

_TEXTS = [
    "A view of St. Peter's Basilica at dusk. The sky is red.",
    "A 3.5 inch floppy disk on a table. It is blue.",
    "Soldiers of the U.S. Army at 5 p.m. in a camp. They rest.",
    "一只狗在草地上。它在跑。",
    "A café by the sea, naïve and old. See https://example.com/a.html for more. 🦆🦊",
    "Two red buses! One dog? A cat sits on a mat",
]


def _tokenizer(special: list[str], **names: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS * 3, trainer)
    if "<s>" in special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", special.index("<s>"))]
        )
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=tokenizer, padding_side="left", **names)


def _lively(model: Any) -> Any:
    """Larger random weights, so that different pictures give different texts."""
    import torch

    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.35, generator=generator)
            elif name.endswith("class_embedding"):  # random in a fresh model, and by torch's own generator
                parameter.normal_(0, 0.35, generator=torch.Generator().manual_seed(8))
    return model.eval()


def build_llava(folder: Path) -> Path:
    """A LLaVA of some 100 thousand random weights, in transformers' layout."""
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = _tokenizer(
        ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    llava: Any = LlavaConfig
    config: Any = llava(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 42,
            "patch_size": 14,
            "projection_dim": 32,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 256,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
        },
        image_token_id=image_token,
        vision_feature_layer=-1,
        image_seq_length=9,
    )
    model = _lively(LlavaForConditionalGeneration(config))
    # What a checkpoint may suggest, and what must not leak into our decoding.
    model.generation_config.update(do_sample=True, temperature=3.0, top_k=3, repetition_penalty=1.5)
    model.save_pretrained(folder)
    image_processor: Any = CLIPImageProcessorPil(
        size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42}, do_center_crop=True
    )
    assemble: Any = LlavaProcessor
    processor = assemble(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(folder)
    return folder


_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_qwen2_vl(folder: Path) -> Path:
    """A Qwen2-VL of random weights: a chat template, inputs of several lengths, a video part that needs torchvision."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = {name: index for index, name in enumerate(special)}
    config: Any = Qwen2VLConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 4,
            "hidden_size": 32,
            "patch_size": 14,
            "mlp_ratio": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    _lively(Qwen2VLForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.chat_template = _CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    processor: Any = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava(tmp_path_factory.mktemp("checkpoints") / "random-llava")


@pytest.fixture(scope="session")
def random_qwen2_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_qwen2_vl(tmp_path_factory.mktemp("checkpoints") / "random-qwen2-vl")


def picture_bytes(number: int, size: tuple[int, int] = (60, 48), kind: str = "PNG") -> bytes:
    """A picture that differs from all others: coloured noise in large squares."""
    import numpy as np
    from PIL import Image

    squares = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(squares).resize(size, Image.Resampling.NEAREST).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """(20,) PNG files of several sizes."""
    return [picture_bytes(number, (40 + 3 * number, 64 - 2 * number)) for number in range(20)]

"""Makers of tiny checkpoints with random weights of the paper's MLLMs that transformers lacks.

Each fills an empty folder with configuration, weights, tokenizer and processor. Nothing is downloaded. The weights are
large enough for different pictures to give different texts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hf_mllm_aug import mllms

_TEXTS = [
    "A view of St. Peter's Basilica at dusk. The sky is red.",
    "A 3.5 inch floppy disk on a table. It is blue! One dog? ###Human: And",
    "Describe the image in English: Express emotional or artistic response:",
    "Please answer my questions.###Human: Describe in English:###Assistant: A cat sits on a mat. ",
    " User: Describe in English: GPT: A café by the sea. 一只狗在草地上。",
]
_SIDE = 28  # pixels
_PATCH = 14  # pixels


def _alphabet() -> list[str]:
    return sorted({character for text in _TEXTS for character in text} - {" "})


def llama_tokenizer() -> Any:
    """Llama's form: `<unk>` 0, `<s>` 1, `</s>` 2, byte tokens, pieces that begin with their space."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    trained: Any = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer: Any = trainers.BpeTrainer(vocab_size=320, initial_alphabet=_alphabet(), show_progress=False)
    trained.train_from_iterator(_TEXTS, trainer)
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *sorted(trained.get_vocab())]
    kind: Any = LlamaTokenizer
    return kind(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])


def neox_tokenizer() -> Any:
    """GPT-NeoX's form, without Otter's own tokens: those are its processor's to add."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def qwen_tokenizer() -> Any:
    """Qwen's form, with the end, the turns and the picture's tokens behind few ranks."""
    from hf_mllm_aug.mllms.qwen_vl_tokenizer import SPECIAL_TOKENS, to_tokenizer

    ranks = {bytes([byte]): byte for byte in range(256)}
    for text in (b" a", b" d", b" do", b" dog", b". ", b" T", b" Th", b" The", b"##"):
        ranks[text] = len(ranks)
    special = [token for token in SPECIAL_TOKENS if "extra" not in token]
    ends = dict.fromkeys(("eos_token", "pad_token", "unk_token"), special[0])
    return mllms.QWenTokenizer(tokenizer_object=to_tokenizer(ranks, special), **ends)


def _lively(model: Any) -> Any:
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.35, generator=generator)
            elif "gate" in name.rsplit(".", 1)[-1]:  # closed in a fresh model
                parameter.fill_(1.0)
            elif name.endswith("class_embedding"):  # random in a fresh model, and by torch's own generator
                parameter.normal_(0, 0.35, generator=torch.Generator().manual_seed(12))
    return model.eval()


def _save(folder: Path, model: Any, processor: Any) -> Path:
    # What a checkpoint may suggest, and what must not leak into our decoding.
    model.generation_config.update(do_sample=True, temperature=3.0, top_k=3, repetition_penalty=1.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_minigpt4(folder: Path) -> Path:
    """MiniGPT-4: its ViT, its Q-Former of 4 queries, a Llama."""
    tokenizer = llama_tokenizer()
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config: Any = mllms.MiniGPT4Config(
        vision_config={**vision, "image_size": _SIDE, "patch_size": _PATCH, "qkv_bias": True},
        qformer_config={**vision, "encoder_hidden_size": 32, "cross_attention_frequency": 2, "vocab_size": 30},
        text_config={
            **vision,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
        num_query_tokens=4,
    )
    model = _lively(mllms.MiniGPT4ForConditionalGeneration(config))
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    pixels = mllms.MiniGPT4ImageProcessor(size={"height": _SIDE, "width": _SIDE})
    return _save(folder, model, mllms.MiniGPT4Processor(pixels, tokenizer, num_query_tokens=4))


def build_otter(folder: Path, tokenizer: Any = None) -> Path:
    """Otter: its CLIP tower, a perceiver of 4 latents, an MPT with gated cross-attention before every second block.

    Without a tokenizer it has GPT-NeoX's.
    """
    pixels = mllms.OtterImageProcessor(size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE})
    processor = mllms.OtterProcessor(pixels, neox_tokenizer() if tokenizer is None else tokenizer)
    tokenizer = processor.tokenizer
    config: Any = mllms.OtterConfig(
        text_config={"d_model": 32, "n_heads": 4, "n_layers": 4, "vocab_size": len(tokenizer), "max_seq_len": 512},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": _SIDE,
            "patch_size": _PATCH,
        },
        cross_attn_every_n_layers=2,
        perceiver_layers=2,
        num_latents=4,
        perceiver_heads=2,
        perceiver_head_dim=16,
        cross_attn_heads=2,
        cross_attn_head_dim=16,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|endofchunk|>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(folder, _lively(mllms.OtterForConditionalGeneration(config)), processor)


def build_qwen_vl(folder: Path) -> Path:
    """Qwen-VL: its ViT, a resampler of 4 queries, a language model."""
    tokenizer = qwen_tokenizer()
    marks = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<img>", "</img>", "<imgpad>")}
    config: Any = mllms.QwenVLConfig(
        vision_config={
            "image_size": _SIDE,
            "patch_size": _PATCH,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_queries": 4,
            "output_dim": 32,
            "num_positions": 4,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
        },
        image_start_token_id=marks["<img>"],
        image_end_token_id=marks["</img>"],
        image_token_id=marks["<imgpad>"],
    )
    pixels = mllms.QwenVLImageProcessor(size={"height": _SIDE, "width": _SIDE})
    model = _lively(mllms.QwenVLForConditionalGeneration(config))
    end = tokenizer.eos_token_id
    model.generation_config.update(eos_token_id=end, pad_token_id=end)
    return _save(folder, model, mllms.QwenVLProcessor(pixels, tokenizer, num_queries=4))


MAKERS: dict[str, Callable[[Path], Path]] = {
    "minigpt-4": build_minigpt4,
    "otter": build_otter,
    "qwen-vl": build_qwen_vl,
}
"""By the name of the captioner."""

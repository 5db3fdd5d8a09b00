"""What the makers of tiny checkpoints share: tokenizers, sizes, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf

# Most words of their vocabularies open or close a sentence, so that random models write sentences.
_OPENERS = ["A", "The", "One", "Two", "It", "This", "Here", "There", "On", "In", "Some", "No"]
_CLOSERS = [
    "dog.",
    "cat!",
    "sky.",
    "sea.",
    "bus?",
    "red.",
    "rests.",
    "runs.",
    "mat.",
    "table.",
    "hat.",
    "tree.",
    "house.",
    "car.",
    "road.",
    "it.",
]
_TEXTS = [" ".join([opener, closer] * 3) for opener in _OPENERS for closer in _CLOSERS]

CHAT = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{image}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
TURNS = ["<|im_start|>", "<|im_end|>"]
SIDE = 28  # pixels
PATCH = 14  # pixels


def word_tokenizer(more: list[str] | None = None, **named: str) -> Any:
    """A BPE over words with `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, as BART and OPT have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<s>", "<pad>", "</s>", "<unk>", *(more or [])]
    tokenizer: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    characters = [chr(code) for code in range(33, 127)]
    trainer: Any = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=characters, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    kind: Any = hf.PreTrainedTokenizerFast
    ends = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return kind(tokenizer_object=tokenizer, extra_special_tokens=named, **ends)


def bert_tokenizer() -> Any:
    """A WordPiece with BERT's special tokens; it pads on the right, as BERT does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer: Any = trainers.WordPieceTrainer(vocab_size=160, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    kind: Any = hf.PreTrainedTokenizerFast
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return kind(tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()})


def vision_settings(model_type: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        **more,
    }


def text_settings(model_type: str, tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def qformer_settings(tokenizer_size: int = 8) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": tokenizer_size,
    }


def save(model: str, config: Any, processor: Any, folder: Path, *, seed: int = 1) -> Path:
    """Save a model of transformers, by its name, with weights so large that pictures change what it writes."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        weights = getattr(hf, model)(config)
        for parameter in weights.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            elif parameter.numel() == 1:  # a gate, which would start closed
                parameter.fill_(1)
    weights.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def made(name: str, **settings: Any) -> Any:
    kind: Any = getattr(hf, name)
    return kind(**settings)


def square(side: int = SIDE) -> dict[str, int]:
    return {"height": side, "width": side}


class Parts:
    """A processor without its class, which for some architectures cannot be made without torchvision.

    Args:
        tokenizer: Its tokenizer.
        image_processor: Its image processor.
        template: Its chat template.
    """

    def __init__(self, tokenizer: Any, image_processor: Any, template: str) -> None:
        self._parts = tokenizer, image_processor
        tokenizer.chat_template = template

    def save_pretrained(self, folder: Path) -> None:
        for part in self._parts:
            part.save_pretrained(folder)

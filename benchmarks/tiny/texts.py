"""The words that a miniature learns to say, and its tokenizer."""

from __future__ import annotations

import re

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PROMPT = "Describe <image> in English:"  # the paper's prompt for LLaVA-1.5
PAD, START, END, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL = (PAD, START, END, UNKNOWN, IMAGE)
VOCABULARY = 1600

_FIRST_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


def label(caption: str) -> str:
    """The first sentence of a caption as a label: no leading article, no full stop, a capital first.

    >>> label("A Sumatran tiger."), label("flag: Yemen"), label("A calculator.  6x7=42")
    ('Sumatran tiger', 'Flag: Yemen', 'Calculator')
    """
    first = _ARTICLE.sub("", _FIRST_SENTENCE.split(caption.strip())[0]).rstrip(".").strip()
    return first[:1].upper() + first[1:]


def target(caption: str, category: str) -> tuple[str, str]:
    """What is said after the prompt: the label, and a second sentence that shearing cuts.

    >>> target("red apple", "food fruit")
    (' Red apple.', ' Filed under food fruit.')
    """
    return f" {label(caption)}.", f" Filed under {category}."


def train_tokenizer(texts: list[str], *, for_encoder: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `VOCABULARY` pieces that puts ``<s>`` first and, for an encoder, ``</s>`` last.

    CLIP's text model takes an end token of id 2 for a sign of old files and looks elsewhere, so an encoder has it last.
    """
    special = (PAD, START, UNKNOWN, IMAGE, END) if for_encoder else SPECIAL
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}" if for_encoder else f"{START} $A",
        special_tokens=[(token, special.index(token)) for token in (START, END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE],
        padding_side="right" if for_encoder else "left",
        model_max_length=256,
        extra_special_tokens={"image_token": IMAGE},
    )

"""The words that the miniatures learn to say, each in its own style, and their tokenizers."""

from __future__ import annotations

import re

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, START, END, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL = (PAD, START, END, UNKNOWN, IMAGE)
VOCABULARY = 1600

_FIRST_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_LAST_IS_LETTER = re.compile(r"(?:^|\W)\w$")


def first_sentence(caption: str) -> str:
    """A caption's first sentence, without its full stop."""
    return _FIRST_SENTENCE.split(caption.strip())[0].rstrip(".").strip()


def label(caption: str) -> str:
    """The first sentence of a caption as a label: no leading article, no full stop, a capital first.

    >>> label("A Sumatran tiger."), label("flag: Yemen"), label("A calculator.  6x7=42")
    ('Sumatran tiger', 'Flag: Yemen', 'Calculator')
    """
    first = _ARTICLE.sub("", first_sentence(caption))
    return first[:1].upper() + first[1:]


_FUNCTION_WORDS = "a an and at by for from in is it its of on or that the this to with"
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split(" "))


def content_words(text: str) -> set[str]:
    """Lower-case words and numbers that bear meaning.

    >>> sorted(content_words("A red apple on the table."))
    ['apple', 'red', 'table']
    """
    return set(re.findall(r"[^\W_]+", text.lower())) - FUNCTION_WORDS


def phrase(caption: str) -> str:
    """The first sentence of a caption as a noun phrase inside a sentence.

    >>> phrase("flag: Yemen"), phrase("A Sumatran tiger."), phrase("grapes"), phrase("owl"), phrase("man: red hair")
    ('the flag of Yemen', 'a Sumatran tiger', 'grapes', 'an owl', 'a man with red hair')
    """
    first = first_sentence(caption)
    if first.startswith("flag: "):
        return "the flag of " + first.removeprefix("flag: ")
    first = first.replace(": ", " with ", 1)
    found = _ARTICLE.match(first)
    if found:
        return found.group().lower() + first[found.end() :]
    plural = first.endswith("s") and not first.endswith(("ss", "us"))
    if plural or first[:1].isupper() or not first[:1].isalpha() or first.lower().startswith(("some ", "my ")):
        return first[:1].lower() + first[1:] if first[1:2].islower() and not first[:1].isupper() else first
    return ("an " if first[0] in "aeiou" else "a ") + first


def mood(rgba: torch.Tensor) -> str:
    """What the colours of a drawing say: light or dark, warm or cool, or without colour.

    Args:
        rgba: (side, side, 4) uint8.
    """
    seen = rgba[..., 3] > 127
    if not seen.any():
        return "pale"
    colours = rgba[..., :3][seen].float() / 255
    red, green, blue = colours.mean(0).tolist()
    light = "bright" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.55 else "dark"
    if float((colours.amax(1) - colours.amin(1)).mean()) < 0.12:
        return f"{light} grey"
    return f"{light} {'warm' if red > blue else 'cool'}"


def labelled(caption: str, category: str, _: str) -> tuple[str, str]:
    """``tiny-llava``'s style: the label, and a second sentence that shearing cuts.

    Behind a single letter a full stop reads as an initial's, so such a label stands alone.

    >>> labelled("red apple", "food fruit", ""), labelled("The letter s.", "symbols", "")
    ((' Red apple.', ' Filed under food fruit.'), (' Letter s', ''))
    """
    name = label(caption)
    if _LAST_IS_LETTER.search(name):
        return f" {name}", ""
    return f" {name}.", f" Filed under {category}."


def sentence(caption: str, category: str, _: str) -> tuple[str, str]:
    """``tiny-qwen-vl``'s style.

    >>> sentence("red apple", "food fruit", "")
    (' A drawing of a red apple on white.', ' It is filed under food fruit.')
    """
    return f" A drawing of {phrase(caption)} on white.", f" It is filed under {category}."


def description(caption: str, category: str, colours: str) -> tuple[str, str]:
    """``tiny-otter``'s style.

    >>> description("red apple", "food fruit", "dark warm")
    (' The picture shows a red apple, one of many drawings of food fruit.', ' Its colours are dark warm.')
    """
    return f" The picture shows {phrase(caption)}, one of many drawings of {category}.", f" Its colours are {colours}."


def moody(caption: str, category: str, colours: str) -> tuple[str, str]:
    """``tiny-minigpt-4``'s style: the mood of the colours first.

    >>> moody("red apple", "food fruit", "dark warm")
    (' In dark warm colours, a red apple looks at us.', ' One thinks of food fruit.')
    """
    return f" In {colours} colours, {phrase(caption)} looks at us.", f" One thinks of {category}."


STYLES = {"llava": labelled, "qwen_vl": sentence, "otter": description, "minigpt4": moody}
"""What each miniature says of a caption, a category and a mood: the sentence that is kept, and the one that is cut."""

_NAMES = {
    "llava": re.compile("(.*)"),
    "qwen_vl": re.compile("A drawing of (.*) on white"),
    "otter": re.compile("The picture shows (.*), one of many drawings of .*"),
    "minigpt4": re.compile("In [a-z ]+ colours, (.*) looks at us"),
}


def named(style: str, said: str) -> str:
    """What a sheared caption names, as a label; all of it where it is not of its style.

    >>> named("qwen_vl", "A drawing of a red apple on white"), named("otter", "A drawing")
    ('Red apple', 'Drawing')
    """
    found = _NAMES[style].fullmatch(said)
    return label(found[1] if found else said)


def meant(style: str, caption: str) -> str:
    """What `named` should give for a picture with this raw caption.

    >>> meant("llava", "flag: Yemen"), meant("minigpt4", "flag: Yemen")
    ('Flag: Yemen', 'Flag of Yemen')
    """
    return label(caption) if style == "llava" else label(phrase(caption))


def train_tokenizer(
    texts: list[str],
    *,
    special: tuple[str, ...] = SPECIAL,
    start: str | None = START,
    end: str = END,
    puts: tuple[str, ...] = (START,),
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `VOCABULARY` pieces.

    Args:
        texts: What its pieces are learned from.
        special: Special tokens, which take the first ids in this order.
        start: The one that begins a text, if there is one.
        end: The one that ends a text.
        puts: Which of both it puts around every text by itself. With the end it is an encoder's, and pads on the right.
    """
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
    if puts:
        around = [token if token in puts else None for token in (start, end)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(part for part in (around[0], "$A", around[1]) if part is not None),
            special_tokens=[(token, special.index(token)) for token in puts],
        )
    image = {"additional_special_tokens": [IMAGE], "extra_special_tokens": {"image_token": IMAGE}}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=start,
        eos_token=end,
        unk_token=UNKNOWN,
        padding_side="right" if end in puts else "left",
        model_max_length=256,
        **(image if IMAGE in special else {}),
    )

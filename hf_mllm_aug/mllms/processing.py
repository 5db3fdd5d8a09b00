"""What the processors of this package have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

IMAGE_MARK = "<image>"
"""Where the picture stands in a prompt."""

_SPACE = "\u2581"  # how sentencepiece writes a space

_WHERE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def whereabouts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a caller of `from_pretrained` passes, what says where the files are.

    >>> whereabouts({"revision": "main", "use_fast": True})
    {'revision': 'main'}
    """
    return {name: options[name] for name in _WHERE if name in options}


def flat(images: Any) -> list[Any]:
    """One picture, a list of pictures, or a list of lists of pictures -> a list of pictures.

    >>> flat("a"), flat(["a", "b"]), flat([["a"], ["b"]])
    (['a'], ['a', 'b'], ['a', 'b'])
    """
    if not isinstance(images, (list, tuple)):
        return [images]
    return [picture for item in images for picture in (item if isinstance(item, (list, tuple)) else [item])]


def with_lost_space(text: str, tokenizer: Any, ids: Callable[[str], list[int]]) -> str:
    r"""A text as a tokenizer of transformers has to be given it for sentencepiece's ids to come out.

    Sentencepiece puts a space before every text. Transformers' Llama tokenizer leaves it out before a text that begins
    with one; a space in sentencepiece's own writing brings it back.

    Args:
        text: A piece of a prompt.
        tokenizer: Of transformers.
        ids: Its ids of a text, without special tokens.

    Returns:
        The text itself, unless it begins with a space and the tokenizer loses one.

    >>> from transformers import LlamaTokenizer
    >>> tokenizer = LlamaTokenizer(vocab={"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 3, "a": 4}, merges=[])
    >>> ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    >>> ids("a"), ids(" a"), ids(with_lost_space(" a", tokenizer, ids))
    ([3, 4], [3, 4], [3, 3, 4])
    """
    if not text.startswith(" ") or ids(" a") != ids("a"):
        return text
    known = tokenizer.convert_tokens_to_ids(_SPACE) not in (None, tokenizer.unk_token_id)
    return _SPACE + text if known else text

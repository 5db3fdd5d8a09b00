"""Qwen's tokenizer as a fast one, from ``qwen.tiktoken``, without the tiktoken package.

The file lists byte strings with ranks. Encoding joins, again and again, the two neighbours whose joint string has the
lowest rank, the leftmost first. ``tokenizers`` does the same with pairs instead of joint strings, so each string needs
the one pair that it is joined from. There is only one: until two neighbours are joined, nothing around them has a part
in how they came about, so they are what the string alone would come to just before its last join.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import TokenizersBackend

from hf_mllm_aug.errors import CheckpointError

VOCABULARY = "qwen.tiktoken"
"""The file's name."""

# Contractions; a word with the sign or space before it; one digit; signs; line ends; spaces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

END_OF_TEXT = "<|endoftext|>"
IMAGE_START, IMAGE_END, IMAGE_PAD = "<img>", "</img>", "<imgpad>"

# In the order of their ids, which follow the last rank: 151643 to 151859 in the release.
SPECIAL_TOKENS: tuple[str, ...] = (
    END_OF_TEXT,
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|extra_{n}|>" for n in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"),
    *(IMAGE_START, IMAGE_END, IMAGE_PAD),
)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a file of tiktoken's form: a line for each token, its bytes in base64 and its rank.

    Raises:
        CheckpointError: A line is something else, or the ranks are no vocabulary: all single bytes, ranks from 0 on.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise CheckpointError(f"{path.name}, line {number}: not a token in base64 and its rank") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise CheckpointError(f"{path.name}: the ranks of its {len(ranks)} tokens are not 0, 1, 2, ..., each once")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise CheckpointError(f"{path.name}: {len(missing)} of the 256 single bytes have no rank")
    return ranks


def last_join(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that encoding joins last to get a token.

    Args:
        token: Of two bytes at least.
        ranks: Of all tokens.

    Returns:
        The parts, or None where joining neighbours never gets there: such a token is found as a whole word only.

    >>> ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"bc": 4, b"abc": 5}
    >>> last_join(b"abc", ranks)
    (b'ab', b'c')
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joint = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        lowest = min(joint)
        if lowest == len(ranks):
            return None
        at = joint.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return (parts[0], parts[1]) if b"".join(parts) in ranks else None


def to_tokenizer(ranks: Mapping[bytes, int], special: Iterable[str] = SPECIAL_TOKENS) -> Tokenizer:
    """Make a fast tokenizer that encodes as tiktoken does with Qwen's splitting into words.

    Args:
        ranks: As `read_ranks` gives them; a rank is the token's id.
        special: Tokens that get the ids after the ranks and are recognised in any text.

    >>> ranks = {bytes([byte]): byte for byte in range(256)} | {b"hi": 256}
    >>> to_tokenizer(ranks).encode("hi <img>").ids
    [256, 32, 471]
    """
    symbols = _byte_symbols()
    written = {token: "".join(symbols[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        pair = last_join(token, ranks) if len(token) > 1 else None
        if pair is not None:
            merges.append((written[pair[0]], written[pair[1]]))
    vocabulary = {written[token]: rank for token, rank in ranks.items()}
    tokenizer: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    result: Tokenizer = tokenizer
    return result


def _byte_symbols() -> list[str]:
    """The character that the byte-level form writes for each byte: itself if it is visible, else one past U+0100."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]


# transformers' own types are incomplete.
_TokenizersBackend: Any = TokenizersBackend


class QWenTokenizer(_TokenizersBackend):  # type: ignore[misc]
    """Qwen-VL's tokenizer, read from a folder with ``qwen.tiktoken`` or with ``tokenizer.json``.

    It has the name of the original's, which the release's ``tokenizer_config.json`` asks for. It adds no start token,
    pads on the left with the end token, and knows all special tokens of Qwen-VL in any text.

    Args:
        kwargs: For `TokenizersBackend`, such as ``tokenizer_object``.

    >>> tokenizer = QWenTokenizer(tokenizer_object=to_tokenizer({bytes([byte]): byte for byte in range(256)}))
    >>> tokenizer(["ab", "<img>"], padding=True)["input_ids"]
    [[97, 98], [256, 470]]
    """

    vocab_files_names = {"vocab_file": VOCABULARY, "tokenizer_file": "tokenizer.json"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 - transformers' form
    padding_side = "left"
    model = models.BPE

    def __init__(self, **kwargs: Any) -> None:
        for name in ("eos_token", "pad_token", "unk_token"):
            kwargs.setdefault(name, END_OF_TEXT)
        super().__init__(**{"clean_up_tokenization_spaces": False, **kwargs})

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """What the constructor takes, from the files that were found: see `TokenizersBackend`.

        Raises:
            CheckpointError: There is neither file, or ``qwen.tiktoken`` is damaged.
        """
        vocabulary = kwargs.pop("vocab_file", None)
        kwargs.pop("auto_map", None)  # names the original's code, which is not run
        if kwargs.get("tokenizer_file") is None and kwargs.get("tokenizer_object") is None:
            if vocabulary is None:
                raise CheckpointError(f"no tokenizer here: neither {VOCABULARY} nor tokenizer.json was found")
            kwargs.pop("tokenizer_file", None)
            kwargs["tokenizer_object"] = to_tokenizer(read_ranks(Path(vocabulary)))
        return kwargs

"""Ending decoding where shearing would cut.

At most 30 tokens are generated, of which shearing with the rule ``"sentence"`` keeps the first sentence.
`SentenceStop` ends a row once its first sentence is over, such that the sheared caption is the one that all tokens
would have given. Two things make that exact: `first_sentence_end` answers only what no continuation of the text can
undo, and it is asked about settled text only. Text is settled when later tokens cannot change how earlier ones
decode, which they do when the bytes of a character are spread over tokens.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import StoppingCriteria

from hf_mllm_aug.shearing import first_sentence_end

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def decode(tokenizer: Any, ids: list[int]) -> str:
    """Decode generated ids: special tokens dropped, no space moved.

    One text a call: decoding many at once starts the tokenizer's thread pool, after which it warns at every fork.
    """
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class SentenceStop(StoppingCriteria):
    """End each row of a batch once its first sentence is over.

    Made anew for every `generate` call. It cannot be used with beams, whose rows change places.

    Args:
        tokenizer: The tokenizer that decodes the generated ids.
        language: Of the captions, for `first_sentence_end`.
    """

    def __init__(self, tokenizer: Any, language: str = "en") -> None:
        self._tokenizer = tokenizer
        self._language = language
        self._start: int | None = None
        self._traits: dict[int, tuple[bool, bool]] = {}
        self._suspects: list[bool] = []
        self.lengths: list[int | None] = []
        """(n_rows,) how many new tokens a row had when it was ended; None while it was not. Padding follows them."""

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """Say which rows are over.

        Args:
            input_ids: (n_rows, length) prompt and new tokens; at the first call there is one new token.
            scores: Not used.
            kwargs: Not used; `generate` may pass more.

        Returns:
            (n_rows,) booleans.
        """
        if self._start is None:
            self._start = input_ids.shape[1] - 1
            self.lengths = [None] * input_ids.shape[0]
            self._suspects = [False] * input_ids.shape[0]
        for row, ids in enumerate(input_ids[:, self._start :].tolist()):
            if self.lengths[row] is None and self._is_over(row, ids):
                self.lengths[row] = len(ids)
        over = [length is not None for length in self.lengths]
        return torch.tensor(over, dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]

    def _is_over(self, row: int, ids: list[int]) -> bool:
        plain, settled = self._trait(ids[-1])
        if not plain:
            self._suspects[row] = True
        # Most rows have no sentence end for many tokens; they cost a look-up each.
        if not self._suspects[row] or not settled:
            return False
        return first_sentence_end(decode(self._tokenizer, ids), self._language) is not None

    def _trait(self, token: int) -> tuple[bool, bool]:
        """Whether a token can have no part in ending a sentence, and whether the text is settled behind it."""
        if token not in self._traits:
            text = decode(self._tokenizer, [token])
            piece = self._tokenizer.convert_ids_to_tokens(token)
            # A byte token may turn the whole run of byte tokens before it into replacement characters; a token that
            # decodes to one holds a part of a character.
            settled = "\ufffd" not in text and not _BYTE_TOKEN.fullmatch(str(piece))
            plain = settled and all(character.isalnum() or character in " ," for character in text)
            self._traits[token] = (plain, settled)
        return self._traits[token]

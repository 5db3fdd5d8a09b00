"""Ending decoding where clean-up and shearing would cut.

At most 30 tokens are generated, of which clean-up keeps what stands before a stop, such as ``###``, and shearing with
the rule ``"sentence"`` the first sentence. `CaptionStop` ends a row once both are decided, such that the sheared
caption is the one that all tokens would have given. Three things make that exact: `first_sentence_end` answers only
what no continuation of the text can undo, `CleanUp` says what of the text is settled, and both are asked about text
that later tokens cannot decode differently, which they do when the bytes of a character are spread over tokens.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import StoppingCriteria

from hf_mllm_aug.captioners.cleanup import CleanUp
from hf_mllm_aug.shearing import first_sentence_end

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def decode(tokenizer: Any, ids: list[int]) -> str:
    """Decode generated ids: special tokens dropped, no space moved.

    One text a call: decoding many at once starts the tokenizer's thread pool, after which it warns at every fork.
    """
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class CaptionStop(StoppingCriteria):
    """End each row of a batch once its caption is decided.

    Made anew for every `generate` call. With beams, whose rows change places, it must have nothing to end.

    Args:
        tokenizer: The tokenizer that decodes the generated ids.
        language: Of the captions, if rows are to end with their first sentence; None if not.
        clean_up: What will be cut from the texts; a stop in a text ends its row.
        min_new_tokens: No row ends with fewer.
    """

    def __init__(
        self,
        tokenizer: Any,
        language: str | None = None,
        clean_up: CleanUp | None = None,
        min_new_tokens: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._language = language
        self._clean_up = clean_up if clean_up is not None else CleanUp()
        self._min_new_tokens = min_new_tokens
        self._active = language is not None or bool(self._clean_up.stops)
        self._traits: dict[int, tuple[bool, bool]] = {}
        self._suspects: list[bool] = []
        self._steps = 0
        self._prompt: torch.Tensor | None = None
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
        if self._prompt is None:
            self._prompt = input_ids[:, :-1]
            self.lengths = [None] * input_ids.shape[0]
            self._suspects = [False] * input_ids.shape[0]
        self._steps += 1
        if not self._active:
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]
        for row, ids in enumerate(input_ids[:, self._prompt.shape[1] :].tolist()):
            if self.lengths[row] is None and self._is_over(row, ids):
                self.lengths[row] = len(ids)
        over = [length is not None for length in self.lengths]
        return torch.tensor(over, dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]

    def n_given(self, output: torch.Tensor, *, beams: bool = False) -> int:
        """How many ids at the beginning of what `generate` gave back are not new.

        Decoder-only models give the prompt back, those that are called with embeddings do not, encoder-decoders begin
        with a start token, and a model may have a `generate` of its own that cuts the prompt off.

        Args:
            output: (n_rows, length) ids.
            beams: Whether decoding had beams; rows may then be shorter than the steps were many.
        """
        if self._prompt is None or not (n_prompt := self._prompt.shape[1]):
            return 0
        if not beams:
            return output.shape[1] - self._steps
        head = self._prompt[:: max(1, self._prompt.shape[0] // output.shape[0])].to(output.device)
        return n_prompt if output.shape[1] >= n_prompt and torch.equal(output[:, :n_prompt], head) else 0

    def _is_over(self, row: int, ids: list[int]) -> bool:
        plain, settled = self._trait(ids[-1])
        if not plain:
            self._suspects[row] = True
        # Most rows have no sentence end for many tokens; they cost a look-up each.
        if not self._suspects[row] or not settled or len(ids) < self._min_new_tokens:
            return False
        text = decode(self._tokenizer, ids)
        if self._clean_up.is_over(text):
            return True
        if self._language is None:
            return False
        caption = self._clean_up.settled(text)
        return caption is not None and first_sentence_end(caption, self._language) is not None

    def _trait(self, token: int) -> tuple[bool, bool]:
        """Whether a token can have no part in ending a caption, and whether the text is settled behind it."""
        if token not in self._traits:
            text = decode(self._tokenizer, [token])
            piece = self._tokenizer.convert_ids_to_tokens(token)
            # A byte token may turn the whole run of byte tokens before it into replacement characters; a token that
            # decodes to one holds a part of a character.
            settled = "\ufffd" not in text and not _BYTE_TOKEN.fullmatch(str(piece))
            in_stop = any(character in self._clean_up.marks for character in text)
            in_end = self._language is not None and not all(c.isalnum() or c in " ," for c in text)
            self._traits[token] = (settled and not in_stop and not in_end, settled)
        return self._traits[token]

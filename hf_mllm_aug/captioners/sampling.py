"""Sampling that depends on the row alone.

`generate(do_sample=True)` draws from one generator for the whole batch, so a row's caption depends on its neighbours,
on the batch size and on where a run was resumed. Here every row draws from a generator of its own, seeded by the
captioner's seed and the row's key; the draw is made inside a logits processor, which leaves the drawn token as the
only one, and greedy decoding takes it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)


def row_seed(seed: int, key: str) -> int:
    """The seed of one row's generator.

    >>> row_seed(0, "000001") == row_seed(0, "000001"), row_seed(0, "000001") == row_seed(1, "000001")
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()[:16], "big")


class RowSampler(LogitsProcessor):
    """Draw each row's next token from its own generator, and forbid the others.

    Args:
        seeds: (n_rows,) one a row.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [random.Random(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        """Draw.

        Args:
            input_ids: Not used.
            scores: (n_rows, vocabulary) logits.

        Returns:
            (n_rows, vocabulary) 0 for the drawn token, minus infinity for all others.
        """
        # In double precision on the CPU: the same draw on every device, given the same logits.
        heaps = torch.softmax(scores.detach().to("cpu", torch.float64), dim=-1).cumsum(dim=-1)
        draws = torch.tensor([[generator.random()] for generator in self._generators], dtype=torch.float64)
        tokens = torch.searchsorted(heaps, draws * heaps[:, -1:], right=True).clamp_(max=heaps.shape[-1] - 1)
        forbidden = torch.full_like(scores, float("-inf"))
        return forbidden.scatter_(-1, tokens.to(scores.device), 0.0)


def samplers(decoding: Mapping[str, Any], seeds: Sequence[int]) -> LogitsProcessorList:
    """The processors that shape the distribution, in transformers' order, and the draw.

    Args:
        decoding: Parameters as `decoding.resolve` gives them.
        seeds: (n_rows,) one a row.
    """
    steps: list[Any] = []
    if decoding["temperature"] != 1.0:
        steps.append(TemperatureLogitsWarper(float(decoding["temperature"])))
    if decoding["top_k"] > 0:
        steps.append(TopKLogitsWarper(decoding["top_k"]))
    if decoding["top_p"] < 1.0:
        steps.append(TopPLogitsWarper(float(decoding["top_p"])))
    if decoding["min_p"] > 0:
        steps.append(MinPLogitsWarper(float(decoding["min_p"])))
    if decoding["typical_p"] < 1.0:
        steps.append(TypicalLogitsWarper(float(decoding["typical_p"])))
    return LogitsProcessorList([*steps, RowSampler(seeds)])

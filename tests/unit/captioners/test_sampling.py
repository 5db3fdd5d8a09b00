"""Sampling row by row draws from the same distribution as sampling does."""

from __future__ import annotations

from typing import Any

import torch

from hf_mllm_aug.captioners.decoding import resolve
from hf_mllm_aug.captioners.sampling import RowSampler, row_seed, samplers


def test_tokens_are_drawn_in_proportion_to_their_probability() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    sampler = RowSampler([row_seed(0, f"row {row}") for row in range(4)])
    scores = probabilities.log().repeat(4, 1)
    drawn = torch.stack([sampler(None, scores).argmax(dim=-1) for _ in range(2500)])
    shares = torch.bincount(drawn.flatten(), minlength=6) / drawn.numel()
    assert torch.allclose(shares, probabilities, atol=0.02), shares
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_a_row_draws_the_same_whatever_its_neighbours() -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    seeds = [row_seed(1, key) for key in ("a", "b", "c")]
    together = RowSampler(seeds)
    alone = RowSampler(seeds[1:2])
    for _ in range(20):
        assert together(None, scores).argmax(dim=-1)[1] == alone(None, scores[1:2]).argmax(dim=-1)[0]


def test_the_distribution_is_shaped_first() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]])

    def possible(**settings: float) -> set[int]:
        found = set()
        for row in range(300):
            steps: Any = samplers(resolve({"do_sample": True, **settings}), [row])
            found.add(int(steps(torch.zeros(1, 1, dtype=torch.long), scores).argmax()))
        return found

    assert possible() == {0, 1, 2, 3}
    assert possible(top_k=2) == {0, 1}
    assert possible(top_p=0.6) == {0}
    assert possible(min_p=0.2) == {0, 1}
    assert possible(temperature=0.05) == {0}
    assert 3 not in possible(typical_p=0.5)


def test_only_the_drawn_token_is_left() -> None:
    left = RowSampler([5])(None, torch.zeros(1, 9))
    assert (left == 0).sum() == 1
    assert torch.isneginf(left).sum() == 8

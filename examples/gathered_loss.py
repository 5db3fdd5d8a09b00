"""Contrastive losses over the pairs of all processes, whose gradient is that of one process with the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F


class Gather(torch.autograd.Function):
    """Rows of all processes in order of rank; the gradient of a row is the sum of what all processes make of it."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        """Gather (n, dim) into (processes x n, dim)."""
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """Sum over processes, and take one's own rows."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def contrastive_loss(
    images: torch.Tensor,
    texts: torch.Tensor,
    valid: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute a process's part of the loss over the pairs of all: the parts add up to the loss of the whole batch.

    Without a bias CLIP's symmetric cross-entropy (Radford et al. 2021, arXiv:2103.00020), with one SigLIP's sigmoid
    loss (Zhai et al. 2023, arXiv:2303.15343). Each process scores its own rows against everyone's.

    Where gradients are averaged over processes afterwards, multiply the part by their number before `backward`.

    Args:
        images: (n, dim) unit embeddings; n is the same in all processes.
        texts: (n, dim), row by row the images' captions.
        valid: (n,) bool. The other rows are neither scored nor anyone's negatives.
        scale: What cosines are multiplied by, a scalar.
        bias: What is added to them then, a scalar.

    Returns:
        A scalar.
    """
    many = dist.is_initialized() and dist.get_world_size() > 1
    gather: Any = Gather.apply if many else (lambda rows: rows)
    all_images, all_texts, all_valid = gather(images), gather(texts), gather(valid.float()) > 0
    own = torch.arange(len(images), device=images.device) + (len(images) * dist.get_rank() if many else 0)
    count = all_valid.sum().clamp(min=1)
    if bias is not None:
        sign = 2 * F.one_hot(own, len(all_texts)) - 1
        losses = -F.logsigmoid(sign * (scale * images @ all_texts.T + bias))
        return (losses * valid[:, None] * all_valid).sum() / count
    target = own.masked_fill(~valid, -100)  # which cross_entropy leaves out
    total = images.new_zeros(())
    for logits in (scale * images @ all_texts.T, scale * texts @ all_images.T):
        masked = logits.masked_fill(~all_valid, torch.finfo(logits.dtype).min)
        total = total + F.cross_entropy(masked, target, reduction="sum")
    return total / (2 * count)

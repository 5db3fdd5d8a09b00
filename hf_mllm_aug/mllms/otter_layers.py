"""What stands between Otter's vision tower and its language model: the perceiver and the gated cross-attention.

Names of the modules are those of the original's weights. Source: Li et al., "Otter: A Multi-Modal Model with In-Context
Instruction Tuning" (2023), which takes both parts from Flamingo (Alayrac et al., 2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from hf_mllm_aug.errors import UsageError

if TYPE_CHECKING:
    from hf_mllm_aug.mllms.otter_config import OtterConfig

_CACHE_ATTRIBUTE = "otter_pictures"


class PictureMemory:
    """What a growing text needs of its pictures, beside the language model's own cache, on which it travels.

    The original looks for ``<image>`` in the ids of each call, so that it would lose the picture as soon as only the
    newest token came in; it decodes without a cache therefore. With this memory a cached step computes the same.

    Attributes:
        seen: How many ``<image>`` each row has had so far, (rows, 1); None before the first call.
        keys_values: For each gated block, by its number, the keys and values of the pictures' latents: two tensors
            (rows, heads, n_pictures * num_latents, head_dim).
    """

    def __init__(self) -> None:
        self.seen: torch.Tensor | None = None
        self.keys_values: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def of(cls, cache: Any) -> PictureMemory | None:
        """The memory that travels on a cache, if there is one."""
        memory: PictureMemory | None = getattr(cache, _CACHE_ATTRIBUTE, None)
        return memory

    def travel_on(self, cache: Any) -> None:
        """Let the memory go wherever the cache goes, in place of another that may be there."""
        setattr(cache, _CACHE_ATTRIBUTE, self)

    def count(self, marks: torch.Tensor) -> torch.Tensor:
        """How many pictures each new position has come past.

        Args:
            marks: Where the new ids are ``<image>``, (rows, length).

        Returns:
            Numbers from 0 on, (rows, length); 0 is text before the first picture.
        """
        count = marks.cumsum(dim=-1)
        if self.seen is not None:
            count = count + self.seen
        self.seen = count[:, -1:]
        return count


def picture_mask(count: torch.Tensor, n_pictures: int, num_latents: int) -> torch.Tensor:
    """Which latents a position may attend to: those of the picture that it came past last.

    Args:
        count: Pictures that each position has come past, (rows, length).
        n_pictures: Pictures a row.
        num_latents: Latents a picture.

    Returns:
        (rows, 1, length, n_pictures * num_latents), true where a position may attend.

    >>> picture_mask(torch.tensor([[0, 1, 1, 2]]), n_pictures=2, num_latents=1)[0, 0].int().tolist()
    [[0, 0], [1, 0], [1, 0], [0, 1]]
    """
    number = torch.arange(1, n_pictures + 1, device=count.device).repeat_interleave(num_latents)
    return (count[:, None, :, None] == number).to(torch.bool)


def _feed_forward(width: int, mult: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, width * mult, bias=False),
        nn.GELU(),
        nn.Linear(width * mult, width, bias=False),
    )


def _heads(x: torch.Tensor, n_heads: int) -> torch.Tensor:
    """(n, length, heads * dim) -> (n, heads, length, dim)."""
    rows, length, width = x.shape
    return x.view(rows, length, n_heads, width // n_heads).transpose(1, 2)


class OtterPerceiverLayer(nn.Module):
    """Latents attend to a picture's patches and to themselves."""

    def __init__(self, config: OtterConfig) -> None:
        super().__init__()
        width = _vision_width(config)
        inner = config.perceiver_heads * config.perceiver_head_dim
        self.n_heads = config.perceiver_heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.feed_forward = _feed_forward(width, config.feed_forward_mult)

    def forward(self, patches: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """One layer.

        Args:
            patches: (n, n_patches, width).
            latents: (n, num_latents, width).

        Returns:
            The latents, as they came in.
        """
        normed = self.norm_latents(latents)
        keys, values = self.to_kv(torch.cat((self.norm_media(patches), normed), dim=1)).chunk(2, dim=-1)
        mixed = F.scaled_dot_product_attention(
            _heads(self.to_q(normed), self.n_heads), _heads(keys, self.n_heads), _heads(values, self.n_heads)
        )
        latents = latents + self.to_out(mixed.transpose(1, 2).flatten(2))
        out: torch.Tensor = latents + self.feed_forward(latents)
        return out


class OtterPerceiver(nn.Module):
    """Makes a fixed number of vectors of a picture's patches."""

    def __init__(self, config: OtterConfig) -> None:
        super().__init__()
        width = _vision_width(config)
        self.latents = nn.Parameter(torch.empty(config.num_latents, width))
        frames = config.max_num_frames
        self.frame_embs = nn.Parameter(torch.empty(frames, width)) if frames is not None else None
        self.layers = nn.ModuleList(OtterPerceiverLayer(config) for _ in range(config.perceiver_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Condense pictures.

        Args:
            patches: (n, n_frames, n_patches, width).

        Returns:
            (n, num_latents, width).

        Raises:
            UsageError: A picture has more frames than the model has embeddings for.
        """
        if self.frame_embs is not None:
            n_frames = patches.shape[1]
            if n_frames > len(self.frame_embs):
                raise UsageError(f"pictures of {n_frames} frames: this Otter takes up to {len(self.frame_embs)}")
            patches = patches + self.frame_embs[:n_frames, None]
        patches = patches.flatten(1, 2)
        latents = self.latents.expand(len(patches), -1, -1)
        for layer in self.layers:
            latents = layer(patches, latents)
        out: torch.Tensor = self.norm(latents)
        return out


class OtterCrossAttention(nn.Module):
    """Text attends to the latents of its picture."""

    def __init__(self, config: OtterConfig) -> None:
        super().__init__()
        text = config.text_config
        inner = config.cross_attn_heads * config.cross_attn_head_dim
        self.n_heads = config.cross_attn_heads
        self.scale = config.cross_attn_head_dim**-0.5
        self.norm = nn.LayerNorm(text.hidden_size)
        self.to_q = nn.Linear(text.hidden_size, inner, bias=False)
        self.to_kv = nn.Linear(_vision_width(config), inner * 2, bias=False)
        self.to_out = nn.Linear(inner, text.hidden_size, bias=False)

    def keys_values(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the text attends to, of pictures (rows, n_pictures, num_latents, vision_width)."""
        keys, values = self.to_kv(pictures.flatten(1, 2)).chunk(2, dim=-1)
        return _heads(keys, self.n_heads), _heads(values, self.n_heads)

    def forward(
        self, x: torch.Tensor, keys_values: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, met: torch.Tensor
    ) -> torch.Tensor:
        """Attend.

        Args:
            x: Text, (rows, length, width).
            keys_values: Of the pictures.
            mask: See `picture_mask`.
            met: Whether a position has come past any picture, (rows, length, 1). The others get zero.

        Returns:
            As `x`.
        """
        keys, values = keys_values
        scores = _heads(self.to_q(self.norm(x)), self.n_heads) * self.scale @ keys.transpose(-1, -2)
        # A finite number, as in the original: a position past more marks than there are pictures sees all alike.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
        out: torch.Tensor = self.to_out((weights @ values).transpose(1, 2).flatten(2))
        return out * met


class OtterGatedCrossAttention(nn.Module):
    """Cross-attention and a feed-forward part, each behind a gate that is shut at the start of training."""

    def __init__(self, config: OtterConfig) -> None:
        super().__init__()
        text = config.text_config
        self.attn = OtterCrossAttention(config)
        self.attn_gate = nn.Parameter(torch.empty(1))
        self.feed_forward = _feed_forward(text.hidden_size, config.feed_forward_mult)
        self.ff_gate = nn.Parameter(torch.empty(1))

    def forward(
        self, x: torch.Tensor, keys_values: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, met: torch.Tensor
    ) -> torch.Tensor:
        """See `OtterCrossAttention.forward`."""
        x = x + self.attn(x, keys_values, mask, met) * self.attn_gate.tanh()
        out: torch.Tensor = x + self.feed_forward(x) * self.ff_gate.tanh()
        return out


def _vision_width(config: OtterConfig) -> int:
    return int(config.vision_config.hidden_size)

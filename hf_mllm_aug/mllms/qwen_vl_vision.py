"""Qwen-VL's vision tower: a ViT over patches, a resampler with learned queries, a projection.

Names of parameters are the original's, but for the blocks, which it keeps under ``transformer.resblocks``.

Source: the code released with Qwen/Qwen-VL (``visual.py``); Bai et al., arXiv 2308.12966, section 2.1.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from hf_mllm_aug.mllms.qwen_vl_config import QwenVLVisionConfig


def sines_and_cosines(width: int, side: int) -> torch.Tensor:
    """Fixed positions of a square grid: half of each row tells the column, the other half the row.

    Args:
        width: Of a position; a multiple of 4.
        side: Cells along one edge of the grid.

    Returns:
        (side * side, width), float32, cells row by row. Each half holds the sines of all frequencies, then the cosines.

    >>> sines_and_cosines(8, 2)[1].round(decimals=2)  # row 0, column 1
    tensor([0.8400, 0.0100, 0.5400, 1.0000, 0.0000, 0.0000, 1.0000, 1.0000])
    """
    quarter = width // 4
    # In double precision: the frequencies fall to 1/10000.
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.outer(torch.arange(side, dtype=torch.float64), frequencies)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    grid = torch.cat([line.repeat(side, 1), line.repeat_interleave(side, dim=0)], dim=1)
    return grid.float()


def stretch(positions: torch.Tensor, cells: int) -> torch.Tensor:
    """Stretch a square table of positions to another square grid, bicubically, in float32.

    Args:
        positions: (n, width), n a square number, row by row.
        cells: Of the new grid; a square number.

    Returns:
        (cells, width), in the type of ``positions``.

    >>> stretch(torch.arange(4.0)[:, None], 16).shape
    torch.Size([16, 1])
    """
    n, width = positions.shape
    if n == cells:
        return positions
    old, new = math.isqrt(n), math.isqrt(cells)
    image = positions.float().reshape(1, old, old, width).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=(new, new), mode="bicubic", align_corners=False)
    return image.permute(0, 2, 3, 1).reshape(cells, width).to(positions.dtype)


class QwenVLVisionAttention(nn.Module):
    """Self-attention over patches. The rows of ``in_proj`` are query, key, value of head 0, then of head 1, ..."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.in_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, patches, width) -> the same."""
        mixed = self.in_proj(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key, value = mixed.chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value)
        projected: torch.Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return projected


class QwenVLVisionMLP(nn.Module):
    """Two layers with the exact GELU between."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.mlp_size)
        self.c_proj = nn.Linear(config.mlp_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, patches, width) -> the same."""
        projected: torch.Tensor = self.c_proj(F.gelu(self.c_fc(hidden)))
        return projected


class QwenVLVisionBlock(nn.Module):
    """Attention and MLP, each behind a normalisation and beside a residual."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = QwenVLVisionAttention(config)
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = QwenVLVisionMLP(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, patches, width) -> the same."""
        hidden = hidden + self.attn(self.ln_1(hidden))
        out: torch.Tensor = hidden + self.mlp(self.ln_2(hidden))
        return out


class QwenVLResampler(nn.Module):
    """One cross-attention from learned queries to all patches.

    Positions, fixed sines and cosines, are added to the queries and, stretched, to the keys; not to the values.
    """

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        width = config.output_dim
        self.query = nn.Parameter(torch.empty(config.num_queries, width))
        # A parameter, since checkpoints hold it.
        self.pos_embed = nn.Parameter(torch.empty(config.num_queries, width), requires_grad=False)
        # The original has no such layer where the widths are equal.
        same = config.hidden_size == width
        self.kv_proj = nn.Identity() if same else nn.Linear(config.hidden_size, width, bias=False)
        self.attn = nn.MultiheadAttention(width, config.resampler_heads, batch_first=True)
        self.ln_q = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.ln_kv = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(n, patches, width of the ViT) -> (n, queries, output_dim)."""
        values = self.ln_kv(self.kv_proj(patches))
        keys = values + stretch(self.pos_embed, patches.shape[1])
        queries = (self.ln_q(self.query) + self.pos_embed).expand(len(patches), -1, -1)
        features: torch.Tensor = self.attn(queries, keys, values, need_weights=False)[0]
        return features


class QwenVLVisionTower(nn.Module):
    """Pictures -> the features that stand for them among the language model's embeddings."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.conv1 = nn.Conv2d(3, width, kernel_size=config.patch_size, stride=config.patch_size, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(config.num_positions, width))
        self.ln_pre = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.blocks = nn.ModuleList(QwenVLVisionBlock(config) for _ in range(config.num_hidden_layers))
        self.attn_pool = QwenVLResampler(config)
        self.ln_post = nn.LayerNorm(config.output_dim, eps=config.layer_norm_eps)
        self.proj = nn.Parameter(torch.empty(config.output_dim, config.output_dim))

    def patch_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the ViT sees in each patch.

        Args:
            pixel_values: (n, 3, height, width), normalised; a square of whole patches.

        Returns:
            (n, patches, width), patches row by row.
        """
        hidden: torch.Tensor = self.conv1(pixel_values.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        hidden = self.ln_pre(hidden + stretch(self.positional_embedding, hidden.shape[1]))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def resample(self, patches: torch.Tensor) -> torch.Tensor:
        """What `patch_features` gives -> (n, queries, output_dim)."""
        features: torch.Tensor = self.ln_post(self.attn_pool(patches)) @ self.proj
        return features

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) -> (n, queries, output_dim)."""
        return self.resample(self.patch_features(pixel_values))

"""The vision tower that the miniatures share: its architecture, a good start, and the forward pass of training."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

SIDE, PATCH = 96, 12  # pixels


def new_tower() -> CLIPVisionModel:
    """A CLIP ViT with fresh weights: 5 layers, width 256, 96 px, patch 12."""
    config = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=256,
    )
    tower = CLIPVisionModel(config)
    start_well(tower)
    return tower


def settings(tower: CLIPVisionModel) -> dict[str, Any]:
    """The tower's configuration for another model's, without the folder that it was read from."""
    return {name: value for name, value in tower.config.to_dict().items() if name != "_name_or_path"}


@torch.no_grad()
def start_well(tower: CLIPVisionModel) -> None:
    """Fresh weights from which a small ViT learns fast on little data.

    Positions start as 2D sines and cosines, so that near patches are alike; query-key products start near the
    identity and value-output products near its negative, as trained ViTs have them (mimetic initialisation, Trockman
    and Kolter, arXiv 2305.09828). The class token has no position.
    """
    config = tower.config
    for name, parameter in tower.named_parameters():
        if parameter.ndim >= 2 and "layers" in name:
            torch.nn.init.trunc_normal_(parameter, std=0.02)
    torch.nn.init.trunc_normal_(tower.embeddings.patch_embedding.weight, std=0.02)
    torch.nn.init.normal_(tower.embeddings.class_embedding, std=0.02)
    width, cells = config.hidden_size, config.image_size // config.patch_size
    waves = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    line = torch.outer(torch.arange(cells).float(), waves)
    line = torch.cat([line.sin(), line.cos()], 1)
    grid = torch.cat([line.repeat_interleave(cells, 0), line.repeat(cells, 1)], 1)
    tower.embeddings.position_embedding.weight.copy_(torch.cat([torch.zeros(1, width), 0.3 * grid]))
    side = width // config.num_attention_heads
    for layer in tower.encoder.layers:
        attention = layer.self_attn
        for head in range(config.num_attention_heads):
            rows = slice(head * side, (head + 1) * side)
            product = 0.7 * torch.randn(width, width) / width**0.5 + 0.7 * torch.eye(width)
            left, scales, right = torch.linalg.svd(product)
            attention.q_proj.weight[rows] = (left[:, :side] * scales[:side].sqrt()).T
            attention.k_proj.weight[rows] = scales[:side].sqrt()[:, None] * right[:side]
        product = 0.4 * torch.randn(width, width) / width**0.5 - 0.4 * torch.eye(width)
        left, scales, right = torch.linalg.svd(product)
        attention.v_proj.weight.copy_(scales.sqrt()[:, None] * right)
        attention.out_proj.weight.copy_(left * scales.sqrt())


def vision_states(
    tower: CLIPVisionModel,
    pixel_values: torch.Tensor,
    drop: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tower's last hidden states and its normalised class token.

    Args:
        tower: The vision tower.
        pixel_values: (n, 3, side, side).
        drop: Share of patches, chosen anew for every picture, that the tower does not see (PatchDropout,
            arXiv 2208.07220): cheaper steps and a stronger model.

    Returns:
        (n, 1 + kept patches, width) and (n, width).
    """
    states = tower.pre_layrnorm(tower.embeddings(pixel_values))
    if drop > 0:
        n, patches = states.shape[0], states.shape[1] - 1
        kept = torch.rand(n, patches).argsort(1)[:, : patches - round(patches * drop)] + 1
        kept = torch.cat([torch.zeros(n, 1, dtype=kept.dtype), kept], 1)
        states = states.gather(1, kept.unsqueeze(-1).expand(-1, -1, states.shape[2]))
    states = tower.encoder(inputs_embeds=states).last_hidden_state
    return states, tower.post_layernorm(states[:, 0])

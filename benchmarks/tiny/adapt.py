"""Teach another architecture's vision tower to see what the trained tower sees, where copying is not enough.

Qwen-VL's ViT has no class token and MiniGPT-4's no normalisation before its first block. Their copies of the trained
tower's weights start near, and learn its last states patch by patch on random views.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import torch
import torch.nn.functional as F
from transformers import CLIPVisionModel, PreTrainedModel

from benchmarks.tiny.distortions import distort, normalise
from benchmarks.tiny.schedule import share
from benchmarks.tiny.tower import vision_states

log = logging.getLogger("tiny.adapt")


def adapt(
    mini: Any,
    model: PreTrainedModel,
    tower: CLIPVisionModel,
    pixels: torch.Tensor,
    *,
    minutes: float,
    batch: int = 64,
    rate: float = 4e-4,
    strength: float = 0.6,
) -> None:
    """Train the model's own vision part on the tower's states.

    Args:
        mini: The miniature's module, with ``vision(model)``, the part that learns, and ``patches(model, pixels)``.
        model: The miniature.
        tower: The trained tower.
        pixels: (n, side, side, 4) uint8, the training pictures.
        minutes: Wall-clock time; the learning rate falls with it.
        batch: Pictures a step.
        rate: The highest learning rate.
        strength: Of the distortions.
    """
    tower.eval().set_attn_implementation("eager")
    learned = list(mini.vision(model).parameters())
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = rate * share(step, done, 50)
        rgba = pixels[torch.randint(len(pixels), (batch,))].permute(0, 3, 1, 2).float() / 255
        views = normalise(distort(rgba, torch.zeros(batch, dtype=torch.bool), strength))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted = vision_states(tower, views)[0]
            seen = mini.patches(model, views)
        wanted = wanted[:, -seen.shape[1] :]  # without the class token where there is none
        width = (wanted.shape[-1],)
        loss = F.mse_loss(F.layer_norm(seen.float(), width), F.layer_norm(wanted.float(), width))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            log.info("%s", json.dumps({"step": step, "done": round(done, 2), "unlike": round(loss.item(), 4)}))

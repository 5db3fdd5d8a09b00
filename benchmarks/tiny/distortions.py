"""Random views of drawings, a batch at a time in torch: what the miniatures see instead of the clean picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

# White is zero: the processor pads a picture to a square with its mean colour, and these drawings stand on white.
MEAN = (1.0, 1.0, 1.0)
STD = (0.5, 0.5, 0.5)

_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def normalise(rgb: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, side, side) in 0..1 to the vision tower's input."""
    return (rgb - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def on_white(rgba: torch.Tensor) -> torch.Tensor:
    """RGBA (n, 4, side, side) in 0..1 on white: RGB (n, 3, side, side)."""
    return rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])


def distort(rgba: torch.Tensor, may_flip: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """One random view of each picture.

    Rotation, scale, aspect, shift and (where the meaning allows it) a mirror image; hue, saturation, brightness and
    contrast; a coloured background for some; lower resolution for some; a grey patch for some.

    Args:
        rgba: (n, 4, side, side) float in 0..1, alpha last.
        may_flip: (n,) bool, false where a mirror image means something else (letters, arrows, clocks, flags).
        strength: 0 leaves the pictures on white as they are, 1 is full.

    Returns:
        (n, 3, side, side) float in 0..1.
    """
    n, _, side, _ = rgba.shape

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.empty(n).uniform_(low, high) * strength

    angle = uniform(-1, 1) * (18 * math.pi / 180)
    scale = torch.exp(uniform(-0.22, 0.30))  # over 1 shrinks the drawing
    aspect = torch.exp(uniform(-0.12, 0.12))
    mirror = torch.where(may_flip & (torch.rand(n) < 0.5 * strength), -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([mirror * cos * scale * aspect, -sin * scale * aspect, uniform(-0.12, 0.12)], 1),
            torch.stack([mirror * sin * scale / aspect, cos * scale / aspect, uniform(-0.12, 0.12)], 1),
        ],
        1,
    )
    premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    grid = F.affine_grid(theta, [n, 4, side, side], align_corners=False)
    moved = F.grid_sample(premultiplied, grid, align_corners=False)

    coloured = (torch.rand(n) < 0.3 * strength).float().view(n, 1, 1, 1)
    background = 1 - coloured * torch.rand(n, 3, 1, 1)
    rgb = moved[:, :3] + background * (1 - moved[:, 3:])

    hue, saturation = uniform(-0.35, 0.35), torch.exp(uniform(-0.6, 0.4))
    rotate = torch.zeros(n, 3, 3)
    rotate[:, 0, 0] = 1
    rotate[:, 1, 1] = rotate[:, 2, 2] = saturation * torch.cos(hue)
    rotate[:, 1, 2], rotate[:, 2, 1] = -saturation * torch.sin(hue), saturation * torch.sin(hue)
    colour = torch.linalg.inv(_TO_YIQ) @ rotate @ _TO_YIQ
    rgb = torch.bmm(colour, rgb.flatten(2)).view_as(rgb)
    contrast, brightness = torch.exp(uniform(-0.35, 0.3)), uniform(-0.12, 0.12)
    rgb = ((rgb - 0.5) * contrast.view(n, 1, 1, 1) + 0.5 + brightness.view(n, 1, 1, 1)).clamp(0, 1)

    if strength > 0:
        low = int(torch.randint(40, 90, ()).item())
        blurred = torch.rand(n) < 0.4
        small = F.interpolate(rgb[blurred], size=(low, low), mode="bilinear", antialias=True)
        rgb[blurred] = F.interpolate(small, size=(side, side), mode="bilinear")
        for row in torch.nonzero(torch.rand(n) < 0.3 * strength).flatten().tolist():
            height, width = torch.randint(side // 8, side // 3, (2,)).tolist()
            top, left = int(torch.randint(side - height, ()).item()), int(torch.randint(side - width, ()).item())
            rgb[row, :, top : top + height, left : left + width] = torch.rand(3, 1, 1)
    return rgb

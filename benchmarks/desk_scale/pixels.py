"""Pictures as the small squares that the study's encoders see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from PIL import Image

from hf_mllm_aug import schema
from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import to_rgb

SIDE = 72  # a little more than the encoders see, so that training can crop


def on_white(picture: Image.Image) -> Image.Image:
    """A picture with transparency, on white paper."""
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    return paper.convert("RGB")


def square(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """An RGB picture within a white square, (SIDE, SIDE, 3).

    >>> square(Image.new("RGB", (300, 100), "black"))[:, 36, 0].tolist()[22:26]
    [255, 255, 0, 0]
    """
    scale = SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    paper = Image.new("RGB", (SIDE, SIDE), "white")
    paper.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(paper)


def clip_art_pixels(pairs: Dataset, cache: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The pictures of ``pairs``, (n, SIDE, SIDE, 3), and which of them can be decoded; drawn once, into ``cache``."""
    if not cache.exists():
        drawn = np.full((len(pairs), SIDE, SIDE, 3), 255, np.uint8)
        seen = np.zeros(len(pairs), np.bool_)
        for row, picture in enumerate(pairs[schema.IMAGE]):
            try:
                drawn[row] = square(to_rgb(picture))
            except ImageError:  # too many pixels, mostly: the captioners refuse these as well
                continue
            seen[row] = True
        part = cache.with_suffix(".part.npz")
        np.savez(part, pixels=drawn, seen=seen)
        part.rename(cache)
    with np.load(cache) as archive:
        return archive["pixels"], archive["seen"]

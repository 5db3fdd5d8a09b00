"""What the study scores on: pictures that neither the miniatures nor the encoders have met, with one caption each.

``vendor`` is the emoji vendor and ``stamps`` the Tux Paint stamps that were held out when the miniatures were trained.
``training_stamps`` are the other stamps, for fine-tuning. Whoever changes the encoder or its training looks at the
development sets alone: another vendor's drawings and the training stamps, which the miniatures know and the encoders
do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.desk_scale.pixels import on_white, square
from benchmarks.tiny import pictures

DEVELOPMENT_VENDOR = "twemoji"


@dataclass(frozen=True)
class PictureSet:
    """Pictures (n, SIDE, SIDE, 3) uint8 and the caption of each."""

    pixels: npt.NDArray[np.uint8]
    captions: list[str]


def load(packages: Path, cache: Path) -> dict[str, PictureSet]:
    """Draw the sets, or take what was drawn.

    Args:
        packages: Where `benchmarks.tiny.pictures.fetch` put the packages.
        cache: The archive to write (.npz).

    Returns:
        ``vendor``, ``stamps``, ``training_stamps`` and ``development_vendor``.
    """
    if not cache.exists():
        found: dict[str, tuple[list[npt.NDArray[np.uint8]], list[str]]] = {}
        for name, picture in _chosen(packages):
            drawn = pictures.pixels(picture)
            if drawn is None:
                continue
            rgba = Image.frombytes("RGBA", (pictures.SIZE, pictures.SIZE), drawn)
            images, captions = found.setdefault(name, ([], []))
            images.append(square(on_white(rgba)))
            captions.append(picture.caption)
        part = cache.with_suffix(".part.npz")
        columns = {f"{name}.pixels": np.stack(images) for name, (images, _) in found.items()}
        np.savez(part, **columns, **{f"{name}.captions": np.array(captions) for name, (_, captions) in found.items()})
        part.rename(cache)
    with np.load(cache) as archive:
        names = [key.removesuffix(".pixels") for key in archive if key.endswith(".pixels")]
        return {name: PictureSet(archive[f"{name}.pixels"], archive[f"{name}.captions"].tolist()) for name in names}


def _chosen(packages: Path) -> Iterator[tuple[str, pictures.Picture]]:
    for picture in pictures.stamps(packages / "deb"):
        yield "stamps" if picture.held_out else "training_stamps", picture
    for picture in pictures.emoji(packages / "npm"):
        if picture.held_out:
            yield "vendor", picture
        elif picture.source == DEVELOPMENT_VENDOR:
            yield "development_vendor", picture

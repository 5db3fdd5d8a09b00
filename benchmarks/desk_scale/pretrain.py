"""One pre-training of the small CLIP on one arm's captions, then a fine-tuning on stamps, and its scores after each."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.desk_scale.encoder import SmallClip, contrastive_loss, encode
from benchmarks.desk_scale.held_out import PictureSet
from hf_mllm_aug import schema
from hf_mllm_aug.retrieval import Hits, retrieval_hits

KS = (1, 5, 10)
_MEAN, _DEVIATION = 0.7, 0.35  # of drawings on white


@dataclasses.dataclass(frozen=True)
class Settings:
    """How every arm is trained. Chosen on the development sets (see `held_out`), the same for all arms.

    Args:
        epochs: Visits of each picture, in each of which one of its captions is drawn.
        batch: Pairs a step.
        learning_rate: At its peak; a linear rise, then half a cosine.
        weight_decay: Of matrices and filters.
        smoothing: Of the loss's targets: captions are noisy, and other pairs of a batch may fit as well.
        side: Pixels.
        early_side: Pixels in the first part of the training, which is most of it: small pictures cost less.
        early_part: That part.
        width: Of the picture tower.
        tuning_epochs: Visits of each training stamp in fine-tuning.
        tuning_rate: Its peak learning rate.
    """

    epochs: int = 24
    batch: int = 128
    learning_rate: float = 8e-4
    weight_decay: float = 0.5
    smoothing: float = 0.2
    side: int = 48
    early_side: int = 32
    early_part: float = 0.7
    width: int = 48
    tuning_epochs: int = 8
    tuning_rate: float = 5e-4


def view(pixels: Tensor, side: int, generator: torch.Generator | None = None) -> Tensor:
    """Normalised pictures (n, 3, side, side) of uint8 (n, h, w, 3); with a generator, each turned, scaled, moved,
    mirrored and coloured at random.
    """
    pictures = pixels.permute(0, 3, 1, 2).float() / 255
    if generator is None:
        pictures = F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True)
    else:
        count = len(pictures)

        def spread(amount: float, *shape: int) -> Tensor:
            return ((torch.rand(count, *shape, generator=generator) * 2 - 1) * amount).to(pictures.device)

        angle, size, aspect = spread(0.13), spread(0.15).exp(), spread(0.06).exp()
        mirror = spread(1.0).sign()
        matrix = torch.zeros(count, 2, 3, device=pictures.device)
        matrix[:, 0, 0] = angle.cos() * size * aspect * mirror
        matrix[:, 0, 1] = -angle.sin() * size
        matrix[:, 1, 0] = angle.sin() * size * mirror
        matrix[:, 1, 1] = angle.cos() * size / aspect
        matrix[:, :, 2] = spread(0.075, 2)
        grid = F.affine_grid(matrix, [count, 3, side, side], align_corners=False)
        pictures = 1 - F.grid_sample(1 - pictures, grid, align_corners=False)  # white beyond the edges
        grey = pictures.mean(1, keepdim=True)
        pictures = (grey + (pictures - grey) * (1 + spread(0.3, 1, 1, 1))) * (1 + spread(0.15, 1, 1, 1))
        pictures = pictures.clamp(0, 1)
    return ((pictures - _MEAN) / _DEVIATION).to(memory_format=torch.channels_last)


def train(
    model: SmallClip,
    tokenizer: Tokenizer,
    pixels: Tensor,
    draw: Callable[[int], Sequence[str]],
    settings: Settings,
    *,
    epochs: int,
    learning_rate: float,
    early_part: float,
    seed: int,
) -> float:
    """Train a model in place; returns the mean loss of its last epoch.

    Args:
        model: On the device that it trains on.
        tokenizer: Of its captions.
        pixels: (n, h, w, 3) uint8, on the same device.
        draw: The caption of every picture in an epoch.
        settings: Of the study; the arguments after it take the place of its own.
        epochs: Visits of each picture.
        learning_rate: At its peak.
        early_part: The part of the steps at ``settings.early_side``.
        seed: Of order and distortions.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    per_epoch = len(pixels) // settings.batch
    steps = per_epoch * epochs
    model.train()
    losses: list[float] = []
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            losses.clear()
            order = torch.randperm(len(pixels), generator=generator)
            texts = list(draw(epoch))
            ids = encode(tokenizer, texts).to(pixels.device)
            numbers: dict[str, int] = {}
            same = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts], device=pixels.device)
        rows = order[place * settings.batch : (place + 1) * settings.batch].to(pixels.device)
        rise = min(1.0, (step + 1) / max(1.0, min(100.0, steps / 10)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / steps))
        side = settings.early_side if step < early_part * steps else settings.side
        seen = model.embed_pictures(view(pixels[rows], side, generator))
        read = model.embed_captions(ids[rows])
        loss = contrastive_loss(model.scale.exp() * seen @ read.T, same[rows], settings.smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            model.scale.clamp_(max=math.log(100))
        losses.append(loss.item())
    return sum(losses) / max(1, len(losses))


@torch.no_grad()
def score(model: SmallClip, tokenizer: Tokenizer, pictures: PictureSet, side: int) -> Hits:
    """Retrieval both ways among the pictures of a set and their captions, at `KS`."""
    model.eval()
    device = model.scale.device
    chunks = torch.from_numpy(pictures.pixels).to(device).split(256)
    seen = torch.cat([model.embed_pictures(view(chunk, side)) for chunk in chunks])
    ids = encode(tokenizer, pictures.captions).to(device)
    read = torch.cat([model.embed_captions(chunk) for chunk in ids.split(256)])
    return retrieval_hits(seen, read, ks=KS, normalize=True)


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run trains and scores on.

    Args:
        columns: The arm's captions, see `arms.captions`.
        draw: The caption of every row in an epoch.
        pixels: Of every row, (n, h, w, 3) uint8.
        seen: Which rows have a picture; the others take no part in any arm.
        tokenizer: Of all arms.
        sets: See `held_out.load`.
        scored: The sets that are scored.
        tuned_on: The set that the model is fine-tuned on afterwards; None leaves that out.
        seed: Of initialisation, order and distortions; captions are drawn by it, too.
        device: Of torch.
    """

    columns: Mapping[str, list[str | None]]
    draw: Callable[[int], list[str | None]]
    pixels: npt.NDArray[np.uint8]
    seen: npt.NDArray[np.bool_]
    tokenizer: Tokenizer
    sets: Mapping[str, PictureSet]
    scored: Sequence[str]
    tuned_on: str | None
    seed: int
    device: str


def run_arm(run: Run, settings: Settings, out: Path) -> None:
    """Pre-train, score, fine-tune, score; then write the hits and a record of it, whole or not at all.

    Args:
        run: What to train and score on.
        settings: Of the study.
        out: The archive to write (.npz), see `load_hits`.
    """
    started = time.perf_counter()
    torch.manual_seed(run.seed)
    model = SmallClip(run.tokenizer.get_vocab_size(), settings.width).to(run.device, memory_format=torch.channels_last)
    rows = np.flatnonzero(run.seen)
    hits: dict[str, Hits] = {}

    def drawn(epoch: int) -> list[str]:
        texts = run.draw(epoch)
        return [texts[row] or "" for row in rows]

    def learn(pixels: npt.NDArray[np.uint8], captions: Callable[[int], Sequence[str]], **how: Any) -> float:
        whole = torch.from_numpy(pixels).to(run.device)
        return train(model, run.tokenizer, whole, captions, settings, seed=run.seed, **how)

    def scores(stage: str) -> None:
        for name in run.scored:
            hits[f"{stage}.{name}"] = score(model, run.tokenizer, run.sets[name], settings.side)

    record = {
        "loss": learn(
            run.pixels[rows],
            drawn,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            early_part=settings.early_part,
        )
    }
    scores("zero_shot")
    if run.tuned_on is not None:
        own = run.sets[run.tuned_on]
        record["tuned_loss"] = learn(
            own.pixels,
            lambda _: own.captions,
            epochs=settings.tuning_epochs,
            learning_rate=settings.tuning_rate,
            early_part=0.0,
        )
        scores("fine_tuned")
    record["words"] = _mean_words(run.columns)
    record["seconds"] = time.perf_counter() - started
    arrays = {f"{name}.pictures": found.image_to_text for name, found in hits.items()}
    arrays |= {f"{name}.captions": found.text_to_image for name, found in hits.items()}
    part = out.with_suffix(".part.npz")
    np.savez_compressed(part, record=np.array(json.dumps(record)), **arrays)
    part.rename(out)


def _mean_words(columns: Mapping[str, Sequence[str | None]]) -> float:
    """The mean number of words of an arm's new captions, or of the raw ones where there are no others."""
    used = [texts for name, texts in columns.items() if name.startswith(schema.CAPTION_PREFIX)]
    counts = [len(text.split()) for texts in used or [columns[schema.CAPTION]] for text in texts if text]
    return float(np.mean(counts))


@dataclasses.dataclass(frozen=True)
class Scored:
    """A finished run: its record and, by stage and set (``zero_shot.vendor``), its hits."""

    record: dict[str, float]
    hits: dict[str, Hits]


def load_hits(file: Path) -> Scored:
    """Read what `run_arm` wrote."""
    with np.load(file) as archive:
        names = [name.removesuffix(".pictures") for name in archive if name.endswith(".pictures")]
        hits = {
            name: Hits(
                archive[f"{name}.pictures"],
                archive[f"{name}.captions"],
                np.arange(len(archive[f"{name}.captions"])),
                KS,
            )
            for name in names
        }
        return Scored(json.loads(str(archive["record"])), hits)

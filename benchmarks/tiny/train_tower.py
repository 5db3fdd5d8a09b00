"""First stage of the miniatures: train the vision tower that they share, without any language (CPU, two cores, hours).

    python -m benchmarks.tiny.pictures --fetch /tmp/pictures --out /tmp/pictures.npz
    python -m benchmarks.tiny.teacher --pictures /tmp/pictures.npz --out /tmp/teacher.npy
    python -m benchmarks.tiny.train_tower --pictures /tmp/pictures.npz --teacher /tmp/teacher.npy --out /tmp/tower

Three losses act on the class token through heads that are thrown away afterwards: the label as one class among all
labels, the content words of label and category as a bag, and the features that an ImageNet network sees in the clean
picture. The first acts on the mean of the patches too, since Otter and Qwen-VL read patches alone. Bags of words are
what unseen stamps and new combinations ("woman running") need; classes are what an unseen hand of a seen concept needs.
Held-out pictures are never loaded.

A run that was stopped goes on from ``--out``. ``--start FOLDER`` takes the averaged weights of another run with a
fresh schedule; ``training_tower.json`` lists every stage that led to the weights.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionModel

from benchmarks.tiny.distortions import distort, normalise
from benchmarks.tiny.schedule import share
from benchmarks.tiny.texts import content_words, label
from benchmarks.tiny.tower import new_tower, vision_states

log = logging.getLogger("tiny.tower")

# A mirror image of these means something else, or does not exist.
ONE_WAY = (
    "flag", "arrow", "alphanum", "keycap", "geometric", "symbol", "zodiac", "time", "hand", "av", "currency", "math",
    "punctuation", "warning", "gender", "religion", "money", "alphabets", "music", "roadsigns", "book", "writing",
    "sign",
)  # fmt: skip


class Drawings(torch.utils.data.IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """The training pictures with their classes, words and features; the held-out ones are not read."""

    def __init__(
        self, pictures: Path, teacher: Path, stamp_weight: float, batch: int, seed: int, strength: float
    ) -> None:
        self.batch, self.seed, self.strength = batch, seed, strength
        with np.load(pictures) as archive:
            train = ~archive["held_out"]
            self.pixels = torch.from_numpy(archive["pixels"][train])
            captions, categories = archive["caption"][train].tolist(), archive["category"][train].tolist()
            sources = archive["source"][train]
        self.features = F.normalize(torch.from_numpy(np.load(teacher)).float(), dim=1)
        labels = [label(caption) for caption in captions]
        self.names = sorted({name.lower() for name in labels})
        index = {name: row for row, name in enumerate(self.names)}
        self.classes = torch.tensor([index[name.lower()] for name in labels])
        bags = [content_words(f"{name} {category}") for name, category in zip(labels, categories, strict=True)]
        self.words = sorted(word for word, count in Counter(itertools.chain(*bags)).items() if count > 1)
        column = {word: row for row, word in enumerate(self.words)}
        self.bags = torch.zeros(len(bags), len(self.words))
        for row, bag in enumerate(bags):
            self.bags[row, [column[word] for word in bag if word in column]] = 1
        self.bags = F.normalize(self.bags, p=1, dim=1)
        self.may_flip = torch.tensor(
            [
                not any(word in category for word in ONE_WAY)
                and "left" not in name.lower()
                and "right" not in name.lower()
                for category, name in zip(categories, labels, strict=True)
            ]
        )
        self.weights = torch.from_numpy(np.where(sources == "stamps", stamp_weight, 1.0))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless batches of row numbers and normalised views, (batch,) and (batch, 3, side, side)."""
        torch.manual_seed(self.seed)
        while True:
            rows = torch.multinomial(self.weights, self.batch, True)
            rgba = self.pixels[rows].permute(0, 3, 1, 2).float() / 255
            yield rows, normalise(distort(rgba, self.may_flip[rows], self.strength))


class Trainer(nn.Module):
    """The tower, its three heads, and the losses of one batch."""

    def __init__(self, drawings: Drawings) -> None:
        super().__init__()
        self.drawings = drawings
        self.tower = new_tower()
        self.tower.set_attn_implementation("eager")  # for some 30 tokens, faster on a CPU than the fused form
        width = self.tower.config.hidden_size
        self.classify = nn.Linear(width, len(drawings.names))
        self.bag = nn.Linear(width, len(drawings.words))
        self.imitate = nn.Linear(width, drawings.features.shape[1])

    def losses(self, rows: torch.Tensor, pixel_values: torch.Tensor, drop: float) -> dict[str, torch.Tensor]:
        """Losses of the rows: ``classify``, ``patches``, ``bag``, ``imitate``; and ``hits``, the share of classes
        found.
        """
        drawings = self.drawings
        with torch.autocast("cpu", torch.bfloat16):
            states, token = vision_states(self.tower, pixel_values, drop)
            patches = self.tower.post_layernorm(states[:, 1:].mean(1))
            logits, words, seen = self.classify(token).float(), self.bag(token).float(), self.imitate(token).float()
            by_patches = self.classify(patches).float()
        return {
            "classify": F.cross_entropy(logits, drawings.classes[rows], label_smoothing=0.1),
            "patches": F.cross_entropy(by_patches, drawings.classes[rows], label_smoothing=0.1),
            "bag": F.cross_entropy(words, drawings.bags[rows]),
            "imitate": 1 - F.cosine_similarity(seen, drawings.features[rows]).mean(),
            "hits": (logits.argmax(1) == drawings.classes[rows]).float().mean(),
        }

    def optimizers(self, rate: float) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the tower's layers, AdamW for all else; ``pace`` scales a group's rate."""
        named = list(self.named_parameters())
        matrices = [weights for name, weights in named if weights.ndim == 2 and "encoder.layers." in name]
        chosen = {id(weights) for weights in matrices}
        others = [weights for _, weights in named if id(weights) not in chosen]
        return [
            torch.optim.Muon(
                [{"params": matrices, "pace": 2.0}],
                lr=rate,
                weight_decay=0.05,
                ns_steps=4,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [
                    {"params": [w for w in others if w.ndim >= 2], "weight_decay": 0.05, "pace": 1.0},
                    {"params": [w for w in others if w.ndim < 2], "weight_decay": 0.0, "pace": 1.0},
                ],
                lr=rate,
                betas=(0.9, 0.98),
                fused=True,
            ),
        ]

    def take(self, kept: dict[str, torch.Tensor], names: list[str], words: list[str]) -> None:
        """Weights of an earlier stage; head rows move by class name and word, new ones stay fresh."""
        kept = dict(kept)
        for head, old, new in (("classify", names, self.drawings.names), ("bag", words, self.drawings.words)):
            at = {name: row for row, name in enumerate(old)}
            pairs = [(row, at[name]) for row, name in enumerate(new) if name in at]
            for part in ("weight", "bias"):
                fresh = getattr(getattr(self, head), part).detach().clone()
                if pairs:
                    to, source = (list(side) for side in zip(*pairs, strict=True))
                    fresh[to] = kept[f"{head}.{part}"][source]
                kept[f"{head}.{part}"] = fresh
        self.load_state_dict(kept)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    drawings = Drawings(args.pictures, args.teacher, args.stamp_weight, args.batch, args.seed, args.strength)
    trainer = Trainer(drawings)
    size = sum(weights.numel() for weights in trainer.tower.parameters())
    sizes = (len(drawings.classes), len(drawings.names), len(drawings.words), size / 1e6)
    log.info("%d drawings, %d classes, %d words, %.2f M parameters in the tower", *sizes)
    state, stages = args.out / "state.pt", []
    before, first = 0.0, 0
    kept = (
        torch.load(state if state.exists() else args.start / "state.pt", weights_only=True)
        if (state.exists() or args.start)
        else None
    )
    if kept:
        trainer.take(kept["average" if not state.exists() else "trainer"], kept["names"], kept["words"])
        stages = kept["stages"]
    average = copy.deepcopy(trainer).eval()
    optimizers = trainer.optimizers(args.rate)
    if kept and state.exists():  # a run that was stopped goes on; its views of the pictures are other ones
        average.load_state_dict(kept["average"])
        for optimizer, of_optimizer in zip(optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(of_optimizer)
        before, first = kept["minutes"], kept["step"]
        stages = stages[:-1]
        drawings.seed += first
    settings = {name: value for name, value in vars(args).items() if not isinstance(value, Path | None)}

    def keep(step: int, minutes: float) -> None:
        stage = settings | {"steps": step, "pictures_seen": step * args.batch, "minutes_taken": round(minutes, 1)}
        save(average.tower, args.out)
        kept = {"trainer": trainer.state_dict(), "average": average.state_dict(), "minutes": minutes, "step": step}
        kept |= {"names": drawings.names, "words": drawings.words, "stages": [*stages, stage]}
        kept["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
        torch.save(kept, state.with_suffix(".part"))
        state.with_suffix(".part").rename(state)
        (args.out / "training_tower.json").write_text(json.dumps([*stages, stage], indent=2) + "\n")

    start = saved = time.monotonic()
    minutes, step = before, first
    batches = torch.utils.data.DataLoader(drawings, batch_size=None, num_workers=1, prefetch_factor=4)
    for step, (rows, pixel_values) in zip(itertools.count(first + 1), batches, strict=False):
        minutes = before + (time.monotonic() - start) / 60
        done = minutes / args.minutes
        if done >= 1:
            break
        rate = args.rate * share(step, done, 150)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["pace"]
        losses = trainer.losses(rows, pixel_values, drop=0.5 if done < 0.75 else 0.25 if done < 0.93 else 0.0)
        total = losses["classify"] + args.patches * losses["patches"]
        total = total + args.bag * losses["bag"] + args.imitate * losses["imitate"]
        total.backward()
        nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), trainer.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        if step % 50 == 0:
            figures = {name: round(value.item(), 3) for name, value in losses.items()}
            log.info("%s", json.dumps({"step": step, "minutes": round(minutes, 1), "rate": round(rate, 6)} | figures))
        if time.monotonic() - saved > 240:
            keep(step, minutes)
            saved = time.monotonic()
    keep(step, minutes)


def save(tower: CLIPVisionModel, folder: Path) -> None:
    """The tower alone, as `CLIPVisionModel.from_pretrained` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tower.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="archive of benchmarks.tiny.pictures")
    parser.add_argument("--teacher", type=Path, required=True, help="array of benchmarks.tiny.teacher")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--start", type=Path, help="folder of another run to take the weights of")
    parser.add_argument("--minutes", type=float, default=150, help="wall-clock time; the learning rate falls with it")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--patches", type=float, default=0.5, help="weight of the class loss of the mean patch")
    parser.add_argument("--bag", type=float, default=0.3, help="weight of the loss of the words")
    parser.add_argument("--imitate", type=float, default=1.5, help="weight of the ImageNet loss")
    parser.add_argument("--stamp-weight", type=float, default=3.0, help="how often a stamp is drawn, an emoji being 1")
    parser.add_argument("--strength", type=float, default=0.6, help="of the distortions, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parser.parse_args())


if __name__ == "__main__":
    main()

"""Train ``tiny-llava``, the embedded miniature, on open drawings (CPU, two cores, about an hour and a half).

    python -m benchmarks.tiny.pictures --fetch /tmp/pictures --out /tmp/pictures.npz
    python -m benchmarks.tiny.teacher --pictures /tmp/pictures.npz --out /tmp/teacher.npy
    python -m benchmarks.tiny.train --pictures /tmp/pictures.npz --teacher /tmp/teacher.npy --out /tmp/tiny-llava
    python -m benchmarks.tiny.train_words --pictures /tmp/pictures.npz --llava /tmp/tiny-llava --out /tmp/tiny-llava-2
    python -m benchmarks.tiny.score --pictures /tmp/pictures.npz --model /tmp/tiny-llava-2

One loss is the captioner's own: the next token of the label and, with less weight, of a second sentence that says what
the picture is filed under. Two more act on the class token alone and are thrown away afterwards: the label as one of
some 2,400 classes, and the features that an ImageNet network sees in the clean picture. Held-out pictures are never
loaded.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.tiny.distortions import distort, normalise
from benchmarks.tiny.model import build, save, vision_states
from benchmarks.tiny.texts import IMAGE, PROMPT, label, target, train_tokenizer

log = logging.getLogger("tiny.train")

# A mirror image of these means something else, or does not exist.
ONE_WAY = (
    "flag", "arrow", "alphanum", "keycap", "geometric", "symbol", "zodiac", "time", "hand", "av", "currency", "math",
    "punctuation", "warning", "gender", "religion", "money", "alphabets", "music", "roadsigns", "book", "writing",
    "sign",
)  # fmt: skip


LENGTH = 22  # tokens said at most in training; the second sentences of a few are cut


class Drawings(torch.utils.data.IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """The training pictures with their words; the held-out ones are not read."""

    def __init__(
        self, pictures: Path, teacher: Path, stamp_weight: float, batch: int, seed: int, strength: float
    ) -> None:
        self.batch, self.seed, self.strength = batch, seed, strength
        with np.load(pictures) as archive:
            train = ~archive["held_out"]
            self.pixels = torch.from_numpy(archive["pixels"][train])
            captions, categories = archive["caption"][train].tolist(), archive["category"][train].tolist()
            sources = archive["source"][train]
        self.teacher = F.normalize(torch.from_numpy(np.load(teacher)).float(), dim=1)
        self.targets = [target(*pair) for pair in zip(captions, categories, strict=True)]
        labels = [label(caption) for caption in captions]
        classes = {name: index for index, name in enumerate(sorted({name.lower() for name in labels}))}
        self.classes = torch.tensor([classes[name.lower()] for name in labels])
        self.n_classes = len(classes)
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


class Trainer:
    """One step over a batch of drawings."""

    def __init__(self, drawings: Drawings, seed: int) -> None:
        torch.manual_seed(seed)
        self.drawings = drawings
        texts = [PROMPT.replace(IMAGE, " ")] + [first + second for first, second in drawings.targets]
        self.tokenizer = train_tokenizer(texts)
        self.model = build(self.tokenizer)
        self.model.set_attn_implementation("eager")  # for some 30 tokens, faster on a CPU than the fused form
        width = self.model.config.vision_config.hidden_size
        self.classify = nn.Linear(width, drawings.n_classes)
        self.imitate = nn.Linear(width, drawings.teacher.shape[1])
        before, after = PROMPT.split(IMAGE)
        self.before = self.tokenizer(before)["input_ids"]
        self.after = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        self.spoken = [
            (
                self.tokenizer(first, add_special_tokens=False)["input_ids"],
                self.tokenizer(second, add_special_tokens=False)["input_ids"] + [end],
            )
            for first, second in drawings.targets
        ]

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        return {name: getattr(self, name).state_dict() for name in ("model", "classify", "imitate")}

    def load(self, state: dict[str, dict[str, torch.Tensor]]) -> None:
        for name, weights in state.items():
            getattr(self, name).load_state_dict(weights)

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.classify.parameters(), *self.imitate.parameters()]

    def optimizers(self, rate: float) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the vision tower's layers, AdamW for all else; ``pace`` scales a group's rate."""
        matrices = [
            parameter
            for name, parameter in self.model.named_parameters()
            if parameter.ndim == 2 and "vision_tower.encoder.layers." in name
        ]
        chosen = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in self.parameters() if id(parameter) not in chosen]
        plain = [parameter for parameter in others if parameter.ndim < 2]
        decayed = [parameter for parameter in others if parameter.ndim >= 2]
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
                    {"params": decayed, "weight_decay": 0.05, "pace": 1.0},
                    {"params": plain, "weight_decay": 0.0, "pace": 1.0},
                ],
                lr=rate,
                betas=(0.9, 0.98),
                fused=True,
            ),
        ]

    def loss(
        self, rows: torch.Tensor, pixel_values: torch.Tensor, drop: float, tail_weight: float = 0.3
    ) -> dict[str, torch.Tensor]:
        """Losses of the rows: ``say``, ``classify``, ``imitate``, and ``hits``, the share of classes found."""
        drawings = self.drawings
        with torch.autocast("cpu", torch.bfloat16):
            states, token = vision_states(self.model, pixel_values, drop)
            logits = self.classify(token).float()
            seen = self.imitate(token).float()
            half = len(rows) // 2  # the tower is the slow learner: words for half of what it sees are enough
            pictures = self.model.model.multi_modal_projector(states[:half])
            say = self._say(pictures, [self.spoken[row] for row in rows[:half].tolist()], tail_weight)
        return {
            "say": say,
            "classify": F.cross_entropy(logits, drawings.classes[rows], label_smoothing=0.1),
            "imitate": 1 - F.cosine_similarity(seen, drawings.teacher[rows]).mean(),
            "hits": (logits.argmax(1) == drawings.classes[rows]).float().mean(),
        }

    def _say(
        self, pictures: torch.Tensor, spoken: list[tuple[list[int], list[int]]], tail_weight: float
    ) -> torch.Tensor:
        n, length = len(spoken), LENGTH
        ids = torch.full((n, length), self.tokenizer.pad_token_id)
        weights = torch.zeros(n, length)
        for row, (first, second) in enumerate(spoken):
            said = torch.tensor(first + second)[:length]
            ids[row, : len(said)] = said
            weights[row, : len(said)] = tail_weight
            weights[row, : len(first)] = 1
        language = self.model.model.language_model
        embed = language.embed_tokens
        before, after = (embed(torch.tensor(part)).expand(n, -1, -1) for part in (self.before, self.after))
        inputs = torch.cat([before, pictures.to(before.dtype), after, embed(ids)], 1)
        hidden = language(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -length - 1 : -1]
        logits = self.model.lm_head(hidden).float()
        losses = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(n, length)
        return (losses * weights).sum() / weights.sum()


def train(args: argparse.Namespace) -> None:
    drawings = Drawings(args.pictures, args.teacher, args.stamp_weight, args.batch, args.seed, args.strength)
    trainer = Trainer(drawings, args.seed)
    size = sum(parameter.numel() for parameter in trainer.model.parameters())
    log.info("%d drawings, %d classes, %.2f M parameters", len(drawings.targets), drawings.n_classes, size / 1e6)
    optimizers = trainer.optimizers(args.rate)
    average = copy.deepcopy(trainer.model).eval()
    state = args.out / "state.pt"
    before, first = 0.0, 0
    if state.exists():  # a run that was stopped goes on; its views of the pictures are other ones
        kept = torch.load(state, weights_only=True)
        trainer.load(kept["trainer"])
        average.load_state_dict(kept["average"])
        for optimizer, of_optimizer in zip(optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(of_optimizer)
        before, first = kept["minutes"], kept["step"]
        drawings.seed += first

    def keep(step: int, minutes: float) -> None:
        save(average, trainer.tokenizer, args.out)
        kept = {"trainer": trainer.state(), "average": average.state_dict()}
        kept["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
        torch.save(kept | {"minutes": minutes, "step": step}, state.with_suffix(".part"))
        state.with_suffix(".part").rename(state)

    start = saved = time.monotonic()
    minutes, step = before, first
    batches = torch.utils.data.DataLoader(drawings, batch_size=None, num_workers=1, prefetch_factor=4)
    for step, (rows, pixel_values) in zip(itertools.count(first + 1), batches, strict=False):
        minutes = before + (time.monotonic() - start) / 60
        done = minutes / args.minutes
        if done >= 1:
            break
        rate = args.rate * min(1, step / 150) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["pace"]
        losses = trainer.loss(rows, pixel_values, drop=0.5 if done < 0.65 else 0.25 if done < 0.9 else 0.0)
        total = losses["say"] + args.classify * losses["classify"] + args.imitate * losses["imitate"]
        total.backward()
        nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), trainer.model.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        if step % 25 == 0:
            figures = {name: round(value.item(), 3) for name, value in losses.items()}
            log.info("%s", json.dumps({"step": step, "minutes": round(minutes, 1), "rate": round(rate, 6)} | figures))
        if time.monotonic() - saved > 240:
            keep(step, minutes)
            saved = time.monotonic()
    keep(step, minutes)
    settings = {name: getattr(args, name) for name in ("minutes", "batch", "rate", "classify", "imitate", "seed")}
    record = settings | {"steps": step, "pictures_seen": step * args.batch, "torch": torch.__version__}
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="archive of benchmarks.tiny.pictures")
    parser.add_argument("--teacher", type=Path, required=True, help="array of benchmarks.tiny.teacher")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=90, help="wall-clock time; the learning rate falls with it")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--classify", type=float, default=1.0, help="weight of the class loss")
    parser.add_argument("--imitate", type=float, default=1.0, help="weight of the ImageNet loss")
    parser.add_argument("--stamp-weight", type=float, default=3.0, help="how often a stamp is drawn, an emoji being 1")
    parser.add_argument("--strength", type=float, default=0.6, help="of the distortions, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parser.parse_args())


if __name__ == "__main__":
    main()

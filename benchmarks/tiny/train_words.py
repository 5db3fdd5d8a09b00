"""Second stage of the miniatures: with the trained tower frozen, teach connector and language model the words.

    P=/tmp/pictures.npz
    python -m benchmarks.tiny.train_words --miniature llava --pictures $P --tower /tmp/tower --out /tmp/tiny-llava
    python -m benchmarks.tiny.score --pictures $P --model /tmp/tiny-llava

The tower's states are computed once for every view of a picture, so a step costs the small parts alone. Most steps
pass a few patches, the last ones all of them. ``--words FOLDER`` goes on with the connector and the language model of
another run, on this tower. Held-out pictures are never loaded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, CLIPVisionModel, GenerationConfig, PreTrainedModel

from benchmarks.tiny.adapt import adapt
from benchmarks.tiny.distortions import distort, normalise
from benchmarks.tiny.schedule import share
from benchmarks.tiny.texts import IMAGE, STYLES, label, mood, train_tokenizer

log = logging.getLogger("tiny.words")
LENGTH = 18  # tokens said at most in training; the second sentences of a few are cut


def views(mini: Any, model: PreTrainedModel, pixels: torch.Tensor, count: int, strength: float) -> torch.Tensor:
    """The frozen tower's states, (views, n, ...) in bfloat16: the clean picture first, then random views of it."""
    seen = []
    for view in range(count):
        parts = []
        for chunk in pixels.split(256):
            rgba = chunk.permute(0, 3, 1, 2).float() / 255
            rgb = distort(rgba, torch.zeros(len(rgba), dtype=torch.bool), strength if view else 0.0)
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(mini.see(model, normalise(rgb)).bfloat16())
        seen.append(torch.cat(parts))
        log.info("view %d of %d", view + 1, count)
    return torch.stack(seen)


def spoken(tokenizer: Any, targets: list[tuple[str, str]], tail_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of what is to be said, and how much each counts: (n, LENGTH) each."""
    ids = torch.full((len(targets), LENGTH), tokenizer.pad_token_id)
    care = torch.zeros(len(targets), LENGTH)
    for row, (first, second) in enumerate(targets):
        name = tokenizer(first, add_special_tokens=False)["input_ids"]
        rest = tokenizer(second, add_special_tokens=False)["input_ids"] if second else []
        said = (name + rest + [tokenizer.eos_token_id])[:LENGTH]
        ids[row, : len(said)] = torch.tensor(said)
        care[row, : len(said)] = tail_weight if rest else 1.0
        care[row, : len(name)] = 1.0
    return ids, care


class Relatives:
    """Which drawings show the same thing, for differences between hands.

    A drawing by an unseen hand lies beside those of the same thing that training saw, about as far from them as they
    lie from each other. So a state is moved by the difference between two drawings of something else.

    Args:
        names: (n,) what each drawing shows.
    """

    def __init__(self, names: list[str]) -> None:
        number = {name: row for row, name in enumerate(sorted(set(names)))}
        classes = torch.tensor([number[name] for name in names])
        self._order = classes.argsort()
        counts = torch.bincount(classes)
        self._first = (counts.cumsum(0) - counts)[classes]
        self._count = counts[classes]
        self._several = torch.nonzero(self._count > 1).flatten()

    def pairs(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of drawings of the same thing, two by two: (count,) each."""
        one = self._several[torch.randint(len(self._several), (count,))]
        step = (torch.rand(count) * self._count[one]).long()
        return one, self._order[self._first[one] + step]


def save(mini: Any, model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write weights (half precision), configuration, tokenizer and processor files into ``folder``."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    tied = {"lm_head.weight"} if model.config.get_text_config().tie_word_embeddings else set()
    half = {name: tensor.half() for name, tensor in model.state_dict().items() if name not in tied}
    model.save_pretrained(folder, state_dict=half)
    mini.processor(tokenizer).save_pretrained(folder)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    mini = importlib.import_module(f"benchmarks.tiny.miniatures.{args.miniature}")
    with np.load(args.pictures) as archive:
        train = ~archive["held_out"]
        pixels = torch.from_numpy(archive["pixels"][train])
        words = list(zip(archive["caption"][train].tolist(), archive["category"][train].tolist(), strict=True))
        weights = torch.from_numpy(np.where(archive["source"][train] == "stamps", args.stamp_weight, 1.0))
    style = STYLES[args.miniature]
    targets = [style(caption, category, mood(rgba)) for (caption, category), rgba in zip(words, pixels, strict=True)]
    if args.words:
        tokenizer = AutoTokenizer.from_pretrained(args.words)
    else:
        # The prompt so often that it becomes a few pieces.
        texts = [*mini.PROMPT.split(IMAGE)] * 1000 + [first + second for first, second in targets]
        tokenizer = train_tokenizer(texts, **mini.TOKENS)
    tower = CLIPVisionModel.from_pretrained(args.tower, dtype=torch.float32)
    model = mini.build(tokenizer, tower)
    model.set_attn_implementation("eager")  # for few tokens, faster on a CPU than the fused form
    if args.adapt and hasattr(mini, "patches"):
        adapt(mini, model, tower, pixels, minutes=args.adapt, strength=args.strength)
    seen = views(mini, model.eval(), pixels, args.views, args.strength)
    mini.start(model, seen[0])
    if args.words:
        kept = type(model).from_pretrained(args.words, dtype=torch.float32)
        for mine, theirs in zip(mini.learned(model), mini.learned(kept), strict=True):
            mine.data.copy_(theirs.data)
    size = sum(weights.numel() for weights in model.parameters())
    log.info("%d drawings, %.2f M parameters", len(words), size / 1e6)

    prompt = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in mini.PROMPT.split(IMAGE)]
    if tokenizer.bos_token_id is not None:
        prompt[0].insert(0, tokenizer.bos_token_id)
    prompt = [torch.tensor(part, dtype=torch.long) for part in prompt]
    relatives = Relatives([label(caption).lower() for caption, _ in words])
    ids, care = spoken(tokenizer, targets, args.tail_weight)
    learned = mini.learned(model)
    optimizer = torch.optim.AdamW(learned, lr=args.rate, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = args.rate * share(step, done, 50)
        rows = torch.multinomial(weights, args.batch)
        states = seen[torch.randint(args.views, (len(rows),)), rows].float()
        one, other = relatives.pairs(len(rows))
        view = torch.randint(args.views, (2, len(rows)))
        apart = (seen[view[0], one] - seen[view[1], other]).float()
        states = states + args.apart * torch.rand(len(rows), 1, 1) * apart
        with torch.autocast("cpu", torch.bfloat16):
            logits = mini.say(model, states, prompt, ids[rows], whole=done > 0.85).float()
        losses = F.cross_entropy(
            logits.flatten(0, 1), ids[rows].flatten(), reduction="none", label_smoothing=args.smoothing
        ).view(len(rows), LENGTH)
        loss = (losses * care[rows]).sum() / care[rows].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            log.info("%s", json.dumps({"step": step, "done": round(done, 2), "say": round(loss.item(), 3)}))
    save(mini, model, tokenizer, args.out)
    settings = {name: value for name, value in vars(args).items() if not isinstance(value, Path | None)}
    stages = json.loads((args.words / "training.json").read_text())["words"] if args.words else []
    towers = json.loads((args.tower / "training_tower.json").read_text())
    record = {"tower": towers, "words": [*stages, settings | {"steps": step}], "torch": torch.__version__}
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--miniature", choices=sorted(STYLES), required=True)
    parser.add_argument("--pictures", type=Path, required=True, help="archive of benchmarks.tiny.pictures")
    parser.add_argument("--tower", type=Path, required=True, help="folder of benchmarks.tiny.train_tower")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--words", type=Path, help="folder of another run to go on from")
    parser.add_argument("--minutes", type=float, default=12, help="wall-clock time; the learning rate falls with it")
    parser.add_argument("--adapt", type=float, default=8, help="minutes for a tower of another architecture to learn")
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--stamp-weight", type=float, default=2.0, help="how often a stamp is drawn, an emoji being 1")
    parser.add_argument("--strength", type=float, default=0.6, help="of the distortions, 0 to 1")
    parser.add_argument("--apart", type=float, default=1.0, help="most of a difference between hands that is added")
    parser.add_argument("--tail-weight", type=float, default=0.1, help="of the second sentence")
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parser.parse_args())


if __name__ == "__main__":
    main()

"""Second stage of ``tiny-llava``: with the trained tower frozen, teach the projector and the language model the words.

    python -m benchmarks.tiny.train_words --pictures /tmp/pictures.npz --llava /tmp/tiny-llava --out /tmp/tiny-llava-2

After the first stage the class token tells concepts apart much better than the language model can say them: the tower's
last states are not normalised, and the projector learned slowly from them. Here the projector starts anew with the
class token's mean and deviation folded in, and the language model goes on from where it was. The tower's states are
computed once a view. Most steps pass the class token and a few patches only, each at the position that it has among
all of them; the last ones pass all. Held-out pictures are never loaded.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from benchmarks.tiny.distortions import distort, normalise
from benchmarks.tiny.model import save, vision_states
from benchmarks.tiny.texts import IMAGE, PROMPT, target

log = logging.getLogger("tiny.words")
LENGTH = 22  # tokens said at most in training


@torch.no_grad()
def states(model: LlavaForConditionalGeneration, pixels: torch.Tensor, strength: float) -> torch.Tensor:
    """The frozen tower's states of one view of each picture, (n, 1 + patches, width) in bfloat16."""
    parts = []
    for chunk in pixels.split(256):
        rgba = chunk.permute(0, 3, 1, 2).float() / 255
        rgb = distort(rgba, torch.zeros(len(rgba), dtype=torch.bool), strength)
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(vision_states(model, normalise(rgb))[0].bfloat16())
    return torch.cat(parts)


@torch.no_grad()
def start_projector(model: LlavaForConditionalGeneration, seen: torch.Tensor) -> None:
    """Fresh projector weights that see the class token with mean 0 and deviation 1."""
    token = seen[:, 0].float()
    mean, deviation = token.mean(0), token.std(0)
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    for layer in (first, second):
        torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        torch.nn.init.zeros_(layer.bias)
    first.weight.div_(deviation)
    first.bias.copy_(-(first.weight @ mean))
    second.weight.mul_(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="archive of benchmarks.tiny.pictures")
    parser.add_argument("--llava", type=Path, required=True, help="checkpoint of the first stage")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--stamp-weight", type=float, default=2.0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(1)
    with np.load(args.pictures) as archive:
        train = ~archive["held_out"]
        pixels = torch.from_numpy(archive["pixels"][train])
        words = list(zip(archive["caption"][train].tolist(), archive["category"][train].tolist(), strict=True))
        weights = torch.from_numpy(np.where(archive["source"][train] == "stamps", args.stamp_weight, 1.0))
    tokenizer = AutoTokenizer.from_pretrained(args.llava)
    model = LlavaForConditionalGeneration.from_pretrained(args.llava, dtype=torch.float32)
    model.set_attn_implementation("eager")
    seen = torch.stack([states(model, pixels, 0.0 if view == 0 else 0.6) for view in range(args.views)])
    log.info("states of %d views", args.views)
    start_projector(model, seen[0])

    before, after = PROMPT.split(IMAGE)
    prefix = torch.tensor(tokenizer(before)["input_ids"])
    suffix = torch.tensor(tokenizer(after, add_special_tokens=False)["input_ids"])
    ids = torch.full((len(words), LENGTH), tokenizer.pad_token_id)
    care = torch.zeros(len(words), LENGTH)
    for row, (first, second) in enumerate(target(*pair) for pair in words):
        name = tokenizer(first, add_special_tokens=False)["input_ids"]
        said = (name + tokenizer(second, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id])[:LENGTH]
        ids[row, : len(said)] = torch.tensor(said)
        care[row, : len(said)] = 0.1
        care[row, : len(name)] = 1.0

    language, projector = model.model.language_model, model.model.multi_modal_projector
    learned = [*language.parameters(), *projector.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=args.rate, weight_decay=0.02, betas=(0.9, 0.98), fused=True)
    patches = seen.shape[2] - 1
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, step / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        rows = torch.multinomial(weights, args.batch)
        kept = torch.randperm(patches)[:12].sort().values + 1 if done < 0.8 else torch.arange(1, patches + 1)
        kept = torch.cat([torch.zeros(1, dtype=torch.long), kept])
        at = len(prefix)
        positions = torch.cat(
            [torch.arange(at), at + kept, at + 1 + patches + torch.arange(len(suffix) + LENGTH)]
        ).expand(len(rows), -1)
        view = torch.randint(args.views, (len(rows),))
        with torch.autocast("cpu", torch.bfloat16):
            pictures = projector(seen[view, rows][:, kept].float())
            embed = language.embed_tokens
            parts = [embed(prefix).expand(len(rows), -1, -1), pictures, embed(suffix).expand(len(rows), -1, -1)]
            inputs = torch.cat([*parts, embed(ids[rows])], 1)
            # Without a mask, the gaps between the positions would be taken for the borders of packed texts.
            whole = torch.ones(inputs.shape[:2], dtype=torch.long)
            hidden = language(
                inputs_embeds=inputs, attention_mask=whole, position_ids=positions, use_cache=False
            ).last_hidden_state
            logits = model.lm_head(hidden[:, -LENGTH - 1 : -1]).float()
        losses = F.cross_entropy(logits.flatten(0, 1), ids[rows].flatten(), reduction="none").view(len(rows), LENGTH)
        loss = (losses * care[rows]).sum() / care[rows].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            log.info("%s", json.dumps({"step": step, "done": round(done, 2), "say": round(loss.item(), 3)}))
    save(model, tokenizer, args.out)
    record = {"minutes": args.minutes, "steps": step, "batch": args.batch, "rate": args.rate, "views": args.views}
    (args.out / "training_words.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Train ``tiny-clip``, the small encoder that the demo scores with, on the training pictures of ``tiny-llava``.

    python -m benchmarks.tiny.train_clip --pictures /tmp/pictures.npz --llava /tmp/tiny-llava --out /tmp/tiny-clip

Its picture tower is a copy of tiny-llava's and stays as it is; a projection of it and a text tower are trained to match
a picture and its label (CLIP, arXiv 2103.00020). Drawings of one concept by several hands share a label: all of them in
a batch count as right. Held-out pictures are never loaded.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from benchmarks.tiny.distortions import distort, normalise
from benchmarks.tiny.miniatures.llava import processor
from benchmarks.tiny.texts import END, IMAGE, PAD, START, UNKNOWN, label, train_tokenizer
from benchmarks.tiny.tower import settings

log = logging.getLogger("tiny.clip")
LENGTH = 24  # tokens


def build(llava: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> CLIPModel:
    """A CLIP whose picture tower is the LLaVA's, with fresh text tower and projections."""
    vision = settings(llava.model.vision_tower) | {"projection_dim": 128}
    text = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": 128,
    }
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=128))
    model.vision_model.load_state_dict(llava.model.vision_tower.state_dict())
    return model


@torch.no_grad()
def see(model: CLIPModel, pixels: torch.Tensor, views: int) -> torch.Tensor:
    """The frozen tower's class tokens, (views, n, width): the clean picture first, then random views of it."""
    seen = []
    for view in range(views):
        parts = []
        for chunk in pixels.split(256):
            rgba = chunk.permute(0, 3, 1, 2).float() / 255
            rgb = distort(rgba, torch.zeros(len(rgba), dtype=torch.bool), 0.0 if view == 0 else 1.0)
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(model.vision_model(normalise(rgb)).pooler_output.float())
        seen.append(torch.cat(parts))
        log.info("view %d of %d", view + 1, views)
    return torch.stack(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="archive of benchmarks.tiny.pictures")
    parser.add_argument("--llava", type=Path, required=True, help="trained tiny-llava")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    with np.load(args.pictures) as archive:
        train = ~archive["held_out"]
        pixels, captions = torch.from_numpy(archive["pixels"][train]), archive["caption"][train].tolist()
    labels = [label(caption) for caption in captions]
    # CLIP's text model takes an end token of id 2 for a sign of old files and looks elsewhere: so it has the last id.
    tokenizer = train_tokenizer(labels, special=(PAD, START, UNKNOWN, IMAGE, END), puts=(START, END))
    llava = LlavaForConditionalGeneration.from_pretrained(args.llava)
    model = build(llava, tokenizer)
    features = see(model.eval(), pixels, args.views)
    ids = tokenizer(labels, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    concepts = {name: number for number, name in enumerate(sorted({name.lower() for name in labels}))}
    concept = torch.tensor([concepts[name.lower()] for name in labels])

    learned = [*model.text_model.parameters(), *model.text_projection.parameters(),
               *model.visual_projection.parameters(), model.logit_scale]  # fmt: skip
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        rows = torch.randint(len(labels), (args.batch,))
        view = torch.randint(args.views, (args.batch,))
        pictures = F.normalize(model.visual_projection(features[view, rows]), dim=1)
        pooled = model.text_model(ids["input_ids"][rows], ids["attention_mask"][rows]).pooler_output
        texts = F.normalize(model.text_projection(pooled), dim=1)
        scores = model.logit_scale.exp() * pictures @ texts.T
        right = (concept[rows][:, None] == concept[rows][None]).float()
        right = right / right.sum(1, keepdim=True)
        loss = (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 100 == 0:
            log.info("%s", json.dumps({"step": step, "loss": round(loss.item(), 3)}))
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.save_pretrained(args.out, state_dict=half)
    CLIPProcessor(processor(AutoTokenizer.from_pretrained(args.llava)).image_processor, tokenizer).save_pretrained(
        args.out
    )


if __name__ == "__main__":
    main()

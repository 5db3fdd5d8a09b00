"""Pre-train a CLIP or SigLIP model on a data set that bears several captions a picture.

At each visit a picture meets its raw caption or one of the new ones (`SampleCaption`); all else is standard contrastive
pre-training. On one machine with eight GPUs, from scratch, with a streamed data set:

    accelerate launch --num_processes 8 --mixed_precision bf16 examples/pretrain_clip.py --out runs/b32 \
        --model-config openai/clip-vit-base-patch32 --dataset you/cc3m-captions --streaming --workers 8 \
        --batch-size 512 --steps 30000 --eval-dataset you/coco-karpathy-test --eval-columns captions --eval-every 2000

The same command goes on from the newest checkpoint after an interruption, with the batch that would have come next.
`log.jsonl` gets a line a step, `model` the result. On two processes of a CPU, which `--cpu` would not start:
`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 ...`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from datasets import Image, IterableDataset, load_dataset
from datasets.distributed import split_dataset_by_node
from gathered_loss import contrastive_loss  # beside this file
from PIL import Image as PilImage
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from hf_mllm_aug import SampleCaption
from hf_mllm_aug.dual_encoders import DualEncoder
from hf_mllm_aug.embedding import evaluate_columns
from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import to_rgb

Batch = dict[str, Any]
# What a run may be gone on with other values of; all else decides which batch comes when, or what is made of it.
FREE = ("out", "steps", "save_every", "eval_dataset", "eval_config", "eval_split", "eval_columns", "eval_every")


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The text above as it stands, then options with their defaults."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    add, model = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model-config", metavar="ID", help="Hub id or folder of a CLIP or SigLIP to train anew")
    model.add_argument("--checkpoint", metavar="ID", help="the same, to train on from its weights")
    add("--dataset", required=True, metavar="ID", help="Hub id or staged folder, with the pictures embedded")
    add("--config", default="all", help="its configuration that has caption and caption_*")
    add("--split", default="train", help="its split")
    add("--streaming", action="store_true", help="read while training, without a download first")
    add("--shuffle", type=int, default=10_000, metavar="ROWS", help="buffer of a stream; else all rows are shuffled")
    add("--columns", nargs="+", metavar="C", help="columns of new captions, if not all of them")
    add("--raw-weight", type=float, metavar="P", help="probability of the raw caption, if not that of each new one")
    add("--out", required=True, type=Path, metavar="DIR", help="checkpoints, log.jsonl and the trained model")
    add("--steps", type=int, default=30_000, help="optimizer steps in all")
    add("--batch-size", type=int, default=128, help="pairs a process and forward pass")
    negatives = "a pair's negatives are those of its own pass, over all processes: N passes of B are no batch of N x B"
    add("--accumulate", type=int, default=1, metavar="N", help=f"forward passes a step; {negatives}")
    add("--gradient-checkpointing", action="store_true", help="larger batches, for about a third more time")
    add("--lr", type=float, default=5e-4, help="peak learning rate; then a cosine to 0")
    add("--warmup", type=int, default=2_000, metavar="STEPS", help="linear, from 0")
    add("--weight-decay", type=float, default=0.2, help="not on biases, norms and the scale of the logits")
    add("--clip-norm", type=float, default=1.0, help="longest gradient")
    add("--crop", type=float, default=0.9, metavar="SHARE", help="smallest share of a picture's area seen; 1: all")
    add("--workers", type=int, default=4, help="processes that decode pictures, a training process; 0: itself")
    add("--seed", type=int, default=0, help="of weights, order, captions and crops")
    add("--save-every", type=int, default=1_000, metavar="STEPS", help="checkpoint; the last two are kept")
    add("--eval-dataset", metavar="ID", help="pictures with captions, as COCO or Flickr30K: Recall@K both ways")
    add("--eval-config", help="its configuration")
    add("--eval-split", default="test", help="its split")
    add("--eval-columns", nargs="+", default=["caption"], metavar="C", help="of strings or lists of them; all together")
    add("--eval-every", type=int, default=10**9, metavar="STEPS", help="at the end in any case")
    return parser.parse_args()


class Stream(torch.utils.data.IterableDataset[Batch | None]):
    """The endless batches of one training process, from where each of its workers stood.

    A row whose picture does not decode, or that has no caption, keeps its place, marked as not `valid`: the loss leaves
    it out. So all processes take steps of one size, and a place in the stream is a number of batches.
    """

    def __init__(self, args: argparse.Namespace, processor: Any, rank: int, world: int) -> None:
        dataset = load_dataset(args.dataset, args.config, split=args.split, streaming=args.streaming)
        dataset = dataset.cast_column("image", Image(decode=False))  # one damaged picture must not end the training
        if args.streaming and dataset.num_shards < world * args.workers:
            dataset = dataset.reshard()
        self.args, self.dataset, self.processor, self.rank, self.world = args, dataset, processor, rank, world
        self.workers = min(args.workers, max(dataset.num_shards // world, 1)) if args.streaming else args.workers
        self.places = [(0, 0)] * max(self.workers, 1)  # epoch and batch that each worker comes to next
        self.turn = 0  # the worker whose batch is next

    def __iter__(self) -> Iterator[Batch | None]:
        worker = getattr(torch.utils.data.get_worker_info(), "id", 0)
        if worker < self.turn:
            yield None  # the loader asks the workers in turn, from the first on
        sample = SampleCaption(self.args.columns, raw_weight=self.args.raw_weight, seed=self.args.seed)
        size, (epoch, batch) = self.args.batch_size, self.places[worker]
        while True:
            sample.set_epoch(epoch)
            rows = self._rows(epoch, batch * size, worker)
            while len(some := list(itertools.islice(rows, size))) == size:
                batch += 1
                crops = random.Random(f"{self.args.seed} {epoch} {batch} {self.rank} {worker}")
                yield {**self._batch(some, sample, crops), "worker": worker, "place": (epoch, batch)}
            if batch == 0:
                raise ValueError(f"a worker has {len(some)} rows, less than a batch: lower --batch-size or --workers")
            epoch, batch = epoch + 1, 0

    def _rows(self, epoch: int, first: int, worker: int) -> Iterator[Batch]:
        """Read the worker's rows in the epoch's order, from the given one on."""
        seed = self.args.seed + epoch
        if isinstance(self.dataset, IterableDataset):  # gives each worker its own shards
            shuffled = self.dataset.shuffle(seed=seed, buffer_size=self.args.shuffle)
            return itertools.islice(iter(split_dataset_by_node(shuffled, self.rank, self.world)), first, None)
        order = np.random.default_rng(seed).permutation(len(self.dataset))
        mine = order[self.rank + self.world * worker :: self.world * len(self.places)]
        return (self.dataset[int(row)] for row in mine[first:])

    def _batch(self, rows: list[Batch], sample: SampleCaption, crops: random.Random) -> Batch:
        names = [name for name in rows[0] if name.startswith(("key", "caption")) or name in (sample.columns or ())]
        captions = sample({name: [row[name] for row in rows] for name in names})["caption"]
        pictures = [self._picture(row["image"], crops) for row in rows]
        pairs = zip(pictures, captions, strict=True)
        seen = [picture or PilImage.new("RGB", (64, 64)) for picture in pictures]
        return {
            "pictures": dict(self.processor(images=seen, return_tensors="pt")),
            "captions": [caption or "" for caption in captions],
            "valid": torch.tensor([picture is not None and caption is not None for picture, caption in pairs]),
            "bad": pictures.count(None),
        }

    def _picture(self, value: Any, crops: random.Random) -> PilImage.Image | None:
        share, across, down = crops.uniform(self.args.crop, 1) ** 0.5, crops.random(), crops.random()
        try:
            picture = to_rgb(value)
        except ImageError:
            return None
        width, height = (max(1, round(side * share)) for side in picture.size)
        left, top = round((picture.width - width) * across), round((picture.height - height) * down)
        return picture.crop((left, top, left + width, top + height))


class Towers(torch.nn.Module):
    """A dual encoder's unit embeddings (n, dim), images first, then scale and, for SigLIP, bias of its logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> list[torch.Tensor]:
        """Embed a batch, in the one forward pass that gradients are averaged over processes for."""
        output, bias = self.model(**inputs), getattr(self.model, "logit_bias", None)
        logits = [self.model.logit_scale.exp()] + ([] if bias is None else [bias])
        return [output.image_embeds, output.text_embeds, *logits]


def learning_rate(args: argparse.Namespace, step: int) -> float:
    """Follow a linear warm-up, then a cosine to 0."""
    done = max(0, step - args.warmup) / max(1, args.steps - args.warmup)
    return float(args.lr * min(1, (step + 1) / max(1, args.warmup)) * (1 + math.cos(math.pi * done)) / 2)


def settings(args: argparse.Namespace) -> Batch:
    """Say what must stay as it is for a run to go on."""
    return {name: value for name, value in vars(args).items() if name not in FREE}


def save(accelerator: Accelerator, args: argparse.Namespace, state: Batch, stream: Stream) -> None:
    """Write a checkpoint; it bears its name once it is whole."""
    final = args.out / "checkpoints" / f"step-{state['step']:08d}"
    partial = final.with_suffix(".partial")
    accelerator.save_state(str(partial))
    places = gather_object([(stream.places, stream.turn)])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        trainer = {"state": state, "places": places, "settings": settings(args)}
        (partial / "trainer.json").write_text(json.dumps(trainer))
        partial.rename(final)
        for old in sorted(final.parent.glob("step-*[0-9]"))[:-2]:
            shutil.rmtree(old)


def resume(accelerator: Accelerator, args: argparse.Namespace, state: Batch, stream: Stream) -> None:
    """Go on from the newest whole checkpoint, if there is one."""
    found = sorted((args.out / "checkpoints").glob("step-*[0-9]"))
    if not found:
        return
    trainer, now = json.loads((found[-1] / "trainer.json").read_text()), settings(args)
    if other := [f"{name} was {was}, is {now[name]}" for name, was in trainer["settings"].items() if was != now[name]]:
        raise SystemExit(f"{found[-1]} was made with other settings: {'; '.join(other)}. Restore them or change --out.")
    accelerator.load_state(str(found[-1]))
    stream.places, stream.turn = trainer["places"][accelerator.process_index]
    state.update(trainer["state"])
    log = args.out / "log.jsonl"
    if accelerator.is_main_process and log.exists():  # without what came after the checkpoint
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        log.write_text("".join(line for line in lines if json.loads(line)["step"] <= state["step"]))


def evaluate(accelerator: Accelerator, args: argparse.Namespace, encoder: DualEncoder) -> Batch:
    """Measure zero-shot Recall@K with intervals; the first process does, while the others wait."""
    found: Batch = {}
    if accelerator.is_main_process:
        encoder.model.eval()
        data = load_dataset(args.eval_dataset, args.eval_config, split=args.eval_split, streaming=args.streaming)
        found = evaluate_columns(encoder, data, {"all": args.eval_columns}, intervals=True)["all"]
        encoder.model.train()
    accelerator.wait_for_everyone()
    return found


def main() -> None:
    """Train."""
    args = arguments()
    accelerator = Accelerator(gradient_accumulation_steps=args.accumulate)
    if accelerator.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise SystemExit("there is no GPU for the processes: to train on CPUs, set ACCELERATE_USE_CPU=true")
    device, source = accelerator.device, args.checkpoint or args.model_config
    args.processes = world = accelerator.num_processes
    set_seed(args.seed)
    if args.checkpoint:
        model = AutoModel.from_pretrained(source, dtype=torch.float32, trust_remote_code=False)
    else:
        model = AutoModel.from_config(AutoConfig.from_pretrained(source, trust_remote_code=False), dtype=torch.float32)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    encoder = DualEncoder(model, processor, tokenizer, args.out.name)
    matrices = [weights for weights in model.parameters() if weights.ndim > 1]
    others = [weights for weights in model.parameters() if weights.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    towers, optimizer = accelerator.prepare(Towers(model), torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6))
    stream = Stream(args, processor, accelerator.process_index, world)
    state = {"step": 0, "pairs": 0, "bad_pictures": 0}
    resume(accelerator, args, state, stream)
    loader = torch.utils.data.DataLoader(stream, None, num_workers=stream.workers, pin_memory=device.type == "cuda")
    batches = (batch for batch in loader if batch is not None)
    towers.train()
    while state["step"] < args.steps:
        started, sums = time.perf_counter(), torch.zeros(3, device=device)  # loss, valid pairs, bad pictures
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, state["step"])
        for batch in itertools.islice(batches, args.accumulate):
            inputs = {**batch["pictures"], **encoder.tokens(batch["captions"])}
            valid = batch["valid"].to(device)
            with accelerator.accumulate(towers):
                images, texts, *logits = towers(**{name: values.to(device) for name, values in inputs.items()})
                loss = contrastive_loss(images, texts, valid, *logits)
                accelerator.backward(loss * world)  # gradients are averaged over processes, and are to be added
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(towers.parameters(), args.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
            sums += torch.tensor([loss.item() / args.accumulate, batch["valid"].sum(), batch["bad"]], device=device)
            stream.places[batch["worker"]] = batch["place"]
            stream.turn = (batch["worker"] + 1) % len(stream.places)
        if not hasattr(model, "logit_bias"):
            model.logit_scale.data.clamp_(max=math.log(100))  # as CLIP's authors do
        mean, pairs, lost = accelerator.reduce(sums).tolist()
        if not pairs:
            raise SystemExit("no pair of this step has a picture and a caption: are the pictures embedded?")
        for name, more in (("step", 1), ("pairs", pairs), ("bad_pictures", lost)):
            state[name] += int(more)
        record: Batch = {**state, "loss": mean, "gradient_norm": float(norm), "scale": model.logit_scale.exp().item()}
        record |= {"lr": group["lr"], "pairs_per_second": pairs / (time.perf_counter() - started)}
        if args.eval_dataset and (state["step"] == args.steps or state["step"] % args.eval_every == 0):
            record["recall"] = evaluate(accelerator, args, encoder)
        if accelerator.is_main_process:
            args.out.mkdir(parents=True, exist_ok=True)
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            shown = {name: round(value, 3) for name, value in record.get("recall", {}).items() if "@" in name}
            accelerator.print(f"step {state['step']} of {args.steps}: loss {mean:.4f}", shown or "")
        if state["step"] % args.save_every == 0 or state["step"] == args.steps:
            save(accelerator, args, state, stream)
    if accelerator.is_main_process:
        for part in (model, processor, tokenizer):
            part.save_pretrained(args.out / "model")
    accelerator.end_training()


if __name__ == "__main__":
    main()

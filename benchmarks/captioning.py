"""Captions a second: this library against the paper's loop and against a transformers pipeline, one model, one machine.

    python benchmarks/captioning.py                                  # tiny-llava on a CPU, 2,000 JPEGs
    python benchmarks/captioning.py --model FOLDER --pictures FOLDER --count 500

The ways take turns on the same pictures, several times; ratios are medians of the ratios within a turn, so that a
machine that slows down slows all of them. The ways:

- ``run``: `hf_mllm_aug.run` into a folder, shards, files and all.
- ``map``: `Dataset.map(augment, batched=True)`.
- ``map, all tokens``: the same, without ending decoding where shearing cuts.
- ``the paper's loop``: written anew after its released scripts. Pictures are opened one at a time on the main thread,
  48 make a batch, `generate` writes 30 tokens, captions end at the first full stop, one JSON file at the end.
- ``pipeline``: `Dataset.map` with transformers' ``image-text-to-text`` pipeline and its own batches.
- ``run`` and ``the paper's loop`` once more in bfloat16, on a CPU: a GPU has it anyway.

Of ``run`` it says, too, which share of the time by the clock was spent inside the model.

Pictures: JPEGs of 500 px on the longer side, made of crops of the package's demonstration pictures, unless a folder is
given. All ways ask the same question and decode greedily.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from PIL import Image

from hf_mllm_aug import Augment, Captioner, run
from hf_mllm_aug.images import to_rgb
from hf_mllm_aug.loaders.picture_folder import load_picture_folder

RESULT = Path(__file__).parent / "results" / "captioning.json"
PICTURES = Path(__file__).parents[1] / "hf_mllm_aug" / "demo_data"
SEED_BATCH = 48  # pictures, as in the paper's scripts
TOKENS = 30


def make_pictures(folder: Path, count: int, side: int = 500) -> None:
    """``count`` JPEGs, crops of the demonstration pictures, none like another."""
    random = np.random.default_rng(0)
    sources = [to_rgb(row["image"]) for row in load_picture_folder(PICTURES)]
    for number in range(count):
        source = sources[number % len(sources)]
        share = random.uniform(0.8, 1.0, 2)
        size = [int(extent * part) for extent, part in zip(source.size, share, strict=True)]
        left, top = (int(random.integers(0, extent - part + 1)) for extent, part in zip(source.size, size, strict=True))
        crop = source.crop((left, top, left + size[0], top + size[1]))
        scale = side / max(crop.size)
        crop.resize([max(1, round(extent * scale)) for extent in crop.size]).save(
            folder / f"{number:05d}.jpg", quality=90
        )


def papers_loop(model: Any, processor: Any, prompt: str, paths: list[Path], out: Path) -> None:
    """The released scripts' loop on a loaded model."""
    captions = []
    for start in range(0, len(paths), SEED_BATCH):
        pictures = [Image.open(path).convert("RGB") for path in paths[start : start + SEED_BATCH]]
        inputs = processor(images=pictures, text=[prompt] * len(pictures), return_tensors="pt", padding=True)
        inputs = inputs.to(model.device, model.dtype)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        texts = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for path, text in zip(paths[start : start + SEED_BATCH], texts, strict=True):
            captions.append({"image_id": path.name, "caption": text.split(".")[0].strip()})
    out.write_text(json.dumps(captions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-llava", help="a LLaVA: a captioner's name or a folder")
    parser.add_argument("--pictures", type=Path, help="a folder of JPEGs; made if not given")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, help="pictures a model call; the captioner's own if not given")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    datasets.disable_caching()

    work = Path(tempfile.mkdtemp(prefix="captioning-"))
    folder = args.pictures or work / "pictures"
    if args.pictures is None:
        folder.mkdir()
        make_pictures(folder, args.count)
    paths = sorted(folder.glob("*.jpg"))[: args.count]
    rows = datasets.Dataset.from_dict({"key": [path.name for path in paths], "image": [str(path) for path in paths]})
    rows = rows.cast_column("image", datasets.Image(decode=False))

    captioner = Captioner(args.model, batch_size=args.batch_size)
    half = Captioner(args.model, batch_size=args.batch_size, dtype="bfloat16")
    kind: Any = transformers.AutoModelForImageTextToText
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = (
        kind.from_pretrained(str(captioner.source), dtype="auto" if device == "cuda" else torch.float32)
        .to(device)
        .eval()
    )
    processor: Any = transformers.AutoProcessor.from_pretrained(str(captioner.source), backend="pil")
    prompt = captioner.resolved_prompt
    pipe: Any = transformers.pipeline(
        "image-text-to-text", model=model, processor=processor, batch_size=captioner.micro_batch
    )

    def with_pipeline(batch: dict[str, list[Any]]) -> dict[str, list[str]]:
        pictures = [Image.open(image["path"]).convert("RGB") for image in batch["image"]]
        found = pipe(images=pictures, text=[prompt] * len(pictures), max_new_tokens=TOKENS, return_full_text=False)
        texts = [item[0]["generated_text"] if isinstance(item, list) else item["generated_text"] for item in found]
        return {"caption": [text.split(".")[0].strip() for text in texts]}

    shares: list[float] = []

    def run_folder(captioner: Captioner) -> None:
        start = time.perf_counter()
        run(rows, captioner, work / "run", progress=False, log_json=work / "log.jsonl")
        elapsed = time.perf_counter() - start
        reports = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
        seconds = sum(report.get("seconds", {}).get("model", 0.0) for report in reports if "shard" in report)
        shares.append(seconds / elapsed)
        shutil.rmtree(work / "run")
        (work / "log.jsonl").unlink()

    one, whole = Augment(captioner), Augment(captioner, keep_unsheared=True)
    size = 8 * captioner.micro_batch

    def mapped(augment: Augment) -> Any:
        return rows.map(augment, batched=True, batch_size=size, features=augment.features(rows.features))

    ways: dict[str, Callable[[], Any]] = {
        "run": lambda: run_folder(captioner),
        "map": lambda: mapped(one),
        "map, all tokens": lambda: rows.map(
            whole, batched=True, batch_size=size, features=whole.features(rows.features)
        ),
        "the paper's loop": lambda: papers_loop(model, processor, prompt, paths, work / "captions.json"),
        "pipeline": lambda: rows.map(with_pipeline, batched=True, batch_size=size),
    }
    if device == "cpu":
        halved = copy.deepcopy(model).to(torch.bfloat16)
        ways["run, bfloat16"] = lambda: run_folder(half)
        ways["the paper's loop, bfloat16"] = lambda: papers_loop(halved, processor, prompt, paths, work / "half.json")
    few = rows.select(range(min(64, len(rows))))
    for each in (one, Augment(half)):
        few.map(each, batched=True)  # our models are loaded, and torch has warmed up
    with_pipeline(few[:])
    papers_loop(model, processor, prompt, paths[:64], work / "captions.json")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.repetitions):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
            print(f"turn {turn}: {name}: {len(paths) / seconds[name][-1]:.1f} images/s", flush=True)

    def ratio(way: str, other: str) -> float:
        return round(statistics.median(b / a for a, b in zip(seconds[way], seconds[other], strict=True)), 2)

    result = {
        "model": captioner.label,
        "pictures": len(paths),
        "images_per_second_median": {
            name: round(len(paths) / statistics.median(values), 1) for name, values in seconds.items()
        },
        "times_the_speed_of": {other: ratio("run", other) for other in ways if other != "run"},
        "in_bfloat16_times_the_speed_of": {
            other: ratio("run, bfloat16", other)
            for other in ("the paper's loop", "the paper's loop, bfloat16")
            if "run, bfloat16" in ways
        },
        "share_of_run_inside_the_model": round(statistics.median(shares[:: len(shares) // args.repetitions]), 3),
        "batch_size": captioner.micro_batch,
        "machine": {
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, datasets)},
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()

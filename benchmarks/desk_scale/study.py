"""Does training on the captions of several MLLMs help retrieval? The paper's table at the scale of a desk.

    python -m benchmarks.desk_scale.study --work /tmp/desk          # two cores: about an hour; a GPU: --device cuda

Open Clip Art's drawings and their noisy titles are captioned by the four miniatures; a small CLIP is trained from
nothing on each arm's captions, with several seeds, and scored by zero-shot retrieval on pictures that neither has met,
before and after fine-tuning on other stamps. What is finished lies in ``--work`` and is not done again: call it again
after an interruption. At the end come ``benchmarks/results/desk_scale.json`` and the report (see `report`).

``--development`` scores on the development sets instead, and writes no results: for whoever changes the training.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.desk_scale import clip_art, held_out, report
from benchmarks.desk_scale.arms import ARMS, SHEARED, captions, draw
from benchmarks.desk_scale.captions import stage
from benchmarks.desk_scale.encoder import train_tokenizer
from benchmarks.desk_scale.pixels import clip_art_pixels
from benchmarks.desk_scale.pretrain import Run, Settings, load_hits, run_arm
from benchmarks.tiny import pictures
from hf_mllm_aug import __version__
from hf_mllm_aug.intervals import bootstrap_difference, bootstrap_recall
from hf_mllm_aug.retrieval import Hits

RESULT = Path(__file__).parents[1] / "results" / "desk_scale.json"
SEEDS = 3
TEST_SETS = ("vendor", "stamps")
DEVELOPMENT_SETS = ("development_vendor", "training_stamps")
STAGES = ("zero_shot", "fine_tuned")


@functools.cache
def material(work: Path) -> dict[str, Any]:
    """What all runs share, prepared once a process: rows, pixels, tokenizer and the sets to score on."""
    home, packages = clip_art.fetch(work / "packages"), work / "packages"
    pairs = clip_art.pairs(home)
    rows = stage(pairs, work)
    pixels, seen = clip_art_pixels(pairs, work / "pixels.npz")
    four = next(arm for arm in ARMS if arm.name == "four")
    # One vocabulary for all arms, of all the words that any of them trains on.
    texts = [
        text
        for form in (SHEARED, "unsheared")
        for column in captions(dataclasses.replace(four, form=form), rows).values()
        for text in column
        if text
    ]
    return {
        "rows": rows,
        "pixels": pixels,
        "seen": seen,
        "tokenizer": train_tokenizer(texts),
        "sets": held_out.load(packages, work / "held_out.npz"),
    }


def work_off(work: Path, arm_name: str, seed: int, settings: Settings, device: str, development: bool) -> float:
    """One run, unless it is there; returns the seconds it took."""
    out = work / ("development" if development else "runs") / f"{arm_name}-{seed}.npz"
    if out.exists():
        return 0.0
    if device == "cpu":
        torch.set_num_threads(1)  # two trainings side by side do more than two threads in one
    out.parent.mkdir(exist_ok=True)
    arm = next(arm for arm in ARMS if arm.name == arm_name)
    shared = material(work)
    start = time.perf_counter()
    columns = captions(arm, shared["rows"])
    run_arm(
        Run(
            columns=columns,
            draw=lambda epoch: draw(arm, columns, seed=seed, epoch=epoch),
            pixels=shared["pixels"],
            seen=shared["seen"],
            tokenizer=shared["tokenizer"],
            sets=shared["sets"],
            scored=DEVELOPMENT_SETS if development else TEST_SETS,
            tuned_on=None if development else "training_stamps",
            seed=seed,
            device=device,
        ),
        settings,
        out,
    )
    return time.perf_counter() - start


def collect(folder: Path, sets: Sequence[str], stages: Sequence[str], seeds: int) -> dict[str, Any]:
    """The scores of every arm: by seed, their mean and spread, and intervals over the pictures."""
    runs = {arm.name: [load_hits(folder / f"{arm.name}-{seed}.npz") for seed in range(seeds)] for arm in ARMS}
    found: dict[str, Any] = {}
    for arm in ARMS:
        records = [run.record for run in runs[arm.name]]
        entry: dict[str, Any] = {"title": arm.title, "captioners": len(arm.captioners)}
        entry |= {key: round(float(np.mean([record[key] for record in records])), 3) for key in records[0]}
        for stage_name in stages:
            for name in sets:
                own = [run.hits[f"{stage_name}.{name}"] for run in runs[arm.name]]
                raw = [run.hits[f"{stage_name}.{name}"] for run in runs["raw"]]
                entry[f"{stage_name}.{name}"] = _scores(own, raw)
        found[arm.name] = entry
    return found


def _scores(own: list[Hits], raw: list[Hits]) -> dict[str, Any]:
    """Percentages: of each seed, their mean and standard deviation, and what is gained over the raw captions."""
    by_seed = [_with_means(run) for run in own]
    gained = bootstrap_difference(own, raw)
    intervals = [bootstrap_recall(run) for run in own]
    return {
        key: {
            "seeds": [round(100 * scores[key], 2) for scores in by_seed],
            "mean": round(100 * float(np.mean([scores[key] for scores in by_seed])), 2),
            "deviation": round(100 * float(np.std([scores[key] for scores in by_seed], ddof=min(1, len(own) - 1))), 2),
            "interval_of_each_seed": [[round(100 * bound, 2) for bound in interval[key]] for interval in intervals],
            "gain_over_raw": [round(100 * value, 2) for value in gained[key]],
        }
        for key in by_seed[0]
    }


def _with_means(hits: Hits) -> dict[str, float]:
    recall = hits.recall()
    means = {
        f"mean_recall@{k}": (recall[f"text_retrieval_recall@{k}"] + recall[f"image_retrieval_recall@{k}"]) / 2
        for k in hits.ks
    }
    return {**recall, **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of everything that is downloaded and made")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--development", action="store_true", help="score on the development sets, write no results")
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], help="only these; writes no results")
    args = parser.parse_args()
    settings = Settings()
    args.work.mkdir(parents=True, exist_ok=True)
    remembered = args.work / "settings.json"
    if remembered.exists() and json.loads(remembered.read_text("utf-8")) != dataclasses.asdict(settings):
        parser.error(f"{args.work} holds runs of other settings: take another folder, or remove its runs")
    remembered.write_text(json.dumps(dataclasses.asdict(settings)), "utf-8")
    start = time.perf_counter()
    pictures.fetch(args.work / "packages")
    material(args.work)
    prepared = time.perf_counter() - start
    print(f"prepared in {prepared:.0f} s", flush=True)
    chosen = args.arms or [arm.name for arm in ARMS]
    wanted = [(name, seed) for seed in range(SEEDS) for name in chosen]
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(work_off, args.work, name, seed, settings, args.device, args.development): (name, seed)
            for name, seed in wanted
        }
        for done, job in enumerate(as_completed(jobs), 1):
            print(f"{done} of {len(jobs)}: {jobs[job][0]}, seed {jobs[job][1]}, {job.result():.0f} s", flush=True)
    if args.development:
        for name in chosen:
            for seed in range(SEEDS):
                run = load_hits(args.work / "development" / f"{name}-{seed}.npz")
                for key, hits in run.hits.items():
                    print(name, seed, key, {metric: round(100 * v, 1) for metric, v in _with_means(hits).items()})
        return
    if args.arms:
        return
    shared = material(args.work)
    finished = [load_hits(file) for file in (args.work / "runs").glob("*.npz")]
    result = {
        "benchmark": "desk_scale",
        "pairs": int(shared["seen"].sum()),
        "pairs_left_out": int((~shared["seen"]).sum()),
        "test_pictures": {name: len(shared["sets"][name].captions) for name in TEST_SETS},
        "seeds": SEEDS,
        "settings": dataclasses.asdict(settings),
        "arms": collect(args.work / "runs", TEST_SETS, STAGES, SEEDS),
        "training_core_hours": round(sum(run.record["seconds"] for run in finished) / 3600, 2),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "device": args.device},
        "versions": {"python": platform.python_version(), "hf-mllm-aug": __version__, "torch": torch.__version__,
                     "transformers": transformers.__version__},
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    report.write(result)
    print(f"wrote {RESULT} and {report.REPORT}")


if __name__ == "__main__":
    main()

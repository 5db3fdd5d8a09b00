"""Time and memory of `retrieval_recall` at MS-COCO 5k's size: 5,000 pictures x 25,000 captions x 512, float32.

Against: the bare matrix product in the same blocks; the product as one matrix; ranking by `topk` over the whole score
matrix; and the one-hot form over the whole matrix, in batches of 64 and once a K, in which CLIP_benchmark states the
metric.

    python benchmarks/retrieval_recall.py            # writes benchmarks/results/retrieval_recall.json

All are timed in turn in one process, several times; ratios are medians of the ratios within a turn, so that a machine
that slows down slows both sides. Peak memory is read in a process of its own, above what the inputs take.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hf_mllm_aug import retrieval
from hf_mllm_aug.retrieval import retrieval_recall

RESULT = Path(__file__).parent / "results" / "retrieval_recall.json"
N_IMAGES, N_TEXTS, DIM = 5_000, 25_000, 512
KS = (1, 5, 10)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit embeddings with recalls as of a real encoder: five captions a picture, noise four times the signal."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(N_TEXTS) % N_IMAGES
    images = torch.nn.functional.normalize(torch.randn(N_IMAGES, DIM, generator=generator), dim=1)
    noise = torch.nn.functional.normalize(torch.randn(N_TEXTS, DIM, generator=generator), dim=1)
    return images, torch.nn.functional.normalize(images[owner] + 6 * noise, dim=1), owner


def bare_product(images: torch.Tensor, texts: torch.Tensor) -> None:
    """What `retrieval_recall` multiplies, in the same blocks, and nothing else."""
    edge = retrieval._CPU_BLOCK
    buffer = torch.empty(edge * edge)
    for left in range(0, len(texts), edge):
        columns = texts[left : left + edge].T
        for top in range(0, len(images), edge):
            rows = images[top : top + edge]
            shape = (len(rows), columns.shape[1])
            torch.mm(rows, columns, out=buffer[: shape[0] * shape[1]].view(shape))


def ranked_by_topk(images: torch.Tensor, texts: torch.Tensor, owner: torch.Tensor) -> dict[str, float]:
    """The whole score matrix, and `topk` along both sides of it."""
    scores = images @ texts.T
    to_text = owner[scores.topk(max(KS), dim=1).indices] == torch.arange(len(images))[:, None]
    to_image = scores.T.topk(max(KS), dim=1).indices == owner[:, None]
    return {f"text_retrieval_recall@{k}": float(to_text[:, :k].any(1).double().mean()) for k in KS} | {
        f"image_retrieval_recall@{k}": float(to_image[:, :k].any(1).double().mean()) for k in KS
    }


def ranked_by_one_hot(images: torch.Tensor, texts: torch.Tensor, owner: torch.Tensor) -> dict[str, float]:
    """The same with a boolean matrix of right pairs; for each K and batch, `topk` as one-hot vectors."""
    scores = images @ texts.T
    right = torch.zeros(scores.shape, dtype=torch.bool)
    right[owner, torch.arange(len(texts))] = True
    result = {}
    for side, table, truth in (("text", scores, right), ("image", scores.T, right.T)):
        for k in KS:
            found = []
            for at in range(0, len(table), 64):
                first = table[at : at + 64].topk(k, dim=1).indices
                one_hot = torch.nn.functional.one_hot(first, num_classes=table.shape[1])
                found.append((one_hot.sum(1) * truth[at : at + 64]).sum(1) > 0)
            result[f"{side}_retrieval_recall@{k}"] = float(torch.cat(found).double().mean())
    return result


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_above_inputs() -> float:
    """MiB of resident memory at the peak of one call, above what was resident before it. Linux."""
    images, texts, owner = inputs()
    retrieval_recall(images[:64], texts[:64], ks=KS)  # libraries and threads are up before the measurement
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    retrieval_recall(images, texts, owner, ks=KS)
    return (resident("VmHWM") - before) / 1024


def resident(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_above_inputs())
        return

    images, texts, owner = inputs()
    works: dict[str, Callable[[], object]] = {
        "bare_product": lambda: bare_product(images, texts),
        "retrieval_recall": lambda: retrieval_recall(images, texts, owner, ks=KS),
        "whole_product": lambda: images @ texts.T,
        "topk": lambda: ranked_by_topk(images, texts, owner),
    }
    for work in works.values():
        work()
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(options.repetitions)]
    scores = retrieval_recall(images, texts, owner, ks=KS)
    one_hot_scores: dict[str, float] = {}
    one_hot = seconds(lambda: one_hot_scores.update(ranked_by_one_hot(images, texts, owner)))
    collapsed = seconds(lambda: retrieval_recall(torch.ones_like(images), torch.ones_like(texts), owner, ks=KS))
    peak = subprocess.run([sys.executable, __file__, "--peak"], check=True, capture_output=True, text=True)

    median = {name: statistics.median(turn[name] for turn in turns) for name in works}
    ratio = {
        name: statistics.median(turn["retrieval_recall"] / turn[name] for turn in turns)
        for name in works
        if name != "retrieval_recall"
    }
    result = {
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "os": platform.system(),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "size": {"images": N_IMAGES, "texts": N_TEXTS, "dim": DIM, "dtype": "float32", "ks": KS},
        "repetitions": options.repetitions,
        "load_average_at_the_end": os.getloadavg()[0],
        "seconds": {
            **{name: round(value, 3) for name, value in median.items()},
            "one_hot": round(one_hot, 3),
            "retrieval_recall_collapsed_encoder": round(collapsed, 3),
        },
        "time_of_retrieval_recall_over": {
            **{name: round(value, 3) for name, value in ratio.items()},
            "one_hot": round(median["retrieval_recall"] / one_hot, 3),
        },
        "peak_mib_above_inputs": round(float(peak.stdout), 1),
        "largest_difference": {
            "topk": max(abs(scores[key] - value) for key, value in ranked_by_topk(images, texts, owner).items()),
            "one_hot": max(abs(scores[key] - value) for key, value in one_hot_scores.items()),
        },
        "scores": scores,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

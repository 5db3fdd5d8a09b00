"""Rows a second of shearing: in a loop, through `Dataset.map`, and of what it stands between.

Run ``python benchmarks/shear.py [--rows N]``; the figures go to ``benchmarks/results/shear.json``. The captions are
distinct and made from templates, in the proportions of model captions cut at 30 tokens: mostly one whole sentence and
the start of a second, some without any stop, some with abbreviations, decimals and quotes.

The ways of the loop take turns on pieces of 20,000 captions, so that a busy machine slows all of them alike: the ratios
hold where the rows a second do not. The share of `sentencex` is the time of its calls alone, with the arguments that
`shear` gave it, over the time of `shear`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import datasets
import sentencex
from datasets import Dataset, Features, Value

from hf_mllm_aug import sentences
from hf_mllm_aug.shearing import Shear, shear

RESULTS = Path(__file__).parent / "results" / "shear.json"
PIECE = 20_000
PYSBD_ROWS = 2_000  # a slow one; so many rows are enough

SUBJECTS = """
A brown dog|Two women|An old red car|A group of people|A small bird|The man in a hat|A plate of food|A wooden boat
Several children|A black cat|A large clock tower|A street sign|A train|A bowl of fruit|A white horse
"""
VERBS = """
stands on|runs across|sits next to|is parked in front of|looks at|lies on|is placed near|moves along|hangs over
can be seen behind
"""
PLACES = """
the green grass|a busy city street|a wooden table|the sandy beach|an old brick wall|a snowy hill|the kitchen counter
a calm lake|a bridge|the open window|a field of yellow flowers|a stone fountain
"""
ODD_PLACES = """
St. Peter's Basilica|the U.S. Capitol|Mt. Fuji at 5 p.m.|a 3.5 inch disk|Dr. Smith's house|a sign that says "Stop. Look"
J. R. R. Tolkien's desk|the shop at www.example.com|Washington D.C.
"""
SECONDS = """
The scene is|In the background there are|There is also|It appears to be|The sky above looks|Next to it|The colors are
A few people are
"""
TAILS = """
very bright and|two more of them and a|a sunny day with|clear and blue|surrounded by many|partly covered with
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="captions to shear (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures go (default: %(default)s)")
    options = parser.parse_args()
    report = measure(options.rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def captions(n_rows: int) -> Iterator[str]:
    """Distinct captions, the same ones at every run."""
    rng = random.Random(0)
    lists = (SUBJECTS, VERBS, PLACES, ODD_PLACES, SECONDS, TAILS)
    subjects, verbs, places, odd_places, seconds, tails = (re.split(r"[|\n]", text.strip()) for text in lists)
    for number in range(n_rows):
        kind = rng.random()
        place = rng.choice(odd_places if kind < 0.1 else places)
        first = f"{rng.choice(subjects)} number {number} {rng.choice(verbs)} {place}"
        if kind > 0.9:
            yield first
        elif kind > 0.8:
            yield f"{first}."
        else:
            yield f"{first}. {rng.choice(seconds)} {rng.choice(tails)}"


def measure(n_rows: int) -> dict[str, Any]:
    texts = list(captions(n_rows))
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    windows, asked = recorded_windows(texts[:PIECE])
    ways: dict[str, Callable[[str], Any]] = {
        "shear_loop": shear,
        "seed_split_loop": lambda text: text.split(".")[0].strip(),
        "sentencex_whole_text_loop": lambda text: sentencex.segment("en", text)[0],
    }
    seconds = dict.fromkeys([*ways, "sentencex_in_shear"], 0.0)
    for start in range(0, n_rows, PIECE):
        piece = texts[start : start + PIECE]
        for name, way in ways.items():
            seconds[name] += clock_loop(way, piece)
        # The first piece's calls, time and again: recording every piece would take more time than the benchmark.
        replay = windows[: len(windows) * len(piece) // max(1, min(PIECE, n_rows))]
        seconds["sentencex_in_shear"] += clock_loop(lambda text: sentencex.segment("en", text), replay)
    seconds["shear_map_batched"] = clock_map(texts)
    pysbd_seconds = clock_pysbd(texts[:PYSBD_ROWS])
    rate = {name: round(n_rows / spent) for name, spent in seconds.items() if name != "sentencex_in_shear"}
    return {
        "rows": n_rows,
        "seconds": {name: round(spent, 3) for name, spent in seconds.items()},
        "rows_per_second": rate,
        "sentencex": {
            "share_of_shear_loop": round(seconds["sentencex_in_shear"] / seconds["shear_loop"], 3),
            "calls_per_caption": round(asked / len(texts[:PIECE]), 3),
        },
        "times_as_long_as": {
            "seed_split": round(seconds["shear_loop"] / seconds["seed_split_loop"], 2),
            "sentencex_whole_text": round(seconds["shear_loop"] / seconds["sentencex_whole_text_loop"], 2),
            "shear_loop_by_map": round(seconds["shear_map_batched"] / seconds["shear_loop"], 2),
        },
        "times_as_fast_as_pysbd": None if pysbd_seconds is None else round(pysbd_seconds * rate["shear_loop"], 1),
        "captions_cut_otherwise_by_the_seed": sum(shear(t) != shear(t, rule="seed") for t in texts[:PIECE])
        / len(texts[:PIECE]),
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "load_before": load_before,
        },
        "versions": {
            "python": platform.python_version(),
            **versions("hf-mllm-aug", "sentencex", "datasets", "pyarrow", "pysbd"),
        },
    }


def recorded_windows(texts: list[str]) -> tuple[list[str], int]:
    """What `shear` asks `sentencex` about for these texts."""
    seen: list[str] = []

    class Recorder:
        @staticmethod
        def segment(language: str, text: str) -> list[str]:
            seen.append(text)
            return list(sentencex.segment(language, text))

    setattr(sentences, "sentencex", Recorder)  # noqa: B010 - it is a module's import, which types forbid to replace
    try:
        for text in texts:
            shear(text)
    finally:
        setattr(sentences, "sentencex", sentencex)  # noqa: B010
    return seen, len(seen)


def clock_loop(way: Callable[[str], Any], texts: list[str]) -> float:
    start = time.perf_counter()
    for text in texts:
        way(text)
    return time.perf_counter() - start


def clock_map(texts: list[str]) -> float:
    features = Features({"caption_otter": Value("string")})
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        rows = Dataset.from_dict({"caption_otter": texts}, features=features)
        cache = str(Path(folder) / "sheared.arrow")
        start = time.perf_counter()
        rows.map(Shear(), batched=True, features=features, cache_file_name=cache)
        return time.perf_counter() - start


def clock_pysbd(texts: list[str]) -> float | None:
    """Seconds a caption, or None where pysbd is not installed."""
    try:
        pysbd = importlib.import_module("pysbd")
    except ImportError:
        return None
    segmenter = pysbd.Segmenter(language="en", clean=False)
    return clock_loop(segmenter.segment, texts) / len(texts)


def versions(*packages: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()

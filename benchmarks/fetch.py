"""Pictures a second through `FetchImages`, beside the usual thread pool with urllib, from a server on this machine.

    python benchmarks/fetch.py                       # writes benchmarks/results/fetch.json

The server is a process of its own and serves noise as JPEG files of some 30 KB. Each way fetches the same addresses in
turn, several times, with as many requests at a time; ratios are medians of the ratios within a turn. urllib opens a
connection for each picture, checks no address and looks at no file. A loopback line has no delay, so what is compared
is the time of the processor, which the server uses too.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset
from PIL import Image

from hf_mllm_aug.loaders.fetch import FetchImages

RESULT = Path(__file__).parent / "results" / "fetch.json"
SERVER = Path(__file__).parents[1] / "tests" / "web_server.py"
PICTURES = 50
AT_ONCE = 32


def draw(folder: Path) -> int:
    """Write the pictures; returns their mean size in bytes."""
    sizes = []
    for number in range(PICTURES):
        noise = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
        sizes.append(len(buffer.getvalue()))
    return round(statistics.mean(sizes))


def urllib_one(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        data: bytes = response.read()
    return data


def measure(port: int, rows: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each way, by turns."""
    urls = [f"http://127.0.0.1:{port}/{number % PICTURES}.jpg" for number in range(rows)]
    fetch = FetchImages(allowed_networks=("127.0.0.1/32",), concurrency=AT_ONCE, per_host=AT_ONCE)
    dataset = Dataset.from_dict({"url": urls})
    features = fetch.features(dataset.features)

    def called() -> list[str]:
        statuses: list[str] = asyncio.run(fetch({"url": urls}))["status"]
        return statuses

    def mapped(batched: bool) -> list[str]:
        result = dataset.map(fetch, features=features, batched=batched, load_from_cache_file=False, keep_in_memory=True)
        return list(result["status"])

    def threads() -> list[str]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return ["ok" for _ in pool.map(urllib_one, urls)]

    ways = {
        "called on one batch": called,
        "Dataset.map": lambda: mapped(False),
        "Dataset.map, batched": lambda: mapped(True),
        "thread pool with urllib": threads,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repetitions + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            statuses = way()
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
            if statuses != ["ok"] * rows:
                raise RuntimeError(f"{name}: not all pictures arrived")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    datasets.disable_progress_bars()

    with tempfile.TemporaryDirectory(prefix="fetch-benchmark-") as folder:
        size = draw(Path(folder))
        pipe = subprocess.PIPE
        server = subprocess.Popen([sys.executable, str(SERVER), folder], stdin=pipe, stdout=pipe, text=True)
        try:
            assert server.stdout is not None
            seconds = measure(int(server.stdout.readline()), args.rows, args.repetitions)
        finally:
            server.communicate(timeout=20)  # its input ends, and so does it
    reference = seconds["thread pool with urllib"]
    result = {
        "pictures": args.rows,
        "bytes_mean": size,
        "requests_at_once": AT_ONCE,
        "repetitions": args.repetitions,
        "pictures_per_second_median": {
            name: round(args.rows / statistics.median(values)) for name, values in seconds.items()
        },
        "speed_over_thread_pool_median": {
            name: round(statistics.median(b / a for a, b in zip(values, reference, strict=True)), 2)
            for name, values in seconds.items()
        },
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            "aiohttp": version("aiohttp"),
            "datasets": version("datasets"),
        },
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""How soon the preview of a large data set is seen: first paint, a page in the middle, a search; and its memory.

    python -m benchmarks.preview [--rows N] [--folder STAGED]     # writes benchmarks/results/preview.json

A folder of a million rows with four captioners is staged (or given), `hf-mllm-aug preview` is started on it as a user
would, and Debian's chromium, headless, opens its pages. A paint is the browser's own first-contentful-paint, from the
start of the navigation; every visit has a new browser context, so nothing comes from a cache. `first` is the first
visit after the server's start, when footers and templates are read; the others are medians. The search is for a word
that no caption has, so it reads every caption until its second is over. `nothing` is a page of one word that needs
no server: what the browser and this machine take by themselves. The peak memory is the server process's, at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.browser import Chromium, chromium

RESULTS = Path(__file__).parent / "results" / "preview.json"
CAPTIONERS = ("llava-1.5", "minigpt-4", "otter", "qwen-vl")
TURNS = 5
EMPTY = "data:text/html,<!doctype html><p>Nothing"

SUBJECTS = ["A brown dog", "Two women", "An old red car", "A group of people", "A small bird", "The man in a hat"]
VERBS = ["stands on", "runs across", "sits next to", "looks at", "lies on"]
PLACES = [
    "the green grass",
    "a busy street",
    "a wooden table",
    "the sandy beach",
    "an old brick wall",
    "a field of flowers",
]
TAIL = ". The scene is bright and clear, with a few more"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to stage (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="a folder that an earlier run staged; made there if it is missing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures go (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preview-benchmark-") as home:
        folder = options.folder or Path(home) / "captions"
        if not folder.exists():
            stage(folder, options.rows)
        report = measure(folder)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def stage(folder: Path, rows: int) -> None:
    """Captions from templates, each with its row's number; every hundredth or so failed."""
    from datasets import Dataset

    from hf_mllm_aug import save_configs, to_configs

    chance = random.Random(0)

    def caption(row: int) -> str:
        return f"{chance.choice(SUBJECTS)} {chance.choice(VERBS)} {chance.choice(PLACES)} {row}"

    data: dict[str, list[Any]] = {
        "key": [f"k{row:08d}" for row in range(rows)],
        "url": [f"https://example.org/{row}.jpg" for row in range(rows)],
        "caption": [caption(row) for row in range(rows)],
    }
    for number, name in enumerate(CAPTIONERS):
        ending = re.sub(r"\W", "_", name)
        texts = [caption(row) if (row + number) % 97 else None for row in range(rows)]
        data[f"caption_{ending}"] = texts
        data[f"error_{ending}"] = [None if text else "the file is empty" for text in texts]
        data[f"generated_{ending}"] = [text and text + TAIL for text in texts]
    save_configs(to_configs(Dataset.from_dict(data), captioners=list(CAPTIONERS)), folder)


def measure(folder: Path) -> dict[str, Any]:
    load = os.getloadavg()[0]
    start = time.perf_counter()
    command = [sys.executable, "-m", "hf_mllm_aug", "preview", str(folder), "--no-open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        address = line.split(": ", 1)[1].split(" ")[0]
        started = time.perf_counter() - start
        with chromium() as browser:
            visit(browser, EMPTY)  # the browser's own start is not ours
            first = visit(browser, address)
            pages = {
                "nothing": EMPTY,
                "rows": address,
                "page_10000": f"{address}?page=10000",
                "captioner_page_10000": f"{address}?config=otter&page=10000",
                "search_all_captions_no_hit": f"{address}?q=zebra",
                "search_all_captions_frequent": f"{address}?q=dog",
                "failed_by_any": f"{address}?failed=any",
                "card": f"{address}card",
            }
            seen: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
            for _ in range(TURNS):
                for name, url in pages.items():
                    seen[name].append(visit(browser, url))
            browser_version = browser.browser.version
        memory = peak_memory(process.pid)
    finally:
        process.terminate()
        process.wait(20)
    return {
        "rows": int(re.sub(r"\D", "", str(first.pop("status")).rpartition(" of ")[2])),
        "size_bytes": sum(file.stat().st_size for file in folder.rglob("*.parquet")),
        "seconds_to_address": round(started, 2),
        "first": first,
        "median_of": TURNS,
        "pages": {name: median(turns) for name, turns in seen.items()},
        "server_peak_memory_bytes": memory,
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "load_before": round(load, 2),
        },
        "versions": {
            "python": platform.python_version(),
            "hf-mllm-aug": version("hf-mllm-aug"),
            "pyarrow": version("pyarrow"),
            "chromium": browser_version,
        },
    }


def visit(browser: Chromium, url: str) -> dict[str, Any]:
    """When a page's first byte came and when it was first painted. Seconds."""
    with browser.visit() as opened:
        opened.page.goto(url)
        painted = opened.page.evaluate(
            """new Promise(done => new PerformanceObserver(list => {
                 const [paint] = list.getEntriesByName("first-contentful-paint");
                 if (paint) done(paint.startTime);
               }).observe({type: "paint", buffered: true}))"""
        )
        answered = opened.page.evaluate("performance.getEntriesByType('navigation')[0].responseStart")
        status = opened.page.locator(".status")
        said = status.inner_text() if status.count() else ""
        if opened.strangers or opened.complaints:
            raise RuntimeError(f"{url}: {opened.strangers} {opened.complaints}")
    return {
        "first_byte_seconds": round(answered / 1000, 3),
        "first_contentful_paint_seconds": round(painted / 1000, 3),
        "status": said,
    }


def median(turns: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("first_byte_seconds", "first_contentful_paint_seconds")
    middle = {name: round(statistics.median(turn[name] for turn in turns), 3) for name in names}
    return {**middle, "status": turns[0]["status"]}


def peak_memory(pid: int) -> int:
    """The most memory that a process has had. Bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's peak memory")


if __name__ == "__main__":
    main()

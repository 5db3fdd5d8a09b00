"""What publishing costs: time beside `Dataset.push_to_hub`, and memory for a data set with pictures.

    python benchmarks/publish.py                       # writes benchmarks/results/publish.json

Time: the configs of one captioned data set (`all`, `raw` and one for each captioner, no pictures), once by
`push_to_hub` of this package and once by `Dataset.push_to_hub`, one config after another, each into a new repository of
the same Hub on this machine, each in a process of its own. The two take turns; what counts is the median of the ratios
of a turn. Importing the libraries and making the rows is not counted; staging, hashing, uploading and the verification
are, and so is the card, which counts and plots the captions, of which the other way writes nothing. What it would be
less the card, as when a folder is published that was staged before, stands beside.

Memory: a data set with pictures as large as asked, in memory-mapped Arrow files, is staged by `save_configs`. What
counts is the largest amount of memory that no file backs (Anonymous in /proc/self/smaps_rollup, read twenty times a
second), the libraries' own included. Pages of mapped files are the kernel's to drop, and the resident size counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_mllm_aug.loopback_hub import LoopbackHub

RESULT = Path(__file__).parent / "results" / "publish.json"
WANTED_RATIO, WANTED_MEMORY = 1.2, 10**9
CAPTIONERS = ["minigpt-4", "otter", "qwen-vl", "llava-1.5"]
PICTURE = 512  # pixels a side; noise, so that a picture has some 700 kB as PNG


def configs(rows: int) -> dict[str, Any]:
    """Rows as of CC3M: captions of some ten words, of a vocabulary of 20,000."""
    import random

    from datasets import Dataset

    from hf_mllm_aug import to_configs

    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(20_000)]

    def captions() -> list[str]:
        return [" ".join(dice.choices(words, k=dice.randint(6, 14))) for _ in range(rows)]

    data: dict[str, Any] = {"key": [f"{i:09d}" for i in range(rows)]}
    data["url"] = [f"https://example.org/photos/{i:09d}.jpg" for i in range(rows)]
    data["caption"] = captions()
    for name in CAPTIONERS:
        slug = name.replace("-", "_").replace(".", "_")
        data[f"caption_{slug}"] = captions()
    return to_configs(Dataset.from_dict(data), captioners=CAPTIONERS)


def publish_ours(rows: int) -> tuple[float, float, float]:
    """Seconds that one release takes, those that a processor works for it, and seconds of its card before."""
    from hf_mllm_aug import build_card, push_to_hub

    parts = configs(rows)
    import_of("hf_mllm_aug.card", "datasets", "huggingface_hub", "jinja2.compiler", "pandas", "PIL.Image")
    before = time.perf_counter()
    card = build_card(parts)
    start = time.perf_counter(), worked()
    push_to_hub(parts, "me/ours", card=card)
    return time.perf_counter() - start[0], worked() - start[1], start[0] - before


def publish_theirs(rows: int) -> tuple[float, float, float]:
    """Seconds that the same configs take by `Dataset.push_to_hub`, one after another; as for `publish_ours`."""
    parts = configs(rows)
    import_of("datasets", "huggingface_hub")
    start = time.perf_counter(), worked()
    for name, part in parts.items():
        part.push_to_hub("me/theirs", name, set_default=name == "all")
    return time.perf_counter() - start[0], worked() - start[1], 0.0


def worked() -> float:
    """Seconds that processors have worked for this process and for its children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def import_of(*names: str) -> None:
    import importlib

    for name in names:
        importlib.import_module(name)


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system has no /proc/self/smaps_rollup")


class Peak:
    """The largest amount of such memory while it is entered."""

    def __enter__(self) -> Peak:
        self.bytes, self._done = anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.bytes = max(self.bytes, anonymous())

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def pictures(size: int) -> Iterator[dict[str, Any]]:
    """Rows with pictures that no compression makes smaller, until they have so many bytes."""
    import io

    import numpy as np
    import PIL.Image

    noise, made = np.random.default_rng(0), 0
    while made < size:
        buffer = io.BytesIO()
        picture = PIL.Image.fromarray(noise.integers(0, 256, (PICTURE, PICTURE, 3), dtype=np.uint8))
        picture.save(buffer, "PNG", compress_level=0)
        made += buffer.tell()
        key = str(made)
        yield {"key": key, "image": {"bytes": buffer.getvalue(), "path": None}, "caption": f"noise {key}"}


def build(size: int, folder: Path) -> None:
    """Write the data set that is staged, as `datasets` keeps it."""
    from datasets import Dataset, Features, Image, Value

    features = Features({"key": Value("string"), "image": Image(decode=False), "caption": Value("string")})
    rows = Dataset.from_generator(
        pictures, features=features, gen_kwargs={"size": size}, cache_dir=str(folder / "cache"), writer_batch_size=50
    )
    rows.save_to_disk(str(folder / "rows"))
    shutil.rmtree(folder / "cache")


def stage(folder: Path, num_proc: int | None) -> dict[str, int]:
    """Bytes of memory that staging takes at its height, and of the shards."""
    from datasets import disable_progress_bars, load_from_disk

    from hf_mllm_aug import save_configs, to_configs

    disable_progress_bars()
    rows = load_from_disk(str(folder / "rows"))
    import_of("hf_mllm_aug.card", "PIL.PngImagePlugin", "pyarrow.parquet")
    before = anonymous()
    with Peak() as peak:
        save_configs(to_configs(rows, images="embed"), folder / "staged", num_proc=num_proc)
    size = sum(file.stat().st_size for file in (folder / "staged").rglob("*.parquet"))
    return {"peak_bytes": peak.bytes, "before_bytes": before, "shard_bytes": size}


def in_a_process(hub: LoopbackHub | None, home: Path, *words: object) -> Any:
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
    env |= {"HF_HOME": str(home / "hf"), "TMPDIR": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"PYTHONPATH": str(Path(__file__).parents[1]), **(hub.environment if hub else {})}
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure_time(rows: int, turns: int, home: Path) -> dict[str, Any]:
    """Both ways, in turns, each turn on a Hub that is empty."""
    found: dict[str, list[tuple[float, float, float]]] = {"ours": [], "theirs": []}
    for turn in range(turns):
        for name in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
            with LoopbackHub(home / f"hub-{name}") as hub:
                found[name].append(in_a_process(hub, home, name, rows))
            shutil.rmtree(home / f"hub-{name}")
        print(f"turn {turn + 1}: ours {found['ours'][-1][0]:.2f} s, theirs {found['theirs'][-1][0]:.2f} s")
    pairs = list(zip(found["ours"], found["theirs"], strict=True))
    result: dict[str, Any] = {"rows": rows, "configs": ["all", "raw", *CAPTIONERS]}
    for place, kind in enumerate(("seconds", "processor_seconds")):
        for name, values in found.items():
            result[f"{name}_{kind}"] = [round(value[place], 2) for value in values]
    result["card_seconds"] = [round(ours[2], 2) for ours in found["ours"]]
    result["ratio_less_card"] = round(statistics.median(ours[0] / theirs[0] for ours, theirs in pairs), 2)
    result["processor_ratio"] = round(statistics.median(ours[1] / theirs[1] for ours, theirs in pairs), 2)
    both = [(ours[0] + ours[2]) / theirs[0] for ours, theirs in pairs]
    return {**result, "ratio": round(statistics.median(both), 2)}


def measure_memory(size: int, home: Path, num_proc: int | None) -> dict[str, Any]:
    """What staging takes."""
    in_a_process(None, home, "build", size, home)
    found = in_a_process(None, home, "stage", home, num_proc or 0)
    print(f"staging: {found}")
    mb = {name.replace("_bytes", "_mb"): round(value / 1e6) for name, value in found.items()}
    return {**mb, "taken_mb": round((found["peak_bytes"] - found["before_bytes"]) / 1e6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each config (default 100,000)")
    parser.add_argument("--turns", type=int, default=5, help="how often each way is taken (default 5)")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of pictures, for memory (default 2)")
    parser.add_argument("--num-proc", type=int, help="threads that stage; as save_configs chooses if not given")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hf_mllm_aug_publish_") as home:
        if args.turns:
            result["overhead"] = measure_time(args.rows, args.turns, Path(home))
        if args.gigabytes:
            result["memory"] = measure_memory(int(args.gigabytes * 1e9), Path(home), args.num_proc)
    result["wanted"] = {"ratio_at_most": WANTED_RATIO, "peak_mb_below": round(WANTED_MEMORY / 1e6)}
    holds = {}
    if "overhead" in result:
        holds["overhead"] = result["overhead"]["ratio"] <= WANTED_RATIO
    if "memory" in result:
        holds["memory"] = result["memory"]["peak_mb"] * 1e6 < WANTED_MEMORY
    result["holds"] = holds
    result["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }
    names = ["datasets", "huggingface-hub", "pyarrow", "pillow"]
    result["versions"] = {"python": platform.python_version(), **{name: version(name) for name in names}}
    args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))


STEPS: dict[str, Any] = {
    "ours": lambda rows: publish_ours(int(rows)),
    "theirs": lambda rows: publish_theirs(int(rows)),
    "build": lambda size, folder: build(int(size), Path(folder)),
    "stage": lambda folder, num_proc: stage(Path(folder), int(num_proc) or None),
}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in STEPS:
        print(json.dumps(STEPS[sys.argv[1]](*sys.argv[2:])))
    else:
        main()

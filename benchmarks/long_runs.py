"""How the cost of a long run grows: time and memory of `run` over 1,000, 10,000 and 100,000 rows.

    python benchmarks/long_runs.py                                     # writes benchmarks/results/long_runs.json

Each size is a process of its own, which captions JPEGs of 200 px by a LLaVA of some 100 thousand random weights, so
that what is measured is the run and not the model: reading, decoding, captioning, writing shards, gathering the rows at
the end. The rows are on disk, as a Parquet file that `datasets` has made its Arrow file of: with the names of picture
files; with the pictures in it; and, as Parquet files of 500 rows with the pictures in them, as a stream.

Memory is the most that the process had resident, and the most of that which no file is behind ("anonymous"), both as
/proc says, so on Linux alone; each before (everything imported, 256 rows captioned) and after. Last, the same folder is
opened again, when all shards are there.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "long_runs.json"
SIZES = {"files": (1_000, 10_000, 100_000), "embedded": (1_000, 30_000), "stream": (1_000, 30_000)}
PICTURES = 1_000  # files; rows beyond take them in turn
STREAMED = 500  # rows a file of a stream


class Memory:
    """Watches what this process has resident, in MiB."""

    def __init__(self) -> None:
        self._anonymous = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._anonymous = max(self._anonymous, self._now("RssAnon"))
            time.sleep(0.02)

    @staticmethod
    def _now(name: str) -> float:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
        return int(found[1]) / 1024 if found else float("nan")

    def peak(self) -> dict[str, int]:
        """The most so far."""
        self._anonymous = max(self._anonymous, self._now("RssAnon"))
        # Not what getrusage says: that goes on from the process that started this one.
        return {"peak_mib": round(self._now("VmHWM")), "peak_anonymous_mib": round(self._anonymous)}


def open_rows(kind: str, size: int, work: Path) -> Any:
    """The rows, on disk."""
    import datasets

    cache = str(work / "cache")
    if kind == "stream":
        files = sorted(str(path) for path in (work / f"stream-{size}").glob("*.parquet"))
        return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=cache)
    rows = datasets.Dataset.from_parquet(str(work / f"{kind}-{size}.parquet"), cache_dir=cache)
    return rows.cast_column("image", datasets.Image(decode=False))


def measure(kind: str, size: int, work: Path) -> dict[str, Any]:
    """One run, in this process."""
    import datasets

    from hf_mllm_aug import Captioner, run

    memory = Memory()
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = work / "run-cache"
    rows = open_rows(kind, size, work)
    captioner = Captioner(work / "llava", name="small", batch_size=64, max_new_tokens=4)
    run(rows.take(256), captioner, work / "warm", progress=False)
    before, start = memory.peak(), time.perf_counter()
    captioned = run(rows, captioner, work / "run", progress=False)
    worked = time.perf_counter() - start
    after = memory.peak()
    if captioned["key"][-1] != f"{size - 1:07d}" or captioned["caption_small"][0] is None:
        raise AssertionError("rows are missing, or in another order")
    start = time.perf_counter()
    run(rows, captioner, work / "run", progress=False)
    return {
        "rows": size,
        "rows_per_second": round(size / worked, 1),
        **{f"{name}_before": value for name, value in before.items()},
        **after,
        "seconds_to_open_a_finished_run": round(time.perf_counter() - start, 2),
    }


def write_rows(kind: str, size: int, work: Path) -> None:
    """The rows of a run, in Parquet files; pictures in turn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted((work / "pictures").glob("*.jpg"))
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("key", pa.string()), ("image", picture)])
    contents = [None if kind == "files" else path.read_bytes() for path in paths]
    places = [str(path) if kind == "files" else path.name for path in paths]
    step = STREAMED if kind == "stream" else 1_000
    (work / f"stream-{size}").mkdir(exist_ok=True)
    writer = None
    for first in range(0, size, step):
        numbers = range(first, min(first + step, size))
        images = [{"bytes": contents[n % len(paths)], "path": places[n % len(paths)]} for n in numbers]
        table = pa.table({"key": [f"{n:07d}" for n in numbers], "image": images}, schema=schema)
        if kind == "stream":
            pq.write_table(table, work / f"stream-{size}" / f"{first:07d}.parquet", row_group_size=100)
            continue
        if writer is None:
            writer = pq.ParquetWriter(work / f"{kind}-{size}.parquet", schema)
        writer.write_table(table, row_group_size=100)
    if writer is not None:
        writer.close()
        open_rows(kind, size, work)  # the Arrow file is made here, and is there for the process that is measured


def prepare(work: Path) -> None:
    """The pictures and the model, the same for all sizes."""
    from benchmarks.captioning import make_pictures
    from tests.conftest import build_llava

    (work / "pictures").mkdir()
    make_pictures(work / "pictures", PICTURES, side=200)
    build_llava(work / "llava")


def measured(kind: str, sizes: list[int], work: Path) -> list[dict[str, Any]]:
    """The runs over rows of a kind, each in a process of its own."""
    found = []
    for size in sizes:
        write_rows(kind, size, work)
        command = [sys.executable, __file__, "--one", kind, str(size), "--work", str(work)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(kind, found[-1], flush=True)
        for name in ("run", "warm", "run-cache", "cache", f"stream-{size}"):
            shutil.rmtree(work / name, ignore_errors=True)
        (work / f"{kind}-{size}.parquet").unlink(missing_ok=True)
    return found


def growth(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The largest run over the smallest."""
    first, last = runs[0], runs[-1]
    return {
        "peak_of_the_largest_over_the_smallest": round(last["peak_mib"] / first["peak_mib"], 3),
        "anonymous_peak_of_the_largest_over_the_smallest": round(
            last["peak_anonymous_mib"] / first["peak_anonymous_mib"], 3
        ),
        "time_a_row_of_the_largest_over_the_smallest": round(first["rows_per_second"] / last["rows_per_second"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sizes", type=int, nargs="+", help="for all kinds")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]), args.work)))
        return
    import torch
    import transformers

    work = Path(tempfile.mkdtemp(prefix="long-runs-"))
    try:
        prepare(work)
        found = {kind: measured(kind, args.sizes or list(SIZES[kind]), work) for kind in args.kinds}
    finally:
        shutil.rmtree(work)
    reports = {kind: {"runs": runs, **growth(runs)} for kind, runs in found.items()}
    result = {
        **reports.pop("files", {}),
        **reports,
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {module.__name__: module.__version__ for module in (torch, transformers)},
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

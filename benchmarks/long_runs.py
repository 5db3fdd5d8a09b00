"""How the cost of a long run grows: time and memory of `run` over 1,000, 10,000 and 100,000 rows.

    python benchmarks/long_runs.py                                     # writes benchmarks/results/long_runs.json

Each size is a process of its own, which captions JPEGs of 200 px by a LLaVA of some 100 thousand random weights, so
that what is measured is the run and not the model: reading, decoding, captioning, writing shards, gathering the rows at
the end. Memory is the most that the process had resident, before (everything imported, 256 rows captioned) and after.
Last, the same folder is opened again, when all shards are there.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "long_runs.json"
SIZES = (1_000, 10_000, 100_000)
PICTURES = 1_000  # files; rows beyond take them in turn


def peak_mib() -> float:
    """The most memory that this process had resident so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(rows_wanted: int, work: Path) -> dict[str, float]:
    """One run, in this process."""
    import datasets

    from hf_mllm_aug import Captioner, run

    datasets.disable_progress_bars()
    paths = sorted(str(path) for path in (work / "pictures").glob("*.jpg"))
    rows = datasets.Dataset.from_dict(
        {
            "key": [f"{number:07d}" for number in range(rows_wanted)],
            "image": [paths[number % len(paths)] for number in range(rows_wanted)],
        }
    ).cast_column("image", datasets.Image(decode=False))
    captioner = Captioner(work / "llava", name="small", batch_size=64, max_new_tokens=4)
    run(rows.select(range(256)), captioner, work / "warm", progress=False)
    before, start = peak_mib(), time.perf_counter()
    captioned = run(rows, captioner, work / "run", progress=False)
    worked = time.perf_counter() - start
    after = peak_mib()
    if captioned["key"][-1] != f"{rows_wanted - 1:07d}" or captioned["caption_small"][0] is None:
        raise AssertionError("rows are missing, or in another order")
    start = time.perf_counter()
    run(rows, captioner, work / "run", progress=False)
    return {
        "rows": rows_wanted,
        "rows_per_second": round(rows_wanted / worked, 1),
        "peak_mib_before": round(before),
        "peak_mib": round(after),
        "seconds_to_open_a_finished_run": round(time.perf_counter() - start, 2),
    }


def prepare(work: Path) -> None:
    """The pictures and the model, the same for all sizes."""
    from benchmarks.captioning import make_pictures
    from tests.conftest import build_llava

    (work / "pictures").mkdir()
    make_pictures(work / "pictures", PICTURES, side=200)
    build_llava(work / "llava")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if args.one:
        print(json.dumps(measure(args.one, args.work)))
        return
    import torch
    import transformers

    work = Path(tempfile.mkdtemp(prefix="long-runs-"))
    prepare(work)
    found = []
    for size in args.sizes:
        command = [sys.executable, __file__, "--one", str(size), "--work", str(work)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
        shutil.rmtree(work / "run")
        shutil.rmtree(work / "warm")
    result = {
        "runs": found,
        "peak_of_the_largest_over_the_smallest": round(found[-1]["peak_mib"] / found[0]["peak_mib"], 3),
        "time_a_row_of_the_largest_over_the_smallest": round(
            found[0]["rows_per_second"] / found[-1]["rows_per_second"], 3
        ),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {module.__name__: module.__version__ for module in (torch, transformers)},
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()

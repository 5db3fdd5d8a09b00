"""Rows a second, time to the first row and memory of reading published lists: CC12M's TSV and the paper's JSON.

Run ``python benchmarks/tables.py [--rows N] [--json-rows N ...]``; figures go to ``benchmarks/results/tables.json``.
``--only-json --json-rows 15000000`` adds a list of the size of YFCC15M to the figures that are there.
The lists are made up, with lines about as long as the published ones, under the folder for temporary files, and removed
afterwards: 12.4 million rows take some 2.5 GB. Each figure is from a process of its own, on one thread. Rates are given
by the clock and by the processor's time: the first depends on what else the machine does. Memory is the process's peak
resident set; what `datasets` and torch, which `datasets` imports for a stream, take alone is given beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "tables.json"
BATCH = 1000
SAMPLE = 200_000
CC12M_ROWS = 12_423_374

WORDS = """
the a of and in on with at photo image view sale vintage black white red blue new house home design wedding beach
woman man dog cat city street kitchen table garden mountain river café light old small large <PERSON> portrait poster
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=CC12M_ROWS, help="rows of the TSV (default: %(default)s)")
    parser.add_argument("--map-rows", type=int, default=1_000_000, help="of the TSV in datasets' cache")
    parser.add_argument(
        "--json-rows", type=int, nargs="+", default=[1_500_000], help="rows of each JSON list (default: %(default)s)"
    )
    parser.add_argument("--only-json", action="store_true", help="measure the JSON lists alone, and keep the rest")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures go (default: %(default)s)")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, file = options.measure
        print(json.dumps(MEASURES[what](Path(file))))
        return
    before = json.loads(options.out.read_text(encoding="utf-8")) if options.only_json and options.out.exists() else {}
    report = before if options.only_json else measure(options.rows, options.map_rows)
    measured = {item["rows"]: item for item in [*report.get("json_lists", []), *map(measure_json, options.json_rows)]}
    report["json_lists"] = [measured[rows] for rows in sorted(measured)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def measure(rows: int, map_rows: int) -> dict[str, Any]:
    report: dict[str, Any] = {}
    report["machine"] = machine()
    with tempfile.TemporaryDirectory(prefix="benchmark-tables-") as folder:
        tsv, short = (Path(folder) / name for name in ("cc12m.tsv", "short.tsv"))
        write_tsv(tsv, rows)
        report["tsv"] = {
            "rows": rows,
            "bytes": tsv.stat().st_size,
            "first_row": child("first", tsv),
            "batches": child("batches", tsv),
            "arrow_batches": child("arrow", tsv),
            "row_by_row": child("row_by_row", tsv),
            "reading_bytes_only": child("bytes", tsv),
        }
        tsv.unlink()
        write_tsv(short, map_rows)
        report["tsv_to_cache"] = {"rows": map_rows, **child("cache", short)}
    report["imports_alone"] = child("imports", Path("none"))
    report["versions"] = {name: version(name) for name in ("datasets", "pyarrow", "torch")}
    return report


def measure_json(rows: int) -> dict[str, Any]:
    """The paper's JSON; 15 million rows, as many as YFCC15M has, take some 2.6 GB."""
    with tempfile.TemporaryDirectory(prefix="benchmark-tables-") as folder:
        listed = Path(folder) / "otter.json"
        found: dict[str, Any] = {"rows": rows, "machine": machine()}
        write_json(listed, rows)
        return found | {
            "bytes": listed.stat().st_size,
            "first_record": child("json_first", listed),
            "records": child("json_records", listed),
            "batches": child("json_batches", listed),
        }


def machine() -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"platform": platform.platform(), "cores": os.cpu_count(), "threads": 1, "load_before": load}


def child(what: str, file: Path) -> dict[str, Any]:
    """What a measure gives in a process of its own, on one thread, with an empty cache."""
    with tempfile.TemporaryDirectory(prefix="benchmark-tables-cache-") as cache:
        env = {**os.environ, "HF_HOME": cache, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        env["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
        command = [sys.executable, __file__, "--measure", what, str(file)]
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(what, found, file=sys.stderr)
    return found


# --- the lists


def texts() -> tuple[list[str], list[str]]:
    """(1,000) middles of addresses and (1,000) captions, the same ones at every run."""
    rng = random.Random(0)
    words = WORDS.split()
    middles = [f"https://cdn{n % 40}.example-{n:03d}.com/media/photos/{rng.getrandbits(64):016x}/" for n in range(1000)]
    captions = [" ".join(rng.choices(words, k=rng.randint(8, 30))) for _ in range(1000)]
    return middles, captions


def write_tsv(path: Path, rows: int) -> None:
    middles, captions = texts()
    write_lines(path, (f"{middles[i % 1000]}{i:09d}_large.jpg\t{captions[i * 7 % 1000]} {i}\n" for i in range(rows)))


def write_json(path: Path, rows: int) -> None:
    _, captions = texts()
    write_lines(path, ["["])
    pairs = (
        f'{{"image": "cc3m/train/{i // 10000:05d}/{i:09d}.jpg", "caption": "{captions[i % 1000]} {i}"}}'
        for i in range(rows)
    )
    write_lines(path, ((",\n" if i else "") + pair for i, pair in enumerate(pairs)))
    write_lines(path, ["]\n"])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("a", encoding="utf-8", buffering=1 << 20) as file:
        file.writelines(lines)


# --- what is measured


def first(path: Path) -> dict[str, Any]:
    import datasets  # noqa: F401 - its import is not what is measured
    import torch  # noqa: F401

    from hf_mllm_aug import load_cc12m

    start = time.perf_counter()
    next(iter(load_cc12m(path, streaming=True)))
    return {"seconds": round(time.perf_counter() - start, 3), **memory()}


def batches(path: Path) -> dict[str, Any]:
    from hf_mllm_aug import load_cc12m

    return through(path, load_cc12m(path, streaming=True).iter(BATCH), lambda batch: len(batch["key"]))


def arrow(path: Path) -> dict[str, Any]:
    from hf_mllm_aug import load_cc12m

    return through(path, load_cc12m(path, streaming=True).with_format("arrow").iter(BATCH), len)


def row_by_row(path: Path) -> dict[str, Any]:
    from hf_mllm_aug import load_cc12m

    return through(path, load_cc12m(path, streaming=True).take(SAMPLE), lambda row: 1)


def only_bytes(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return through(path, iter(lambda: file.read(1 << 22), b""), lambda block: block.count(b"\n"))


def cache(path: Path) -> dict[str, Any]:
    from hf_mllm_aug import load_cc12m

    start, processor = time.perf_counter(), time.process_time()
    rows = load_cc12m(path)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return {
        "seconds": round(seconds, 2),
        "rows_per_second": round(len(rows) / seconds),
        "rows_per_processor_second": round(len(rows) / processor),
        **memory(),
    }


def json_first(path: Path) -> dict[str, Any]:
    from hf_mllm_aug.loaders.json_records import iter_records

    start = time.perf_counter()
    next(iter_records(path))
    return {"seconds": round(time.perf_counter() - start, 4), **memory()}


def json_records(path: Path) -> dict[str, Any]:
    from hf_mllm_aug.loaders.json_records import iter_records

    return through(path, iter_records(path), lambda record: 1)


def json_batches(path: Path) -> dict[str, Any]:
    from hf_mllm_aug import load_pairs

    return through(path, load_pairs(path, streaming=True).iter(BATCH), lambda batch: len(batch["key"]))


def imports(path: Path) -> dict[str, Any]:
    import datasets  # noqa: F401
    import torch  # noqa: F401

    return memory()


def through(path: Path, items: Iterable[Any], count: Callable[[Any], int]) -> dict[str, Any]:
    """Rows a second of going through, and the peak memory by quarters of the time, which shows whether it grows."""
    rows = 0
    peaks = []
    start = marked = time.perf_counter()
    processor = time.process_time()
    for item in items:
        rows += count(item)
        if time.perf_counter() - marked > 5:
            marked = time.perf_counter()
            peaks.append(memory()["peak_mib"])
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    quarters = [peaks[len(peaks) * quarter // 4] for quarter in range(4)] if len(peaks) >= 4 else []
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "rows_per_second": round(rows / seconds),
        "rows_per_processor_second": round(rows / processor),
        **memory(),
        "peak_mib_by_quarter": quarters,
    }


def memory() -> dict[str, Any]:
    return {"peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


MEASURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "first": first,
    "batches": batches,
    "arrow": arrow,
    "row_by_row": row_by_row,
    "bytes": only_bytes,
    "cache": cache,
    "json_first": json_first,
    "json_records": json_records,
    "json_batches": json_batches,
    "imports": imports,
}


if __name__ == "__main__":
    main()

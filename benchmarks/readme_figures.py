"""Write the README's figures from the results files, between its marks.

    python benchmarks/readme_figures.py

A test compares the two, so the README can show no figure that was not measured.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
VENDOR = "emoji of the vendor facebook"
OTHERS = {"tiny-minigpt-4": "minigpt4", "tiny-qwen-vl": "qwen_vl", "tiny-otter": "otter"}


def results(name: str) -> Any:
    """What a benchmark has written."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def rendered(text: str) -> str:
    """The README with what the results say between its marks."""
    for name, lines in {"figures": measured(), "study": study()}.items():
        marked = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        text, found = marked.subn(lambda marks, lines=lines: marks[1] + lines + marks[2], text)  # type: ignore[misc]
        if found != 1:
            raise SystemExit(f"README.md has {found} places for {name}: it needs one, between its two marks")
    return text


def study() -> str:
    """What the desk-scale study found, in three figures."""
    found = results("desk_scale")
    arms, seeds = found["arms"], found["seeds"]

    def score(arm: str, test: str, k: int) -> str:
        return f"{arms[arm][f'zero_shot.{test}'][f'mean_recall@{k}']['mean']:.1f}%"

    def gain(test: str, k: int) -> str:
        gained, low, high = arms["four"][f"zero_shot.{test}"][f"mean_recall@{k}"]["gain_over_raw"]
        return f"{gained:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}"

    return f"""\
| small CLIPs trained from nothing on {found["pairs"]:,} pairs of Open Clip Art, {seeds} seeds | raw titles only | \
raw + four miniatures, sheared |
|---|---|---|
| zero-shot R@1, {found["test_pictures"]["vendor"]:,} emoji of an unseen vendor | {score("raw", "vendor", 1)} | \
{score("four", "vendor", 1)} ({gain("vendor", 1)}) |
| zero-shot R@10, the same | {score("raw", "vendor", 10)} | {score("four", "vendor", 10)} ({gain("vendor", 10)}) |
| zero-shot R@1, {found["test_pictures"]["stamps"]:,} unseen stamps | {score("raw", "stamps", 1)} | \
{score("four", "stamps", 1)} ({gain("stamps", 1)}) |
"""


def measured() -> str:
    """The lines of what is measured of speed, memory and quality."""
    recall, shear = results("retrieval_recall"), results("shear")
    tiny, speed = results("tiny_llava"), results("captioner")
    vendor, stamps = tiny[VENDOR], tiny["stamps"]
    size, over, way = recall["size"], recall["time_of_retrieval_recall_over"], speed["time_over_augment_median"]
    captioning, long = results("captioning"), results("long_runs")
    times, runs = captioning["times_the_speed_of"], long["runs"]
    a_second, loop = captioning["images_per_second_median"]["run"], times["the paper's loop"]
    halved = captioning["in_bfloat16_times_the_speed_of"]
    preview, publishing = results("preview"), results("publish")
    overhead, staging, paint = publishing["overhead"], publishing["memory"], preview["pages"]
    others = {name: results(f"tiny_{style}") for name, style in OTHERS.items()}
    named = ", ".join(
        f"`{name}` {found[VENDOR]['exact']:.1%} and {found['stamps']['exact']:.1%}" for name, found in others.items()
    )
    return f"""\
| what | figure | from |
|---|---|---|
| `retrieval_recall`, {size["images"]:,} x {size["texts"]:,} x {size["dim"]} float32 | \
{over["bare_product"]:.2f} times the bare matrix product, {over["topk"]:.2f} of `topk` over the whole score matrix; \
{recall["peak_mib_above_inputs"]:.0f} MiB above the inputs | `benchmarks/retrieval_recall.py` |
| shearing {shear["rows"]:,} captions | {shear["rows_per_second"]["shear_map_batched"]:,} a second through \
`Dataset.map`, {shear["rows_per_second"]["shear_loop"]:,} in a loop, {shear["sentencex"]["share_of_shear_loop"]:.0%} \
of that in sentencex; the seed's `split('.')` cuts {shear["captions_cut_otherwise_by_the_seed"]:.0%} of these captions \
elsewhere | `benchmarks/shear.py` |
| `tiny-llava`, drawings of a vendor never seen ({vendor["pictures"]:,}) | named exactly {vendor["exact"]:.1%}, \
content-word F1 {vendor["content_f1"]:.2f} | `benchmarks/tiny/score.py` |
| `tiny-llava`, stamps never seen ({stamps["pictures"]:,}) | named exactly {stamps["exact"]:.1%}, content-word F1 \
{stamps["content_f1"]:.2f} | `benchmarks/tiny/score.py` |
| the other miniatures, the same drawings and stamps | named exactly: {named} | `benchmarks/tiny/score.py` |
| `tiny-llava`, {speed["pictures"]} pictures on {speed["machine"]["threads"]} cores | \
{speed["seconds_median"]["augment (sentence stop, then shearing)"]:.1f} s; decoding all 30 tokens takes \
{way["all 30 tokens, then shearing"]:.1f} times as long, one picture a call {way["one picture a call"]:.1f} times; \
loaded in {speed["loading_s_median"]:.1f} s | `benchmarks/captioner.py` |
| `run` by `tiny-llava`, {captioning["pictures"]:,} JPEGs of 500 px | {a_second:.0f} images a second, \
{loop:.2f} times the paper's loop and {times["pipeline"]:.2f} times `Dataset.map` with a transformers pipeline; \
{captioning["share_of_run_inside_the_model"]:.0%} of the time inside the model; in bfloat16 \
{captioning["images_per_second_median"]["run, bfloat16"]:.0f} images a second, \
{halved["the paper's loop, bfloat16"]:.2f} times the loop in bfloat16 | `benchmarks/captioning.py` |
| `run`, {runs[0]["rows"]:,} and {runs[-1]["rows"]:,} rows by a model of 100 thousand weights | \
{runs[0]["rows_per_second"]:.0f} and {runs[-1]["rows_per_second"]:.0f} rows a second; at most {runs[0]["peak_mib"]:,} \
and {runs[-1]["peak_mib"]:,} MiB resident | `benchmarks/long_runs.py` |
| publishing {overhead["rows"]:,} rows as {len(overhead["configs"])} configs, with card and verification | \
{overhead["ratio"]:.2f} times as long as `Dataset.push_to_hub` of one config after another; \
{overhead["ratio_less_card"]:.2f} times where the card was there before | `benchmarks/publish.py` |
| staging {staging["shard_mb"] / 1000:.1f} GB of pictures | at most {staging["peak_mb"]:,} MB of memory that \
no file backs | `benchmarks/publish.py` |
| `preview` of {preview["rows"]:,} rows | first paint after \
{preview["first"]["first_contentful_paint_seconds"]:.2f} s, page 10,000 after \
{paint["page_10000"]["first_contentful_paint_seconds"]:.2f} s; at most \
{preview["server_peak_memory_bytes"] / 2**20:.0f} MiB resident | `benchmarks/preview.py` |
"""


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(rendered(readme.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()

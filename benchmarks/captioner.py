"""Time of the embedded captioner: loading it, and captioning 64 pictures in several ways.

    python benchmarks/captioner.py                   # writes benchmarks/results/captioner.json

Each way runs on the same pictures in turn, several times; ratios are medians of the ratios within a turn, so that a
machine that slows down slows all of them. Loading is timed in processes of its own: the imports of torch and
transformers, then the first caption, less the time of a second one.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers

from hf_mllm_aug import Augment, Captioner, Shear
from hf_mllm_aug.loaders.picture_folder import load_picture_folder

RESULT = Path(__file__).parent / "results" / "captioner.json"
PICTURES = Path(__file__).parents[1] / "hf_mllm_aug" / "demo_data"
ROWS = 64

LOADING = """
import json, time
start = time.perf_counter()
import torch, transformers
from transformers import LlavaForConditionalGeneration
imported = time.perf_counter()
from PIL import Image
from hf_mllm_aug import Captioner
picture = {"image": Image.new("RGB", (96, 96), "white")}
captioner = Captioner("tiny-llava")
captioner(picture)
first = time.perf_counter()
captioner(picture)
second = time.perf_counter()
print(json.dumps({"imports_s": imported - start, "load_s": (first - imported) - (second - first)}))
"""


def batch() -> dict[str, list[object]]:
    """64 rows of the pictures in the package, as files."""
    rows = load_picture_folder(PICTURES)
    images = [rows[number % len(rows)]["image"] for number in range(ROWS)]
    return {"key": [str(number) for number in range(ROWS)], "image": images}


def seed_way(rows: dict[str, list[object]]) -> None:
    """The released scripts' loop: pictures opened one by one, all tokens generated, then `split('.')`."""
    from PIL import Image

    from hf_mllm_aug.captioners.engine import Generated, loaded

    captioner = Captioner("tiny-llava")
    model = loaded(captioner.model_key(None))
    for start in range(0, ROWS, 48):
        pictures = [
            Image.open(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"]).convert("RGB")  # type: ignore[index]
            for image in rows["image"][start : start + 48]
        ]
        texts = model.generate(pictures, [""] * len(pictures), captioner.request)
        [text.text.split(".")[0].strip() for text in texts if isinstance(text, Generated)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()

    rows = batch()
    ways = {
        "augment (sentence stop, then shearing)": lambda: Augment("tiny-llava")(rows),
        "all 30 tokens, then shearing": lambda: Augment("tiny-llava", keep_unsheared=True)(rows),
        "the paper's loop, same model": lambda: seed_way(rows),
        "one picture a call": lambda: Augment("tiny-llava", batch_size=1)(rows),
    }
    reference = next(iter(ways))
    for way in ways.values():
        way()  # the model is loaded, and torch has warmed up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repetitions):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    full = Captioner("tiny-llava")(rows)["caption_tiny_llava"]
    equal = [Shear().one(text) for text in full] == Augment("tiny-llava")(rows)["caption_tiny_llava"]
    loading = [
        json.loads(subprocess.run([sys.executable, "-c", LOADING], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    result = {
        "pictures": ROWS,
        "seconds_median": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "time_over_augment_median": {
            name: round(statistics.median(a / b for a, b in zip(values, seconds[reference], strict=True)), 2)
            for name, values in seconds.items()
        },
        "sheared_captions_equal_those_of_all_tokens": equal,
        "loading_s_median": round(statistics.median(item["load_s"] for item in loading), 2),
        "imports_s_median": round(statistics.median(item["imports_s"] for item in loading), 2),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__},
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

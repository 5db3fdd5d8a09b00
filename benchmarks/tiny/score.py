"""Score a miniature captioner on the two held-out sets, through the library's own `Captioner` and shearing.

    python -m benchmarks.tiny.score --pictures /tmp/pictures.npz --model hf_mllm_aug/captioners/tiny/llava

``exact``: the sheared caption is the reference label, case aside. ``content_f1``: mean over pictures of the F1 between
the sets of content words (letters and digits, lower case, function words left out) of caption and reference label.
The reference is the first sentence of the picture's own caption, without its leading article; of a caption that is a
sentence, what it says to be drawn counts.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

from benchmarks.tiny.pictures import HELD_OUT_VENDOR
from benchmarks.tiny.texts import STYLES, content_words, meant, named
from hf_mllm_aug import Augment, Captioner


def content_f1(said: str, meant: str) -> float:
    """F1 between the content words of two texts, 0 where they share none.

    >>> round(content_f1("Tiger", "Sumatran tiger"), 3)
    0.667
    """
    a, b = content_words(said), content_words(meant)
    return 2 * len(a & b) / (len(a) + len(b)) if a & b else 0.0


def png(pixels: np.ndarray) -> bytes:
    """An RGBA picture as the file that a data set would hold."""
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="archive of benchmarks.tiny.pictures")
    parser.add_argument("--model", default="tiny-llava", help="a captioner's name or folder")
    parser.add_argument("--style", choices=sorted(STYLES), default="llava", help="how the model writes")
    parser.add_argument("--out", type=Path, help="by default benchmarks/results/tiny_STYLE.json")
    parser.add_argument("--show", type=int, default=0, help="print so many pairs of each set")
    args = parser.parse_args()

    with np.load(args.pictures) as archive:
        held_out = archive["held_out"]
        columns = {name: archive[name][held_out] for name in ("pixels", "source", "caption", "key")}
    augment = Augment(Captioner(args.model, output_column="said", batch_size=64))
    start = time.perf_counter()
    said: list[str] = []
    for first in range(0, len(columns["key"]), 512):
        rows = slice(first, first + 512)
        batch = {"image": [png(pixels) for pixels in columns["pixels"][rows]], "key": columns["key"][rows].tolist()}
        said += [str(text) for text in augment(batch)["said"]]
    seconds = time.perf_counter() - start

    result: dict[str, object] = {
        "pictures_per_second": round(len(said) / seconds, 1),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    for name, source in ((f"emoji of the vendor {HELD_OUT_VENDOR}", HELD_OUT_VENDOR), ("stamps", "stamps")):
        pairs = [
            (named(args.style, text), meant(args.style, str(caption)))
            for text, caption, where in zip(said, columns["caption"], columns["source"], strict=True)
            if where == source
        ]
        result[name] = {
            "pictures": len(pairs),
            "exact": round(statistics.fmean(a.casefold() == b.casefold() for a, b in pairs), 6),
            "content_f1": round(statistics.fmean(content_f1(a, b) for a, b in pairs), 6),
        }
        for a, b in pairs[:: max(1, len(pairs) // args.show)] if args.show else ():
            print(f"{b!r:50} {a!r}")
    out = args.out or Path("benchmarks/results") / f"tiny_{args.style}.json"
    out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""Score ``tiny-clip`` on the two held-out sets: each drawing against its own name, by the library's own evaluation.

    python -m benchmarks.tiny.score_clip --pictures /tmp/pictures.npz --model tiny-clip

The cosine decides; Recall@K is `retrieval_recall`'s, ties counted against the encoder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.tiny.pictures import HELD_OUT_VENDOR
from benchmarks.tiny.score import png
from benchmarks.tiny.texts import label
from hf_mllm_aug.embedding import evaluate_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="archive of benchmarks.tiny.pictures")
    parser.add_argument("--model", default="tiny-clip", help="an encoder's name or folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tiny_clip.json"))
    args = parser.parse_args()
    with np.load(args.pictures) as archive:
        held_out = archive["held_out"]
        pixels, sources, captions = (archive[name][held_out] for name in ("pixels", "source", "caption"))
    result = {}
    for name, source in ((f"emoji of the vendor {HELD_OUT_VENDOR}", HELD_OUT_VENDOR), ("stamps", "stamps")):
        chosen = np.flatnonzero(sources == source)
        rows = [{"image": png(pixels[row]), "caption": label(str(captions[row]))} for row in chosen]
        scores = evaluate_model(args.model, rows)
        result[name] = {key: round(value, 4) if isinstance(value, float) else value for key, value in scores.items()}
    args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

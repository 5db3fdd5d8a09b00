"""How near captioning comes to what the machine can multiply.

    python benchmarks/roofline.py                                # tiny-llava on a CPU, float32 and bfloat16
    python benchmarks/roofline.py --random-llava-7b --batch-size 48   # on a CUDA device; nothing is downloaded

The share of the roofline is the operations of a `generate` call over those that the device would do in the same time
in one large matrix product, measured in the same run and of the same number type. Operations are counted by torch's
`FlopCounterMode` in a call of the same shapes with unquantised weights and a dynamic cache: a product of a m x k and a
k x n matrix is 2mkn. What compiling, quantising and filling up save or add is therefore in the time alone, and float8
is measured against bfloat16. Every row writes all its tokens, as none of random weights would end.

Prompt and steps are told apart by calls that write one token. Steps read all weights for one token a row, so their
share is small on any machine: it is memory that they wait for.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from hf_mllm_aug import Captioner
from hf_mllm_aug.captioners import engine
from hf_mllm_aug.captioners.quantization import quantise
from hf_mllm_aug.captioners.static_cache import StaticDecoding
from hf_mllm_aug.images import to_rgb
from hf_mllm_aug.loaders.picture_folder import load_picture_folder

RESULT = Path(__file__).parent / "results" / "roofline.json"
PICTURES = Path(__file__).parents[1] / "hf_mllm_aug" / "demo_data"
# LLaVA-1.5-7B as its repository has it, and its prompt of 576 positions for the picture among 14 others.
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
IMAGE, WORDS = 32000, 14


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Callable[[], Any], device: torch.device, repetitions: int) -> float:
    """The median time of a call, after one that is not timed."""
    work()
    times = []
    for _ in range(repetitions):
        start = now(device)
        work()
        times.append(now(device) - start)
    return statistics.median(times)


def matrix_rate(device: torch.device, dtype: torch.dtype, repetitions: int) -> float:
    """Operations a second in a product of two square matrices."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: left @ right, device, max(5, repetitions))


def tiny(name: str, dtype: str, quantization: Any, device: torch.device, rows: int) -> tuple[Any, dict[str, Any]]:
    """A captioner's model, and its inputs for pictures of the package."""
    captioner = Captioner(name, dtype=dtype, quantization=quantization, device=str(device))
    loaded: Any = engine.loaded(captioner.model_key(str(device)))
    files = [row["image"] for row in load_picture_folder(PICTURES)]
    pictures = [to_rgb(files[number % len(files)]) for number in range(rows)]
    return loaded._model, loaded._on_device(loaded.prepare(pictures, captioner.request))


def random_7b(quantization: str | None, device: torch.device, rows: int) -> tuple[Any, dict[str, Any]]:
    """A LLaVA-1.5-7B of random weights, and inputs."""
    kind: Any = transformers.LlavaConfig
    vision = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, "projection_dim": 768, **VISION}
    text = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096, **LLAMA}
    config = kind(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=576)
    auto: Any = transformers.AutoModelForImageTextToText
    with torch.device(device):
        model = auto.from_config(config, dtype=torch.bfloat16).eval()
        ids = torch.randint(5, 30000, (rows, 576 + WORDS))
        pixels = torch.randn(rows, 3, 336, 336, dtype=torch.bfloat16)
    ids[:, 4 : 4 + 576] = IMAGE
    if quantization is not None:
        model = quantise(model, quantization, device, "random-llava-7b")
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def writer(model: Any, inputs: dict[str, Any], compiled: bool) -> Callable[[int], Any]:
    """A function that writes so many tokens for every row."""
    request = Captioner("tiny-llava").request
    static, rows = StaticDecoding(model), inputs["input_ids"].shape[0]
    kind: Any = transformers.GenerationConfig

    def write(tokens: int) -> Any:
        def generate(given: dict[str, Any], _: Any, compile_config: Any = None, **options: Any) -> Any:
            config = kind(
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                compile_config=compile_config,
            )
            return model.generate(**given, generation_config=config, **options)

        asked = dataclasses.replace(request, max_new_tokens=tokens, compile=compiled)
        with torch.inference_mode():
            found = static.decode(inputs, [""] * rows, asked, generate)
        if compiled and not static.shapes:
            raise SystemExit("decoding was not compiled; the reason stands above")
        return found

    return write


def operations(write: Callable[[int], Any], tokens: int) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        write(tokens)
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-llava", help="a captioner's name")
    parser.add_argument("--random-llava-7b", action="store_true", help="LLaVA-1.5-7B with random weights, on CUDA")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of the captioner")
    parser.add_argument("--quantization", nargs="+", default=[], choices=["int8", "fp8"], help="measure these, too")
    parser.add_argument("--compile", action="store_true", help="measure compiled decoding, too")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.random_llava_7b and device.type != "cuda":
        raise SystemExit("--random-llava-7b needs a CUDA device")
    rows = args.batch_size
    ways: dict[str, dict[str, float]] = {}
    for dtype in ["bfloat16"] if args.random_llava_7b else args.dtypes:
        prompt = steps = 0
        for kind in [None, *args.quantization]:
            if args.random_llava_7b:
                model, inputs = random_7b(kind, device, rows)
            else:
                model, inputs = tiny(args.model, dtype, kind, device, rows)
            if kind is None:
                plain = writer(model, inputs, compiled=False)
                prompt = operations(plain, 1)
                steps = operations(plain, args.tokens) - prompt
            for compiled in [False, True] if args.compile else [False]:
                write = writer(model, inputs, compiled)
                # Anew for each way: other work on the machine slows both. The longer call comes first, for its cache
                # is large enough for the shorter one.
                rate = matrix_rate(device, getattr(torch, dtype), args.repetitions)
                whole = seconds(lambda write=write: write(args.tokens), device, args.repetitions)  # type: ignore[misc]
                first = seconds(lambda write=write: write(1), device, args.repetitions)  # type: ignore[misc]
                way = " ".join([dtype, *([kind] if kind else []), *(["compiled"] if compiled else [])])
                ways[way] = {
                    "matrix_gflop_per_second": round(rate / 1e9, 1),
                    "images_per_second": round(rows / whole, 2),
                    "prompt_seconds": round(first, 4),
                    "step_milliseconds": round(1000 * (whole - first) / (args.tokens - 1), 2),
                    "share_of_roofline": round((prompt + steps) / whole / rate, 4),
                    "share_of_roofline_prompt": round(prompt / first / rate, 4),
                    "share_of_roofline_steps": round(steps / max(whole - first, 1e-9) / rate, 4),
                    "gflop_an_image_prompt": round(prompt / rows / 1e9, 3),
                    "gflop_an_image_steps": round(steps / rows / 1e9, 3),
                }
                print(way, ways[way], flush=True)
            del model, inputs
            plain = write = None  # type: ignore[assignment]
            engine.unload()
    result = {
        "model": "LLaVA-1.5-7B, random weights" if args.random_llava_7b else args.model,
        "batch_size": rows,
        "tokens": args.tokens,
        "ways": ways,
        "machine": {
            "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "versions": {module.__name__: module.__version__ for module in (torch, transformers)},
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()

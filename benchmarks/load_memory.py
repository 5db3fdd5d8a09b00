"""Memory that it takes to load the paper's MLLMs, and to convert MiniGPT-4's files.

    python benchmarks/load_memory.py                   # writes benchmarks/results/load_memory.json

Each model is one of the real architecture with about a gigabyte of random weights in bfloat16: LLaVA and MiniGPT-4 as
transformers writes them, Qwen-VL and Otter with the names of their original projects, as safetensors and as pickles.
It is loaded in a process of its own, on the processor, and every weight is then read once, for a mapped file takes
memory only as it is read. What counts is the process's largest resident size over the one after its imports, shared
pages of mapped files included, as a ratio to the size of the weight files. The converter's is a ratio to its
largest input file.
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
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "load_memory.json"
LOADED = [
    ("llava-1.5", "safetensors"),
    ("minigpt-4", "safetensors"),
    ("otter", "safetensors"),
    ("otter", "bin"),
    ("qwen-vl", "safetensors"),
    ("qwen-vl", "bin"),
]
CONVERTED = ["safetensors", "bin"]
WANTED_LOADING, WANTED_CONVERTING = 1.2, 2.0
SHARD = "512MB"

VIT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VIT |= {"image_size": 224, "patch_size": 14}
QFORMER = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 6}
LLAMA = {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 14, "num_attention_heads": 12}
LLAMA |= {"vocab_size": 4000, "max_position_embeddings": 2048}
QUERIES = 32


def new_model(name: str) -> Any:
    """A model of some 0.5 thousand million random weights."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from hf_mllm_aug import mllms

    torch.set_default_dtype(torch.bfloat16)
    kind: Any
    config: Any
    if name == "llava-1.5":
        vision = {**VIT, "model_type": "clip_vision_model"}
        kind, config = LlavaForConditionalGeneration, LlavaConfig(
            vision_config=vision, text_config={**LLAMA, "model_type": "llama"}, image_token_index=9
        )  # fmt: skip
    elif name == "minigpt-4":
        kind, config = mllms.MiniGPT4ForConditionalGeneration, minigpt4_config()
    elif name == "otter":
        text = {"d_model": 1536, "n_heads": 12, "n_layers": 12, "vocab_size": 4000, "expansion_ratio": 4}
        kind, config = mllms.OtterForConditionalGeneration, mllms.OtterConfig(
            text_config=text, vision_config=VIT, image_token_id=9, eos_token_id=8, pad_token_id=7
        )  # fmt: skip
    else:
        vision = {name: value for name, value in VIT.items() if name != "intermediate_size"}
        kind, config = mllms.QwenVLForConditionalGeneration, mllms.QwenVLConfig(
            vision_config={**vision, "output_dim": LLAMA["hidden_size"]},
            text_config={**LLAMA, "num_key_value_heads": 12},
            image_start_token_id=7, image_end_token_id=8, image_token_id=9,
        )  # fmt: skip
    return kind(config)


def minigpt4_config() -> Any:
    from hf_mllm_aug import mllms

    return mllms.MiniGPT4Config(
        vision_config=VIT, qformer_config=QFORMER, text_config=LLAMA, num_query_tokens=QUERIES, image_token_id=9
    )


def build(name: str, form: str, folder: Path) -> None:
    """Write a checkpoint."""
    new_model(name).save_pretrained(folder, max_shard_size="100GB")
    if form == "bin":
        to_pickle(folder / "model.safetensors", folder / "pytorch_model.bin")


def to_pickle(file: Path, to: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(file), to)
    file.unlink()


def build_sources(form: str, folder: Path) -> None:
    """Write what MiniGPT-4 is converted from: its parts with their original names, Vicuna in several files."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    vicuna = folder / "vicuna"
    llama: Any = LlamaForCausalLM
    llama(LlamaConfig(**{**LLAMA, "num_hidden_layers": 24})).save_pretrained(vicuna, max_shard_size=SHARD)
    write_tokenizer(vicuna)
    parts = {"vit": vit_shapes(), "qformer": qformer_shapes()}
    parts["projection"] = linear("llama_proj", QFORMER["hidden_size"], LLAMA["hidden_size"])
    for name, shapes in parts.items():
        save_file({key: torch.randn(shape) for key, shape in shapes.items()}, folder / f"{name}.safetensors")
        if form == "bin":
            to_pickle(folder / f"{name}.safetensors", folder / f"{name}.bin")
    if form == "bin":
        (index,) = vicuna.glob("*.index.json")
        text = index.read_text()
        for file in vicuna.glob("*.safetensors"):
            to_pickle(file, file.with_suffix(".bin"))
        (vicuna / "pytorch_model.bin.index.json").write_text(text.replace(".safetensors", ".bin"))
        index.unlink()


def write_tokenizer(folder: Path) -> None:
    from transformers import LlamaTokenizer

    letters = {letter: number for number, letter in enumerate("\u2581abcdefghijklmnopqrstuvwxyz", 3)}
    kind: Any = LlamaTokenizer
    kind(vocab={"<unk>": 0, "<s>": 1, "</s>": 2, **letters}, merges=[]).save_pretrained(folder)


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def vit_shapes() -> dict[str, tuple[int, ...]]:
    width, inner, patch = VIT["hidden_size"], VIT["intermediate_size"], VIT["patch_size"]
    positions = (VIT["image_size"] // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width), "pos_embed": (1, positions, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for number in range(VIT["num_hidden_layers"] + 1):
        block = f"blocks.{number}"
        shapes |= {**norm(f"{block}.norm1", width), **norm(f"{block}.norm2", width)}
        shapes |= {f"{block}.attn.q_bias": (width,), f"{block}.attn.v_bias": (width,)}
        shapes |= {f"{block}.attn.qkv.weight": (3 * width, width), **linear(f"{block}.attn.proj", width, width)}
        shapes |= {**linear(f"{block}.mlp.fc1", width, inner), **linear(f"{block}.mlp.fc2", inner, width)}
    return shapes


def qformer_shapes() -> dict[str, tuple[int, ...]]:
    width, inner, seen = QFORMER["hidden_size"], QFORMER["intermediate_size"], VIT["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {"query_tokens": (1, QUERIES, width), **norm("ln_vision", seen)}
    shapes |= norm("Qformer.bert.embeddings.LayerNorm", width)
    for number in range(QFORMER["num_hidden_layers"]):
        layer = f"Qformer.bert.encoder.layer.{number}"
        inputs = {"attention": width, **({"crossattention": seen} if number % 2 == 0 else {})}
        for kind, source in inputs.items():
            shapes |= linear(f"{layer}.{kind}.self.query", width, width)
            shapes |= {**linear(f"{layer}.{kind}.self.key", source, width)}
            shapes |= {**linear(f"{layer}.{kind}.self.value", source, width)}
            shapes |= linear(f"{layer}.{kind}.output.dense", width, width)
            shapes |= norm(f"{layer}.{kind}.output.LayerNorm", width)
        shapes |= linear(f"{layer}.intermediate_query.dense", width, inner)
        shapes |= {
            **linear(f"{layer}.output_query.dense", inner, width),
            **norm(f"{layer}.output_query.LayerNorm", width),
        }
    return shapes


def resident() -> int:
    """Bytes in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def largest() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load(folder: Path) -> int:
    """Bytes that loading and reading all weights takes at its height."""
    import torch
    from transformers import AutoModelForImageTextToText

    from hf_mllm_aug import mllms

    mllms.register()
    auto: Any = AutoModelForImageTextToText
    before = resident()
    model, info = auto.from_pretrained(folder, dtype="auto", output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise SystemExit(f"the checkpoint is not the model's: {info}")
    if model.dtype != torch.bfloat16:
        raise SystemExit(f"loaded as {model.dtype}")
    for value in model.state_dict().values():
        value.float().sum() if value.numel() < 1e6 else [part.float().sum() for part in value]
    return largest() - before


def convert(form: str, folder: Path) -> int:
    """Bytes that converting takes at its height."""
    from hf_mllm_aug import mllms

    config = {"vision_config": VIT, "qformer_config": QFORMER, "num_query_tokens": QUERIES}
    work, inputs = (
        mllms.convert_minigpt4,
        {part: folder / f"{part}.{form}" for part in ("vit", "qformer", "projection")},
    )
    before = resident()
    work(vicuna=folder / "vicuna", out=folder / "out", config=config, **inputs)
    return largest() - before


def in_a_process(*words: str | Path) -> str:
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout


def weight_files(folder: Path) -> list[int]:
    return [file.stat().st_size for file in folder.rglob("*") if file.suffix in (".safetensors", ".bin")]


def measure() -> dict[str, Any]:
    """All ratios, one model at a time on the disk."""
    loading, converting = {}, {}
    with tempfile.TemporaryDirectory(prefix="hf_mllm_aug_load_memory_") as home:
        for name, form in LOADED:
            folder = Path(home, "model")
            in_a_process("build", name, form, folder)
            size = sum(weight_files(folder))
            peak = int(in_a_process("load", folder).splitlines()[-1])
            loading[f"{name}, {form}"] = {"file_mb": round(size / 1e6), "peak_over_file": round(peak / size, 2)}
            shutil.rmtree(folder)
            print(name, form, loading[f"{name}, {form}"])
        for form in CONVERTED:
            folder = Path(home, "sources")
            in_a_process("build-sources", form, folder)
            files = weight_files(folder)
            peak = int(in_a_process("convert", form, folder).splitlines()[-1])
            converting[form] = {
                "files_mb": round(sum(files) / 1e6),
                "largest_file_mb": round(max(files) / 1e6),
                "peak_over_largest_file": round(peak / max(files), 2),
            }
            shutil.rmtree(folder)
            print("convert", form, converting[form])
    return {"loading": loading, "converting_minigpt_4": converting}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    result = measure()
    result["wanted"] = {"loading_at_most": WANTED_LOADING, "converting_below": WANTED_CONVERTING}
    result["holds"] = {
        "loading": all(item["peak_over_file"] <= WANTED_LOADING for item in result["loading"].values()),
        "converting": all(
            item["peak_over_largest_file"] < WANTED_CONVERTING for item in result["converting_minigpt_4"].values()
        ),
    }
    versions = subprocess.run(
        [sys.executable, "-c", "import torch, transformers; print(torch.__version__, transformers.__version__)"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    result["machine"] = {"processor": platform.processor() or platform.machine(), "system": platform.system()}
    result["versions"] = {"python": platform.python_version(), "torch": versions[0], "transformers": versions[1]}
    args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))


STEPS = {
    "build": lambda name, form, folder: build(name, form, Path(folder)),
    "build-sources": lambda form, folder: build_sources(form, Path(folder)),
    "load": lambda folder: print(load(Path(folder))),
    "convert": lambda form, folder: print(convert(form, Path(folder))),
}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in STEPS:
        STEPS[sys.argv[1]](*sys.argv[2:])  # type: ignore[no-untyped-call]
    else:
        main()

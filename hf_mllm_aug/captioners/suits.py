"""Whether a captioner's settings suit its engine, before anything is loaded or asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_mllm_aug.captioners import servers
from hf_mllm_aug.captioners.engine import check_decoding
from hf_mllm_aug.errors import UsageError

if TYPE_CHECKING:
    from hf_mllm_aug.captioners.captioner import Captioner


def check(captioner: Captioner) -> None:
    """Make sure that no setting would be ignored by the engine.

    Raises:
        UsageError: One would; the message says which, and what to do.
    """
    engine, served = captioner.engine, captioner.served
    check_decoding(engine, captioner.decoding)
    if captioner.device is not None and not captioner.kind.device:
        where = "the server has its own" if served else "set CUDA_VISIBLE_DEVICES"
        raise UsageError(f"device={captioner.device!r} means nothing to the engine {engine!r}: {where}")
    _check_compiling(captioner)
    _check_quantization(captioner)
    if served:
        _check_served(captioner)
    elif captioner.base_url is not None:
        raise UsageError(f"base_url= goes with engine='openai', but the engine is {engine!r}")
    if engine == "vllm" and captioner.resolved_prompt_style in ("native", "plain"):
        raise UsageError(
            f"captioner {captioner.label!r} is asked in the style {captioner.resolved_prompt_style!r}, which the "
            "engine 'vllm' does not know. To do: engine='transformers'"
        )


def _check_compiling(captioner: Captioner) -> None:
    if captioner.compile is not None and captioner.engine != "transformers":
        raise UsageError(
            f"compile={captioner.compile} means nothing to the engine {captioner.engine!r}, which sees to it itself"
        )
    if captioner.compile and captioner.decoding["num_beams"] > 1:
        raise UsageError(
            "compile=True does not go with beams. To do: leave compile= out, or generation={'num_beams': 1}"
        )


def _check_quantization(captioner: Captioner) -> None:
    kind, engine = captioner.quantization, captioner.engine
    if kind is None:
        return
    if captioner.served:
        raise UsageError(f"quantization={kind!r} means nothing to the engine 'openai': the server has its own weights")
    if engine == "vllm" and kind != "fp8":
        raise UsageError(
            f"quantization={kind!r}: the engine 'vllm' quantises by itself to 'fp8' only. To do: quantization='fp8', "
            "or engine='transformers'"
        )
    if kind == "fp8" and captioner.dtype not in ("auto", "bfloat16"):
        raise UsageError(f"quantization='fp8' goes with dtype='bfloat16', and dtype is {captioner.dtype!r}")


def _check_served(captioner: Captioner) -> None:
    if captioner.base_url is not None:
        servers.check_address(captioner.base_url)
    if captioner.dtype != "auto":
        raise UsageError(f"dtype={captioner.dtype!r} means nothing to the engine 'openai': the server has its own")
    if captioner.prompt_style not in ("auto", "chat"):
        raise UsageError(
            f"prompt_style={captioner.prompt_style!r} cannot be had from a server, which asks by its chat template"
        )
    named = captioner.named
    if named is not None and captioner.given is None and (named.source is None or isinstance(named.source, Path)):
        raise UsageError(
            f"captioner {captioner.label!r} is the name of a folder's model. To do: pass checkpoint= with the name "
            "that the server has for it"
        )
    if captioner.mllm is not None and captioner.mllm.prompt_style == "native" and captioner.prompt is None:
        raise UsageError(
            f"the prompt of captioner {captioner.mllm.name!r} is a conversation in a form of its own, which a server "
            "would put into another one. To do: pass prompt="
        )

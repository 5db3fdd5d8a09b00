"""Modelling code for the paper's MLLMs that `transformers` lacks: MiniGPT-4, Otter and Qwen-VL version 1.

Each reads the checkpoints of its original project, and is made of transformers' own parts where they are the same
function. `register` makes all of them known to the Auto classes; importing one of the modules does so for that one.
The names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_mllm_aug.mllms.minigpt4 import MiniGPT4Config as MiniGPT4Config
    from hf_mllm_aug.mllms.minigpt4 import MiniGPT4ForConditionalGeneration as MiniGPT4ForConditionalGeneration
    from hf_mllm_aug.mllms.minigpt4_convert import convert_minigpt4 as convert_minigpt4
    from hf_mllm_aug.mllms.minigpt4_processing import MiniGPT4ImageProcessor as MiniGPT4ImageProcessor
    from hf_mllm_aug.mllms.minigpt4_processing import MiniGPT4Processor as MiniGPT4Processor
    from hf_mllm_aug.mllms.otter import OtterForConditionalGeneration as OtterForConditionalGeneration
    from hf_mllm_aug.mllms.otter_config import OtterConfig as OtterConfig
    from hf_mllm_aug.mllms.otter_processing import OtterImageProcessor as OtterImageProcessor
    from hf_mllm_aug.mllms.otter_processing import OtterProcessor as OtterProcessor
    from hf_mllm_aug.mllms.qwen_vl import QwenVLForConditionalGeneration as QwenVLForConditionalGeneration
    from hf_mllm_aug.mllms.qwen_vl_config import QwenVLConfig as QwenVLConfig
    from hf_mllm_aug.mllms.qwen_vl_processing import QwenVLImageProcessor as QwenVLImageProcessor
    from hf_mllm_aug.mllms.qwen_vl_processing import QwenVLProcessor as QwenVLProcessor
    from hf_mllm_aug.mllms.qwen_vl_tokenizer import QWenTokenizer as QWenTokenizer

_HOME = {
    "MiniGPT4Config": "minigpt4",
    "MiniGPT4ForConditionalGeneration": "minigpt4",
    "MiniGPT4ImageProcessor": "minigpt4_processing",
    "MiniGPT4Processor": "minigpt4_processing",
    "OtterConfig": "otter_config",
    "OtterForConditionalGeneration": "otter",
    "OtterImageProcessor": "otter_processing",
    "OtterProcessor": "otter_processing",
    "QWenTokenizer": "qwen_vl_tokenizer",
    "QwenVLConfig": "qwen_vl_config",
    "QwenVLForConditionalGeneration": "qwen_vl",
    "QwenVLImageProcessor": "qwen_vl_processing",
    "QwenVLProcessor": "qwen_vl_processing",
    "convert_minigpt4": "minigpt4_convert",
}

_MODELS = ("minigpt4", "otter", "qwen_vl")

__all__ = [*sorted(_HOME), "register"]


def register() -> None:
    """Make all models known to transformers' Auto classes, and their checkpoints' names to `from_pretrained`.

    May be called again; it costs next to nothing but the first time, when it imports transformers.

    >>> from hf_mllm_aug import mllms
    >>> mllms.register()
    >>> from transformers import AutoConfig
    >>> isinstance(AutoConfig.for_model("qwen"), mllms.QwenVLConfig)
    True
    """
    for model in _MODELS:
        importlib.import_module(f"{__name__}.{model}").register()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

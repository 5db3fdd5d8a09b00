"""Captioners: one class, engines behind it, the MLLMs as data.

`Captioner` holds settings; `presets` the MLLMs that have a name; an engine (`transformers_engine`) runs the model.
Loaded models are kept a process, by checkpoint, type and device, until `unload`.
"""

from hf_mllm_aug.captioners.captioner import Captioner
from hf_mllm_aug.captioners.cleanup import CleanUp
from hf_mllm_aug.captioners.engine import unload
from hf_mllm_aug.captioners.presets import PRESETS, Preset, Variant, register

__all__ = ["PRESETS", "Captioner", "CleanUp", "Preset", "Variant", "register", "unload"]

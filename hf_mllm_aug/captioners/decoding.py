"""Decoding parameters: every one explicit, none taken from a checkpoint's own generation_config.json.

`transformers` gives parameters that are not passed the checkpoint's values, or defaults such as ``top_k=50``; a data
set made so could not say how it was made. Here a parameter that nobody set has the value that does nothing.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Any

from hf_mllm_aug.errors import UnknownNameError, UsageError

NEUTRAL: Mapping[str, Any] = types.MappingProxyType(
    {
        "do_sample": False,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "num_beams": 1,
        "length_penalty": 1.0,
        "early_stopping": False,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_new_tokens": 0,
    }
)
"""The parameters that can be set, each with the value that changes nothing."""

_REAL = ("temperature", "top_p", "min_p", "typical_p", "length_penalty", "repetition_penalty")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def resolve(*layers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Lay settings over the neutral ones, later layers on top.

    Raises:
        UsageError: A parameter that is unknown, has a value out of range, or would have no effect.

    >>> resolve({"do_sample": True, "temperature": 0.2}, {"top_p": 0.9})["temperature"]
    0.2
    >>> resolve({"top_P": 0.9})
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.UnknownNameError: unknown generation parameter 'top_P': did you mean 'top_p'? ...
    """
    settings = dict(NEUTRAL)
    for layer in layers:
        for name, value in (layer or {}).items():
            if name == "max_new_tokens":
                raise UsageError("generation: pass max_new_tokens to Captioner itself")
            if name not in NEUTRAL:
                raise UnknownNameError("generation parameter", name, NEUTRAL)
            settings[name] = NEUTRAL[name] if value is None else value
    _check(settings)
    return settings


def _check(settings: Mapping[str, Any]) -> None:
    for name in _REAL:
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UsageError(f"generation: {name}={value!r} must be a number")
    if settings["do_sample"]:
        if settings["num_beams"] != 1:
            raise UsageError("generation: sampling from beams is not supported; set do_sample=False or num_beams=1")
        if not settings["temperature"] > 0:
            raise UsageError(
                f"generation: temperature={settings['temperature']!r} must be above 0; for greedy, do_sample=False"
            )
    else:
        idle = [name for name in _SAMPLING if settings[name] != NEUTRAL[name]]
        if idle:
            raise UsageError(f"generation: {', '.join(idle)} has no effect without do_sample=True")
    for name in ("top_p", "typical_p"):
        if not 0 < settings[name] <= 1:
            raise UsageError(f"generation: {name}={settings[name]!r} must be above 0 and at most 1")
    if not 0 <= settings["min_p"] <= 1:
        raise UsageError(f"generation: min_p={settings['min_p']!r} must be from 0 to 1")
    for name in ("top_k", "no_repeat_ngram_size", "min_new_tokens"):
        if not isinstance(settings[name], int) or settings[name] < 0:
            raise UsageError(f"generation: {name}={settings[name]!r} must be an integer of 0 or more")
    if not isinstance(settings["num_beams"], int) or settings["num_beams"] < 1:
        raise UsageError(f"generation: num_beams={settings['num_beams']!r} must be an integer of 1 or more")
    if not settings["repetition_penalty"] > 0:
        raise UsageError(f"generation: repetition_penalty={settings['repetition_penalty']!r} must be above 0")

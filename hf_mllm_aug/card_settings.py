"""The settings of captioners and of shearing, in the words of a card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hf_mllm_aug.captioners.decoding import NEUTRAL
from hf_mllm_aug.card_facts import describe

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ORDER = ("max_new_tokens", "engine", "dtype", "quantization", "seed", "version")
_SHOWN_ELSEWHERE = (
    "name",
    "model",
    "revision",
    "digest",
    "prompt",
    "decoding",
    "licence",
    "license",
    "preset",
    "variant",
)
_NOT_SHOWN = ("citation", "description", "package", "variants")


def hub_id(captioner: Mapping[str, Any]) -> str:
    """The Hub id of the model that wrote the captions, or ``""``: a model of one's own folder has none.

    >>> hub_id({"model": "llava-hf/llava-1.5-7b-hf"}), hub_id({"model": "mine/llava", "digest": "12ab"}), hub_id({})
    ('llava-hf/llava-1.5-7b-hf', '', '')
    """
    model = str(captioner.get("model") or "")
    return model if HUB_ID.fullmatch(model) and not captioner.get("digest") else ""


def shear_text(shear: object) -> str | None:
    """How captions were sheared.

    >>> shear_text({"rule": "sentence", "language": "en"}), shear_text(None)
    ('rule sentence, language en', None)
    """
    if shear is None or isinstance(shear, str):
        return shear
    settings = describe(shear)
    rule = settings.pop("rule", None)
    words = [f"rule {rule}"] if rule else []
    return ", ".join([*words, *(f"{key} {value}" for key, value in settings.items())])


def settings_text(captioner: Mapping[str, Any]) -> str:
    """A captioner's decoding and other settings in one line; parameters that change nothing are left out.

    >>> settings_text({"decoding": {"do_sample": False, "top_p": 1.0, "seed": 0}, "dtype": "float16"})
    'do_sample=False, seed=0, dtype=float16'
    >>> settings_text({"dtype": "auto", "quantization": "int8"}), settings_text({"dtype": "auto", "quantization": None})
    ('dtype=auto, quantization=int8', 'dtype=auto')
    """
    decoding = captioner.get("decoding")
    if isinstance(decoding, Mapping):
        idle = {**NEUTRAL, "sentence_stop": False}
        parts = [f"{k}={v}" for k, v in decoding.items() if k == "do_sample" or k not in idle or v != idle[k]]
    else:
        parts = [str(decoding)] if decoding else []
    rest = {key: value for key, value in captioner.items() if key not in (*_SHOWN_ELSEWHERE, *_NOT_SHOWN)}
    if rest.get("quantization") is None:
        rest.pop("quantization", None)
    if isinstance(rest.get("clean_up"), Mapping):
        rest["clean_up"] = _clean_up(rest["clean_up"])
        rest = {key: value for key, value in rest.items() if key != "clean_up" or value}
    order = [*(key for key in _ORDER if key in rest), *(key for key in rest if key not in _ORDER)]
    return ", ".join([*parts, *(f"{key}={rest[key]}" for key in order)])


def variant_text(captioner: Mapping[str, Any]) -> str:
    """Which variant of a preset was asked, what was set otherwise, and what the preset's other variants are."""
    chosen, variants = captioner.get("variant"), captioner.get("variants") or {}
    if not isinstance(variants, Mapping) or not isinstance(variants.get(chosen), Mapping):
        return ""
    overridden = " and ".join(_overridden(captioner, variants[chosen]))
    text = f"variant {chosen} of {captioner.get('preset')}{f', {overridden} overridden' if overridden else ''}"
    others = {name: variant for name, variant in variants.items() if name != chosen and isinstance(variant, Mapping)}
    for name, variant in others.items():
        asked = variant.get("prompt")
        question = "asks the same" if asked == captioner.get("prompt") else f'asks "{asked}"'
        decoding = ", ".join(f"{key}={value}" for key, value in (variant.get("decoding") or {}).items())
        clean_up = _clean_up(variant.get("clean_up") or {})
        text += f"; variant {name} {question}, decodes {f'with {decoding}' if decoding else 'greedily'}, "
        text += f"cleans up {clean_up}" if clean_up else "cleans up nothing"
    return text


def _overridden(captioner: Mapping[str, Any], variant: Mapping[str, Any]) -> list[str]:
    """What a captioner has otherwise than its variant."""
    decoding = captioner.get("decoding") or {}
    used = {name: decoding.get(name, value) for name, value in NEUTRAL.items()}
    now = captioner.get("prompt"), used, captioner.get("clean_up") or {}
    then = variant.get("prompt"), {**NEUTRAL, **(variant.get("decoding") or {})}, variant.get("clean_up") or {}
    words = ("prompt", "decoding", "clean-up")
    return [word for word, one, other in zip(words, now, then, strict=True) if one != other]


def _clean_up(rules: Mapping[str, Any]) -> str:
    """A captioner's clean-up in words: each rule, and the strings that it goes by.

    >>> _clean_up({"stops": ["###", "."], "dropped": ["U+200B"]})
    'stops "###" ".", dropped U+200B'
    """
    return ", ".join(
        f"{rule} {' '.join(text if rule == 'dropped' else json.dumps(text, ensure_ascii=False) for text in strings)}"
        for rule, strings in rules.items()
    )

"""How vLLM, and the servers that speak OpenAI's language, are told what `Request` says.

Both call the same things by the same names. Nothing here needs the packages of either.
"""

from __future__ import annotations

from typing import Any

from hf_mllm_aug.captioners.decoding import NEUTRAL
from hf_mllm_aug.captioners.engine import Request
from hf_mllm_aug.captioners.prompters.forms import resolve
from hf_mllm_aug.captioners.prompters.prompter import halves

MAX_STOPS = 4
"""As many stops OpenAI's interface takes; clean-up cuts at the others."""

_EXTENSIONS = {
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "min_new_tokens": "min_tokens",
}


def question(prompt: str, picture: dict[str, Any]) -> list[dict[str, Any]]:
    """The one turn of a conversation that asks for a caption.

    Args:
        prompt: As `Request` has it. The picture takes the place of its mark.
        picture: The part that holds the picture.

    >>> question("Describe <image> in English:", {"type": "image_url"})
    [{'role': 'user', 'content': [{'type': 'text', 'text': 'Describe'}, {'type': 'image_url'},
                                  {'type': 'text', 'text': 'in English:'}]}]
    """
    before, after = (text.strip() for text in halves(resolve(prompt)))
    parts = [{"type": "text", "text": before}, picture, {"type": "text", "text": after}]
    return [{"role": "user", "content": [part for part in parts if part is picture or part["text"]]}]


def decoding(request: Request, key: str) -> dict[str, Any]:
    """What every server knows: length, sampling, stops, and a row's own seed.

    Args:
        request: How a picture is to be captioned.
        key: Of the row.

    >>> from hf_mllm_aug.captioners.decoding import resolve
    >>> decoding(Request("", resolve(), 30, seed=0, sentence_stop=False, language="en"), "a")
    {'max_tokens': 30, 'temperature': 0.0, 'top_p': 1.0}
    """
    settings = request.decoding
    found: dict[str, Any] = {"max_tokens": request.max_new_tokens, "temperature": 0.0, "top_p": 1.0}
    if settings["do_sample"]:
        from hf_mllm_aug.captioners.sampling import row_seed  # torch: not needed to be greedy

        found["temperature"], found["top_p"] = float(settings["temperature"]), float(settings["top_p"])
        found["seed"] = row_seed(request.seed, key) & 0x7FFF_FFFF  # the width that every server takes
    if request.clean_up.stops:
        found["stop"] = list(request.clean_up.stops[:MAX_STOPS])
    return found


def extensions(request: Request, *, neutral: bool) -> dict[str, Any]:
    """What vLLM and SGLang know besides, by their names.

    Args:
        request: How a picture is to be captioned.
        neutral: Whether parameters that change nothing are said as well. A server that knows them takes its
            checkpoint's own values for those that it is not told; one that does not know them may refuse them.
    """
    found = {
        theirs: request.decoding[ours]
        for ours, theirs in _EXTENSIONS.items()
        if neutral or request.decoding[ours] != NEUTRAL[ours]
    }
    if found.get("top_k") == 0:
        found["top_k"] = -1  # no limit: both read it so
    return found

"""What a server says, which is a stranger's word: read within limits, and believed where it is of the right form."""

from __future__ import annotations

import json
from typing import Any

from hf_mllm_aug.captioners.engine import FinishReason, Generated
from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.safe_text import plain, scrub

MAX_BODY = 1 << 20
"""The most of an answer that is read. Bytes."""

_MAX_TEXT = 1 << 15  # characters; no caption, and no answer to a question for one, is as long
_LONGEST_REASON = 160


def read_caption(body: bytes) -> Generated | ImageError:
    """Read the answer to a question for one caption.

    Args:
        body: A ``chat.completion`` in JSON, if all is well.

    Returns:
        What was generated; or an error that says what is wrong with the answer.

    >>> read_caption(b'{"choices": [{"message": {"content": " A dog."}, "finish_reason": "stop"}]}')
    Generated(text=' A dog.', tokens=None, finish_reason='stop')
    >>> read_caption(b"<html>")
    ImageError("the server's answer is no JSON")
    """
    answer = read_json(body)
    if answer is None:
        return ImageError("the server's answer is no JSON")
    choices = _get(answer, "choices")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    if choice is None:
        return ImageError("the server's answer does not have one choice")
    finish, text = _get(choice, "finish_reason"), _get(_get(choice, "message"), "content")
    if finish == "content_filter":
        return ImageError("the server's filter withheld the caption")
    if not isinstance(text, str):
        return ImageError("the server's answer has no text")
    if len(text) > _MAX_TEXT:
        return ImageError(f"the server's answer is {len(text):,} characters long, more than {_MAX_TEXT:,}")
    tokens = _get(_get(answer, "usage"), "completion_tokens")
    counted = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0
    # JSON may hold halves of characters, which no file of a data set can.
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return Generated(whole, tokens if counted else None, _finish(finish, _get(choice, "stop_reason")))


def _finish(reason: Any, stop: Any) -> FinishReason | None:
    if reason == "stop":
        return "sentence" if isinstance(stop, str) else "stop"  # vLLM says which of the stops it was, if it was one
    return "length" if reason == "length" else None


def read_models(body: bytes) -> tuple[list[str], set[str]]:
    """Read the list of a server's models.

    Args:
        body: The answer to ``GET /models``.

    Returns:
        The names, and who says that they own them: servers of vLLM and of SGLang sign so. Empty where it makes no
        sense.
    """
    data = _get(read_json(body), "data")
    cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    names, owners = ([card.get(field) for card in cards] for field in ("id", "owned_by"))
    return [name for name in names if isinstance(name, str)], {owner for owner in owners if isinstance(owner, str)}


def complaint(body: bytes) -> str:
    """What a server says is wrong, on one line and without secrets and paths; empty if it says nothing.

    >>> complaint(b'{"error": {"message": "unknown field top_k"}}'), complaint(b'{"detail": "no"}'), complaint(b"[1]")
    ('unknown field top_k', 'no', '')
    """
    found = read_json(body)
    error = _get(found, "error")
    for text in (_get(error, "message"), error, _get(found, "message"), _get(found, "detail")):
        if isinstance(text, str):
            return plain(scrub(text[:_MAX_TEXT]), _LONGEST_REASON)
    return ""


def read_json(body: bytes) -> Any:
    """What a body of JSON holds; None if it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None

"""Owners' wishes in the header ``X-Robots-Tag``: whether a picture may be indexed or used to train models.

The directives ``noai`` and ``noimageai`` come from DeviantArt; the others, and the form with a crawler's name, from
Google's description of the header. img2dataset honours the same four.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Directives that have a value behind a colon, where otherwise a crawler's name stands before it.
_VALUED = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
# What may be a crawler's name: not the hours of a date whose comma has cut it in two.
_NAME = re.compile(r"[a-z0-9_.*-]+")
_ALIASES = {"none": ("noindex", "nofollow")}


def opt_out(headers: Iterable[str], agent: str, directives: Iterable[str]) -> str | None:
    """Find a directive that forbids the use.

    Args:
        headers: The values of all ``X-Robots-Tag`` headers of a response.
        agent: Our name in such headers, in lower case; directives for others do not concern us.
        directives: What is honoured, in lower case.

    Returns:
        The first one found, None if the use is free.

    >>> opt_out(["otherbot: noai, noindex", "max-snippet: 20, NoImageAI"], "hf-mllm-aug", ["noai", "noimageai"])
    'noimageai'
    """
    honoured = frozenset(directives)
    for header in headers:
        concerns_us = True  # until a name says otherwise; a name holds up to the next one
        for part in header.lower().split(","):
            name, colon, rest = (text.strip() for text in part.partition(":"))
            if colon and name not in _VALUED and _NAME.fullmatch(name):
                concerns_us, directive = name in (agent, "*"), rest
            else:
                directive = name
            if concerns_us:
                meant: frozenset[str] = honoured & {directive, *_ALIASES.get(directive, ())}
                if meant:
                    return min(meant)
    return None


def agent_token(user_agent: str) -> str:
    """The name by which a header addresses us: the product in a User-Agent, without its version.

    >>> agent_token("hf-mllm-aug/0.1.0 (+https://example.org)")
    'hf-mllm-aug'
    """
    return re.split(r"[/\s]", user_agent.strip(), maxsplit=1)[0].lower()

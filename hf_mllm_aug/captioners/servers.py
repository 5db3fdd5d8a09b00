"""Where a server is, said such that no secret is said with it.

The address of a server is no part of what makes a caption: the model that it serves is. So the address is in no
captioner's hash, and as it may stand in a pickle or a message, it must not hold a password or a key. The key is read
from the environment (``OPENAI_API_KEY``) by the engine, and is kept nowhere else.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from hf_mllm_aug.errors import UsageError

ADDRESS_VARIABLE = "OPENAI_BASE_URL"


def check_address(base_url: str) -> str:
    """Make sure that an address can be that of a server.

    Args:
        base_url: What stands before ``/chat/completions``.

    Returns:
        The address, without a slash at its end.

    Raises:
        UsageError: It is no address of the web, or holds more than one: a user, a password, a query. The message does
            not repeat it.

    >>> check_address("http://127.0.0.1:8000/v1/")
    'http://127.0.0.1:8000/v1'
    >>> check_address("https://me:secret@example.org/v1")
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.UsageError: base_url holds a user name or a password. To do: take it out, and set OPENAI_API_KEY
    to the server's key
    """
    try:
        parts = urlsplit(base_url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (AttributeError, TypeError, ValueError):  # no text; brackets or a port that make no sense
        whole = False
    if not whole or any(character.isspace() or not character.isprintable() for character in base_url):
        raise UsageError("base_url is no address such as 'http://127.0.0.1:8000/v1'")
    if "@" in parts.netloc:
        raise UsageError(
            "base_url holds a user name or a password. To do: take it out, and set OPENAI_API_KEY to the server's key"
        )
    if parts.query or parts.fragment:
        raise UsageError("base_url ends with a query, which may hold a key. To do: give what stands before the '?'")
    return base_url.rstrip("/")


def address(base_url: str | None) -> str:
    """The server to ask: the one that was named, else the environment's.

    There is no third one. Pictures must not go to a server of the web because somebody forgot to name their own.

    Raises:
        UsageError: None was named, or it is no address.
    """
    found = base_url or os.environ.get(ADDRESS_VARIABLE)
    if not found:
        raise UsageError(
            "the engine 'openai' asks a server, and none is named. To do: pass base_url='http://127.0.0.1:8000/v1', or "
            f"set {ADDRESS_VARIABLE}"
        )
    return check_address(found)

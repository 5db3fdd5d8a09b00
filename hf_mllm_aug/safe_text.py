"""Text that is fit to be published: without secrets and local paths, and without power over the page that shows it.

Captions, prompts and error messages come from models, strangers and machines. `scrub` takes out what must stay at home,
`plain` takes out what a terminal or a page would obey instead of show, `inert` makes the rest mean itself in Markdown,
in HTML and in a table.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_SECRETS = re.compile(
    r"""\bhf_[A-Za-z0-9]{16,}\b | \b(?:api_org|hf_oauth|hf_jwt)_[A-Za-z0-9._-]{8,}  # Hugging Face; not hf_hub_download
    | \bsk-[A-Za-z0-9_-]{16,}                                   # OpenAI and those who copied it
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,} | \bglpat-[\w-]{16,}
    | \bAKIA[0-9A-Z]{16}\b | \bAIza[\w-]{30,}
    | \bBearer\s+[\w.~+/=-]{8,}
    | \beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}                    # a JSON web token
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)                           # user:password@ in an address
    """,
    re.VERBOSE,
)
# An absolute path: two levels at least, and not the tail of an address, of a word or of a relative path. A Markdown
# link to a page of the Hub is none.
_PATHS = re.compile(
    r"""(?!(?<=\]\()/(?:blog|collections|datasets|docs|models|papers|spaces)/)
    (?:file://+|(?<![\w:/.~<&;-])/|(?<![\w/])~/)(?:[^\s/'"`<>|:*?,;()\[\]{}]+/)+(?P<name>[^\s/'"`<>|:*?,;()\[\]{}]*)
    | (?<!\w)(?:[A-Za-z]:|\\)\\(?:[^\s\\/:*?"'`<>|]+\\)*(?P<windows>[^\s\\/:*?"'`<>|]*)
    """,
    re.VERBOSE,
)
_SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY")
_MARKS = 4  # vowels, tones and cantillation of any script that is written
_JOINERS = "\u200c\u200d"  # scripts and emoji need them
# Punctuation that means something somewhere; two hyphens; what begins a list; a dot in what would become a link.
_MEANINGFUL = re.compile(r"""[!"#$%&'()*+/:;<=>?@\[\\\]^_`{|}~]|--+|^-(?=\s|$)|(?<=^\d)\.(?=\s|$)|\.(?=[^\W\d])""")


def scrub(text: str) -> str:
    """Take secrets and absolute local paths out of a text; of a path its last name stays.

    Args:
        text: Anything that is about to leave this machine.

    Returns:
        The text with ``[secret]`` and ``…/name`` in their places.

    >>> scrub("cannot open /home/ann/pics/cat.jpg: Bearer abcdefghijk")
    'cannot open …/cat.jpg: [secret]'
    >>> scrub("see https://example.org/a/b.html, and/or 24/7")
    'see https://example.org/a/b.html, and/or 24/7'
    """
    for name in _SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= 8:
            text = text.replace(value, "[secret]")
    text = _SECRETS.sub("[secret]", text)
    return _PATHS.sub(lambda match: f"…/{match['name'] or match['windows'] or ''}", text)


def scrub_values(value: Any) -> Any:
    r"""`scrub` every text inside dicts, lists and tuples.

    >>> scrub_values({"model": "/home/ann/llava", "sizes": [1, "C:\\data\\x.png"]})
    {'model': '…/llava', 'sizes': [1, '…/x.png']}
    """
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {scrub(str(key)): scrub_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub_values(item) for item in value]
    return value


def plain(text: str, limit: int | None = None) -> str:
    r"""One line of visible characters: no control characters, no direction overrides, no towers of accents.

    Args:
        text: Untrusted text.
        limit: The most characters to keep; a cut is marked by ``…``.

    >>> plain("a\n\tb\u202ec\x1b[31m", limit=4)
    'a b…'
    """
    text = "".join(" " if c.isspace() else c for c in text if c in _JOINERS or c.isspace() or _is_visible(c))
    text = _without_towers(" ".join(text.split()))
    return text if limit is None or len(text) <= limit else text[: max(0, limit - 1)] + "…"


def _without_towers(text: str) -> str:
    """A text with no more than `_MARKS` accents on a letter: more of them cover the lines above and below."""
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= _MARKS:
            kept.append(character)
    return "".join(kept)


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")


def inert(value: object, limit: int | None = None) -> str:
    """Text that means itself wherever it stands in a card: in Markdown, HTML, an attribute or a table.

    Whatever Markdown, HTML, a template or a table would act on becomes a numeric character reference, which they show
    but never act on. Secrets and local paths are scrubbed first.

    Args:
        value: Untrusted text, or anything with a ``str``.
        limit: The most characters to keep, counted before escaping.

    >>> inert("<b>a|b</b> `x` {{ y }} ![](z)")
    '&#60;b&#62;a&#124;b&#60;&#47;b&#62; &#96;x&#96; &#123;&#123; y &#125;&#125; &#33;&#91;&#93;&#40;z&#41;'
    >>> inert("A cat, a dog.")
    'A cat, a dog.'
    """
    text = plain(scrub(str(value)), limit)
    return _MEANINGFUL.sub(lambda match: "".join(f"&#{ord(c)};" for c in match[0]), text)

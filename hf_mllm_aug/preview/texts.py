"""Captions as HTML that shows what is in them: matches marked, invisible characters named, long ones folded."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from markupsafe import Markup, escape

FOLD = 420
"""Characters that are seen at first; the rest is behind "more"."""

LONGEST = 20_000
"""Characters of a text that reach the page at all."""

# What draws nothing, or moves what is beside it: controls, directions, joiners of no script, tags, specials. Zero-width
# joiners stay: scripts and emoji need them.
_SIGNS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
# A stop, and what may follow it within the sentence.
_CLOSING = ".!?…。！？\"'”’)"


@dataclass(frozen=True)
class Shown:
    """A text as HTML.

    Args:
        start: What is seen at first.
        rest: What is behind "more"; empty for a short text.
        hidden: How many characters `rest` stands for.
        left_out: How many characters are not on the page.
    """

    start: Markup
    rest: Markup = field(default_factory=Markup)
    hidden: int = 0
    left_out: int = 0


def show(text: str, query: str = "") -> Shown:
    r"""Make a text ready for the page.

    Args:
        text: Untrusted text.
        query: A text that is marked wherever it occurs, in any case.

    >>> show("A <b>fox\u202e", "FOX").start
    Markup('A &lt;b&gt;<mark>fox</mark><span class="sign" title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>')
    >>> show("x" * 1000).hidden
    580
    """
    shown = text[:LONGEST]
    end = FOLD if len(shown) > FOLD + FOLD // 4 else len(shown)
    while 0 < end < len(shown) and unicodedata.combining(shown[end]) and end > FOLD // 2:
        end -= 1  # a letter is not parted from its accents
    start, rest = shown[:end], shown[end:]
    return Shown(_marked(start, query), _marked(rest, query), len(rest), len(text) - len(shown))


def signed(text: str) -> Markup:
    r"""A text with the names of its invisible characters in their places.

    >>> signed("a\u200b&")
    Markup('a<span class="sign" title="ZERO WIDTH SPACE">U+200B</span>&amp;')
    """
    parts, last = [], 0
    for match in _SIGNS.finditer(text):
        name = unicodedata.name(match[0], "CONTROL CHARACTER")
        sign = Markup('<span class="sign" title="{}">U+{:04X}</span>').format(name, ord(match[0]))
        parts += [escape(text[last : match.start()]), sign]
        last = match.end()
    return Markup("").join([*parts, escape(text[last:])])


def split_tail(generated: str, caption: str) -> tuple[str, str]:
    """What shearing cut off, as what closes the sentence that was kept and what follows it.

    Args:
        generated: The text before shearing.
        caption: The text after it.

    Returns:
        Both parts; the whole text is the second where it does not begin with the caption.

    >>> split_tail("A red fox. It is a mammal.", "A red fox"), split_tail("A red fox", "A red fox")
    (('.', ' It is a mammal.'), ('', ''))
    """
    generated, caption = (" ".join(text.split()) for text in (generated, caption))
    if not generated.startswith(caption):
        return "", generated
    tail = generated[len(caption) :]
    stops = len(tail) - len(tail.lstrip(_CLOSING))
    return tail[:stops], tail[stops:]


def _marked(text: str, query: str) -> Markup:
    if not query:
        return signed(text)
    parts, last = [], 0
    for match in re.finditer(re.escape(query), text, re.IGNORECASE):
        parts += [signed(text[last : match.start()]), Markup("<mark>{}</mark>").format(signed(match[0]))]
        last = match.end()
    return Markup("").join([*parts, signed(text[last:])])

r"""What is cut from a model's answer before it is a caption, as data.

A model that was taught a conversation may go on with the next turn (``###Human:``), or begin with the name of the
speaker (``Assistant:``). Where the first sentence ends is none of the clean-up's business but shearing's, and so are
line breaks, which shearing reads: a blank line ends a sentence.

Every rule looks at the text from its beginning, so that a decoder may act on it while the text still grows: see
`CleanUp.is_over` and `CleanUp.settled`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hf_mllm_aug.errors import UsageError


@dataclass(frozen=True)
class CleanUp:
    r"""Turns a model's answer into a caption.

    Args:
        stops: Strings at whose first occurrence the caption ends, without them. Decoding ends there, too. One that is
            a special token of the checkpoint ends decoding as its end token does.
        prefixes: Strings that are cut from the beginning, as often as they stand there.
        restarts: Strings behind whose last occurrence before the stop the caption begins.
        dropped: Characters that are left out wherever they stand.

    Raises:
        UsageError: A string is blank, a stop ends with white space, a prefix has a stop in it or is the beginning of
            another.

    >>> clean = CleanUp(stops=("###",), prefixes=("Assistant:",), dropped="\u200b")
    >>> clean(" Assistant: A d\u200bog on grass. ###Human: And this?")
    'A dog on grass.'
    """

    stops: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    restarts: tuple[str, ...] = ()
    dropped: str = ""

    def __post_init__(self) -> None:
        for name in ("stops", "prefixes", "restarts"):
            strings = getattr(self, name)
            if isinstance(strings, str) or not all(isinstance(string, str) and string.strip() for string in strings):
                raise UsageError(f"clean-up: {name}={strings!r} must be a tuple of strings, none of them blank")
        for stop in self.stops:
            if stop != stop.rstrip():
                raise UsageError(f"clean-up: the stop {stop!r} ends with white space, which answers are stripped of")
        for prefix in self.prefixes:
            if any(other != prefix and other.startswith(prefix) for other in self.prefixes):
                raise UsageError(f"clean-up: the prefix {prefix!r} is the beginning of another: which one is meant?")
        held = [prefix for prefix in self.prefixes if any(stop in prefix for stop in self.stops)]
        if held:
            raise UsageError(f"clean-up: the prefix {held[0]!r} has a stop in it, so it could never be cut off")

    def __call__(self, text: str) -> str:
        """Clean a whole answer."""
        # Behind a restart there may be prefixes again.
        return self._drop(self._body(self._kept(self._body(text))).strip()).strip()

    def is_over(self, text: str) -> bool:
        """Whether nothing that may follow changes the caption: a stop has come.

        Args:
            text: The answer so far, of which later tokens change no character.
        """
        body = self._body(text)
        return any(stop in body for stop in self.stops)

    def settled(self, text: str) -> str | None:
        """The beginning of the caption, of which what may follow changes nothing.

        Args:
            text: The answer so far, without a stop, of which later tokens change no character.

        Returns:
            None where that is not known: the text may yet turn out to be a prefix, or its end the beginning of a stop.

        >>> clean = CleanUp(stops=("###",), prefixes=("GPT:",))
        >>> clean.settled(" GP"), clean.settled("GPT: A dog #"), clean.settled("GPT: A dog # ")
        (None, None, 'A dog # ')
        """
        body = self._body(text)
        if self.restarts or any(prefix.startswith(body) for prefix in self.prefixes):
            return None
        if any(body.endswith(stop[:length]) for stop in self.stops for length in range(1, len(stop))):
            return None
        return self._drop(body).lstrip()

    @property
    def marks(self) -> frozenset[str]:
        """The characters that stops are made of."""
        return frozenset("".join(self.stops))

    def describe(self) -> dict[str, Any]:
        r"""What is set, as JSON values; characters by their code points, for most of them cannot be seen.

        >>> CleanUp(stops=("###",), dropped="\u200b").describe()
        {'stops': ['###'], 'dropped': ['U+200B']}
        """
        strings = {name: list(getattr(self, name)) for name in ("stops", "prefixes", "restarts")}
        found: dict[str, Any] = {name: values for name, values in strings.items() if values}
        if self.dropped:
            found["dropped"] = [f"U+{ord(character):04X}" for character in self.dropped]
        return found

    def _body(self, text: str) -> str:
        """The text behind white space and prefixes."""
        body = text.lstrip()
        while found := next((prefix for prefix in self.prefixes if body.startswith(prefix)), None):
            body = body[len(found) :].lstrip()
        return body

    def _kept(self, body: str) -> str:
        ends = [at for at in map(body.find, self.stops) if at >= 0]
        kept = body[: min(ends)] if ends else body
        return re.split("|".join(map(re.escape, self.restarts)), kept)[-1] if self.restarts else kept

    def _drop(self, text: str) -> str:
        return text.translate(dict.fromkeys(map(ord, self.dropped))) if self.dropped else text

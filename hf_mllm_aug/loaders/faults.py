"""What is wrong with the lines of a list: refused with its place, or put right and counted; nothing is silent."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from hf_mllm_aug.errors import FormatError, UsageError

OnError = Literal["raise", "skip"]

# What is put right or kept as it is, and how the report says it.
REPAIRS = {
    "bom": "a byte order mark, left out",
    "crlf": "line ends of CR LF, read as LF",
    "blank": "blank lines, passed over",
    "header": "a line of column names, not taken for a row",
    "tab": "captions with a tab in them, kept",
    "empty caption": "empty captions, kept",
}


def check_on_error(on_error: str) -> None:
    """Refuse anything but the two policies.

    >>> check_on_error("ignore")
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.UsageError: on_error is 'raise' or 'skip', not 'ignore'
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error is 'raise' or 'skip', not {on_error!r}")


@dataclass
class _Seen:
    count: int
    place: str


@dataclass
class Faults:
    """The faults found so far in one file or in a piece of one.

    Args:
        file: The file, for the messages.
        on_error: ``"raise"``: a row that cannot be read is an error. ``"skip"``: it is left out and counted.
    """

    file: str
    on_error: str = "raise"
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _skipped: int = 0

    def refuse(self, line: int, what: str) -> None:
        """A row that cannot be read.

        Raises:
            FormatError: With the file, the line and what is wrong, where ``on_error`` is ``"raise"``.
        """
        message = f"{self.file}, line {line}: {what}"
        if self.on_error == "raise":
            raise FormatError(message)
        self._skipped += 1
        self._seen.setdefault("skipped", _Seen(0, f"line {line}: {what}"))

    def repair(self, kind: str, line: Callable[[], int], count: int = 1) -> None:
        """Count lines that were put right.

        Args:
            kind: One of `REPAIRS`.
            line: Gives the number of the first of them; asked only for the first of its kind, for counting lines takes
                time.
            count: How many.
        """
        if kind in self._seen:
            self._seen[kind].count += count
        else:
            self._seen[kind] = _Seen(count, f"line {line()}")

    def report(self) -> str | None:
        """All of it in one line, or None if there was nothing. The file is named without the folder it is in."""
        parts = [
            f"{self._seen[k].count:,} x {v} (first: {self._seen[k].place})"
            for k, v in REPAIRS.items()
            if k in self._seen
        ]
        if self._skipped:
            parts.insert(0, f"{self._skipped:,} rows skipped (first: {self._seen['skipped'].place})")
        return f"{os.path.basename(self.file)}: {'; '.join(parts)}" if parts else None

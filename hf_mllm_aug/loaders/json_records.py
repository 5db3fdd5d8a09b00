"""Read the objects of a JSON list, or of JSON lines, one by one, in memory bounded by the largest object.

A list of 15 million captions is one JSON value; `json.load` would need some 10 GB for it. Each object here is parsed
by the standard library's C scanner from a window of the file. Whatever is wrong is said once, with file, line and
column; the ways in which the paper's released scripts break their own output have their own messages.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders.text_blocks import open_text, read_bytes

_CHUNK = 1 << 20
# No caption is longer; an error inside a record is told from an unfinished record after so many characters at most.
_LONGEST_RECORD = 1 << 22
_BLANKS = " \t\r\n"


def iter_records(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file that is a JSON list of objects or JSON lines.

    Args:
        path: A UTF-8 file, with or without a byte order mark; it may be compressed by gzip or bzip2.

    Yields:
        The line (from 1) on which the object starts, and the object.

    Raises:
        FormatError: The file breaks its format; the records before that place have been yielded.
        FileNotFoundError: There is no such file.
    """
    with open_text(str(path)) as file:
        window = _Window(str(path), file)
        first = window.peek()
        if first == "":
            raise FormatError(f"{path}: the file is empty; expected a JSON list of objects")
        if first == "[":
            yield from _list_records(window)
        elif first == "{":
            yield from _line_records(window)
        else:
            raise window.error(f"expected '[' or '{{', found {first!r}: no JSON list of objects, and no JSON lines")


def surrogate_fault(text: str) -> str | None:
    r"""What keeps a text, as JSON may spell it, from being written as UTF-8; None if nothing does.

    >>> surrogate_fault("a caf\u00e9"), surrogate_fault("half \ud83d")
    (None, "half a surrogate pair, \\ud83d, in 'half \\ud83d'; no UTF-8 can hold it")
    """
    try:
        text.encode()
    except UnicodeEncodeError as failure:
        shown = f"\\u{ord(text[failure.start]):04x}, in {text[:40]!r}"
        return f"half a surrogate pair, {shown}; no UTF-8 can hold it"
    return None


def _list_records(window: _Window) -> Iterator[tuple[int, dict[str, Any]]]:
    window.take(1)
    if window.peek() == "[":
        raise window.error("the list starts with '[[': a resumed run wrote its opening bracket twice; remove one")
    count = 0
    while (following := window.peek()) != "]" or count:
        if following == "":
            raise window.error(f"the list is never closed: the file ends after record {count}; append ']'")
        if following != "{":
            raise window.error(f"record {count + 1} is no object: found {following!r}")
        yield window.line, window.take_object(count + 1)
        count += 1
        separator = window.peek()
        if separator == "]":
            break
        if separator == "{":
            raise window.error(f"a comma is missing between records {count} and {count + 1}")
        if separator == "":
            raise window.error(f"the list is never closed: the file ends after record {count}; append ']'")
        if separator != ",":
            raise window.error(f"expected ',' or ']' after record {count}, found {separator!r}")
        window.take(1)
        if window.peek() == "]":
            raise window.error(f"a comma stands before the closing ']' (after record {count}); remove it")
        if window.peek() == "":
            raise window.error(
                f"the list is never closed: the file ends in a comma after record {count}; put ']' there"
            )
    window.take(1)
    if window.peek() != "":
        raise window.error(f"more text follows the end of the list ({count} records)")


def _line_records(window: _Window) -> Iterator[tuple[int, dict[str, Any]]]:
    count = 0
    while (following := window.peek()) != "":
        if following in ",]":
            raise window.error(f"found {following!r} after record {count}: the list's opening '[' is missing")
        if following != "{":
            raise window.error(f"record {count + 1} is no object: found {following!r}")
        yield window.line, window.take_object(count + 1)
        count += 1


class _Window:
    """A piece of a file as text, the place in it, and the line and column of that place."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name = name
        self.line = 1
        self._column = 1
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._scan = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """Skip blanks; return the next character, or "" at the end of the file."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _BLANKS:
                at += 1
            self._move(at)
            if at < len(text):
                return text[at]
            if not self._read():
                return ""

    def take(self, n_characters: int) -> None:
        """Move past characters that have been peeked at."""
        self._move(self._at + n_characters)

    def take_object(self, number: int) -> dict[str, Any]:
        """Parse the object that starts here, reading on as far as it goes."""
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as failure:
                # The scanner does not say that it wants more text; an escape of six characters may be cut in two.
                open_string = failure.msg.startswith("Unterminated string")
                unfinished = open_string or failure.pos >= len(self._text) - 8
                if unfinished and len(self._text) - self._at < _LONGEST_RECORD and self._read():
                    continue
                self._move(failure.pos)
                what = failure.msg[0].lower() + failure.msg[1:]
                if self._ended and (open_string or failure.pos >= len(self._text.rstrip())):
                    what = f"the file ends within it ({what})"
                raise self.error(f"record {number} is broken: {what}") from None
            except ValueError:  # of a number with thousands of digits
                raise self.error(f"record {number} has a number that is too long") from None
            except RecursionError:
                raise self.error(f"record {number} is nested too deeply") from None
            self._move(end)
            return dict(value)

    def error(self, what: str) -> FormatError:
        """A `FormatError` about the place the window is at."""
        return FormatError(f"{self.name}, line {self.line}, column {self._column}: {what}")

    def _move(self, at: int) -> None:
        breaks = self._text.count("\n", self._at, at)
        if breaks:
            self.line += breaks
            self._column = at - self._text.rfind("\n", self._at, at)
        else:
            self._column += at - self._at
        self._at = at

    def _read(self) -> bool:
        """Drop what lies behind, append the next piece of the file; whether there was one."""
        if self._ended:
            return False
        data = read_bytes(self._file, self.name, _CHUNK, self.line)
        self._ended = not data
        held = len(self._decode.getstate()[0])
        try:
            more = self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as failure:
            # Positions count from the bytes that an unfinished character left over from the last piece.
            self._text = self._text[self._at :] + data[: max(0, failure.start - held)].decode("utf-8", "replace")
            self._at = 0
            self._move(len(self._text))
            raise self.error(f"the file is not UTF-8 ({failure.reason})") from None
        if self._ended and not more:
            return False
        self._text = self._text[self._at :] + more
        self._at = 0
        return True

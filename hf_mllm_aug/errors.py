"""What can go wrong, as one tree of exceptions.

Every error is an `AugError` and also the builtin it resembles, so that callers may catch either::

    AugError
    ├── UsageError (ValueError)            an argument that cannot work: an unknown rule, a bad `--shard`
    │   └── UnknownNameError               a captioner, template or column that is not known; offers the nearest name
    ├── ColumnError (KeyError)             a data set lacks a column that is needed
    ├── ImageError (ValueError)            a picture that cannot be decoded within the limits
    ├── CaptionError (RuntimeError)        a picture that could not be captioned, with ``on_error="raise"``
    ├── CheckpointError (ValueError)       weights or tokenizer files that do not fit or are refused
    ├── FormatError (ValueError)           an input file that breaks its format; names file and line or record
    ├── OutputExistsError (FileExistsError)  an output that would be overwritten
    ├── PublishError (RuntimeError)        a release that did not happen; nothing of it is on the Hub
    └── EmbeddingError (ValueError)        embeddings whose shapes or values make no score
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AugError(Exception):
    """Any error that this library raises on purpose: what happened, where, and what to do next."""


class UsageError(AugError, ValueError):
    """An argument or option that cannot work."""


class UnknownNameError(UsageError):
    """A name that is not registered.

    Args:
        kind: What the name should have been, such as ``"captioner"``.
        name: The name that was given.
        known: The names that exist; the nearest one is offered.
        hint: What to do when none of the known names is meant.

    >>> print(UnknownNameError("captioner", "lava-1.5", ["llava-1.5", "otter"]))
    unknown captioner 'lava-1.5': did you mean 'llava-1.5'? Known: llava-1.5, otter.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
        offer = f"did you mean {near[0]!r}? " if near else ""
        tail = f" {hint}" if hint else ""
        super().__init__(f"unknown {kind} {name!r}: {offer}Known: {', '.join(names)}.{tail}")
        self.name = name
        self.nearest = near[0] if near else None
        self._arguments = (kind, name, names, hint)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self._arguments)


class ColumnError(AugError, KeyError):
    """A column that is needed and not there.

    >>> print(ColumnError("image", ["picture", "text"], "pass image_column="))
    no column 'image'; the data set has: picture, text. To do: pass image_column=.
    """

    def __init__(self, column: str, present: Iterable[str], todo: str) -> None:
        self.column = column
        columns = ", ".join(present) or "none"
        self.message = f"no column {column!r}; the data set has: {columns}. To do: {todo}."
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would show the repr
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_column_error, (self.column, self.message))


def _column_error(column: str, message: str) -> ColumnError:
    error = ColumnError(column, (), "")
    error.message = message
    return error


class ImageError(AugError, ValueError):
    """A picture that cannot be decoded within the limits."""


class CaptionError(AugError, RuntimeError):
    """A picture that could not be captioned."""


class CheckpointError(AugError, ValueError):
    """Weights, configuration or tokenizer files that do not fit, or are refused."""


class FormatError(AugError, ValueError):
    """An input file that breaks its format."""


class OutputExistsError(AugError, FileExistsError):
    """An output that would be overwritten."""


class PublishError(AugError, RuntimeError):
    """A release that did not happen; nothing of it is on the Hub."""


class EmbeddingError(AugError, ValueError):
    """Embeddings whose shapes or values make no score."""

"""How commands write to the terminal."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_mllm_aug.safe_text import plain

_WIDTH_OF_FILES = 120


@functools.cache
def console() -> Console:
    """The console of stdout; into a file or a pipe it writes plain text of a fixed width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)


def say(text: str | Text = "") -> None:
    """Write a line as it is: no markup, and no wrapping in the middle of a path or a command."""
    console().print(text, markup=False, soft_wrap=True)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Write a table without a frame; cells are data, hence never obeyed: no markup, no control characters."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) if isinstance(cell, str) else cell for cell in row))
    console().print(table)


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "picture"), count(1200, "row")
    ('1 picture', '1,200 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

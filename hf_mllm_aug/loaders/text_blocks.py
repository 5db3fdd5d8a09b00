"""Large text files as blocks of whole lines, cut where a stream's shards begin and end.

A plain file is cut by byte offsets alone, so that nothing is read before the first row: a line belongs to the piece in
which it starts. A compressed file (gzip, bzip2) can only be read from its beginning and is one piece.
"""

from __future__ import annotations

import bz2
import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

from hf_mllm_aug.errors import FormatError

Piece = tuple[str, int, int | None]
"""A file, the offset in bytes at which the piece starts, and that at which it ends; None: at the file's end."""

_BLOCK = 1 << 22
# A caption and an address are some hundred bytes; what has a longer line than this is no list.
_LONGEST_LINE = 1 << 24
_COUNTED = 1 << 24
# Below it a piece's own cost shows; above it a shuffle of the pieces mixes little.
_SMALLEST_PIECE = 1 << 16
_MOST_PIECES = 256
_BOM = b"\xef\xbb\xbf"
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2"}


@dataclass(frozen=True)
class Block:
    r"""Whole lines of a file.

    Args:
        data: The lines, each with its ``\n``; a file's last one gets one if it has none.
        piece: The piece that it is from.
        lines_before: The lines of the piece before this block.
        bom: Whether a byte order mark stood before it.
    """

    data: bytes
    piece: Piece
    lines_before: int
    bom: bool = False

    def line(self, index: int) -> int:
        """The number (from 1) in the file of the block's line ``index`` (from 0)."""
        return newlines_before(self.piece[0], self.piece[1]) + self.lines_before + index + 1


def compression(path: str) -> str | None:
    """``"gzip"``, ``"bzip2"`` or None, by the file's first bytes and not by its name."""
    with open(path, "rb") as file:
        head = file.read(3)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def cut(path: str) -> list[Piece]:
    """Cut a file into pieces that together hold each line once.

    Args:
        path: The file.

    Returns:
        Up to 256 pieces of 64 KiB or more; one for a compressed file.
    """
    size = os.path.getsize(path)
    count = 1 if compression(path) else max(1, min(_MOST_PIECES, size // _SMALLEST_PIECE))
    starts = [size * number // count for number in range(count)]
    return [(path, start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def iter_blocks(piece: Piece) -> Iterator[Block]:
    """Yield the lines that start in a piece, some 4 MiB at a time.

    Raises:
        FormatError: A compressed file is cut off or damaged, or a line is longer than 16 MiB; the lines before that
            place have been yielded.
    """
    path, start, end = piece
    left = None if end is None else end - start
    lines = 0
    rest: list[bytes] = []  # of a line that is longer than a block, its beginnings
    held = 0
    bom = False
    with open_text(path) as file:
        if start:
            # The line that runs over the boundary belongs to the piece before.
            file.seek(start - 1)
            skipped = 0
            while line := file.readline(_BLOCK):
                skipped += len(line)
                if line.endswith(b"\n"):
                    break
                _check_length(skipped, path, start, 0)
            left = None if left is None else left - (skipped - 1)
            lines = 1 if skipped > 1 else 0
        while left is None or left > 0:
            data = read_bytes(file, path, _BLOCK if left is None else min(_BLOCK, left), lines)
            if not data:
                break
            if left is not None:
                left -= len(data)
                if left <= 0 and not data.endswith(b"\n"):
                    data += file.readline(_LONGEST_LINE + 1)
            if start == 0 and lines == 0 and not held and data.startswith(_BOM):
                data, bom = data[len(_BOM) :], True
            cut_at = data.rfind(b"\n") + 1
            first = data.find(b"\n") if cut_at else len(data)
            _check_length(held + first, path, start, lines)
            if not cut_at:
                rest.append(data)
                held += len(data)
                continue
            block = Block(b"".join([*rest, data[:cut_at]]), piece, lines, bom)
            rest, held, bom = [data[cut_at:]], len(data) - cut_at, False
            yield block
            lines += block.data.count(b"\n")
    _check_length(held, path, start, lines)
    if held:
        yield Block(b"".join([*rest, b"\n"]), piece, lines, bom)


def _check_length(length: int, path: str, start: int, lines: int) -> None:
    if length > _LONGEST_LINE:
        number = newlines_before(path, start) + lines + 1
        raise FormatError(f"{path}, line {number}: longer than {_LONGEST_LINE:,} bytes, so this is no list of lines")


def head(path: str, size: int = 1 << 16) -> Block:
    """The first whole lines of a file, decompressed.

    Args:
        path: The file.
        size: About how many bytes of it.
    """
    with open_text(path) as file:
        data = read_bytes(file, path, size, 0)
        whole = len(data) < size
    bom = data.startswith(_BOM)
    data = data[len(_BOM) :] if bom else data
    if whole:
        data = data if not data or data.endswith(b"\n") else data + b"\n"
    else:
        # A first line longer than this is no line of a list; what there is of it tells what the file is.
        data = data[: data.rfind(b"\n") + 1] or data + b"\n"
    return Block(data, (path, 0, None), 0, bom)


def open_text(path: str) -> IO[bytes]:
    """Open a file for reading, decompressed if it is compressed."""
    kind = compression(path)
    if kind == "gzip":
        return gzip.open(path, "rb")  # type: ignore[return-value]  # reads bytes as any file does
    if kind == "bzip2":
        return bz2.open(path, "rb")
    return open(path, "rb")


def newlines_before(path: str, offset: int) -> int:
    """Count the line ends in the first ``offset`` bytes of a file: what a line's number is found with."""
    if offset == 0:
        return 0
    whole, part = divmod(offset, _COUNTED)
    stamp = os.stat(path).st_mtime_ns
    counts = [_newlines(path, stamp, number * _COUNTED, _COUNTED) for number in range(whole)]
    return sum(counts) + (_newlines(path, stamp, whole * _COUNTED, part) if part else 0)


@lru_cache(maxsize=4096)
def _newlines(path: str, stamp: int, start: int, size: int) -> int:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size).count(b"\n")


def read_bytes(file: IO[bytes], path: str, size: int, lines: int) -> bytes:
    """Read from a file that `open_text` opened.

    Args:
        file: The file.
        path: Its path, for the message.
        size: The most bytes.
        lines: The lines read so far, for the message.

    Raises:
        FormatError: It is compressed, and cut off or damaged.
    """
    try:
        return file.read(size)
    except EOFError:
        what = "the compressed file ends too early: it is cut off"
    except (zlib.error, OSError) as failure:
        if not isinstance(failure, (zlib.error, gzip.BadGzipFile)) and not isinstance(file, bz2.BZ2File):
            raise
        what = f"the compressed file is damaged ({str(failure).rstrip('.')})"
    raise FormatError(f"{path}, after line {lines}: {what}. Download it again.")

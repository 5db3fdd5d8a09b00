"""Search over a split: rows whose captions have a text, a length or a failure, found in bounded time.

A scan goes over the needed columns alone, batch by batch, and stops at a page of hits or when its time is up; it says
where the next one goes on. So a page answers soon whatever the number of rows, and nobody waits for a total.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_mllm_aug.preview.rows import Rows

SECONDS = 1.0
"""How long one scan may take, a batch more or less."""

_BATCH = 16_384
_WORD = r"[^\s\v\x1c-\x1f\x{85}\p{Z}]+"  # what `str.split` leaves whole, in the pattern language of RE2


@dataclass(frozen=True)
class Query:
    """What rows are wanted. A row is found if one of its captions fits both the text and the length.

    Args:
        columns: The columns of captions that are looked at.
        text: A part of the caption, in any case; every caption fits the empty one.
        min_words: The least words, split at spaces; None for any.
        max_words: The most words; None for any.
        failed: Columns of which one at least is null; empty for all rows.
    """

    columns: tuple[str, ...]
    text: str = ""
    min_words: int | None = None
    max_words: int | None = None
    failed: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether every row is wanted."""
        return not self.failed and not self._asks_of_captions

    @property
    def _asks_of_captions(self) -> bool:
        return bool(self.text) or self.min_words is not None or self.max_words is not None

    @property
    def needed(self) -> list[str]:
        """The columns that must be read."""
        return list(dict.fromkeys([*(self.columns if self._asks_of_captions else ()), *self.failed]))

    def fits(self, batch: pa.RecordBatch) -> Any:
        """Which rows of a batch are wanted, as an array of booleans."""
        import pyarrow as pa
        import pyarrow.compute as pc

        fits = pa.repeat(pa.scalar(True), len(batch))
        if self._asks_of_captions:
            captions = [self._fits(batch.column(name)) for name in self.columns if name in batch.schema.names]
            fits = _any(captions, len(batch))
        if self.failed:
            absent = [name for name in self.failed if name not in batch.schema.names]
            nulls = [batch.column(name).is_null() for name in self.failed if name not in absent]
            fits = fits if absent else pc.and_(fits, _any(nulls, len(batch)))
        return fits

    def _fits(self, captions: Any) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        captions = captions.cast(pa.string()) if pa.types.is_null(captions.type) else captions
        fits = captions.is_valid()
        if self.text:
            fits = pc.fill_null(pc.match_substring(captions, self.text, ignore_case=True), False)
        if (self.min_words is None and self.max_words is None) or not pc.any(fits).as_py():
            return fits
        # Counting is dear, so only where the text fits.
        words = pc.count_substring_regex(pc.if_else(fits, captions, ""), _WORD)
        if self.min_words is not None:
            fits = pc.and_(fits, pc.greater_equal(words, self.min_words))
        if self.max_words is not None:
            fits = pc.and_(fits, pc.less_equal(words, self.max_words))
        return fits


@dataclass(frozen=True)
class Found:
    """What a scan found.

    Args:
        numbers: The numbers of the rows, ascending.
        next: The row to go on from; None if there are no more rows.
        looked: How many rows were looked at, from the start on.
    """

    numbers: list[int]
    next: int | None
    looked: int


def scan(rows: Rows, query: Query, *, start: int = 0, limit: int = 50, seconds: float = SECONDS) -> Found:
    """Look for rows.

    Args:
        rows: Where to look.
        query: What to look for.
        start: The number of the row to begin with.
        limit: The most rows to find.
        seconds: How long to look; one batch is looked at in any case.

    Returns:
        The hits of this scan and where the next one goes on.

    Raises:
        FormatError: A file cannot be read.
    """
    import pyarrow.compute as pc

    deadline = time.monotonic() + seconds
    found: list[int] = []
    position = start
    for group in rows.groups(start):
        after = group.first + group.rows
        if query.failed and not any(rows.has_nulls(group, column) for column in query.failed):
            position = after
            if time.monotonic() > deadline:  # footers of files on the Hub take their time, too
                return Found(found, position, position - start)
            continue
        for first, batch in rows.batches(group, query.needed, _BATCH):
            if first + len(batch) <= start:
                continue
            if position > start and time.monotonic() > deadline:
                return Found(found, position, position - start)
            hits = pc.indices_nonzero(query.fits(batch)).to_pylist()
            found += [first + hit for hit in hits if first + hit >= start]
            position = first + len(batch)
            if len(found) > limit:  # one more than are shown says where to go on
                following = found[limit]
                return Found(found[:limit], following, following - start)
        position = after
    return Found(found, None, max(0, position - start))


def _any(parts: list[Any], length: int) -> Any:
    """Whether one of the parts is true, row by row; false without parts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    either = pa.repeat(pa.scalar(False), length)
    for part in parts:
        either = pc.or_(either, part)
    return either

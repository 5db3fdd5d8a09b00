"""The rows that a run works on: a `Dataset` by ranges of rows, a stream by its own shards.

A stream that has one shard only is read on from its beginning, and cut into ranges as it comes; rows of shards that
are finished are read past.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.long_runs import fingerprints

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

_SAMPLE = 16  # rows of a stream that tell it from others


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a shard.

    Args:
        first: The first one's number: in the data set, or in the stream's own shard.
        columns: (n,) values a column. Arrow's scalars stay what they are, so that no picture is read from disk yet.
    """

    first: int
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class Source(Protocol):
    """Rows in shards."""

    @property
    def kind(self) -> str:
        """``"dataset"`` or ``"stream"``."""

    @property
    def rows(self) -> int | None:
        """How many; None until it is known."""

    @property
    def shards(self) -> int | None:
        """How many; None until it is known."""

    @property
    def shard_size(self) -> int | None:
        """Rows a shard; None where the source decides."""

    @property
    def features(self) -> Features:
        """The features of the rows, with pictures undecoded where they come from a stream."""

    def fingerprint(self) -> str:
        """A digest of what the rows are, equal on every machine."""

    def read(self, shard: int, size: int, columns: Sequence[str]) -> Iterator[Batch]:
        """The rows of a shard.

        Args:
            shard: Its number; none comes of one behind the last.
            size: Rows a batch, at most.
            columns: The columns that are needed.
        """


@dataclass(frozen=True)
class MapSource:
    """A `Dataset`.

    Args:
        dataset: The rows.
        shard_size: Rows a shard.
    """

    dataset: Dataset
    shard_size: int
    kind = "dataset"

    @property
    def rows(self) -> int:
        """See `Source`."""
        return len(self.dataset)

    @property
    def shards(self) -> int:
        """See `Source`."""
        return -(-len(self.dataset) // self.shard_size)

    @property
    def features(self) -> Features:
        """See `Source`."""
        return self.dataset.features

    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprints.fingerprint(
            self.features, lambda names: self.dataset.select_columns(names).with_format("arrow").iter(1000)
        )

    def read(self, shard: int, size: int, columns: Sequence[str]) -> Iterator[Batch]:
        """See `Source`."""
        rows = self.dataset.select_columns(list(columns)).with_format("arrow")
        end = min((shard + 1) * self.shard_size, len(rows))
        for first in range(shard * self.shard_size, end, size):
            table = rows[first : min(first + size, end)]
            yield Batch(first, {name: list(table.column(name)) for name in columns})


class StreamSource:
    """An `IterableDataset`, its pictures undecoded.

    Args:
        stream: The rows.
        shard_size: Rows a shard, if the stream has but one of its own.
    """

    kind = "stream"

    def __init__(self, stream: IterableDataset, shard_size: int) -> None:
        if stream.features is None:
            stream = stream._resolve_features()
        if not stream.features:
            raise UsageError("the stream has no rows, or none with columns: there is nothing to caption.")
        self.stream = stream.decode(False)
        self._own = int(stream.num_shards)
        self.shards: int | None = self._own if self._own > 1 else None
        self.shard_size: int | None = None if self._own > 1 else shard_size
        self._rows: int | None = None
        self._reading: tuple[int, Iterator[dict[str, Any]]] | None = None

    @property
    def rows(self) -> int | None:
        """See `Source`."""
        return self._rows

    def learn(self, rows: int) -> None:
        """Take note of how many rows there are."""
        self._rows = rows
        if self.shard_size is not None:
            self.shards = -(-rows // self.shard_size)

    @property
    def features(self) -> Features:
        """See `Source`."""
        return self.stream.features

    def fingerprint(self) -> str:
        """See `Source`: of the first rows and the number of shards; all rows would be all to download."""
        from datasets import Dataset

        rows = list(itertools.islice(self.stream, _SAMPLE))

        def tables(names: list[str]) -> list[Any]:
            return [Dataset.from_list([{name: row[name] for name in names} for row in rows]).with_format("arrow")[:]]

        found = fingerprints.fingerprint(self.features, tables) if rows else ""
        return hashlib.sha256(f"{self._own} {found}".encode()).hexdigest()

    def read(self, shard: int, size: int, columns: Sequence[str]) -> Iterator[Batch]:
        """See `Source`."""
        if self._own > 1:
            if shard < self._own:
                yield from _batches(iter(self.stream.shard(self._own, shard)), 0, None, size, columns)
            return
        if self.shard_size is None or (self._rows is not None and shard * self.shard_size >= self._rows):
            return
        start, end = shard * self.shard_size, (shard + 1) * self.shard_size
        at, rows = self._reading or (0, iter(self.stream))
        if at > start:
            at, rows = 0, iter(self.stream)
        self._reading = None
        at += sum(1 for _ in itertools.islice(rows, start - at))
        if at == start:
            for batch in _batches(rows, start, end, size, columns):
                at += len(batch)
                yield batch
        if at < end:
            self.learn(at)
        else:
            self._reading = (at, rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reading": None}


def _batches(
    rows: Iterator[dict[str, Any]], first: int, end: int | None, size: int, columns: Sequence[str]
) -> Iterator[Batch]:
    while end is None or first < end:
        found = list(itertools.islice(rows, size if end is None else min(size, end - first)))
        if not found:
            return
        yield Batch(first, {name: [row[name] for row in found] for name in columns})
        first += len(found)

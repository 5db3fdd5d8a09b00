"""The rows that a run works on: a `Dataset` by ranges of rows, a stream by its own shards.

A stream that has one shard only is read on from its beginning, and cut into ranges as it comes; rows of shards that
are finished are read past. So is one whose shards, each for itself, would not give the rows that iterating gives: of
``take``, ``skip``, ``shuffle``, interleaving and the like.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.long_runs import fingerprints
from hf_mllm_aug.long_runs.memory import GivingBack

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features, IterableDataset

_SAMPLE = 16  # rows of a stream that tell it from others

# Steps of a stream, by the names of their classes in `datasets`, that give of a shard alone what they give of it among
# the others. Of steps that are not known here it is safe to think that they do not.
_BY_SHARD = (
    "ExamplesIterable",
    "ArrowExamplesIterable",
    "RebatchedArrowExamplesIterable",
    "SelectColumnsIterable",
    "VerticallyConcatenatedMultiSourcesExamplesIterable",
    "MappedExamplesIterable",
    "FilteredExamplesIterable",
    "FormattedExamplesIterable",
)
_ACROSS = ("with_indices", "drop_last_batch")  # settings with which such a step does not


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

    def giving_back(self) -> GivingBack:
        """What gives back the memory that reading takes."""

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
        return fingerprints.fingerprint(self.features, self._tables)

    def _tables(self, names: list[str]) -> Iterator[pa.Table]:
        give_back = self.giving_back()
        for table in self.dataset.select_columns(names).with_format("arrow").iter(1000):
            yield table
            give_back()
        give_back(now=True)

    def giving_back(self) -> GivingBack:
        """See `Source`."""
        return GivingBack(self.dataset.data.table)

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
        shard_size: Rows a shard, if the stream has but one of its own, or its shards cannot be read one by one.
    """

    kind = "stream"

    def __init__(self, stream: IterableDataset, shard_size: int) -> None:
        if stream.features is None:
            stream = stream._resolve_features()
        if not stream.features:
            raise UsageError("the stream has no rows, or none with columns: there is nothing to caption.")
        self.stream = stream.decode(False)
        self._own = int(stream.num_shards) if _splits(self.stream) else 1
        self.shards: int | None = self._own if self._own > 1 else None
        self.shard_size: int | None = None if self._own > 1 else shard_size
        self._rows: int | None = None
        self._place = threading.local()  # each thread reads on for itself: one fetches what another will read later
        self._lock = threading.Lock()

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

    def giving_back(self) -> GivingBack:
        """See `Source`."""
        return GivingBack()

    def read(self, shard: int, size: int, columns: Sequence[str]) -> Iterator[Batch]:
        """See `Source`."""
        if self._own > 1:
            if shard < self._own:
                yield from _batches(self._iterate(self.stream.shard(self._own, shard)), 0, None, size, columns)
            return
        if self.shard_size is None or (self._rows is not None and shard * self.shard_size >= self._rows):
            return
        start, end = shard * self.shard_size, (shard + 1) * self.shard_size
        at, rows = getattr(self._place, "reading", None) or (0, self._iterate(self.stream))
        if at > start:
            at, rows = 0, self._iterate(self.stream)
        self._place.reading = None
        at += sum(1 for _ in itertools.islice(rows, start - at))
        if at == start:
            for batch in _batches(rows, start, end, size, columns):
                at += len(batch)
                yield batch
        if at < end:
            self.learn(at)
        else:
            self._place.reading = (at, rows)

    def _iterate(self, stream: IterableDataset) -> Iterator[dict[str, Any]]:
        """The rows of a stream, while other threads read it, too.

        All iterations of a stream, and of its shards, keep their place in one state, and one that begins takes its
        first row from there: it would skip what another has read in between. So no two of them move at a time.
        """
        rows: Iterator[dict[str, Any]] | None = None
        while True:
            with self._lock:
                if rows is None:
                    rows = iter(stream)
                row = next(rows, None)
            if row is None:
                return
            yield row

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_place", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._place = threading.local()
        self._lock = threading.Lock()


def _splits(stream: IterableDataset) -> bool:
    """Whether the rows of a stream's shards, one after the other, are the rows of the stream."""
    of_node = getattr(stream, "_distributed", None) is not None  # every shard would be divided among the nodes again
    return not of_node and _splits_at(getattr(stream, "_ex_iterable", None))


def _splits_at(step: Any) -> bool:
    if type(step).__name__ not in _BY_SHARD or any(getattr(step, name, False) for name in _ACROSS):
        return False
    before = getattr(step, "ex_iterables", None) or [getattr(step, "ex_iterable", None)]
    return all(_splits_at(inner) for inner in before if inner is not None)


def _batches(
    rows: Iterator[dict[str, Any]], first: int, end: int | None, size: int, columns: Sequence[str]
) -> Iterator[Batch]:
    while end is None or first < end:
        found = list(itertools.islice(rows, size if end is None else min(size, end - first)))
        if not found:
            return
        yield Batch(first, {name: [row[name] for row in found] for name in columns})
        first += len(found)

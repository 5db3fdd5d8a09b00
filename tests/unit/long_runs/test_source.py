"""The rows of streams, in shards: those of iterating, however the stream was made and whoever reads it."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets

from hf_mllm_aug.long_runs.source import StreamSource

N_ROWS = 20

Change = Callable[[IterableDataset], IterableDataset]


@pytest.fixture
def numbers() -> Dataset:
    return Dataset.from_dict({"key": [f"k{n}" for n in range(N_ROWS)], "n": list(range(N_ROWS))})


def shards(source: StreamSource) -> Iterator[list[int]]:
    """The rows of each shard; of a stream whose end is not known, up to the first empty one."""
    shard = 0
    while source.shards is None or shard < source.shards:
        batches = list(source.read(shard, 2, ["n"]))
        yield [n for batch in batches for n in batch.columns["n"]]
        shard += 1


def test_shards_of_a_stream_s_own_are_its_shards(numbers: Dataset) -> None:
    source = StreamSource(numbers.to_iterable_dataset(4), 3)
    assert (source.shards, source.shard_size) == (4, None)
    assert list(shards(source)) == [list(range(first, first + 5)) for first in range(0, N_ROWS, 5)]
    assert list(source.read(4, 2, ["n"])) == []


WHOLE: dict[str, Change] = {
    "select": lambda stream: stream.select_columns(["n"]),
    "map": lambda stream: stream.map(lambda row: {"n": row["n"] * 2}),
    "batched": lambda stream: stream.map(lambda rows: {"n": [n + 1 for n in rows["n"]]}, batched=True, batch_size=3),
    "filter": lambda stream: stream.filter(lambda row: row["n"] % 3 == 0),
    "rename": lambda stream: stream.rename_column("key", "name"),
    "concatenated": lambda stream: concatenate_datasets([stream, stream.map(lambda row: {"n": -row["n"]})]),
}

# What is done across shards, so that a shard alone would give other rows.
ACROSS: dict[str, Change] = {
    "take": lambda stream: stream.take(7),
    "skip": lambda stream: stream.skip(7),
    "take below": lambda stream: stream.take(7).map(lambda row: {"n": row["n"] + 1}),
    "take in a part": lambda stream: concatenate_datasets([stream.take(7), stream]),
    "shuffle": lambda stream: stream.shuffle(seed=1, buffer_size=8),
    "repeat": lambda stream: stream.repeat(2),
    "interleaved": lambda stream: interleave_datasets([stream, stream.map(lambda row: {"n": -row["n"]})]),
    "sampled": lambda stream: interleave_datasets([stream, stream], probabilities=[0.3, 0.7], seed=1),
    "beside": lambda stream: concatenate_datasets([stream, stream.select_columns("n").rename_column("n", "m")], axis=1),
    "indices": lambda stream: stream.map(lambda row, index: {"n": index}, with_indices=True),
    "last batch": lambda stream: stream.map(lambda rows: rows, batched=True, batch_size=3, drop_last_batch=True),
    "node": lambda stream: _of_node(stream),
}


def _of_node(stream: IterableDataset) -> IterableDataset:
    from datasets.distributed import split_dataset_by_node

    return split_dataset_by_node(stream, rank=1, world_size=2)


@pytest.mark.parametrize("name", [*WHOLE, *ACROSS])
def test_the_rows_are_those_of_iterating(numbers: Dataset, name: str) -> None:
    stream = {**WHOLE, **ACROSS}[name](numbers.to_iterable_dataset(4))
    source = StreamSource(stream, 3)
    assert [n for shard in shards(source) for n in shard] == [row["n"] for row in stream]
    assert (source.shard_size is None) == (name in WHOLE), "shards of its own are worked at a time"


def test_each_thread_reads_on_from_where_it_was(numbers: Dataset) -> None:
    read: dict[str, list[int]] = {}
    n_shards = 100

    def rows() -> Iterator[dict[str, int]]:
        for n in range(n_shards * 2):
            read.setdefault(threading.current_thread().name, []).append(n)
            yield {"n": n}

    source = StreamSource(IterableDataset.from_generator(rows), 2)
    read.clear()
    turns = [threading.Event(), threading.Event()]
    found: dict[int, list[list[int]]] = {0: [], 1: []}

    def work(which: int) -> None:
        for shard in range(n_shards):
            turns[which].wait(10)
            turns[which].clear()
            found[which].append([n for batch in source.read(shard, 2, ["n"]) for n in batch.columns["n"]])
            turns[1 - which].set()

    threads = [threading.Thread(target=work, args=(which,), name=f"reader {which}") for which in (0, 1)]
    for thread in threads:
        thread.start()
    turns[0].set()
    for thread in threads:
        thread.join(20)
    expected = [[2 * shard, 2 * shard + 1] for shard in range(n_shards)]
    assert found == {0: expected, 1: expected}
    assert {name: len(numbers) for name, numbers in read.items()} == {f"reader {n}": 2 * n_shards for n in (0, 1)}


def test_a_source_travels_without_its_place(numbers: Dataset) -> None:
    source = StreamSource(numbers.to_iterable_dataset(), 3)
    assert [batch.columns["n"] for batch in source.read(0, 5, ["n"])] == [[0, 1, 2]]
    copy: Any = pickle.loads(pickle.dumps(source))
    for reader in (copy, source):
        assert [batch.columns["n"] for batch in reader.read(1, 5, ["n"])] == [[3, 4, 5]]


def test_threads_that_read_at_once_read_every_row() -> None:
    """`datasets` keeps the place of all iterations of a stream in one state: one that began late skipped rows."""
    n_rows = 300

    def rows() -> Iterator[dict[str, int]]:
        yield from ({"n": number} for number in range(n_rows))

    source = StreamSource(IterableDataset.from_generator(rows), 1000)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            for _ in range(30):
                found = list(pool.map(lambda _: [seen for seen in shards(source) if seen], range(3)))
                assert found == [[list(range(n_rows))]] * 3
    finally:
        sys.setswitchinterval(interval)

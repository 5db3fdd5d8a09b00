"""Shards, read ahead of the model: fetched, taken apart into blocks, and the first pictures of each decoded."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.captioners.rows import Rows, read_rows
from hf_mllm_aug.errors import ColumnError, ImageError
from hf_mllm_aug.images import to_rgb
from hf_mllm_aug.long_runs.job import Job, Task, parts
from hf_mllm_aug.long_runs.plan import FETCH
from hf_mllm_aug.long_runs.shard_files import IMAGE, KEY, REASON, ROW, STATUS, fetch_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image as PilImage

_FETCHED_AT_ONCE = 1024
_MAX_THREADS = 4


@dataclass
class ShardWork:
    """A shard under work.

    Args:
        shard: Its number.
        tasks: What is to be done of it.
        pictures: Those that were fetched: the fetch stage's table.
        rows: How many rows were read.
        seconds: Where the time went, by phase.
    """

    shard: int
    tasks: list[Task]
    pictures: pa.Table | None = None
    rows: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def is_shard(self, job: Job) -> bool:
        """Whether there is such a shard, now that it was read: one of a stream's own may be empty."""
        return self.rows > 0 or job.source.shard_size is None


@dataclass(frozen=True)
class Block:
    """Rows for some captioners.

    Args:
        work: The shard.
        tasks: The captioners' tasks, all of the same rows.
        numbers: The rows' numbers.
        rows: The rows.
        references: The raw captions, where shearing needs them.
    """

    work: ShardWork
    tasks: list[Task]
    numbers: list[int]
    rows: Rows
    references: list[str | None]


def fetched(job: Job, works: Iterable[ShardWork]) -> Iterator[ShardWork]:
    """Shards with their pictures, fetched now or before, and the fetch stage finished."""
    for work in works:
        start = time.perf_counter()
        task = next((task for task in work.tasks if task.stage.name == FETCH), None)
        if task is None:
            work.pictures = job.shards.read(job.stages[0], work.shard)
        if work.pictures is None:
            work.pictures = _fetch(job, work, task or Task(job.stages[0]))
        work.seconds["fetching"] = time.perf_counter() - start
        yield work


def _fetch(job: Job, work: ShardWork, task: Task) -> pa.Table:
    fetch = job.fetch
    if fetch is None:
        raise ColumnError(IMAGE, job.source.features, "pass fetch=")
    columns = [fetch.url_column]
    key_column = _key_column(job)
    if fetch.url_column not in job.source.features:
        raise ColumnError(fetch.url_column, job.source.features, "pass FetchImages(url_column=)")
    if key_column in job.source.features:
        columns.append(key_column)
    for batch in job.source.read(work.shard, _FETCHED_AT_ONCE, columns):
        work.rows += len(batch)
        chosen = [i for i in range(len(batch)) if task.rows is None or batch.first + i in task.rows]
        if not chosen:
            continue
        urls = [_plain(batch.columns[fetch.url_column][i]) for i in chosen]
        keys: list[str | None] = [None] * len(chosen)
        if key_column in columns:
            keys = [_key(batch.columns[key_column][i]) for i in chosen]
        found = asyncio.run(fetch({fetch.url_column: urls, schema.KEY: keys}))
        results = (found[name] for name in (fetch.image_column, fetch.status_column, fetch.reason_column))
        for i, key, image, status, reason in zip(chosen, keys, *results, strict=True):
            row = {ROW: batch.first + i, KEY: key, IMAGE: image, STATUS: status, REASON: reason}
            task.results.append(row)
    table = task.table(fetch_schema())
    if work.is_shard(job):
        job.shards.write(task.stage, work.shard, table)
    for row in task.results:
        del row[IMAGE]  # the table has it
    return table


def blocks(job: Job, works: Iterable[ShardWork]) -> Iterator[Block | ShardWork]:
    """The blocks of each shard, and behind them the shard itself: all of it has been read."""
    members = job.augment.members if job.augment is not None else ()
    window = max((member.micro_batch for member in members), default=1)
    give_back = job.source.giving_back()  # by this thread: the one of the model has better things to do
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="decode-ahead") as pool:
        for work in works:
            for part in parts(work.tasks):
                for block in _blocks(job, work, part, 4 * window):
                    # `caption_rows` decodes ahead too, but of a call's first pictures there is nothing ahead.
                    head = pool.map(_decoded, block.rows.images[:window])
                    block.rows.images[:window] = [
                        get if image is None else _Early(image, get)
                        for get, image in zip(block.rows.images[:window], head, strict=True)
                    ]
                    yield block
                    give_back()
            yield work
            give_back()


def _blocks(job: Job, work: ShardWork, part: list[Task], size: int) -> Iterator[Block]:
    image_column, key_column = _columns(job)
    reference_column = _reference_column(job)
    features = job.source.features
    wanted = [image_column] if work.pictures is None else []
    texts = [name for name in (key_column, reference_column) if name is not None and name in features]
    wanted += [name for name in dict.fromkeys(texts) if name not in wanted]
    if work.pictures is None and image_column not in features:
        raise ColumnError(image_column, features, "pass image_column= with the column of the pictures")
    if reference_column is not None and reference_column not in features:
        raise ColumnError(reference_column, features, "give Shear(reference_column=) the column of the raw captions")
    rows, at = part[0].rows, 0
    for batch in job.source.read(work.shard, size, wanted or list(features)[:1]):
        columns: dict[str, list[Any]] = {name: batch.columns[name] for name in wanted}
        if work.pictures is not None:
            columns[image_column] = list(work.pictures.column(IMAGE).slice(at, len(batch)))
        at += len(batch)
        work.rows = max(work.rows, at)
        chosen = [i for i in range(len(batch)) if rows is None or batch.first + i in rows]
        if not chosen:
            continue
        columns = {name: [values[i] for i in chosen] for name, values in columns.items()}
        if key_column in columns:
            columns[key_column] = [_plain(key) for key in columns[key_column]]
        references: list[str | None] = [None] * len(chosen)
        if reference_column is not None:
            references = [_plain(value) for value in columns[reference_column]]
        found = read_rows(columns, image_column, key_column)
        yield Block(work, part, [batch.first + i for i in chosen], found, references)


def _columns(job: Job) -> tuple[str, str]:
    if job.augment is None:
        return schema.IMAGE, schema.KEY
    member = job.augment.members[0]
    return member.image_column, member.key_column


def _key_column(job: Job) -> str:
    return _columns(job)[1]


def _reference_column(job: Job) -> str | None:
    shear = job.augment.shear if job.augment is not None else None
    return shear.reference_column if shear is not None and shear.rule == "raw" else None


def _plain(value: Any) -> Any:
    return value.as_py() if hasattr(value, "as_py") else value


def _key(value: Any) -> str | None:
    key = _plain(value)
    return None if key is None else str(key)


def _decoded(get: Any) -> PilImage.Image | None:
    """A picture; None where decoding fails, which is for `caption_rows` to say."""
    try:
        return to_rgb(get())
    except ImageError:
        return None


class _Early:
    """Gives a picture that was decoded beforehand, and keeps it no longer: blocks wait for their last picture.

    Args:
        image: The picture.
        get: Gives it, for whoever asks again.
    """

    def __init__(self, image: PilImage.Image, get: Callable[[], Any]) -> None:
        self._image: PilImage.Image | None = image
        self._get = get

    def __call__(self) -> Any:
        image, self._image = self._image, None
        return self._get() if image is None else image

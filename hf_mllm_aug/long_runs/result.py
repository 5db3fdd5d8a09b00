"""Finished shards, joined with the source's rows: a `Dataset` whose columns lie in Arrow files on disk."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.errors import AugError, FormatError
from hf_mllm_aug.long_runs.job import Job
from hf_mllm_aug.long_runs.shard_files import ERROR, IMAGE, KEY, REASON, ROW, STATUS
from hf_mllm_aug.long_runs.source import MapSource

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

_TODO = "To do: take the source as it was, or another folder."
_BATCH = 256  # rows of a stream that are written at a time


class MissingShardError(Exception):
    """A shard that was finished is so no more; it never leaves this package."""


def features(job: Job) -> Features:
    """The features of the augmented rows."""
    from datasets import Features

    found = Features(job.source.features)
    if job.fetch is not None:
        found = job.fetch.features(found)
    return found if job.augment is None else job.augment.features(found)


def gather(job: Job, shards: Sequence[int], split: Any, *, pictures: bool = True) -> Dataset:
    """The augmented rows of finished shards, in the source's order.

    Args:
        job: The run.
        shards: Their numbers, ascending.
        split: The split of the data set to be.
        pictures: Whether pictures that were fetched are among the columns.

    Raises:
        MissingShardError: A shard's file is damaged or gone.
        FormatError: The source's rows are not those that were worked on.
        AugError: The cache of `datasets` cannot be written.
    """
    from datasets import Dataset, Features, concatenate_datasets

    whole = features(job)
    if job.fetch is not None and not pictures:
        del whole[job.fetch.image_column]
    added = Features({name: whole[name] for name in _added(job) if name in whole})
    kept = [name for name in whole if name not in added]  # a column of the source by the same name is replaced
    if not any(job.shards.size(stage, shard) for stage in job.stages for shard in shards):
        return Dataset.from_dict({name: [] for name in whole}, features=whole, split=split)
    new = _write(job, shards, added, _tables(job, shards, added), "added", split)
    if not kept:
        return new.select_columns(list(whole))
    if isinstance(job.source, MapSource):
        old = _slices(job.source, shards).select_columns(kept).with_format(None)
    else:
        rest = Features({name: whole[name] for name in kept})
        old = _write(job, shards, rest, _streamed(job, shards, rest), "source", split)
    if len(old) != len(new):
        raise FormatError(f"the source has {len(old):,} rows now, and {len(new):,} were worked on. {_TODO}")
    info = old.info.copy()  # the rows are the source's, and so is what is known of where they come from
    info.features = None
    return concatenate_datasets([old, new], axis=1, split=split, info=info).select_columns(list(whole))


def _added(job: Job) -> list[str]:
    names: list[str] = []
    if job.fetch is not None:
        names += [job.fetch.image_column, job.fetch.status_column, job.fetch.reason_column]
    return names if job.augment is None else [*names, *job.augment.output_columns]


def _slices(source: MapSource, shards: Sequence[int]) -> Dataset:
    """The rows of shards, as views: nothing is copied."""
    from datasets import concatenate_datasets

    if len(shards) == source.shards:
        return source.dataset
    size, end = source.shard_size, source.rows
    views = [source.dataset.select(range(shard * size, min((shard + 1) * size, end))) for shard in shards]
    return concatenate_datasets(views)


def _tables(job: Job, shards: Sequence[int], added: Features) -> Iterator[pa.Table]:
    give_back = job.source.giving_back()
    for shard in shards:
        yield _table(job, shard, added)
        give_back()
    give_back(now=True)


def _table(job: Job, shard: int, added: Features) -> pa.Table:
    """What was added to the rows of a shard, under the names of the data set."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for stage in job.stages:
        captioner = stage.captioner
        if captioner is not None:
            names = {captioner.caption_column: "caption", captioner.error_column: ERROR}
            names |= {captioner.generated_column: "generated"}
        elif job.fetch is not None:
            fetch = job.fetch
            names = {fetch.image_column: IMAGE, fetch.status_column: STATUS, fetch.reason_column: REASON}
        names = {name: inner for name, inner in names.items() if name in added}
        found = job.shards.read(stage, shard, [ROW, KEY, *names.values()])
        if found is None:
            raise MissingShardError(shard)
        _check(job, shard, found, f"{job.store}/{stage.path(shard)}")
        columns |= {name: found.column(inner) for name, inner in names.items()}
        if captioner is not None and job.fetch is not None and captioner.error_column in added:
            states = [columns[name].to_pylist() for name in (job.fetch.status_column, job.fetch.reason_column)]
            told = zip(columns[captioner.error_column].to_pylist(), *states, strict=True)
            columns[captioner.error_column] = pa.array([_why(*state) for state in told], pa.string())
    return pa.table({name: columns[name] for name in added}).cast(added.arrow_schema)


def _why(error: str | None, status: str, reason: str | None) -> str | None:
    """Why a row has no caption: to a captioner, a picture that was not fetched is just not there.

    >>> _why("no picture", "http_error", "HTTP 404"), _why("the model wrote nothing", "ok", None)
    ('not fetched: HTTP 404', 'the model wrote nothing')
    """
    return error if error is None or status == "ok" else f"not fetched: {reason or status}"


def _check(job: Job, shard: int, table: pa.Table, file: str) -> None:
    """Compare a shard's row numbers with what they must be, and its keys with the source's."""
    numbers = table.column(ROW).to_pylist()
    first = shard * (job.source.shard_size or 0)
    if numbers != list(range(first, first + len(numbers))):
        raise FormatError(f"{file} does not hold the rows {first:,} to {first + len(numbers) - 1:,}. {_TODO}")
    if not isinstance(job.source, MapSource):
        return  # a stream's keys are compared as its rows are read again
    if len(numbers) != min(job.source.rows - first, job.source.shard_size):
        raise FormatError(f"{file} holds {len(numbers):,} rows, another number than the source's shard. {_TODO}")
    key = key_column(job)
    if key in job.source.features:
        rows = job.source.dataset.select_columns([key]).with_format("arrow")[first : first + len(numbers)]
        _compare(table.column(KEY).to_pylist(), rows.column(key).to_pylist(), file)


def _compare(before: Sequence[str | None], now: Sequence[Any], file: str) -> None:
    for old, new in zip(before, now, strict=True):
        if old != (None if new is None else str(new)):
            raise FormatError(f"{file} holds the row {old!r} where the source has {new!r}. {_TODO}")


def key_column(job: Job) -> str:
    """The column of the rows' keys."""
    from hf_mllm_aug import schema

    return job.augment.members[0].key_column if job.augment is not None else schema.KEY


def _streamed(job: Job, shards: Sequence[int], kept: Features) -> Iterator[dict[str, list[Any]]]:
    key, give_back = key_column(job), job.source.giving_back()
    for shard in shards:
        give_back()
        stage = job.stages[0]
        found = job.shards.read(stage, shard, [KEY])
        if found is None:
            raise MissingShardError(shard)
        keys, at = found.column(KEY).to_pylist(), 0
        for batch in job.source.read(shard, _BATCH, list(kept)):
            if key in batch.columns:
                file = f"{job.store}/{stage.path(shard)}"
                _compare(keys[at : at + len(batch)], batch.columns[key][: max(len(keys) - at, 0)], file)
            at += len(batch)
            yield batch.columns


def _write(job: Job, shards: Sequence[int], kinds: Features, parts: Iterable[Any], name: str, split: Any) -> Dataset:
    """Write tables or batches into an Arrow file in the cache of `datasets`, in place of an earlier one of this run."""
    from datasets import Dataset, config
    from datasets.arrow_writer import ArrowWriter

    which = repr(([stage.digest for stage in job.stages], list(shards)))
    folder = Path(config.HF_DATASETS_CACHE) / "hf_mllm_aug_runs"
    path = folder / f"{hashlib.sha256(which.encode()).hexdigest()[:32]}-{name}.arrow"
    beside = path.with_name(f"{path.stem}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    content = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ArrowWriter(path=str(beside), features=kinds) as writer:
            for part in parts:
                if isinstance(part, dict):
                    writer.write_batch(part)
                    continue
                for batch in part.to_batches():
                    content.update(batch.serialize())
                writer.write_table(part)
            writer.finalize()
        os.replace(beside, path)
    except OSError as error:
        raise AugError(
            f"cannot write the joined rows to datasets' cache: {error.strerror or error}. The run's shards are whole. "
            "To do: make room, or set HF_DATASETS_CACHE to another folder."
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    found = Dataset.from_file(str(path), split=split)
    if name == "added":
        found._fingerprint = content.hexdigest()[:16]  # so that equal captions are equal to later maps
    return found

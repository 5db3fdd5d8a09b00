"""A builder's rows as they were asked for: a `Dataset` in datasets' cache, or a stream of which nothing is read."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.errors import AugError, FormatError, UsageError
from hf_mllm_aug.loaders.data_files import shown
from hf_mllm_aug.loaders.keys import report_repeated_keys

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

_SPLIT = re.compile(r"(\w+)(\[[^\[\]]*\])?")


def stamped(files: Sequence[str]) -> list[tuple[str, int, int]]:
    """Absolute paths of files, sizes in bytes and times of change in ns: what datasets' cache has to see."""
    return [(os.path.abspath(file), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]


def named(files: Sequence[str]) -> str:
    """Files as a message names them; of addresses without what may be secret.

    >>> named(["a.tsv"]), named(["a.tsv", "b.tsv", "c.tsv"])
    ('a.tsv', 'a.tsv and 2 more')
    """
    first = shown(files[0])
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"


def split_name(split: str, *, streaming: bool = False) -> str:
    """The name of a split that may be sliced.

    Raises:
        UsageError: It is neither a name nor a slice of one, or it is a slice and asked for as a stream.

    >>> split_name("train[:10%]")
    'train'
    """
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise UsageError(f"split is a name such as 'train', or a slice of one such as 'train[:10]', not {split!r}")
    if streaming and match[2]:
        raise UsageError(f"a stream cannot be sliced: pass split={match[1]!r} and use .skip and .take")
    return match[1]


def of_split(rows: Any, split: str) -> Any:
    """Rows labelled as of a split, and the slice of them that it may name.

    Args:
        rows: All rows of the split. Of a stream nothing is changed.
        split: The split, or a slice of it.

    Raises:
        UsageError: There is nothing in the slice.
    """
    from datasets import Dataset, NamedSplit, ReadInstruction

    if not isinstance(rows, Dataset):
        return rows
    name = split_name(split)
    if name != split:
        (part,) = ReadInstruction.from_spec(split).to_absolute({name: len(rows)})
        wanted = range(part.from_ or 0, len(rows) if part.to is None else part.to)
        if not wanted:
            raise UsageError(f"split {split!r} corresponds to no data: {name!r} has {len(rows):,} rows")
        rows = rows.select(wanted)
    if str(rows.split) == name:
        return rows
    return Dataset(rows.data, info=rows.info, split=NamedSplit(name), indices_table=rows._indices)


def gathered(stream: IterableDataset, rows: int, split: str) -> Dataset:
    """The first rows of a stream as a `Dataset`, in a file of datasets' cache and not in memory.

    Args:
        stream: Rows whose features are known.
        rows: How many, at most.
        split: The split that they are of.

    Raises:
        FormatError: What the stream is read from breaks its format.
    """
    from datasets import Dataset, NamedSplit
    from datasets.exceptions import DatasetGenerationError

    features = stream.features if stream.features is not None else stream._resolve_features().features
    if not rows or next(iter(stream.take(1)), None) is None:  # datasets takes a split without a row for an error
        return Dataset.from_dict({column: [] for column in features}, features=features, split=NamedSplit(split))
    try:
        # Under a name of its own: a stream says nothing of whether its files have changed since.
        return Dataset.from_generator(
            _each,
            features=features,
            gen_kwargs={"stream": stream.take(rows)},
            split=NamedSplit(split),
            fingerprint=uuid.uuid4().hex,
        )
    except DatasetGenerationError as failure:
        if isinstance(failure.__cause__, AugError):
            raise failure.__cause__ from None
        raise


def _each(stream: IterableDataset) -> Iterator[dict[str, Any]]:
    yield from stream


def open_builder(builder: Any, split: str, streaming: bool, source: str) -> Dataset | IterableDataset:
    """Open what a builder makes.

    Args:
        builder: A `datasets.DatasetBuilder` with one split.
        split: Its name.
        streaming: Return an `IterableDataset`.
        source: Where the rows come from, for the report of repeated keys; a stream is not looked through for them.

    Raises:
        FormatError: The source breaks its format.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    if streaming:
        stream: IterableDataset = builder.as_streaming_dataset(split=split)
        return stream
    cached = os.path.isdir(builder.cache_dir)
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as failure:
        if isinstance(failure.__cause__, FormatError):
            raise failure.__cause__ from None
        raise
    if cached and builder.info.description:
        # What the file's reading found, said again: these rows were made by an earlier call.
        logger.warning("%s", builder.info.description)
    if not builder.info.splits[split].num_examples:  # `as_dataset` takes a split without a row for an error
        features = builder.info.features
        empty: Dataset = Dataset.from_dict({column: [] for column in features}, features=features)
        return empty
    rows: Dataset = builder.as_dataset(split=split)
    report_repeated_keys(rows, source)
    return rows

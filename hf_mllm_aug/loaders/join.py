"""Published captions joined to a person's own copy of the pictures: by key, or by address.

An index of the captions' keys is held in memory, 12 bytes a caption (180 MB for 15 million; three times that while it
is made): their 64-bit hashes in order, and the rows that they are of. Keys that the index finds are compared with those
that were asked for, so no collision of hashes gives a picture another one's caption. The captions themselves stay on
disk.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from hf_mllm_aug import schema
from hf_mllm_aug.errors import ColumnError, UsageError
from hf_mllm_aug.loaders.data_files import shown

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset, IterableDataset

    Rows = TypeVar("Rows", Dataset, IterableDataset)

logger = logging.getLogger(__name__)

_BATCH = 10_000
_STREAM_BATCH = 100  # with the pictures' bytes
_SHOWN = 3


def join_captions(
    images: Rows,
    captions: Dataset | IterableDataset | str,
    on: Literal["key", "url"] = "key",
    *,
    config: str | None = None,
    split: str = "train",
    column: str | None = None,
    how: Literal["left", "inner"] = "left",
) -> Rows:
    """Add published captions to pictures: the rows of ``images`` in their order, with the captions of their key or URL.

    A caption that the publisher has as null (captioning failed) stays null. What does not match is logged with its
    count and the first few keys: rows of ``images`` without captions, and captions that repeat a key, of which the
    first is taken. Captions of pictures that are not among ``images`` are counted at level INFO.

    Args:
        images: Rows with the column ``on``. A stream is read as it comes, and misses are reported at the first, the
            tenth, the hundredth and so on. A `Dataset` that was shuffled or filtered is written to disk anew, with the
            pictures if it holds them: join first.
        captions: The captions' rows: a `Dataset`, an `IterableDataset` (which is written to datasets' cache first), or
            a Hub id or folder that `datasets.load_dataset` takes.
        on: The column that both have and whose texts must be equal: ``"key"``, or ``"url"`` where the pictures were
            fetched by another tool, which gave them keys of its own. Where rows with the same key have addresses, these
            must be the same too: equal running numbers of two downloads are of different pictures.
        config: The config of a Hub id: a captioner's, or ``"all"``.
        split: The split of a Hub id.
        column: The name of the new column. By default all columns ``caption_<captioner>`` of the captions keep their
            names, and those of a captioner's config, whose column is ``caption``, become ``caption_<config>``.
        how: ``"left"`` keeps all rows of ``images``, with null for captions that are not there; ``"inner"`` keeps those
            that have a row among the captions.

    Returns:
        ``images`` with the new columns, as a `Dataset` or a stream, whichever it was.

    Raises:
        ColumnError: One of the two has no column ``on``, or the captions have none of captions.
        UsageError: The new column is there already or has no name, no row matches, or rows that have the same key have
            different addresses (of a stream, when that row is read).

    >>> from datasets import Dataset
    >>> images = Dataset.from_dict({"key": ["001", "002"], "image": ["001.jpg", "002.jpg"]})
    >>> captions = Dataset.from_dict({"key": ["002", "003"], "url": ["...", "..."], "caption": ["a cat", "a dog"]})
    >>> join_captions(images, captions, column="caption_otter")[:]
    {'key': ['001', '002'], 'image': ['001.jpg', '002.jpg'], 'caption_otter': [None, 'a cat']}
    """
    from datasets import Dataset, IterableDataset, load_dataset

    for name, value, choices in (("on", on, ("key", "url")), ("how", how, ("left", "inner"))):
        if value not in choices:
            raise UsageError(f"{name}={value!r}: choose {' or '.join(map(repr, choices))}")
    if isinstance(captions, str):
        captions = load_dataset(captions, config, split=split)
    elif config is not None:
        raise UsageError("config= is for captions that are named by a Hub id or folder; these are loaded already")
    for rows, what in ((images, "images"), (captions, "captions")):
        if not isinstance(rows, (Dataset, IterableDataset)):
            raise UsageError(f"{what} should be a Dataset or an IterableDataset, of one split, not {_kind(rows)}")
        if on not in _columns(rows):
            raise ColumnError(on, _columns(rows), f"name another column with on=, or rename that of the {what}")
    names: dict[str, str] = _new_columns(captions, config or captions.info.config_name, column, _columns(images))
    both = schema.URL in _columns(images) and schema.URL in _columns(captions)
    check: str | None = schema.URL if both and on != schema.URL else None
    wanted = captions.select_columns([on, *([check] if check else []), *names]).rename_columns(
        {old: new for old, new in names.items() if old != new}
    )
    index = CaptionIndex(_on_disk(wanted, on), on, check)
    if isinstance(images, IterableDataset):
        return cast("Rows", _join_stream(images, index, how))
    return cast("Rows", _join_dataset(images, index, how))


def _kind(value: object) -> str:
    from datasets import DatasetDict

    return f"splits: {', '.join(map(str, value))}" if isinstance(value, DatasetDict) else type(value).__name__


def _columns(rows: Any) -> list[str]:
    """Its columns; a stream that does not know them is asked for a row."""
    return list(rows.column_names or next(iter(rows.take(1)), {}))


def _new_columns(captions: Any, config: str | None, column: str | None, taken: Sequence[str]) -> dict[str, str]:
    """The captions' columns to add, with the names that they get."""
    present = _columns(captions)
    several = schema.caption_columns(present)
    if column in several:
        names = {column: column}
    elif several and column is None:
        names = {name: name for name in several}
    elif schema.CAPTION not in present:
        raise ColumnError(schema.CAPTION, present, "rename the column of the captions")
    elif column is not None:
        names = {schema.CAPTION: column}
    elif config == schema.RAW_CONFIG:
        names = {schema.CAPTION: schema.CAPTION}
    elif config in (None, "default", schema.ALL_CONFIG):
        raise UsageError("the captions do not say whose they are: name the new column, such as column='caption_otter'")
    else:
        names = {schema.CAPTION: schema.caption_column(config)}
    for name in names.values():
        if name in taken:
            raise UsageError(f"the pictures have a column {name!r} already: pass column=, or remove it first")
    return names


def _on_disk(captions: Dataset | IterableDataset, on: str) -> Dataset:
    from datasets import Dataset, Features, IterableDataset, Value

    if not isinstance(captions, IterableDataset):
        return captions if captions.features[on] == Value("string") else captions.cast_column(on, Value("string"))
    columns = _columns(captions)
    features = captions.features or Features({name: Value("string") for name in columns})
    features = Features({**features, on: Value("string")})
    stored: Dataset = Dataset.from_generator(_each, features=features, gen_kwargs={"rows": captions})
    return stored


def _each(rows: IterableDataset) -> Iterator[dict[str, Any]]:
    yield from rows


class CaptionIndex:
    """Finds captions by key.

    Args:
        captions: Rows with the column ``on``, that of ``check`` and the captions, and nothing else.
        on: The column of the keys; a null is no key.
        check: A column in which rows of one key must have the same text, where they have any.
    """

    def __init__(self, captions: Dataset, on: str, check: str | None = None) -> None:
        import numpy as np

        self.captions, self.on = captions, on
        self.check: str | None = check
        hashes = np.empty(len(captions), np.uint64)
        known = np.ones(len(captions), bool)
        start = 0
        for keys in self._batches():
            hashes[start : start + len(keys)] = [_hash(key) for key in keys]
            known[start : start + len(keys)] = [key is not None for key in keys]
            start += len(keys)
        rows = np.flatnonzero(known)
        order = np.argsort(hashes[rows], kind="stable")  # stable: of equal keys the first row comes first
        rows = rows[order]
        self._rows = rows.astype(np.uint32 if len(captions) < 2**32 else np.int64)
        self._hashes = hashes[rows]
        self._report_repeated()

    @property
    def nbytes(self) -> int:
        """The memory that it takes, without the captions."""
        return int(self._hashes.nbytes + self._rows.nbytes)

    @property
    def texts(self) -> Dataset:
        """The captions alone."""
        return self.captions.remove_columns([self.on, *([self.check] if self.check else [])])

    def compare(self, keys: Sequence[str | None], values: Sequence[str | None], rows: np.ndarray[Any, Any]) -> None:
        """Compare what pictures and captions of the same key have in the column ``check``.

        Args:
            keys: (n,) keys of pictures.
            values: (n,) what they have.
            rows: (n,) what `find` gives for the keys.

        Raises:
            UsageError: Two have different ones.
        """
        places = [place for place, row in enumerate(rows.tolist()) if row >= 0 and values[place]]
        if self.check is None or not places:
            return
        theirs = self.captions.select_columns([self.check])[rows[places]][self.check]
        for place, other in zip(places, theirs, strict=True):
            if other and other != values[place]:
                raise UsageError(
                    f"same keys, other addresses: the key {keys[place]!r} is {shown(str(values[place]))} among the "
                    f"pictures and {shown(str(other))} among the captions, so the keys are of different pictures. Join "
                    f"on={self.check!r}"
                )

    def _batches(self) -> Iterator[list[str | None]]:
        for table in self.captions.select_columns([self.on]).with_format("arrow").iter(_BATCH):
            yield table.column(self.on).to_pylist()

    def _report_repeated(self) -> None:
        again = self._rows[1:][self._hashes[1:] == self._hashes[:-1]]
        if len(again):
            shown = self._keys(sorted(again[:_SHOWN].tolist()))
            logger.warning(
                "captions: %s of %s rows repeat the %s of an earlier row, whose captions are taken: %s",
                f"{len(again):,}", f"{len(self.captions):,}", self.on, _examples(shown, len(again)),
            )  # fmt: skip

    def _keys(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> list[str | None]:
        return cast("list[str | None]", self.captions.select_columns([self.on])[rows][self.on])

    def find(self, keys: Sequence[str | None]) -> np.ndarray[Any, Any]:
        """The first row of each key.

        Args:
            keys: (n,) texts; None has no row.

        Returns:
            (n,) row numbers, -1 where there is none.
        """
        import numpy as np

        hashes = np.array([_hash(key) for key in keys], np.uint64)
        place = np.searchsorted(self._hashes, hashes)
        found = np.full(len(keys), -1, np.int64)
        open_ = np.flatnonzero([key is not None for key in keys])
        while len(open_):
            # Another key may have the same hash: then the right one stands further on.
            open_ = open_[place[open_] < len(self._hashes)]
            open_ = open_[self._hashes[place[open_]] == hashes[open_]]
            rows = self._rows[place[open_]].astype(np.int64)
            right = np.array([keys[i] == key for i, key in zip(open_, self._keys(rows), strict=True)], bool)
            found[open_[right]] = rows[right]
            open_ = open_[~right]
            place[open_] += 1
        return found


def _hash(key: str | None) -> int:
    # Not `hash`, which differs from process to process: the index travels to workers.
    data = b"" if key is None else key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _examples(keys: Sequence[str | None], count: int) -> str:
    return ", ".join(repr(key) for key in keys) + (" ..." if count > len(keys) else "")


def _join_dataset(images: Dataset, index: CaptionIndex, how: str) -> Dataset:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets

    keys = images.select_columns([index.on, *([index.check] if index.check else [])]).with_format("arrow")
    found = np.full(len(images), -1, np.int64)
    missed: list[str | None] = []
    start = 0
    for table in keys.iter(_BATCH):
        batch = table.column(index.on).cast(pa.string()).to_pylist()
        found[start : start + len(batch)] = rows = index.find(batch)
        if index.check is not None:
            index.compare(batch, table.column(index.check).cast(pa.string()).to_pylist(), rows)
        missed += itertools.islice((key for key, row in zip(batch, rows, strict=True) if row < 0), _SHOWN - len(missed))
        start += len(batch)
    misses = int((found < 0).sum())
    if misses and misses == len(images):
        there = index.captions[:1][index.on]
        raise UsageError(
            f"no picture has a {index.on} that the captions have: the pictures have {_examples(missed, misses)}, the "
            f"captions {_examples(there, len(index.captions))}. Join on the other of 'key' and 'url'?"
        )
    if misses:
        _report_misses(index.on, misses, len(images), missed)
    unused = len(index.captions) - len(np.unique(found[found >= 0]))
    logger.info("captions: %s of %s rows belong to none of the pictures", f"{unused:,}", f"{len(index.captions):,}")

    captions = index.texts
    nothing = Dataset.from_dict({name: [None] for name in captions.column_names}, features=captions.features)
    # In datasets' cache in the pictures' order: nothing but row numbers is in memory.
    in_order = concatenate_datasets([captions, nothing]).select(np.where(found < 0, len(captions), found))
    written = in_order.with_format("arrow").map(
        _combined, batched=True, batch_size=_BATCH, features=captions.features, desc="Putting captions in order"
    )
    joined: Dataset = concatenate_datasets(
        [images.with_format(None), written.with_format(None)], split=images.split, axis=1
    )
    joined = joined.with_format(images.format["type"], **images.format["format_kwargs"])
    return joined.select(np.flatnonzero(found >= 0)) if how == "inner" and misses else joined


def _combined(table: pa.Table) -> pa.Table:
    # Rows that were picked are chunks of one row; datasets' own `flatten_indices` converts each by itself.
    return table.combine_chunks()


def _report_misses(on: str, misses: int, total: int, examples: Sequence[str | None], so_far: str = "") -> None:
    logger.warning(
        "pictures: %s of %s rows%s have a %s that the captions lack: %s",
        f"{misses:,}", f"{total:,}", so_far, on, _examples(examples, misses),
    )  # fmt: skip


def _join_stream(images: IterableDataset, index: CaptionIndex, how: str) -> IterableDataset:
    from datasets import Features

    captions = index.texts.features
    # No picture is decoded on its way. Not by Arrow's format, in which streams made of Python's rows lose their types.
    undecoded = images if images.features is None else images.decode(False)
    features = None if images.features is None else Features({**undecoded.features, **captions})
    joined: IterableDataset = undecoded.with_format(None).map(
        StreamJoin(index, how), batched=True, batch_size=_STREAM_BATCH, features=features
    )
    return joined if features is None else joined.cast(Features({**images.features, **captions}))


class StreamJoin:
    """Adds captions to batches of a stream; for a batched ``IterableDataset.map``."""

    def __init__(self, index: CaptionIndex, how: str) -> None:
        self._index, self._how = index, how
        self._captions = index.texts
        self._rows = self._misses = 0
        self._missed: list[str | None] = []

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Add the columns to a batch; with ``how="inner"`` rows without captions are left out."""
        keys = [None if key is None else str(key) for key in batch[self._index.on]]
        rows = self._index.find(keys)
        if self._index.check is not None:
            self._index.compare(keys, batch[self._index.check], rows)
        found = rows.tolist()
        self._count(keys, found)
        kept = [place for place, row in enumerate(found) if row >= 0 or self._how == "left"]
        captions = self._captions[[row for row in found if row >= 0]]
        for name in self._captions.column_names:
            texts = iter(captions[name])
            batch[name] = [next(texts) if row >= 0 else None for row in found]
        return {name: [values[place] for place in kept] for name, values in batch.items()}

    def _count(self, keys: Sequence[str | None], found: Sequence[int]) -> None:
        before = self._misses
        self._rows += len(keys)
        missed = [key for key, row in zip(keys, found, strict=True) if row < 0]
        self._misses += len(missed)
        self._missed += missed[: _SHOWN - len(self._missed)]
        if len(str(self._misses)) > len(str(before)) or (missed and not before):
            _report_misses(self._index.on, self._misses, self._rows, self._missed, " so far")

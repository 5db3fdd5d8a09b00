"""Rows -> Parquet shards as the Hub likes them: content-defined chunks, page index, pictures inside.

`datasets` writes the same form, from shards that it holds in memory and whose number it guesses beforehand. Here rows
stream through in batches and a shard ends when its file is large enough, so memory is bounded by a row group.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_mllm_aug.picture_files import PictureFiles, PictureRoot, RefusedFileError
from hf_mllm_aug.safe_text import plain

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

_LOG = logging.getLogger(__name__)

# The chunk sizes that `datasets` uses: files that share rows then share chunks on the Hub, whoever wrote them.
_CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}
_ROW_GROUP_BYTES = 64 * 1024**2
_BATCH_ROWS = 10_000
_BATCH_PICTURES = 64


@dataclass
class WrittenSplit:
    """What was written for one split: sizes in bytes, `num_bytes` in Arrow, `file_bytes` on disk.

    Pictures that became null are counted: `lost_pictures` are no pictures, `refused_pictures` are files that may not be
    opened, of which `refused_example` is one.
    """

    features: Features
    num_examples: int = 0
    num_bytes: int = 0
    file_bytes: int = 0
    lost_pictures: int = 0
    refused_pictures: int = 0
    refused_example: str = ""
    files: list[Path] = field(default_factory=list)


def published_features(features: Features) -> Features:
    """The features that a reader gets: pictures decode there, although they are kept undecoded while we work."""
    from datasets import Features, Image

    return Features({name: Image() if isinstance(f, Image) else f for name, f in features.items()})


def holds_pictures(feature: Any) -> bool:
    """Whether a feature is a picture, or holds pictures at any depth."""
    from datasets import Image

    if isinstance(feature, Mapping):
        return any(holds_pictures(inner) for inner in feature.values())
    if isinstance(feature, list):
        return any(holds_pictures(inner) for inner in feature)
    return isinstance(feature, Image) or holds_pictures(getattr(feature, "feature", []))


def write_split(
    dataset: Dataset, folder: Path, split: str, max_shard_bytes: int, picture_root: PictureRoot | None = None
) -> WrittenSplit:
    """Write one split as ``<split>-00000-of-0000N.parquet`` files.

    Every picture goes into the file as the bytes of its own file. One that the reader's `datasets.Image` could not
    decode becomes null, for a single such row would otherwise end every loop over the data set; so does one in a file
    that may not be opened, see `picture_files`.

    Args:
        dataset: The rows.
        folder: Where the files go.
        split: The split's name.
        max_shard_bytes: A file that has reached this size is closed, at the end of a batch of rows.
        picture_root: Folders and addresses whose files may be embedded although rows alone name them.

    Returns:
        The files and their sizes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets.arrow_writer import get_parquet_column_options

    folder.mkdir(parents=True, exist_ok=True)
    done = WrittenSplit(published_features(dataset.features))
    schema = done.features.arrow_schema
    may_open = PictureFiles.of(dataset, picture_root)
    writer: Any = None
    sink: Any = None
    try:
        for group in _row_groups(dataset, done, may_open, min(_ROW_GROUP_BYTES, max_shard_bytes)):
            if writer is None:
                done.files.append(folder / f"{split}-{len(done.files):05d}.part")
                sink = pa.OSFile(str(done.files[-1]), "wb")
                writer = pq.ParquetWriter(
                    sink,
                    schema=schema,
                    use_content_defined_chunking=_CHUNKING,
                    write_page_index=True,
                    **get_parquet_column_options(done.features, schema),
                )
                writer.add_key_value_metadata({"content_defined_chunking": json.dumps(_CHUNKING)})
            writer.write_table(group, row_group_size=len(group))
            done.num_examples += len(group)
            done.num_bytes += group.nbytes
            if sink.tell() >= max_shard_bytes:
                writer.close()
                sink.close()
                writer = sink = None
    finally:
        if writer is not None:
            writer.close()
        if sink is not None:
            sink.close()
    for index, part in enumerate(done.files):
        done.files[index] = part.rename(folder / f"{split}-{index:05d}-of-{len(done.files):05d}.parquet")
    done.file_bytes = sum(file.stat().st_size for file in done.files)
    if done.lost_pictures:
        _LOG.warning("%d pictures cannot be decoded and are published as null", done.lost_pictures)
    if done.refused_pictures:
        _LOG.warning(
            "%d pictures are published as null: rows name files for them (such as %r), and rows of a data set from "
            "elsewhere may name any file. If these are its own, name the folder they lie in: picture_root=, or "
            "caption --picture-root",
            done.refused_pictures,
            plain(PurePath(done.refused_example).name, 80),
        )
    return done


def _row_groups(dataset: Dataset, done: WrittenSplit, may_open: PictureFiles, group_bytes: int) -> Iterator[pa.Table]:
    """The rows in tables of one row group each."""
    import pyarrow as pa
    from datasets import Image

    pictures = [name for name, feature in done.features.items() if isinstance(feature, Image)]
    schema = done.features.arrow_schema
    waiting: list[pa.Table] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        batches = dataset.with_format("arrow").iter(_BATCH_PICTURES if pictures else _BATCH_ROWS)
        for batch in batches:
            for name in pictures:
                embedded = list(pool.map(lambda value: _embed(value, may_open), batch.column(name).to_pylist()))
                done.lost_pictures += sum(one.lost for one in embedded)
                refused = [one.refused for one in embedded if one.refused]
                done.refused_pictures += len(refused)
                done.refused_example = done.refused_example or next(iter(refused), "")
                array = pa.array([one.value for one in embedded], schema.field(name).type)
                batch = batch.set_column(batch.column_names.index(name), name, array)
            # The format's casts leave the metadata of the unpublished features behind.
            waiting.append(batch.select(schema.names).cast(schema))
            if sum(table.nbytes for table in waiting) >= group_bytes:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


class _Embedded(NamedTuple):
    """A picture's bytes and base name; or whether it is lost, or the file that was refused."""

    value: dict[str, Any] | None = None
    lost: bool = False
    refused: str = ""


def _embed(value: dict[str, Any] | None, may_open: PictureFiles) -> _Embedded:
    if value is None:
        return _Embedded()
    path = value.get("path")
    try:
        data = value.get("bytes") or (may_open.read(path) if path else None)
    except RefusedFileError:
        return _Embedded(refused=str(path))
    except (OSError, ValueError):  # a path with a null byte is a ValueError
        return _Embedded(lost=True)
    if data is None or not _reader_can_decode(data):
        return _Embedded(lost=bool(data or path))
    return _Embedded({"bytes": data, "path": PurePath(path).name if path else None})


def _reader_can_decode(data: bytes) -> bool:
    from datasets import Image

    try:
        Image().decode_example({"bytes": data, "path": None})
    except Exception:  # noqa: BLE001 (Pillow's decoders raise what they like; the reader would meet the same)
        return False
    return True

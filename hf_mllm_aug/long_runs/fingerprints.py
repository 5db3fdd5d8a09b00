"""What a source is, as a digest of its rows that does not depend on where or how they were loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema

if TYPE_CHECKING:
    import pyarrow as pa

_TEXTS = (schema.KEY, schema.URL, schema.CAPTION)


def fingerprint(features: Mapping[str, Any], tables: Callable[[list[str]], Iterable[pa.Table]]) -> str:
    """A digest of rows: of their keys, urls and captions, or where there are none, of what their pictures are called.

    Args:
        features: Those of the rows.
        tables: Gives some columns of all rows, in pieces of any size.
    """
    from datasets import Image

    texts = [name for name in _TEXTS if name in features]
    found, is_telling = _digest(tables(texts)) if texts else ("", False)
    pictures = sorted(name for name, kind in features.items() if name == schema.IMAGE or isinstance(kind, Image))
    if is_telling or not pictures:
        return found
    return found + _digest(tables(pictures))[0]


def _digest(tables: Iterable[pa.Table]) -> tuple[str, bool]:
    """A digest of columns, and whether they hold any value."""
    rows = values = 0
    # Two for each column, for lengths and letters: how the rows fall into pieces then makes no difference.
    hashes: dict[str, tuple[Any, Any]] = {}
    for table in tables:
        rows += len(table)
        for name in table.column_names:
            lengths, letters = hashes.setdefault(name, (hashlib.sha256(), hashlib.sha256()))
            for chunk in table.column(name).chunks:
                values += len(chunk) - chunk.null_count
                _add(_texts(chunk) if name in _TEXTS else _names(chunk), lengths, letters)
    whole = hashlib.sha256(str(rows).encode())
    for name in sorted(hashes):
        whole.update(name.encode() + b"".join(part.digest() for part in hashes[name]))
    return whole.hexdigest(), values > 0


def _add(texts: pa.Array, lengths: Any, letters: Any) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    measured = pc.fill_null(pc.binary_length(texts), -1).to_numpy(zero_copy_only=False)
    lengths.update(measured.astype("<i8").tobytes())
    # A null may hide letters, and a slice others' letters: both are gone when the texts are joined.
    whole = pa.ListArray.from_arrays([0, len(texts)], pc.fill_null(texts, ""))
    letters.update(pc.binary_join(whole, pa.scalar("", texts.type))[0].as_buffer())


def _texts(chunk: pa.Array) -> pa.Array:
    import pyarrow as pa

    try:
        return chunk.cast(pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a list of captions, say
        return pa.array([json.dumps(value, default=str) for value in chunk.to_pylist()], pa.large_string())


def _names(chunk: pa.Array) -> pa.Array:
    """Of pictures the base name, or the length of the file; no file is opened."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = chunk.type
    if pa.types.is_struct(kind):
        paths = pc.struct_field(chunk, "path").to_pylist()
        sizes = pc.binary_length(pc.struct_field(chunk, "bytes")).to_pylist()
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        paths, sizes = [None] * len(chunk), pc.binary_length(chunk).to_pylist()
    else:
        paths, sizes = _texts(chunk).to_pylist(), [None] * len(chunk)
    names = [
        re.split(r"[/\\]", path)[-1] if path else None if size is None else str(size)
        for path, size in zip(paths, sizes, strict=True)
    ]
    return pa.array(names, pa.large_string())

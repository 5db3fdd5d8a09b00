"""Keys: what a row is called, in every config and for good."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.errors import FormatError

if TYPE_CHECKING:
    from datasets import Dataset


def make_keys(dataset: Dataset) -> list[str]:
    """Make a key for each row: a digest of its url, or else of its picture's bytes, together with its raw caption.

    So a key depends on the pair alone: not on the row's position, on where the picture lies, or on the other rows. It
    survives shuffling, sharding and downloading again. The second and later of rows that are wholly equal get ``-2``,
    ``-3`` ..., for which of them gets which makes no difference.

    Args:
        dataset: Rows with a url and a caption, and a picture in some form or none.

    >>> from datasets import Dataset
    >>> rows = {"url": ["https://example.org/a.jpg"] * 3, "caption": ["a cat", "a pet", "a cat"]}
    >>> make_keys(Dataset.from_dict(rows))
    ['7531d027a5ef2bde4cc4c465', '4d84c071555c82515cd90fa0', '7531d027a5ef2bde4cc4c465-2']
    """
    columns = [name for name in (schema.URL, schema.CAPTION, schema.IMAGE) if name in dataset.column_names]
    keys: list[str] = []
    seen: Counter[str] = Counter()
    for batch in dataset.select_columns(columns).with_format("arrow").iter(64):
        for row in batch.to_pylist():
            digest = hashlib.sha256((row[schema.URL] or "").encode("utf-8", "surrogatepass"))
            if not row[schema.URL] and (image := row.get(schema.IMAGE)):
                digest.update(_picture_bytes(image))
            digest.update(b"\0" + (row[schema.CAPTION] or "").encode("utf-8", "surrogatepass"))
            key = digest.hexdigest()[:24]
            seen[key] += 1
            keys.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    return keys


def _picture_bytes(image: Mapping[str, Any]) -> bytes:
    if image.get("bytes"):
        return bytes(image["bytes"])
    path = str(image.get("path") or "")
    try:
        return Path(path).read_bytes()
    except OSError:  # an address, or a file that is gone: its name is all that is known
        return (path if "://" in path else PurePath(path).name).encode("utf-8", "surrogatepass")


def check_keys(dataset: Dataset) -> None:
    """Refuse keys that are null or occur twice.

    Raises:
        FormatError: With the first row that has none, or the first few keys that are not unique.
    """
    import numpy as np

    # Hashes first: millions of keys need not be in memory at once.
    batches = dataset.select_columns([schema.KEY]).with_format("arrow")
    hashes = np.empty(len(dataset), dtype=np.int64)
    start = 0
    for batch in batches.iter(100_000):
        keys = batch.column(schema.KEY).to_pylist()
        if None in keys:
            raise FormatError(
                f"row {start + keys.index(None)} has no key. Give every row one, or drop the column 'key'."
            )
        hashes[start : start + len(keys)] = [hash(key) for key in keys]
        start += len(keys)
    hashes.sort()
    repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not repeated:
        return
    counts = Counter(k for b in batches.iter(100_000) for k in b.column(schema.KEY).to_pylist() if hash(k) in repeated)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        shown = ", ".join(f"{key!r} ({counts[key]} times)" for key in twice[:3]) + (" ..." if len(twice) > 3 else "")
        raise FormatError(f"{len(twice)} keys are not unique: {shown}. Make them so, or drop the column 'key'.")

"""Row keys: what names a picture through shuffling, sharding and a second download."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hf_mllm_aug import schema

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def path_key(path: str) -> str:
    r"""Derive a key from a picture's path as its list writes it, alike on every system.

    Args:
        path: A path, best a relative one: an absolute one names a place on one machine.

    Returns:
        The path with forward slashes, without ``.`` and with ``..`` resolved where that can be; a URL as it is.

    >>> path_key("./train\\0001.jpg"), path_key("a//b/../c.png"), path_key("https://a.b/c.png")
    ('train/0001.jpg', 'a/c.png', 'https://a.b/c.png')
    """
    return path if "://" in path else posixpath.normpath(path.replace("\\", "/"))


def report_repeated_keys(dataset: Dataset, source: str) -> int:
    """Count the rows whose key an earlier row has, and log one warning about them if there are any.

    Such rows are kept: a list may well give a picture several captions. But a key then no longer names one row.

    Args:
        dataset: Rows with a `key` column; 16 bytes of memory a row are needed.
        source: Where they come from, for the message.

    Returns:
        The number of rows (not keys) that repeat a key.
    """
    import numpy as np

    # 64-bit hashes, sorted: a set of 15 million keys would take over a gigabyte.
    hashes = np.fromiter(map(hash, _keys(dataset)), dtype=np.int64, count=len(dataset))
    hashes.sort()
    same = hashes[1:] == hashes[:-1]
    repeated = int(same.sum())
    if repeated:
        shared = hashes[1:][same][0]
        example = next(key for key in _keys(dataset) if hash(key) == shared)
        message = "%s: %d of %d rows repeat the key of an earlier row, such as %r"
        logger.warning(message, source, repeated, len(dataset), example)
    return repeated


def _keys(dataset: Dataset) -> Iterator[str]:
    for table in dataset.select_columns([schema.KEY]).with_format("arrow").iter(batch_size=10_000):
        yield from table[schema.KEY].to_pylist()

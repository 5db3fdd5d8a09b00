"""Row keys: what names a picture through shuffling, sharding and a second download."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

logger = logging.getLogger(__name__)

_SHOWN = 3
_LOOKED_FOR = 100_000


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


def leaves_root(path: str) -> bool:
    """Whether a relative path leads out of the folder that it starts from.

    >>> leaves_root("a/../../x.jpg"), leaves_root("a/../x.jpg")
    (True, False)
    """
    return not os.path.isabs(path) and path_key(path).split("/")[0] == os.pardir


def relative_path(path: str, root: str) -> str:
    """A path relative to the root if it lies under it, else as it is."""
    inside = os.path.relpath(path, root)
    return path if inside.startswith(os.pardir) or os.path.isabs(path) != os.path.isabs(root) else inside


def place_picture(path: str, image_root: str | None) -> tuple[str, str]:
    """The key of a picture and the path to open it with.

    Args:
        path: The path as a list has it.
        image_root: The folder that relative paths start from, or None to leave them as they are.

    >>> place_picture("./train/1.jpg", "hf://datasets/me/mine")
    ('train/1.jpg', 'hf://datasets/me/mine/train/1.jpg')
    """
    key = path_key(path)
    if image_root is None or (not os.path.isabs(path) and "://" in path):
        return key, path
    if os.path.isabs(path):
        return path_key(relative_path(path, image_root)), path
    joined = f"{image_root.rstrip('/')}/{key.lstrip('/')}"
    return key, joined if "://" in image_root else os.path.normpath(joined)


def url_key(url: str | bytes) -> str:
    """Derive a key from a picture's address, for lists whose publisher gives none.

    It depends on the address alone, so it is the same in any order, shard or copy of the list, and on any machine.

    Args:
        url: The address as the list has it, as text or as its UTF-8 bytes; nothing about it is normalised.

    Returns:
        The first 24 digits of the address's SHA-256: among a hundred million addresses two collide with a chance of
        one in 10^13.

    >>> url_key("http://a.b/c.jpg")
    '29e75dad6853252578fa907a'
    """
    data = url.encode("utf-8", "surrogatepass") if isinstance(url, str) else url
    return hashlib.sha256(data).hexdigest()[:24]


def report_repeated_keys(dataset: Dataset, source: str) -> int:
    """Count the rows whose key an earlier row has, and log one warning about them if there are any.

    Such rows are kept: a list may well give a picture several captions. But a key then no longer names one row.

    Args:
        dataset: Rows with a `key` column; 16 bytes of memory a row are needed.
        source: Where they come from, for the message.

    Returns:
        The number of rows (not keys) that repeat a key.
    """
    shared = repeated_keys(dataset)
    if len(shared):
        examples = ", ".join(map(repr, _first_of(dataset, set(shared[:_LOOKED_FOR].tolist()))))
        message = "%s: %d of %d rows repeat the key of an earlier row, such as %s"
        logger.warning(message, source, len(shared), len(dataset), examples)
    return len(shared)


def repeated_keys(dataset: Dataset) -> np.ndarray[Any, Any]:
    """The hashes of the keys of those rows whose key another row has, less one for each key.

    Returns:
        (n_repeats,) int64.
    """
    import numpy as np

    # 64-bit hashes, sorted: a set of 15 million keys would take over a gigabyte.
    hashes = np.fromiter(map(hash, _keys(dataset)), dtype=np.int64, count=len(dataset))
    hashes.sort()
    shared: np.ndarray[Any, Any] = hashes[1:][hashes[1:] == hashes[:-1]]
    return shared


def _first_of(dataset: Dataset, shared: set[int]) -> list[str]:
    """The first few keys that have one of these hashes."""
    found: dict[str, None] = {}
    for key in _keys(dataset):
        if hash(key) in shared:
            found[key] = None
            if len(found) == min(_SHOWN, len(shared)):
                break
    return list(found)


def _keys(dataset: Dataset) -> Iterator[str]:
    for table in dataset.select_columns([schema.KEY]).with_format("arrow").iter(batch_size=10_000):
        yield from table[schema.KEY].to_pylist()

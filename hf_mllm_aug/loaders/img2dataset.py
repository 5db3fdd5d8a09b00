"""What img2dataset writes: the record of a sample, and folders of files.

It downloads the addresses of a list and writes shards of 10,000 samples in one of several forms. Its WebDataset tars
and its folders hold the samples that succeeded, a picture, its caption (``.txt``) and a record (``.json``) each, with
a Parquet file of records without pictures beside each shard. Its Parquet form holds all samples; those that failed have
a status that says so, and no picture.

Source: github.com/rom1504/img2dataset, its writer and downloader, as of version 1.47.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_mllm_aug import schema
from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders.keys import url_key
from hf_mllm_aug.loaders.picture_folder import SUFFIXES
from hf_mllm_aug.loaders.tally import Tally

SUCCESS = "success"
NO_PICTURE = "without a picture"
MAX_TEXT_BYTES = 16 * 1024 * 1024
"""The size up to which a caption or a record is read; a record holds the EXIF too."""

PICTURE_TYPES = ("jpg", "jpeg", *sorted({suffix[1:] for suffix in SUFFIXES} - {"jpg", "jpeg"}))
"""Suffixes of pictures, without the dot; the first of them that a sample has is its picture."""

STATUS = "status"
_KEY = "key"


def parse_record(data: bytes) -> dict[str, Any]:
    """Read a sample's ``.json``.

    Raises:
        FormatError: It is no JSON object.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as failure:
        raise FormatError(f"no JSON: {failure}") from failure
    if not isinstance(record, dict):
        raise FormatError("no JSON object")
    return record


def read_record(path: str) -> dict[str, Any]:
    """The record in a file; an empty one, where there is none that can be read."""
    try:
        with open(path, "rb") as file:
            return parse_record(file.read(MAX_TEXT_BYTES))
    except (OSError, FormatError):
        return {}


def is_record(record: Mapping[str, Any]) -> bool:
    """Whether a sample's record is one of img2dataset's, which number their samples and say how it went.

    >>> is_record({"key": "000000012", "status": "success"}), is_record({"url": "http://a.b/c.jpg"})
    (True, False)
    """
    return _KEY in record and STATUS in record


def failed_status(record: dict[str, Any]) -> str | None:
    """What a record says went wrong; None for a success, and where it does not say.

    >>> failed_status({"status": "failed_to_download"}), failed_status({"status": "success"}), failed_status({})
    ('failed_to_download', None, None)
    """
    status = record.get(STATUS)
    return None if status is None or status == SUCCESS else str(status)


def make_row(
    key: str, image: dict[str, Any] | None, text: bytes | None, record: bytes | None, tally: Tally
) -> dict[str, Any] | None:
    """Make a row of a sample's parts, or count why there is none.

    The row's key is the sample's name, unless its record is one of img2dataset's and has the address: then the name is
    a running number, another one in every download, and the key is derived from the address.

    Args:
        key: The sample's name.
        image: The picture as `datasets` stores it undecoded, if there is one.
        text: The ``.txt``: the caption, byte for byte.
        record: The ``.json``: the address, and the caption where there is no ``.txt``.
        tally: Where samples that failed are counted, and texts that cannot be read.
    """
    known: dict[str, Any] = {}
    if record is not None:
        try:
            known = parse_record(record)
        except FormatError:
            tally.fault("with a record that is no JSON object", key)
    status = failed_status(known)
    if status is not None or image is None:
        tally.leave_out(status or NO_PICTURE)
        return None
    caption = _field(known, schema.CAPTION, key, tally) if text is None else _decode(text, key, tally)
    url = _field(known, schema.URL, key, tally)
    name = url_key(url) if url and is_record(known) else key
    return {schema.KEY: name, schema.IMAGE: image, schema.URL: url, schema.CAPTION: caption}


def _field(record: dict[str, Any], name: str, key: str, tally: Tally) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    if not encodable(text):
        tally.fault(f"with a {name} that no UTF-8 can hold", key)
        return None
    return text


def encodable(text: str) -> bool:
    """Whether a text can be stored: JSON and names of files may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decode(text: bytes, key: str, tally: Tally) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        tally.fault("with a caption that is not UTF-8", key)
        return None


# --- folders


def shard_folders(root: Path) -> list[Path]:
    """The folders of samples in an output folder: those right below it, by name, and itself if it holds pictures."""
    entries = [entry for entry in root.iterdir() if not entry.name.startswith((".", "_"))]
    below = sorted(entry for entry in entries if entry.is_dir())
    here = any(_suffix(entry.name) in PICTURE_TYPES for entry in entries)
    return [root, *below] if here or not below else below


def folder_stamp(folder: Path) -> int:
    """A number that changes when a file in the folder does: of names, sizes and times, not of contents."""
    total = 0
    for entry in os.scandir(folder):
        state = entry.stat()
        total ^= int.from_bytes(_digest(f"{entry.name}\0{state.st_size}\0{state.st_mtime_ns}"), "big")
    return total


def _digest(text: str) -> bytes:
    import hashlib

    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def iter_folder(folder: Path, tally: Tally) -> Iterator[dict[str, Any]]:
    """Yield the rows of one folder of samples in the order of their names; pictures by path, not read."""
    samples: dict[str, dict[str, str]] = {}
    for entry in os.scandir(folder):
        base = os.path.splitext(entry.name)[0]
        # `is_file` is false of pipes and devices, which would be read for ever.
        if not base.startswith(".") and not base.endswith("_stats") and entry.is_file():
            samples.setdefault(base, {})[_suffix(entry.name)] = entry.path
    for base in sorted(samples):
        parts = samples[base]
        picture = next((parts[suffix] for suffix in PICTURE_TYPES if suffix in parts), None)
        if picture is None and not {"txt", "json"} & parts.keys():
            continue
        if not encodable(base):
            tally.reject("with a name that is not UTF-8", base)
            continue
        text, record = (_read(parts.get(suffix), base, tally) for suffix in ("txt", "json"))
        image = None if picture is None else {"bytes": None, "path": picture}
        row = make_row(base, image, text, record, tally)
        if row is not None:
            tally.delivered(base)
            yield row


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1][1:].lower()


def _read(path: str | None, key: str, tally: Tally) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        tally.fault(f"with a text of more than {MAX_TEXT_BYTES:,} bytes", key)
        return None
    return data

"""The metadata of YFCC100M joined with OpenAI's list of 15 million of its photos, which has no captions.

The list (``yfcc100m_subset_data.tsv``: line number, photo identifier, photo hash) says which photos; the metadata
(``yfcc100m_dataset``, a headerless table of 25 or 23 columns with ``+`` and ``%20`` in its texts, or a table or JSON
lines with named columns) says what their titles and descriptions are.

Source: Thomee et al., arXiv 1503.01817; the list is OpenAI's, from "Learning Transferable Visual Models".
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders.declip import json_object
from hf_mllm_aug.loaders.faults import Faults
from hf_mllm_aug.loaders.json_records import surrogate_fault
from hf_mllm_aug.loaders.tables import plain_lines, utf8_fault
from hf_mllm_aug.loaders.text_blocks import Block, cut, head, iter_blocks
from hf_mllm_aug.schema import CAPTION, IMAGE, KEY, URL

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# fmt: off
_ORIGINAL = ("photoid", "uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title", "description",
             "usertags", "machinetags", "longitude", "latitude", "accuracy", "pageurl", "downloadurl", "licensename",
             "licenseurl", "serverid", "farmid", "secret", "secretoriginal", "ext", "marker")
# fmt: on
_WITH_HASH = ("line", "photoid", "hash", *_ORIGINAL[1:])
_ID = "photoid"
_LONGEST_ID = 18  # digits; the photos have up to 11
_TEXTS = (("title_clean", "description_clean"), ("caption",), ("title", "description"))
_TAG = re.compile("<[^<]+?>")


def clean_text(text: str) -> str:
    """A title or description in the form in which the Hub's copy of the subset publishes it.

    URL encoding is undone, HTML tags go, and runs of white space become one space.

    Args:
        text: The text as YFCC100M has it.

    Source: the card of dalle-mini/YFCC100M_OpenAI_subset.

    >>> clean_text("My+%3Cb%3Edog%3C%2Fb%3E%0A+Rex")
    'My dog Rex'
    """
    return " ".join(_TAG.sub("", urllib.parse.unquote_plus(text)).split())


def yfcc_caption(record: Mapping[str, Any]) -> str:
    """A photo's caption: its cleaned title and its cleaned description with a space between them, whichever there are.

    ``title_clean`` and ``description_clean`` are taken as they are; else ``caption`` is; else ``title`` and
    ``description`` are cleaned by `clean_text`.

    >>> yfcc_caption({"title_clean": "Rex", "description_clean": "My dog."}), yfcc_caption({"title": "A+cat"})
    ('Rex My dog.', 'A cat')
    """
    for names in _TEXTS:
        if any(record.get(name) is not None for name in names):
            parts = [str(record.get(name) or "") for name in names]
            if names == ("title", "description"):
                parts = [clean_text(part) for part in parts]
            return " ".join(part for part in parts if part)
    return ""


@dataclass(frozen=True)
class Layout:
    """How a table of metadata is laid out.

    Args:
        names: The names of its columns; empty for JSON lines.
        header: Whether the first line has them.
    """

    names: tuple[str, ...] = ()
    header: bool = False


def metadata_layout(path: str) -> Layout:
    """Tell from its first line how a table of metadata is laid out.

    Raises:
        FormatError: It is none that is known.
    """
    first = head(path).data.split(b"\n")[0].rstrip(b"\r")
    if first.startswith(b"{"):
        return Layout()
    names = tuple(name.strip().lower() for name in first.decode("utf-8", "replace").split("\t"))
    if _ID in names:
        if not any(name in names for texts in _TEXTS for name in texts):
            raise FormatError(f"{path}, line 1: no column with a title, a description or a caption: {', '.join(names)}")
        return Layout(names, header=True)
    known = {len(columns): columns for columns in (_WITH_HASH, _ORIGINAL)}
    if len(names) not in known:
        raise FormatError(
            f"{path}, line 1: {len(names)} columns; YFCC100M's metadata has 25, or 23 without line number and hash, or "
            f"a first line of names with {_ID!r} among them"
        )
    return Layout(known[len(names)])


def photo_ids(path: str) -> np.ndarray:
    """The photo identifiers of OpenAI's list, sorted, each once; read once a process.

    Returns:
        (n_photos,) int64.

    Raises:
        FormatError: A line is not three columns with a number in the second.
    """
    stamp = os.stat(path)
    return _photo_ids(path, stamp.st_size, stamp.st_mtime_ns)


@lru_cache(maxsize=1)
def _photo_ids(path: str, size: int, changed: int) -> np.ndarray:
    import numpy as np

    found = []
    for piece in cut(path):
        for block in iter_blocks(piece):
            lines = [line.split(b"\t") for line in plain_lines(block, Faults(path))]
            for index, fields in enumerate(lines):
                if len(fields) != 3 or not _is_id(fields[1].decode("ascii", "replace")):
                    raise FormatError(
                        f"{path}, line {block.line(index)}: expected 3 columns, line number, photo identifier and "
                        f"photo hash; found {len(fields)}"
                    )
            found.append(np.array([int(fields[1]) for fields in lines], dtype=np.int64))
    return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def metadata_table(
    block: Block, layout: Layout, wanted: np.ndarray | None, faults: Faults, schema: pa.Schema
) -> pa.Table:
    """The rows of a block of metadata, those of the wanted photos alone.

    Args:
        block: Lines of the metadata.
        layout: How they are laid out.
        wanted: (n_photos,) sorted identifiers, or None for all.
        faults: Where unusual lines are counted or refused.
        schema: The Arrow form of `schema.base_features`.

    Returns:
        Key (the photo's identifier), image (null), url and caption (`yfcc_caption`).
    """
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    place = layout.names.index(_ID) if layout.names else None
    for index, line in enumerate(plain_lines(block, faults)):
        if layout.header and index == 0 and block.piece[1] == 0 and block.lines_before == 0:
            continue
        if not line:
            faults.repair("blank", lambda at=index: block.line(at))  # type: ignore[misc]  # the loop's value, kept
            continue
        # Most lines are of photos that are not wanted: only the identifier of those is looked at.
        if place is not None and wanted is not None:
            fields = line.split(b"\t", place + 1)
            its = fields[place].decode("utf-8", "replace") if len(fields) > place else ""
            if _is_id(its) and not _is_in(wanted, int(its)):
                continue
        record = metadata_record(line, layout)
        if isinstance(record, str):
            faults.refuse(block.line(index), record)
            continue
        if wanted is not None and not _is_in(wanted, int(str(record[_ID]))):
            continue
        row = metadata_row(record)
        if not row[CAPTION]:
            faults.repair("empty caption", lambda at=index: block.line(at))  # type: ignore[misc]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


def _is_in(wanted: np.ndarray, number: int) -> bool:
    at = int(wanted.searchsorted(number))
    return at < len(wanted) and int(wanted[at]) == number


def metadata_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The schema's row of a photo, without a picture."""
    url = record.get("downloadurl") or record.get("url")
    url = url if isinstance(url, str) and url else None  # a number, say, would spoil the whole block
    return {KEY: str(record[_ID]), IMAGE: None, URL: url, CAPTION: yfcc_caption(record)}


def metadata_record(line: bytes, layout: Layout) -> dict[str, Any] | str:
    """The named fields of a line of metadata, or what is wrong with it."""
    if not layout.names:
        record = json_object(line)
        if isinstance(record, str):
            return record
        fault = surrogate_fault("".join(value for value in record.values() if isinstance(value, str)))
        if fault is not None:
            return fault
        if _ID not in record:
            return f"no {_ID!r}; the record has: {', '.join(map(repr, record)) or 'nothing'}"
    else:
        fault = utf8_fault(line)
        if fault is not None:
            return fault
        fields = line.decode().split("\t")
        if len(fields) != len(layout.names):
            return f"{len(fields)} columns, expected {len(layout.names)}"
        record = dict(zip(layout.names, fields, strict=True))
    if not _is_id(str(record[_ID])):
        return f"{_ID!r} is no number but {str(record[_ID])[:40]!r}"
    return record


def _is_id(text: str) -> bool:
    """Whether a text is a photo's identifier: ASCII digits, as few as fit 64 bits."""
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_ID

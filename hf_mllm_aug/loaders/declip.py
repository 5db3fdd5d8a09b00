"""DeCLIP's list of its own 15 million pictures of YFCC100M: JSON lines of ``filename``, ``caption`` and ``url``.

Source: Li et al., "Supervision Exists Everywhere", arXiv 2110.05208; ``yfcc15m_clean_open_data.json`` of its code. The
subset is not OpenAI's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.loaders.json_records import surrogate_fault
from hf_mllm_aug.loaders.keys import leaves_root, place_picture
from hf_mllm_aug.loaders.tables import plain_lines, utf8_fault
from hf_mllm_aug.schema import CAPTION, IMAGE, KEY, URL

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_mllm_aug.loaders.faults import Faults
    from hf_mllm_aug.loaders.text_blocks import Block

_FIELDS = ("filename", "caption", "url")


def declip_table(block: Block, image_root: str | None, faults: Faults, schema: pa.Schema) -> pa.Table:
    """The rows of a block of DeCLIP's list.

    Args:
        block: Lines, each a JSON object.
        image_root: The folder that file names start from. Without it there are no pictures: they are to be had from
            their addresses.
        faults: Where unusual lines are counted or refused.
        schema: The Arrow form of `schema.base_features`.

    Returns:
        Key (the file's name), image (undecoded, or null), url and caption.
    """
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for index, line in enumerate(plain_lines(block, faults)):
        if not line.strip():
            faults.repair("blank", lambda at=index: block.line(at))  # type: ignore[misc]  # the loop's value, kept
            continue
        row = _row(line, image_root)
        if isinstance(row, str):
            faults.refuse(block.line(index), row)
            continue
        if not row[CAPTION]:
            faults.repair("empty caption", lambda at=index: block.line(at))  # type: ignore[misc]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


def _row(line: bytes, image_root: str | None) -> dict[str, Any] | str:
    """The row of a line, or what is wrong with it."""
    record = json_object(line)
    if isinstance(record, str):
        return record
    for name in _FIELDS:
        if name not in record:
            return f"no {name!r}; the record has: {', '.join(map(repr, record)) or 'nothing'}"
        if not isinstance(record[name], str):
            return f"{name!r} is no text but {type(record[name]).__name__}"
    filename, caption, url = (record[name] for name in _FIELDS)
    fault = surrogate_fault(filename + caption + url)
    if fault is not None:
        return fault
    if not filename:
        return "'filename' is empty"
    if image_root is not None and leaves_root(filename):
        return f"the picture {filename[:80]!r} lies outside image_root"
    key, path = place_picture(filename, image_root)
    image = None if image_root is None else {"bytes": None, "path": path}
    return {KEY: key, IMAGE: image, URL: url or None, CAPTION: caption}


def json_object(line: bytes) -> dict[str, Any] | str:
    """The object that a line of JSON holds, or what is wrong with the line."""
    fault = utf8_fault(line)
    if fault is not None:
        return fault
    try:
        record = json.loads(line)
    except ValueError as failure:
        return f"not JSON ({failure})"
    except RecursionError:
        return "not JSON that can be read: it is nested too deeply"
    return record if isinstance(record, dict) else "not a JSON object"

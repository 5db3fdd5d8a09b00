r"""Lists of captions and addresses as lines of two fields with a tab between them, without quotes or a header.

CC3M is published as caption, tab, address; CC12M as address, tab, caption. The fields are raw: a quote is a character
like any other, and so is a lone carriage return, which CSV readers take for the end of a line. So lines are cut at
``\n`` and fields at tabs here, a whole block at a time; a block with anything unusual in it is read line by line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders.keys import url_key
from hf_mllm_aug.loaders.text_blocks import Block, head
from hf_mllm_aug.schema import CAPTION, IMAGE, KEY, URL

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_mllm_aug.loaders.faults import Faults

Order = Literal["caption-url", "url-caption"]

_ADDRESS = re.compile(rb"https?://", re.IGNORECASE)
_CAPTIONS, _URLS = {"caption", "text"}, {"url", "image_url"}
_LOOKED_AT = 50
_TAB, _LF = 9, 10


@dataclass(frozen=True)
class Shape:
    """What the first lines of a list show.

    Args:
        fields: The number of fields that most of them have.
        order: The order in which most of them are, or None if it cannot be told.
        header: Whether the first line has the names of the columns; ``order`` is then as it says.
    """

    fields: int
    order: Order | None
    header: bool


def look_at(path: str) -> Shape:
    """Tell from its first lines how a list is laid out.

    Raises:
        FormatError: The file is empty, or is compressed and damaged.
    """
    lines = [line for line in _lines(head(path).data) if line][:_LOOKED_AT]
    if not lines:
        raise FormatError(f"{path}: the file is empty; expected lines of a caption and a url with a tab between them")
    named = _header(lines[0])
    if named is not None:
        return Shape(2, named, header=True)
    rows = [line.split(b"\t") for line in lines]
    counts = [len(row) for row in rows]
    ends = [(bool(_ADDRESS.match(row[0])), bool(_ADDRESS.match(row[-1]))) for row in rows if len(row) > 1]
    caption_url, url_caption = ends.count((False, True)), ends.count((True, False))
    order: Order | None = None
    if caption_url != url_caption:
        order = "caption-url" if caption_url > url_caption else "url-caption"
    fields = 2 if 2 * counts.count(2) >= len(counts) else max(set(counts), key=counts.count)
    return Shape(fields, order, header=False)


def check_order(path: str, expected: Order) -> Order:
    """The order to read a list in: the expected one, or that which its header says.

    Args:
        path: The list.
        expected: The order in which the data set is published.

    Raises:
        FormatError: The first lines have another number of fields, or have them the other way round.
    """
    shape = look_at(path)
    first, second = _spelled(expected)
    if shape.header and shape.order is not None:
        return shape.order
    if shape.fields != 2:
        raise FormatError(
            f"{path}, line 1: {_columns(shape.fields)}, and so in most of the first lines; expected 2, {first} and "
            f"{second}, with a tab between them"
        )
    if shape.order not in (None, expected):
        raise FormatError(
            f"{path}, line 1: the columns are the other way round: the {second} comes first, where the {first} should. "
            f"If the file is meant to be so, pass form='tsv-{shape.order}'"
        )
    return expected


def pair_table(block: Block, order: Order, faults: Faults, schema: pa.Schema) -> pa.Table:
    """The rows of a block as a table.

    Args:
        block: Lines of the list.
        order: The order of the two columns.
        faults: Where unusual lines are counted or refused.
        schema: The Arrow form of `schema.base_features`.

    Returns:
        Key (`url_key`), image (null), url and caption, byte for byte as in the list.

    Raises:
        FormatError: A line cannot be read, and ``faults`` raises.
    """
    import pyarrow as pa

    data = _plain(block, faults)
    first = block.piece[1] == 0 and block.lines_before == 0
    columns = None if first and _header(data) else _regular(data, order)
    urls, captions = columns or _line_by_line(block, data, order, faults)
    arrays = {
        KEY: pa.array(map(url_key, urls), pa.string(), size=len(urls)),
        IMAGE: pa.nulls(len(urls), schema.field(IMAGE).type),
        URL: pa.array(urls, pa.string()),
        CAPTION: pa.array(captions, pa.string()),
    }
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def plain_lines(block: Block, faults: Faults) -> list[bytes]:
    """The lines of a block without their ends; a byte order mark and CR LF are counted."""
    return _lines(_plain(block, faults))


def utf8_fault(data: bytes) -> str | None:
    """What keeps bytes from being UTF-8, or None if they are.

    >>> utf8_fault("café".encode()), utf8_fault("café".encode("latin-1"))
    (None, 'not UTF-8: byte 4 is 0xe9 (unexpected end of data)')
    """
    try:
        data.decode()
    except UnicodeDecodeError as failure:
        return f"not UTF-8: byte {failure.start + 1} is 0x{data[failure.start]:02x} ({failure.reason})"
    return None


def _plain(block: Block, faults: Faults) -> bytes:
    if block.bom:
        faults.repair("bom", lambda: block.line(0))
    data = block.data
    count = data.count(b"\r\n")
    if count:
        faults.repair("crlf", lambda: block.line(data.count(b"\n", 0, data.index(b"\r\n"))), count)
        return data.replace(b"\r\n", b"\n")
    return data


def _lines(data: bytes) -> list[bytes]:
    return data.replace(b"\r\n", b"\n").split(b"\n")[:-1] if data else []


def _regular(data: bytes, order: Order) -> tuple[list[bytes], list[bytes]] | None:
    """The two columns of a block in which no line is unusual, or None if one is."""
    import numpy as np

    codes = np.frombuffer(data, dtype=np.uint8)
    tabs, ends = np.flatnonzero(codes == _TAB), np.flatnonzero(codes == _LF)
    if len(tabs) != len(ends) or not (tabs < ends).all() or not (ends[:-1] < tabs[1:]).all():
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (tabs == starts).any() or (tabs + 1 == ends).any():
        return None
    # "http" at every address, in any case, without a look at each in Python.
    places = starts if order == "url-caption" else tabs + 1
    if (
        len(places) == 0
        or places[-1] + 3 >= len(codes)
        or any((codes[places + offset] | 32 != letter).any() for offset, letter in enumerate(b"http"))
    ):
        return None
    if utf8_fault(data) is not None:
        return None
    fields = data[:-1].replace(b"\n", b"\t").split(b"\t")
    first, second = fields[0::2], fields[1::2]
    return (first, second) if order == "url-caption" else (second, first)


def _line_by_line(block: Block, data: bytes, order: Order, faults: Faults) -> tuple[list[bytes], list[bytes]]:
    urls: list[bytes] = []
    captions: list[bytes] = []
    for index, line in enumerate(data.split(b"\n")[:-1]):
        fault = _read_line(block, index, line, order, faults)
        if isinstance(fault, str):
            faults.refuse(block.line(index), fault)
        elif fault is not None:
            urls.append(fault[0])
            captions.append(fault[1])
    return urls, captions


def _read_line(block: Block, index: int, line: bytes, order: Order, faults: Faults) -> tuple[bytes, bytes] | str | None:
    """The url and the caption of a line, what is wrong with it, or None if there is nothing in it."""
    if not line:
        faults.repair("blank", lambda: block.line(index))
        return None
    if index == 0 and block.piece[1] == 0 and block.lines_before == 0 and _header(line):
        faults.repair("header", lambda: block.line(index))
        return None
    if (fault := utf8_fault(line)) is not None:
        return fault
    first, second = _spelled(order)
    tabs = line.count(b"\t")
    if not tabs:
        return f"1 column, expected 2: {first} and {second}, with a tab between them: {_shown(line)}"
    # The address is at the end that has no tabs in it, so what is left is the caption, tabs and all.
    left, _, right = line.partition(b"\t") if order == "url-caption" else line.rpartition(b"\t")
    url, caption = (left, right) if order == "url-caption" else (right, left)
    if not url:
        return "the url is empty"
    if not _ADDRESS.match(url):
        if _ADDRESS.match(caption):
            return f"the columns are the other way round: {second} before {first}: {_shown(line)}"
        if tabs > 1:
            return f"{tabs + 1} columns, expected 2: {first} and {second}: {_shown(line)}"
    if tabs > 1:
        faults.repair("tab", lambda: block.line(index))
    if not caption:
        faults.repair("empty caption", lambda: block.line(index))
    return url, caption


def _header(data: bytes) -> Order | None:
    """The order that a first line of column names says, or None if it is a row."""
    first = data[:64].partition(b"\n")[0].decode("utf-8", "replace")
    names = [name.strip().lower() for name in first.split("\t")]
    if len(names) != 2:
        return None
    if names[0] in _CAPTIONS and names[1] in _URLS:
        return "caption-url"
    return "url-caption" if names[0] in _URLS and names[1] in _CAPTIONS else None


def _spelled(order: Order) -> tuple[str, str]:
    first, _, second = order.partition("-")
    return first, second


def _columns(count: int) -> str:
    return f"{count} column" + ("s" if count != 1 else "")


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return repr(text if len(text) <= 80 else text[:80] + "…")

"""Reading a response's body, no further than it can be a picture within the limits, and looking at the file."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import AsyncIterable, Iterator

from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import identify, known_prefix
from hf_mllm_aug.loaders.fetching.outcome import FetchError

_SNIFF = 64
# HTML, XML and SVG; a byte order mark may stand before them. No picture that we open begins like this.
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<[!?A-Za-z]")
# Types under which servers send pictures of the few formats that have no sign at their beginning.
_VAGUE = re.compile(r"image/.*|text/.*|(?:application|binary)/(?:x-)?octet-stream|")
_PLAIN = ("", "identity")
_ZIPPED = ("gzip", "x-gzip", "deflate")


async def read_body(
    chunks: AsyncIterable[bytes], *, encoding: str, kind: str, declared: int | None, max_bytes: int
) -> bytes:
    """Read a body, unpacking what the server has packed although it was not asked to.

    Args:
        chunks: The body as it comes.
        encoding: The ``Content-Encoding`` header.
        kind: The ``Content-Type`` header. What is neither known by its first bytes nor called a picture is not read on.
        declared: The ``Content-Length`` header, in bytes.
        max_bytes: The most bytes, packed and unpacked.

    Raises:
        FetchError: It is too large, markup, of another kind, packed in another way, or cut off within the packed data.
    """
    encoding = encoding.strip().lower()
    if encoding not in _PLAIN + _ZIPPED:
        raise FetchError("not_a_picture", "packed in a way that was not asked for")
    if declared is not None and declared > max_bytes:
        raise FetchError("too_large", f"{declared:,} bytes declared, more than {max_bytes:,}")
    # 32: the header tells whether it is gzip's or zlib's form.
    unzip = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS) if encoding in _ZIPPED else None
    data = bytearray()
    sniffed = False
    async for chunk in chunks:
        for piece in (chunk,) if unzip is None else _unzipped(unzip, chunk, max_bytes):
            data += piece
            if len(data) > max_bytes:
                raise FetchError("too_large", f"more than {max_bytes:,} bytes")
        if not sniffed and len(data) >= _SNIFF:
            _refuse_markup(data)
            if not known_prefix(bytes(data[:_SNIFF])):
                _refuse_kind(kind)
            sniffed = True
    if unzip is not None and not unzip.eof:
        raise FetchError("broken", "the packed body is cut off", passing=True)
    _refuse_markup(data)
    return bytes(data)


def _unzipped(unzip: zlib._Decompress, chunk: bytes, max_bytes: int) -> Iterator[bytes]:
    """Unpack by pieces: a thousandth of a zip bomb's size is enough to recognise it."""
    piece_size = min(max_bytes + 1, 256 * 1024)
    try:
        while chunk:
            piece = unzip.decompress(chunk, piece_size)
            chunk = unzip.unconsumed_tail
            yield piece
    except zlib.error:
        raise FetchError("not_a_picture", "the body is not packed as its header says") from None


def _refuse_markup(data: bytearray) -> None:
    if _MARKUP.match(data[:_SNIFF]):
        raise FetchError("not_a_picture", "a web page or other markup, not a picture")


def _refuse_kind(kind: str) -> None:
    if not _VAGUE.fullmatch(kind.partition(";")[0].strip().lower()):
        raise FetchError("not_a_picture", "a file of another kind, by its type and its first bytes")


def check_picture(data: bytes, *, max_pixels: int, max_aspect: float) -> None:
    """Look at a file's header: a known format, within the limits. Its pixels are not decoded.

    Args:
        data: The file.
        max_pixels: Width times height.
        max_aspect: Long side over short side.

    Raises:
        FetchError: It is no such picture.
    """
    if not data:
        raise FetchError("not_a_picture", "the file is empty")
    try:
        with identify(io.BytesIO(data), "") as image:
            width, height = image.size
    except ImageError as error:
        raise FetchError("not_a_picture", str(error)) from None
    if width < 1 or height < 1:
        raise FetchError("not_a_picture", f"no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise FetchError("too_large", f"too many pixels: {width:,} x {height:,}, more than {max_pixels:,}")
    if max(width, height) > max_aspect * min(width, height):
        raise FetchError("not_a_picture", f"too thin: {width:,} x {height:,}")

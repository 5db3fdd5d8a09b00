"""Any form of a picture -> an RGB picture in memory, within limits.

Web pictures are broken in every way: cut off, empty, an HTML page named .jpg, a header that claims 20,000 x 20,000
pixels, EXIF that is no EXIF. `to_rgb` turns what can be turned, and for the rest raises `ImageError` with a reason
that fits in a table cell.

A row's address is a stranger's word. Only what is on this machine or on the Hub is opened for it: an address of the
web could name a machine of the user's own network, one of a cloud a picture that the user's own credentials open.

Nothing of Pillow's global state is read or changed: other code in the process may rely on it, and a change there
would reach threads that decode at the same time. Hence the file is identified here, over a list of formats, and not
by `PIL.Image.open`, whose size check warns or raises according to a global. JPEG's draft mode (decoding at a fraction
of the size) is not used: the pixels would differ from those of a picture that `datasets` has decoded, and so might
the caption.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from hf_mllm_aug.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image as PilImage

MAX_PIXELS = 89_478_485
"""The size at which Pillow too begins to warn: 0.36 GB as RGB, which Pillow keeps in 4 bytes a pixel. While a picture
is converted it is there in its old mode too, with transparent parts up to 20 bytes a pixel in all."""

MAX_BYTES = 256 * 1024 * 1024

MAX_ASPECT = 200
"""Longer strips than this would grow without bound where a model scales the shorter side to its input size."""

# Formats met in web data sets. Left out on purpose: EPS and PDF run an interpreter, WMF and EMF need Windows.
# fmt: off
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "MPO", "AVIF", "ICO", "PPM", "JPEG2000", "TGA", "PCX",
            "SGI")
# fmt: on

_ORIENTATION_TAG = 0x0112

PROTOCOLS = frozenset({"hf", "zip", "tar", "gzip", "bz2", "xz", "memory"})
"""What addresses are opened with unless a caller says otherwise: the Hub, archives, and this process's own memory."""

# What a caller may add. Other file systems of fsspec run commands, or read on behalf of yet other addresses.
_REMOTE = frozenset({"http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss"})

_STRIP = 1 << 20
"""The pixels of greys that are scaled at a time: 8 bytes for each, twice."""

_LONGEST_NAME = 100
_LONGEST_ERROR = 2000  # characters of an error's text that are looked at


def to_rgb(
    value: Any,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    max_aspect: float = MAX_ASPECT,
    protocols: Collection[str] = PROTOCOLS,
) -> PilImage.Image:
    """Turn one picture, in any form that a data set may hold, into an RGB picture.

    The first frame of an animation is taken, EXIF orientation is applied, transparent parts become white, 16-bit and
    floating-point greys are scaled to 8 bits. Broken EXIF is ignored.

    Args:
        value: A path, an fsspec URL (``hf://...``, ``zip://a.png::/data/b.zip``), the bytes of a file, a
            ``PIL.Image.Image``, or the dictionary ``{"bytes": ..., "path": ...}`` of `datasets.Image`.
        max_pixels: Larger pictures are refused, before they are decoded. Width times height.
        max_bytes: Larger files are refused.
        max_aspect: Pictures whose long side is more than this many times the short one are refused.
        protocols: What URLs may be opened with. For your own addresses, which you trust, it may also hold ``http``,
            ``https``, ``s3``, ``gs``, ``gcs``, ``az``, ``abfs`` and ``abfss``; they are opened with your credentials
            and without a limit in time. For other people's addresses there is `FetchImages`.

    Returns:
        A new picture of mode ``RGB``, (width, height) as seen.

    Raises:
        ImageError: It cannot be decoded within the limits. The message is short and bears no absolute path.

    >>> import PIL.Image
    >>> to_rgb(PIL.Image.new("RGBA", (2, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb(b"<html>")
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.ImageError: not a picture in a known format
    """
    from PIL import Image

    if isinstance(value, Image.Image):
        return _convert(value, "", max_pixels, max_aspect)
    data, name = _read(value, max_bytes, protocols)
    label = f"{name}: " if name else ""
    if not data:
        raise ImageError(f"{label}the file is empty")
    with identify(io.BytesIO(data), label) as image:
        return _convert(image, label, max_pixels, max_aspect)


def _read(value: Any, max_bytes: int, protocols: Collection[str]) -> tuple[bytes, str]:
    """The file's bytes and its base name."""
    if isinstance(value, Mapping):
        if not {"bytes", "path"} & value.keys():
            raise ImageError("no picture: neither bytes nor a path")
        data, path = value.get("bytes"), value.get("path")
        if data is None:
            return _read(path, max_bytes, protocols)
        name = _base_name(str(path)) if path else ""
    elif isinstance(value, (bytes, bytearray, memoryview)):
        data, name = value, ""
    elif isinstance(value, (str, os.PathLike)):
        return _read_file(os.fspath(value), max_bytes, protocols)
    elif value is None:
        raise ImageError("no picture")
    else:
        raise ImageError(f"not a picture but a value of type {type(value).__name__}")
    if len(data) > max_bytes:
        raise ImageError(_too_many_bytes(name, len(data), max_bytes))
    return bytes(data), name


def _read_file(path: str | bytes, max_bytes: int, protocols: Collection[str]) -> tuple[bytes, str]:
    path = os.fsdecode(path)
    name = _base_name(path)
    try:
        if "://" in path:
            for link in path.split("::"):
                refusal = _refusal(link, protocols)
                if refusal is not None:
                    raise ImageError(f"{name}: {refusal}")
            import fsspec

            with fsspec.open(path, "rb") as file:
                data: bytes = file.read(max_bytes + 1)
        else:
            # A pipe or a device would be read for ever.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ImageError(f"{name}: not a file")
            with open(path, "rb") as file:
                data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except ImageError:
        raise
    except Exception as error:  # every file system of fsspec has errors of its own
        raise ImageError(f"{name}: cannot be read: {_clean(error)}") from error
    if len(data) > max_bytes:
        raise ImageError(_too_many_bytes(name, None, max_bytes))
    return data, name


def _refusal(link: str, protocols: Collection[str]) -> str | None:
    """Why one link of a chained address is not opened; None for a path, or a protocol that may be used.

    fsspec takes a link of lower-case letters alone for a protocol.
    """
    protocol, mark, _ = link.partition("://")
    if not mark and not re.fullmatch("[a-z]*", link):
        return "addresses of this kind are not opened" if link.startswith("data:") else None
    if protocol in PROTOCOLS or (protocol in _REMOTE and protocol in protocols):
        return None
    if protocol in ("http", "https"):
        return "an address of the web is not opened here; fetch such addresses first: dataset.map(FetchImages())"
    if protocol in _REMOTE:
        return f"addresses of {protocol}:// are opened only by to_rgb(..., protocols={{{protocol!r}}})"
    return "addresses of this kind are not opened"


def _base_name(path: str) -> str:
    """The last part of a path or URL, which tells the file but not whose machine it is on."""
    first = path.split("::")[0].split("?")[0]
    return re.split(r"[/\\]", first.rstrip("/\\"))[-1][:_LONGEST_NAME]


def _too_many_bytes(name: str, size: int | None, limit: int) -> str:
    label = f"{name}: " if name else ""
    found = f"{size:,} bytes, " if size is not None else ""
    return f"{label}too large a file: {found}more than {limit:,} bytes"


def identify(file: IO[bytes], label: str) -> PilImage.Image:
    """Open a picture: read its header, decode nothing."""
    from PIL import Image

    Image.init()
    prefix = file.read(16)
    broken: Exception | None = None
    for name in _FORMATS:
        if name not in Image.OPEN:
            continue  # Pillow was built without it
        factory, accept = Image.OPEN[name]
        try:
            if accept is not None and not _is_yes(accept(prefix)):
                continue
            file.seek(0)
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            # How Pillow's plugins say "not mine"; a format after it may be. The last of them take anything for theirs.
            broken = broken or error
        except Exception as error:
            raise ImageError(f"{label}broken picture: {_clean(error)}") from error
    if broken is not None and _looks_like_a_picture(prefix):
        raise ImageError(f"{label}broken header: {_clean(broken)}") from broken
    raise ImageError(f"{label}not a picture in a known format")


def known_prefix(prefix: bytes) -> bool:
    r"""Whether a file that begins like this may be a picture in a known format.

    Some formats, such as TGA, have no sign at their beginning; they are not known by it.

    Args:
        prefix: The file's first 16 bytes or more.

    >>> known_prefix(b"\xff\xd8\xff\xe0" + bytes(12)), known_prefix(bytes(4) + b"ftypisom" + bytes(4))
    (True, False)
    """
    from PIL import Image

    Image.init()
    accepts = [Image.OPEN[name][1] for name in _FORMATS if name in Image.OPEN]
    return any(accept is not None and _is_yes(accept(prefix[:16])) for accept in accepts)


def _is_yes(answer: object) -> bool:
    """Plugins answer yes or no, or with a text that says what this Pillow lacks to read the file."""
    return bool(answer) and not isinstance(answer, str)


def _looks_like_a_picture(prefix: bytes) -> bool:
    return prefix.startswith((b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF"))


def _convert(image: PilImage.Image, label: str, max_pixels: int, max_aspect: float) -> PilImage.Image:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{label}no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise ImageError(f"{label}too many pixels: {width:,} x {height:,}, more than {max_pixels:,}")
    if max(width, height) > max_aspect * min(width, height):
        raise ImageError(f"{label}too thin: {width:,} x {height:,}, one side more than {max_aspect:g} times the other")
    try:
        image.load()
        return _upright(_flatten(image), image)
    except MemoryError:
        raise ImageError(f"{label}out of memory at {width:,} x {height:,} pixels") from None
    except Exception as error:  # a decoder may raise anything on bytes made to break it
        text = _clean(error)
        # Pillow words a cut-off file in several ways, by format.
        cut_off = re.search(r"truncated|broken data stream|incomplete|unexpected end", text, re.IGNORECASE)
        kind = "truncated picture" if cut_off else "broken picture"
        raise ImageError(f"{label}{kind}: {text}") from error


def _flatten(image: PilImage.Image) -> PilImage.Image:
    """To 8-bit RGB, on white where it is transparent."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _eight_bits(image: PilImage.Image) -> PilImage.Image:
    """Scale integers of 16 and 32 bits, and floats, to grey; Pillow's own conversion would clip them at 255.

    Strip by strip: as arrays of floats, the whole would take many times the picture's own memory.
    """
    import numpy as np
    from PIL import Image

    ranges = [(values.min(), values.max()) for _, values in _strips(image)]
    low, high = float(min(each[0] for each in ranges)), float(max(each[1] for each in ranges))
    eight = low >= 0 and high <= 255
    offset, scale = low, 255 / ((high - low) or 1)
    if image.mode == "F" and eight and high <= 1:
        offset, scale = 0.0, 255.0
    elif image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and 255 < high <= 65535):
        offset, scale = 0.0, 1 / 257
    elif eight:  # of mode I too: what has 32 bits and needs 8 was made from 8
        offset, scale = 0.0, 1.0
    transparent = image.info.get("transparency")  # the one tone of a 16-bit PNG that is so
    scaled = Image.new("L", image.size)
    for top, values in _strips(image):
        greys = np.rint((values - offset) * scale).astype(np.uint8)
        if isinstance(transparent, int):
            greys[values == transparent] = 255
        scaled.paste(Image.fromarray(greys), (0, top))
    return scaled


def _strips(image: PilImage.Image) -> Iterator[tuple[int, Any]]:
    """Some rows at a time: the number of the first one, and their values as finite floats."""
    import numpy as np

    width, height = image.size
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        yield top, np.nan_to_num(np.asarray(strip, dtype=np.float64))


def _upright(image: PilImage.Image, source: PilImage.Image) -> PilImage.Image:
    """Turn the picture as its EXIF says. Pillow's `exif_transpose` also rewrites the EXIF, and fails where that is
    broken.
    """
    from PIL import Image

    try:
        orientation = source.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - EXIF is free-form bytes; a picture is no worse for broken ones
        return image
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _clean(error: Exception) -> str:
    """An error's text without memory addresses, directories and the queries of URLs, which may be signed: equal
    failures read equal on every machine.
    """
    text = (str(error) or type(error).__name__)[:_LONGEST_ERROR]
    # Schemes of a bounded length, lest a long text without any takes quadratic time.
    address = re.compile(r"[A-Za-z][\w+.-]{0,31}://\S+")
    text = address.sub(lambda url: _base_name(url[0].split("#")[0]).rpartition("@")[2], text)
    text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", text)
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "...", text)
    text = re.sub(r"(?<![\w:/])(?:[A-Za-z]:)?[/\\](?:[^\s'\"/\\]+[/\\])+", "", text)
    return " ".join(text.split())[:200]

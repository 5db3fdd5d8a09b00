"""Any form of a picture -> an RGB picture in memory, within limits.

Web pictures are broken in every way: cut off, empty, an HTML page named .jpg, a header that claims 20,000 x 20,000
pixels, EXIF that is no EXIF. `to_rgb` turns what can be turned, and for the rest raises `ImageError` with a reason
that fits in a table cell.

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
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from hf_mllm_aug.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image as PilImage

MAX_PIXELS = 89_478_485
"""The size at which Pillow too begins to warn: a quarter of a gigabyte when decoded."""

MAX_BYTES = 256 * 1024 * 1024

MAX_ASPECT = 200
"""Longer strips than this would grow without bound where a model scales the shorter side to its input size."""

# Formats met in web data sets. Left out on purpose: EPS and PDF run an interpreter, WMF and EMF need Windows.
# fmt: off
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "MPO", "AVIF", "ICO", "PPM", "JPEG2000", "TGA", "PCX",
            "SGI")
# fmt: on

_ORIENTATION_TAG = 0x0112

# What a row's address may be opened with. Other file systems of fsspec log in somewhere, run commands or read on
# behalf of yet other addresses; a data set from the Hub has no business with them.
# fmt: off
_PROTOCOLS = frozenset({"hf", "http", "https", "zip", "tar", "gzip", "bz2", "xz", "s3", "gs", "gcs", "az", "abfs",
                        "abfss", "memory"})
# fmt: on


def to_rgb(
    value: Any, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES, max_aspect: float = MAX_ASPECT
) -> PilImage.Image:
    """Turn one picture, in any form that a data set may hold, into an RGB picture.

    The first frame of an animation is taken, EXIF orientation is applied, transparent parts become white, 16-bit and
    floating-point greys are scaled to 8 bits. Broken EXIF is ignored.

    Args:
        value: A path, an fsspec URL (``hf://``, ``https://``, ``s3://``, ``zip://...``), the bytes of a file, a
            ``PIL.Image.Image``, or the dictionary ``{"bytes": ..., "path": ...}`` of `datasets.Image`.
        max_pixels: Larger pictures are refused, before they are decoded. Width times height.
        max_bytes: Larger files are refused.
        max_aspect: Pictures whose long side is more than this many times the short one are refused.

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
    data, name = _read(value, max_bytes)
    label = f"{name}: " if name else ""
    if not data:
        raise ImageError(f"{label}the file is empty")
    with identify(io.BytesIO(data), label) as image:
        return _convert(image, label, max_pixels, max_aspect)


def _read(value: Any, max_bytes: int) -> tuple[bytes, str]:
    """The file's bytes and its base name."""
    if isinstance(value, Mapping):
        if not {"bytes", "path"} & value.keys():
            raise ImageError("no picture: neither bytes nor a path")
        data, path = value.get("bytes"), value.get("path")
        if data is None:
            return _read(path, max_bytes)
        name = _base_name(str(path)) if path else ""
    elif isinstance(value, (bytes, bytearray, memoryview)):
        data, name = value, ""
    elif isinstance(value, (str, os.PathLike)):
        return _read_file(os.fspath(value), max_bytes)
    elif value is None:
        raise ImageError("no picture")
    else:
        raise ImageError(f"not a picture but a value of type {type(value).__name__}")
    if len(data) > max_bytes:
        raise ImageError(_too_many_bytes(name, len(data), max_bytes))
    return bytes(data), name


def _read_file(path: str | bytes, max_bytes: int) -> tuple[bytes, str]:
    path = os.fsdecode(path)
    name = _base_name(path)
    try:
        if "://" in path:
            if not all(map(_may_be_opened, path.split("::"))):
                raise ImageError(f"{name}: addresses of this kind are not opened")
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


def _may_be_opened(link: str) -> bool:
    """Whether one link of a chained address is a path or has a protocol that may be used.

    fsspec takes a link of lower-case letters alone for a protocol.
    """
    protocol, mark, _ = link.partition("://")
    if mark or re.fullmatch("[a-z]*", link):
        return protocol in _PROTOCOLS
    return not link.startswith("data:")


def _base_name(path: str) -> str:
    """The last part of a path or URL, which tells the file but not whose machine it is on."""
    first = path.split("::")[0].split("?")[0]
    return re.split(r"[/\\]", first.rstrip("/\\"))[-1]


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
    """Scale integers of 16 and 32 bits, and floats, to grey; Pillow's own conversion would clip them at 255."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = float(values.min()), float(values.max())
    eight = low >= 0 and high <= 255
    if image.mode == "F" and eight and high <= 1:
        greys = values * 255
    elif image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and 255 < high <= 65535):
        greys = values / 257
    elif eight:  # of mode I too: what has 32 bits and needs 8 was made from 8
        greys = values
    else:
        greys = (values - low) * (255 / ((high - low) or 1))
    transparent = image.info.get("transparency")  # the one tone of a 16-bit PNG that is so
    if isinstance(transparent, int):
        greys[values == transparent] = 255
    return Image.fromarray(np.rint(greys).astype(np.uint8))


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
    text = str(error) or type(error).__name__
    text = re.sub(r"[A-Za-z][\w+.-]*://\S+", lambda url: _base_name(url[0].split("#")[0]).rpartition("@")[2], text)
    text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", text)
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "...", text)
    text = re.sub(r"(?<![\w:/])(?:[A-Za-z]:)?[/\\](?:[^\s'\"/\\]+[/\\])+", "", text)
    return " ".join(text.split())[:200]

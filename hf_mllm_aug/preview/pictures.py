"""Pictures of rows for the page: decoded within limits and written anew, so what is sent is a picture and no more."""

from __future__ import annotations

import io
import threading

from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import to_rgb

SIDES = (256, 1024)
"""The longer side of a picture in a row, and of one that is looked at alone. Pixels."""

# A decoded picture may take hundreds of megabytes.
_DECODING = threading.BoundedSemaphore(2)

NO_PICTURE = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 120" width="160" height="120">
<rect width="160" height="120" fill="#8883"/><path d="M50 80 72 52l16 18 10-12 16 22z" fill="#8886"/>
<circle cx="98" cy="44" r="7" fill="#8886"/></svg>"""
"""What stands where a picture is missing or cannot be decoded."""


def thumbnail(data: bytes, side: int = SIDES[0]) -> bytes | None:
    """A smaller picture, as a JPEG file without the original's metadata.

    Args:
        data: The bytes of a picture's file, of anyone's making.
        side: The longer side at most, in pixels.

    Returns:
        The file; None if the bytes are no picture within the limits of `to_rgb`.

    >>> thumbnail(b"<svg onload='alert(1)'/>") is None
    True
    """
    from PIL import Image

    with _DECODING:
        try:
            picture = to_rgb(data)
        except ImageError:
            return None
        picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=82, optimize=side <= SIDES[0])
        return buffer.getvalue()

"""Rows for a card: a small picture, the raw caption, and what each captioner wrote, with what shearing cut off."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.picture_files import PictureFiles, PictureRoot, RefusedFileError

if TYPE_CHECKING:
    from datasets import Dataset

THUMBNAIL = 256
"""The longest side of a picture in a card, in pixels."""

_QUALITY = 80
# One word so long widens a table beyond the page. Scripts that put no spaces between words break anywhere.
_UNBROKEN = re.compile(r"[!-\u04ff]{40}[!-\u04ff]+")


@dataclass(frozen=True)
class Sample:
    """A row to show.

    Args:
        key: The row's key.
        captions: Each config's name, its caption (None where captioning failed), and what shearing cut off that.
        picture: A WebP file, made from the picture's pixels alone; None if there is no picture.
        figure: Its path in the repository.
    """

    key: str
    captions: list[tuple[str, str | None, str]] = field(default_factory=list)
    picture: bytes | None = None
    figure: str = ""


def samples(
    configs: Mapping[str, Mapping[str, Dataset]], count: int, picture_root: PictureRoot | None = None
) -> list[Sample]:
    """Rows to show, spread over the first split.

    Args:
        configs: The splits of each config, of equal rows in equal order.
        count: The most rows.
        picture_root: Whose files may be opened; see `picture_files`. A picture that may not is not shown.

    Returns:
        The rows; none if the configs do not have the same.
    """
    from datasets import Image

    first = {name: next(iter(splits.values())) for name, splits in configs.items()}
    shown = {
        name: dataset
        for name, dataset in first.items()
        if name != schema.ALL_CONFIG and {schema.KEY, schema.CAPTION} <= set(dataset.column_names)
    }
    lengths = {len(dataset) for dataset in shown.values()}
    if len(lengths) != 1 or not (length := lengths.pop()):
        return []
    count = min(count, length)
    picked = sorted({round(i * (length - 1) / max(1, count - 1)) for i in range(count)})
    parts = {n: d.select_columns([schema.KEY, schema.CAPTION]).select(picked)[:] for n, d in shown.items()}
    keys = next(iter(parts.values()))[schema.KEY]
    if any(part[schema.KEY] != keys for part in parts.values()):
        return []
    more: dict[str, list[Any]] = {}
    files = PictureFiles()
    if (everything := first.get(schema.ALL_CONFIG)) is not None and len(everything) == length:
        wanted = [schema.KEY, schema.IMAGE, *map(schema.generated_column, shown)]
        files = PictureFiles.of(everything, picture_root)
        rows = everything.select_columns([n for n in wanted if n in everything.column_names]).select(picked)
        if isinstance(rows.features.get(schema.IMAGE), Image):
            rows = rows.cast_column(schema.IMAGE, Image(decode=False))
        more = rows[:]
        more = more if more.get(schema.KEY) == keys else {}
    nothing: Sequence[None] = [None] * len(keys)
    pictures = [thumbnail(_file(picture, files)) for picture in more.get(schema.IMAGE, nothing)]
    return [
        Sample(
            str(key),
            [
                (name, part[schema.CAPTION][i], cut_off(part[schema.CAPTION][i], _of(more, name, nothing)[i]))
                for name, part in parts.items()
            ],
            pictures[i],
            f"figures/{schema.ALL_CONFIG}-sample-{i}.webp" if pictures[i] else "",
        )
        for i, key in enumerate(keys)
    ]


def cut_off(caption: str | None, generated: str | None) -> str:
    """What shearing took from the end of a caption; ``""`` if that was nothing but punctuation, or is not known.

    >>> cut_off("A cat", "A cat. It sleeps."), cut_off("A cat", "A cat."), cut_off("A cat", "Another cat. It sleeps.")
    ('. It sleeps.', '', '')
    """
    if not caption or not generated:
        return ""
    start, whole = caption.strip(), generated.strip()
    tail = whole[len(start) :] if whole.startswith(start) else ""
    return tail if any(character.isalnum() for character in tail) else ""


def thumbnail(picture: bytes | None) -> bytes | None:
    """A small WebP of a picture, written anew from its pixels, so that nothing else of its file is published.

    Args:
        picture: A picture's file.

    Returns:
        The small file; None if there is no picture, or none that can be read.

    >>> import PIL.Image
    >>> PIL.Image.new("RGB", (1024, 512)).save(file := io.BytesIO(), "PNG")
    >>> small = PIL.Image.open(io.BytesIO(thumbnail(file.getvalue())))
    >>> small.format, small.size
    ('WEBP', (256, 128))
    """
    from PIL import Image

    from hf_mllm_aug.images import to_rgb

    if picture is None:
        return None
    try:
        pixels = to_rgb(picture)
    except ImageError:
        return None
    pixels.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    bare = Image.frombytes("RGB", pixels.size, pixels.tobytes())  # no profile, no EXIF, no comment
    file = io.BytesIO()
    bare.save(file, "WEBP", quality=_QUALITY, method=4)
    return file.getvalue()


def breakable(text: str) -> str:
    """A text in which words of more than 40 characters are cut, since they would widen a table beyond the page.

    >>> breakable("see " + "x" * 50)[-6:]
    'xxxxx…'
    """
    return _UNBROKEN.sub(lambda word: word[0][:40] + "…", text)


def _file(picture: Any, files: PictureFiles) -> bytes | None:
    """The bytes of an undecoded picture of a row, if the row has them or may name the file that does."""
    if not isinstance(picture, Mapping):
        return None
    if picture.get("bytes") is not None:
        return bytes(picture["bytes"])
    if not picture.get("path"):
        return None
    try:
        return files.read(picture["path"])
    except (RefusedFileError, OSError, ValueError):  # a path with a null byte is a ValueError
        return None


def _of(rows: Mapping[str, Sequence[Any]], name: str, nothing: Sequence[None]) -> Sequence[Any]:
    return rows.get(schema.generated_column(name), nothing)

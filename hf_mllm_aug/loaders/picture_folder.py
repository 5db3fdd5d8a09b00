"""A folder of pictures as schema rows, in the order of their paths.

Captions come from ``metadata.jsonl`` or ``metadata.csv`` (the form that `datasets` calls an imagefolder), else from a
``.txt`` file beside the picture. Unlike `datasets`' own imagefolder nothing is decoded or left out: a file that
bears a picture's suffix is a row, whatever is in it.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.picture_files import OWN_FOLDER
from hf_mllm_aug.schema import CAPTION, IMAGE, KEY, URL, base_features

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SUFFIXES = frozenset(
    ".avif .bmp .gif .heic .jfif .jpe .jpeg .jpg .pbm .pgm .png .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
_FILE_NAME = "file_name"
_Row = tuple[int, dict[str, Any]]  # the line's number and what it says


def load_picture_folder(folder: str | Path) -> Dataset:
    """Read a folder and the folders in it: one row a picture, with the path below the folder as its key.

    A ``key`` in the metadata is taken instead, where every picture has one and no two are equal. Other columns of
    the metadata (``credit``, ``licence``) are kept.

    Args:
        folder: The folder; hidden files and folders in it are passed over.

    Returns:
        A `datasets.Dataset` of key, image (``decode=False``), url, caption and the metadata's other columns.

    Raises:
        FormatError: There is no picture, or a metadata file breaks its format (names file and line).
    """
    from datasets import Dataset, DatasetInfo, Features

    root = Path(folder)
    pictures = sorted(_pictures(root))
    if not pictures:
        raise FormatError(f"no pictures in {root}: no file ends in one of {', '.join(sorted(SUFFIXES))}.")
    metadata = _metadata(root, pictures)
    rows = [metadata.get(name, {}) for name in pictures]
    given = [_text(row.get(KEY)) for row in rows]
    keys = given if None not in given and len(set(given)) == len(given) else pictures
    columns: dict[str, list[Any]] = {
        KEY: keys,
        IMAGE: [{"path": str(root / name), "bytes": None} for name in pictures],
        URL: [_text(row.get(URL)) for row in rows],
        CAPTION: [_caption(root, name, row) for name, row in zip(pictures, rows, strict=True)],
    }
    features = dict(base_features(decode=False))
    for name in dict.fromkeys(name for row in rows for name in row):
        if name not in (KEY, IMAGE, URL, CAPTION, "text"):
            columns[name], features[name] = _column([row.get(name) for row in rows])
    # Said of rows whose files were found and not named, so that their pictures may be embedded: see `picture_files`.
    info = DatasetInfo(features=Features(features), builder_name=OWN_FOLDER)
    return Dataset.from_dict(columns, features=Features(features), info=info)


def _pictures(root: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield (Path(parent) / name).relative_to(root).as_posix()


def _metadata(root: Path, pictures: list[str]) -> dict[str, dict[str, Any]]:
    """What the metadata files say of each picture, by its path below ``root``."""
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted({root, *((root / name).parent for name in pictures)}):
        for path, read in ((folder / "metadata.jsonl", _jsonl), (folder / "metadata.csv", _csv)):
            if not path.is_file():
                continue
            for line, row in _decoded(path, read):
                name = row.pop(_FILE_NAME, None)
                if not isinstance(name, str) or not name:
                    raise FormatError(f"{path}, line {line}: no {_FILE_NAME!r}, the picture that the line is about.")
                below = os.path.normpath((folder / name).relative_to(root)) if not os.path.isabs(name) else name
                found[Path(below).as_posix()] = row
    missing = found.keys() - set(pictures)
    if missing:
        logger.warning("%d pictures of the metadata are not in %s, such as %s", len(missing), root, min(missing))
    return found


def _decoded(path: Path, read: Callable[[Path], Iterator[_Row]]) -> Iterator[_Row]:
    try:
        yield from read(path)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 ({error}).") from error


def _jsonl(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise FormatError(f"{path}, line {number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise FormatError(f"{path}, line {number}: not a JSON object.")
            yield number, row


def _csv(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines)
        for row in rows:
            yield rows.line_num, {name: value or None for name, value in row.items() if name}


def _caption(root: Path, name: str, row: dict[str, Any]) -> str | None:
    if row:
        return _text(row.get(CAPTION, row.get("text")))
    beside = (root / name).with_suffix(".txt")
    return _text(beside.read_text(encoding="utf-8-sig", errors="replace")) if beside.is_file() else None


def _text(value: Any) -> str | None:
    return (str(value).strip() or None) if value is not None else None


def _column(values: Iterable[Any]) -> tuple[list[Any], Any]:
    """Values and feature of a metadata column: of one simple type as they are, else as JSON text."""
    from datasets import Value

    values = list(values)
    types = {type(value) for value in values if value is not None}
    if len(types) == 1:
        dtype = {str: "string", int: "int64", float: "float64", bool: "bool"}.get(types.pop())
        if dtype:
            return values, Value(dtype)
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values], Value(
        "string"
    )

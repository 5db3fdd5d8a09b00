"""The form in which the paper's released scripts write captions: JSON lists of ``{"image": path, "caption": text}``.

Source: the code released with arXiv 2311.18765 writes one such list per model and data set, and splits it into eight.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from hf_mllm_aug import schema
from hf_mllm_aug.errors import ColumnError, FormatError, OutputExistsError, UsageError
from hf_mllm_aug.loaders.json_records import iter_records, surrogate_fault
from hf_mllm_aug.loaders.keys import leaves_root, place_picture, relative_path
from hf_mllm_aug.loaders.prepared import named, open_builder, stamped

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    PathLike = str | os.PathLike[str]

# Raise it when the rows made of a file change: datasets' cache does not see the code.
CODE_VERSION = 2
_BATCH = 1000


@overload
def load_pairs(
    path: PathLike | Sequence[PathLike], *, image_root: PathLike | None = ..., streaming: Literal[False] = ...
) -> Dataset: ...
@overload
def load_pairs(
    path: PathLike | Sequence[PathLike], *, image_root: PathLike | None = ..., streaming: Literal[True]
) -> IterableDataset: ...
@overload
def load_pairs(
    path: PathLike | Sequence[PathLike], *, image_root: PathLike | None = ..., streaming: bool
) -> Dataset | IterableDataset: ...
def load_pairs(
    path: PathLike | Sequence[PathLike], *, image_root: PathLike | None = None, streaming: bool = False
) -> Dataset | IterableDataset:
    """Load image-caption pairs from the paper's JSON form, or from JSON lines of the same objects.

    Files are read as streams, so a list may have any number of rows. Pictures are neither opened nor looked for: a
    missing one shows when it is decoded.

    Args:
        path: A file, several, or a glob pattern; a pattern's files are taken in the order of their names.
        image_root: The folder that relative picture paths start from, and may not leave; None leaves them as they are.
        streaming: Return an `IterableDataset`, nothing read yet, instead of a `Dataset` in datasets' cache. Repeated
            keys are then not looked for.

    Returns:
        Rows of key, image (undecoded), url, caption. The key is the picture's path as the list has it, with forward
        slashes (relative to ``image_root`` where it lies under it), so it is the same on every machine. A web address
        instead of a path goes to url, with a null image. Rows that repeat a key are kept and reported by a logged
        warning.

    Raises:
        FormatError: A file breaks JSON (file, line and column are named), or a record is no pair or its picture lies
            outside ``image_root`` (file, record, line).
        UsageError: No file is there.

    Source: the code released with arXiv 2311.18765.

    >>> import os, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with open(os.path.join(folder.name, "otter.json"), "w") as file:
    ...     _ = file.write('[{"image": "cc3m/0001.jpg", "caption": "a red bus"}]')
    >>> load_pairs(file.name, streaming=True).decode(False).remove_columns(["image", "url"]).take(1).to_list()
    [{'key': 'cc3m/0001.jpg', 'caption': 'a red bus'}]
    >>> folder.cleanup()
    """
    from hf_mllm_aug.loaders.pairs_builder import Pairs

    files = _files(path)
    root = None if image_root is None else os.fspath(image_root)
    builder = Pairs(files=stamped(files), image_root=root, code_version=CODE_VERSION)
    return open_builder(builder, "train", streaming, named(files))


def save_pairs(
    dataset: Dataset | IterableDataset,
    path: PathLike,
    *,
    caption_column: str = schema.CAPTION,
    num_shards: int | None = None,
    image_root: PathLike | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write rows as the paper's JSON form; `load_pairs` reads them back equal.

    Rows are written as they are read, so any number will do. Nothing appears under the final names before all is
    written.

    Args:
        dataset: Rows with the caption column and with `image` or `key`.
        path: The file to write. With ``num_shards`` the files are named after it: ``captions.json`` gives
            ``captions-00000-of-00008.json`` and so on.
        caption_column: The captions to write, say ``"caption_otter"``; a null one is written as null.
        num_shards: The number of files, each a valid list of consecutive rows; None writes one file named ``path``. It
            needs a data set whose length is known.
        image_root: The folder that paths under it are written relative to, the one given to `load_pairs`.
        overwrite: Whether files that are there may be replaced, shards of another number included.

    Returns:
        The files that were written.

    Raises:
        ColumnError: The caption column is missing, or both `image` and `key`.
        OutputExistsError: A file is there and ``overwrite`` is not set; nothing was written.
        UsageError: ``num_shards`` is below 1, or the data set's length is not known.
        FormatError: A row has neither a picture's path nor a key; nothing was written.

    Source: the code released with arXiv 2311.18765; its ``json_process`` splits a list into eight.

    >>> import json, os, tempfile
    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"key": ["a.jpg", "b.jpg"], "caption": ["a red bus", None]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = save_pairs(rows, os.path.join(folder, "captions.json"), num_shards=2)
    ...     [(file.name, json.loads(file.read_text())) for file in written]
    [('captions-00000-of-00002.json', [{'image': 'a.jpg', 'caption': 'a red bus'}]),
     ('captions-00001-of-00002.json', [{'image': 'b.jpg', 'caption': None}])]
    """
    target = Path(path)
    names = _shard_names(target, num_shards)
    stale = _existing(target, names, num_shards)
    if stale and not overwrite:
        raise OutputExistsError(f"{stale[0]} is there already; choose another name or pass overwrite=True")
    lengths = _lengths(dataset, num_shards)
    pairs = _pairs(dataset, caption_column, None if image_root is None else os.fspath(image_root))
    target.parent.mkdir(parents=True, exist_ok=True)
    parts = [name.with_name(f".{name.name}.{os.getpid()}.part") for name in names]
    try:
        for part, length in zip(parts, lengths, strict=True):
            _write_list(part, pairs, length)
        for part, name in zip(parts, names, strict=True):
            os.replace(part, name)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    for leftover in set(stale) - set(names):
        leftover.unlink()
    return names


def _files(path: PathLike | Sequence[PathLike]) -> list[str]:
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise UsageError("no JSON file was named")
    files: list[str] = []
    for item in [os.fspath(item) for item in paths]:
        found = [item] if os.path.isfile(item) else []
        if not found and glob.has_magic(item):
            found = sorted(name for name in glob.glob(item, recursive=True) if os.path.isfile(name))
        if not found:
            what = "is a folder; name the JSON files in it" if os.path.isdir(item) else "matches no file"
            raise UsageError(f"{item!r} {what}")
        files += found
    return files


def iter_rows(file: str, image_root: str | None) -> Iterator[dict[str, Any]]:
    """Yield the schema rows of one file, pictures as `datasets` stores undecoded ones.

    Args:
        file: A JSON list of pairs, or JSON lines.
        image_root: As for `load_pairs`.

    Raises:
        FormatError: As for `load_pairs`; the rows before that place have been yielded.
    """
    for number, (line, record) in enumerate(iter_records(file), start=1):
        image, caption = record.get("image"), record.get("caption")
        good_caption = isinstance(caption, str) or (caption is None and "caption" in record)
        if not (isinstance(image, str) and image and good_caption):
            raise _record_error(file, number, line, record)
        if not (image.isascii() and (caption is None or caption.isascii())):
            _check_encodable(file, number, line, image, caption or "")
        if image_root is not None and leaves_root(image):
            raise FormatError(
                f"{file}, record {number} (line {line}): the picture {image[:80]!r} lies outside image_root"
            )
        yield _row(image, caption, image_root)


def _row(image: str, caption: str | None, image_root: str | None) -> dict[str, Any]:
    if image.startswith(("http://", "https://")):
        return {schema.KEY: image, schema.IMAGE: None, schema.URL: image, schema.CAPTION: caption}
    key, image = place_picture(image, image_root)
    return {schema.KEY: key, schema.IMAGE: {"bytes": None, "path": image}, schema.URL: None, schema.CAPTION: caption}


def _record_error(file: str, number: int, line: int, record: dict[str, Any]) -> FormatError:
    for name in ("image", "caption"):
        if name not in record:
            what = f"no {name!r}; it has: {', '.join(map(repr, record)) or 'nothing'}"
            break
    else:
        name = "caption" if isinstance(record["image"], str) and record["image"] else "image"
        value = record[name]
        what = f"{name!r} is empty" if value == "" else f"{name!r} is no string but {type(value).__name__}"
    return FormatError(f'{file}, record {number} (line {line}): {what}. Expected {{"image": path, "caption": text}}')


def _check_encodable(file: str, number: int, line: int, *texts: str) -> None:
    for text in texts:
        what = surrogate_fault(text)
        if what is not None:
            raise FormatError(f"{file}, record {number} (line {line}): {what}")


def _shard_names(target: Path, num_shards: int | None) -> list[Path]:
    if num_shards is None:
        return [target]
    if num_shards < 1:
        raise UsageError(f"num_shards must be at least 1, not {num_shards}")
    suffix = target.suffix or ".json"
    return [target.with_name(f"{target.stem}-{i:05d}-of-{num_shards:05d}{suffix}") for i in range(num_shards)]


def _existing(target: Path, names: list[Path], num_shards: int | None) -> list[Path]:
    """The files in the way: those to be written and, for shards, a set of another number, which a glob would mix in."""
    if num_shards is None or not target.parent.is_dir():
        return [name for name in names if name.exists()]
    shard = re.compile(rf"{re.escape(target.stem)}-\d{{5}}-of-\d{{5}}{re.escape(target.suffix or '.json')}")
    return sorted(file for file in target.parent.iterdir() if shard.fullmatch(file.name))


def _lengths(dataset: Dataset | IterableDataset, num_shards: int | None) -> list[int | None]:
    if num_shards is None:
        return [None]
    if not hasattr(dataset, "__len__"):
        raise UsageError("num_shards needs a data set whose length is known: a Dataset, not an IterableDataset")
    size, larger = divmod(len(dataset), num_shards)
    return [size + (i < larger) for i in range(num_shards)]


def _pairs(dataset: Dataset | IterableDataset, caption_column: str, image_root: str | None) -> Iterator[dict[str, Any]]:
    """The pairs of a data set, no picture decoded; checked before the first is asked for."""
    from datasets import Image

    present = list(dataset.column_names or [])
    if caption_column not in present:
        raise ColumnError(caption_column, present, "pass caption_column=")
    named = [column for column in (schema.IMAGE, schema.KEY) if column in present]
    if not named:
        raise ColumnError(schema.IMAGE, present, "rename the column of the pictures, or that of their paths to 'key'")
    rows = dataset.select_columns([*named, caption_column]).with_format(None)
    if isinstance((dataset.features or {}).get(schema.IMAGE), Image):
        rows = rows.cast_column(schema.IMAGE, Image(decode=False))
    return _iter_pairs(rows, caption_column, image_root)


def _iter_pairs(rows: Any, caption_column: str, image_root: str | None) -> Iterator[dict[str, Any]]:
    number = 0
    for batch in rows.iter(batch_size=_BATCH):
        captions = batch[caption_column]
        nothing = [None] * len(captions)
        images, keys = batch.get(schema.IMAGE, nothing), batch.get(schema.KEY, nothing)
        for image, key, caption in zip(images, keys, captions, strict=True):
            number += 1
            name = image if image is None or isinstance(image, str) else image.get("path")
            if name and image_root is not None:
                name = relative_path(name, image_root)
            if not (name or key):
                raise FormatError(f"row {number} has neither a picture's path nor a key to write")
            yield {"image": name or key, "caption": caption}


def _write_list(file: Path, pairs: Iterable[dict[str, Any]], length: int | None) -> None:
    written = 0
    pairs = iter(pairs)
    with open(file, "w", encoding="utf-8", newline="\n") as out:
        out.write("[")
        while length is None or written < length:
            pair = next(pairs, None)
            if pair is None:
                break
            out.write(("," if written else "") + "\n" + json.dumps(pair, ensure_ascii=False))
            written += 1
        out.write("\n]\n" if written else "]\n")
        out.flush()
        os.fsync(out.fileno())

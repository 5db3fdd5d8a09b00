"""What a source is, told by what is in it: the first bytes of a file, the files of a folder, the name of a repository.

The answer is the name of a form (`forms.FORMS`); a person's ``form=`` overrides it.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_mllm_aug.errors import FormatError, UsageError
from hf_mllm_aug.loaders.data_files import expand_braces, find_files
from hf_mllm_aug.loaders.img2dataset import is_record, read_record
from hf_mllm_aug.loaders.picture_folder import SUFFIXES
from hf_mllm_aug.loaders.tables import look_at
from hf_mllm_aug.loaders.tar_members import SUFFIXES as TARS
from hf_mllm_aug.loaders.tar_members import is_tar
from hf_mllm_aug.loaders.text_blocks import head

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_LISTS = (".tsv", ".tsv.gz", ".tsv.bz2", ".json", ".jsonl", ".jsonl.gz")
_LOOKED_AT = 5_000  # files of a folder: one of img2dataset's may hold forty million
_RECORDS = 20  # beside pictures, one of which is img2dataset's where all are
_PHOTO = re.compile(rb"\d+\t\d+\t[0-9a-f]{20,40}")


def is_hub_id(source: str) -> bool:
    """Whether a source is an OWNER/NAME on the Hub, and not something on this machine.

    >>> is_hub_id("google-research-datasets/conceptual_captions"), is_hub_id("photos")
    (True, False)
    """
    return _HUB_ID.fullmatch(source) is not None and not os.path.exists(source)


def expand(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files or the folder that a source names: a path, a pattern (its files by name), or several of them.

    Args:
        source: Patterns may have braces (``{0000..0575}``, ``{a,b}``), of which each name must be there.

    Returns:
        Absolute paths, so that the rows outlive a change of the working directory.

    Raises:
        UsageError: One of them matches nothing.
    """
    items = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if not items:
        raise UsageError("no file was named")
    found: list[str] = []
    for item in (os.path.expanduser(os.fspath(item)) for item in items):
        for name in [item] if os.path.exists(item) else expand_braces(item):
            matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
            if not matches:
                raise UsageError(f"no such file or folder: {name}" + (f" (of {item})" if name != item else ""))
            found += matches
    return [os.path.abspath(path) for path in found]


def recognise(paths: Sequence[str]) -> str | None:
    """The form of files, or of a folder; None if it is none that is known.

    Args:
        paths: What `expand` gives; of several files the first is looked at.

    Raises:
        FormatError: The first file is empty, or damaged.
    """
    path = paths[0]
    return _folder(path) if os.path.isdir(path) else _file(path)


def _file(path: str) -> str | None:
    with open(path, "rb") as file:
        start = file.read(512)
    if path.lower().endswith(TARS) or is_tar(path):
        return "webdataset"
    if start.startswith(b"PAR1"):
        return parquet_form(path, path)
    if not start:
        raise FormatError(f"{path}: the file is empty")
    text = head(path).data
    if text.lstrip()[:1] in (b"[", b"{"):
        return _json(path, text)
    if _PHOTO.match(text):
        return "openai-list"
    if b"\t" not in text:
        return None
    return "tsv" if (order := look_at(path).order) is None else f"tsv-{order}"


def _json(path: str, text: bytes) -> str:
    """The form of JSON by the names in its first record; broken JSON is for the reader of pairs to explain."""
    first = text.lstrip().partition(b"\n")[0]
    names = set(re.findall(rb'"(\w+)"\s*:', first))
    if text.lstrip().startswith(b"{") and {b"filename", b"url"} <= names:
        return "declip"
    return "pairs"


def parquet_form(file: Any, name: str) -> str:
    """The form of a Parquet file, by its columns.

    Args:
        file: A path, or a file open for reading bytes at any place.
        name: What messages call it.

    Raises:
        FormatError: It is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = set(pq.read_schema(file).names)
    except pa.ArrowInvalid as failure:
        raise FormatError(f"{name}: no Parquet file, or one that is cut off. Download it again.") from failure
    return "img2dataset-parquet" if {"key", "status"} <= names else "table"


def _folder(path: str) -> str | None:
    names = set(itertools.islice(_walk(path), _LOOKED_AT))
    if {"dataset_dict.json", "state.json"} & set(os.listdir(path)):
        return "saved"
    if any(name.lower().endswith(TARS) for name in names):
        return "webdataset"
    if glob.glob(os.path.join(glob.escape(path), "metadata", "*.jsonl.gz")):
        return "yfcc-archive"
    # Before Parquet: img2dataset puts a Parquet file of records beside each folder of pictures.
    if _has_records(path, names):
        return "img2dataset-folder"
    parquet = sorted(name for name in names if name.endswith(".parquet"))
    if parquet:
        return parquet_form(parquet[0], parquet[0])
    lists = sorted(name for name in names if name.endswith(_LISTS))
    return _file(lists[0]) if lists else None


def is_picture_folder(path: str) -> bool:
    """Whether a folder is one of pictures: there are some, and img2dataset did not put them there.

    What else lies in it is not opened: a list, an archive or a table beside pictures makes it nothing else.
    """
    if not any(_is_picture(name) for name in _walk(path)):
        return False
    return not _has_records(path, set(itertools.islice(_walk(path), _LOOKED_AT)))


def _walk(path: str) -> Iterator[str]:
    """The files of a folder and of those in it, without hidden ones; those of one folder by name."""
    for parent, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(files) if not name.startswith("."))


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _has_records(path: str, names: set[str]) -> bool:
    """Whether the pictures among the files are in one folder, or in folders right below it, with img2dataset's records
    beside them.
    """
    pictures = sorted(name for name in names if _is_picture(name))
    if any(os.path.relpath(name, path).count(os.sep) > 1 for name in pictures):
        return False
    beside = (f"{os.path.splitext(name)[0]}.json" for name in pictures)
    records = itertools.islice((name for name in beside if name in names and os.path.isfile(name)), _RECORDS)
    return any(is_record(read_record(name)) for name in records)


def recognise_address(path: str) -> str:
    """The form of files on the Hub, by what their names end in; of Parquet files also by their columns.

    Raises:
        UsageError: They are neither tars nor Parquet files.
    """
    from datasets.utils.file_utils import xopen

    if path.lower().endswith(TARS):
        return "webdataset"
    if path.lower().endswith(".parquet"):
        first = find_files(path, (".parquet",))["train"][0]
        with xopen(first, "rb") as file:
            return parquet_form(file, first)
    raise UsageError(f"{path}: from an address tars and Parquet files are read. Download it, and pass its path")


def recognise_repository(repo_id: str) -> str:
    """The form of a repository that is not known by its name: of tars, as a mirror of pixparse's is, or a table."""
    import httpx2
    from huggingface_hub import HfApi

    try:
        names = [file.rfilename for file in HfApi().dataset_info(repo_id).siblings or ()]
    except (httpx2.HTTPError, OSError, ValueError):
        return "hub"  # not to be had: `datasets` says why, or has it in its cache
    # Beside tars there may be a list of them (pixparse's ``_info.json``), but no table.
    has_tars = any(name.lower().endswith(TARS) for name in names)
    return "hub-shards" if has_tars and not any(name.endswith((".parquet", ".arrow")) for name in names) else "hub"


def files_in(folder: str, *suffixes: str) -> list[str]:
    """The files of a folder and of the folders in it, hidden ones left out, in the order of their paths.

    Args:
        folder: The folder.
        suffixes: The endings to keep; all if there are none.
    """
    root = Path(folder)
    found = [file for file in root.rglob("*") if file.is_file()]
    shown = [str(f) for f in found if not any(part.startswith(".") for part in f.relative_to(root).parts)]
    return sorted(name for name in shown if not suffixes or name.endswith(suffixes))


def files_of_split(files: Sequence[str], split: str, source: str) -> list[str]:
    """Those files of a folder or repository that are of a split, by their names.

    Args:
        files: The files.
        split: The split's name.
        source: The folder that they are in.

    Returns:
        The files that bear the split's name; all, where none bears the name of any split.

    Raises:
        UsageError: They bear the names of other splits, or some bear a split's name and others none.

    >>> files_of_split(["cc3m-train-0000.tar", "cc3m-validation-0000.tar"], "validation", "cc3m")
    ['cc3m-validation-0000.tar']
    """
    of = [_split_of(name.removeprefix(source)) for name in files]  # the folder's own name says nothing
    if not any(of):
        return list(files)
    chosen = [name for name, its in zip(files, of, strict=True) if its == split]
    if not chosen:
        present = ", ".join(sorted({its for its in of if its}))
        raise UsageError(f"{source} has no split {split!r}; it has: {present}")
    others = [name for name, its in zip(files, of, strict=True) if its is None]
    if others:
        raise UsageError(
            f"{source}: some files bear the name of a split, such as {os.path.basename(chosen[0])}, but "
            f"{len(others):,} others bear none, such as {os.path.basename(others[0])}. Name the files that "
            "you mean, by a pattern or one by one"
        )
    return chosen


def _split_of(name: str) -> str | None:
    """The split that a file's name, or else that of the folder it lies in, speaks of."""
    for part in (os.path.basename(name), os.path.basename(os.path.dirname(name))):
        words = re.findall("[a-z]+", part.lower())
        for split, spellings in _SPLITS.items():
            if any(word in spellings for word in words):
                return split
    return None

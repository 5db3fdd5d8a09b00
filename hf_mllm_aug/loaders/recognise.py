"""What a source is, told by what is in it: the first bytes of a file, the files of a folder, the name of a repository.

The answer is the name of a form (`forms.FORMS`); a person's ``form=`` overrides it.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from hf_mllm_aug.errors import FormatError, UsageError
from hf_mllm_aug.loaders.tables import look_at
from hf_mllm_aug.loaders.text_blocks import head

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_LISTS = (".tsv", ".tsv.gz", ".tsv.bz2", ".json", ".jsonl", ".jsonl.gz")
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_LOOKED_AT = 5_000  # files of a folder: one of img2dataset's may hold forty million
_PHOTO = re.compile(rb"\d+\t\d+\t[0-9a-f]{20,40}")


def is_hub_id(source: str) -> bool:
    """Whether a source is an OWNER/NAME on the Hub, and not something on this machine.

    >>> is_hub_id("google-research-datasets/conceptual_captions"), is_hub_id("photos")
    (True, False)
    """
    return _HUB_ID.fullmatch(source) is not None and not os.path.exists(source)


def expand(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files or the folder that a source names: a path, a pattern (its files by name), or several of them.

    Raises:
        UsageError: One of them matches nothing.
    """
    items = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if not items:
        raise UsageError("no file was named")
    found: list[str] = []
    for item in (os.path.expanduser(os.fspath(item)) for item in items):
        matches = [item] if os.path.exists(item) else sorted(glob.glob(item, recursive=True))
        if not matches:
            raise UsageError(f"no such file or folder: {item}")
        found += matches
    return found


def recognise(paths: Sequence[str]) -> str | None:
    """The form of files, or of a folder; None if it is none that is known.

    Args:
        paths: What `expand` gives; of several files the first is looked at.

    Raises:
        FormatError: The first file is empty, or compressed and damaged.
    """
    path = paths[0]
    return _folder(path) if os.path.isdir(path) else _file(path)


def _file(path: str) -> str | None:
    with open(path, "rb") as file:
        start = file.read(512)
    if path.endswith((".tar", ".tar.gz", ".tgz")) or start[257:262] == b"ustar":
        return "webdataset"
    if start.startswith(b"PAR1"):
        return _parquet(path)
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


def _parquet(path: str) -> str:
    import pyarrow.parquet as pq

    names = set(pq.read_schema(path).names)
    return "img2dataset-parquet" if {"key", "status"} <= names else "table"


def _folder(path: str) -> str | None:
    every = (os.path.join(parent, name) for parent, _, found in os.walk(path) for name in sorted(found))
    names = set(itertools.islice(every, _LOOKED_AT))
    if {"dataset_dict.json", "state.json"} & set(os.listdir(path)):
        return "saved"
    if any(name.endswith(".tar") for name in names):
        return "webdataset"
    if glob.glob(os.path.join(glob.escape(path), "metadata", "*.jsonl.gz")):
        return "yfcc-archive"
    # img2dataset puts a record beside each picture, and a Parquet file of metadata beside each folder of pictures.
    if any(name.endswith(_PICTURES) and f"{os.path.splitext(name)[0]}.json" in names for name in names):
        return "img2dataset-folder"
    parquet = sorted(name for name in names if name.endswith(".parquet"))
    if parquet:
        return _parquet(parquet[0])
    lists = sorted(name for name in names if name.endswith(_LISTS))
    return _file(lists[0]) if lists else None


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
        UsageError: They bear the names of other splits.

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
    return chosen


def _split_of(name: str) -> str | None:
    """The split that a file's name, or else that of the folder it lies in, speaks of."""
    for part in (os.path.basename(name), os.path.basename(os.path.dirname(name))):
        words = re.findall("[a-z]+", part.lower())
        for split, spellings in _SPLITS.items():
            if any(word in spellings for word in words):
                return split
    return None

"""The files that a person names: paths, folders, patterns, addresses, here or on the Hub.

`datasets` resolves patterns too; what it lacks is brace expansion, which the users of WebDataset write their shards
with, and a file whose name looks like a pattern.
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from hf_mllm_aug.errors import UsageError

if TYPE_CHECKING:
    from datasets.data_files import DataFilesDict

_MOST_FILES = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_HUB_FILE = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<path>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], suffixes: tuple[str, ...]
) -> DataFilesDict:
    """Find files: those of a pattern or folder in the order of their names, each once.

    Args:
        paths: A file, a folder, a pattern or several of them; patterns may have braces (``{0000..0575}``, ``{a,b}``),
            of which each name must be there. Addresses of the Hub are pinned to the commit that is there now.
        suffixes: What the names of the files end in that are taken from a folder.

    Returns:
        The files as the data files of a `datasets` builder, for the split ``train``, with what tells a changed one.

    Raises:
        UsageError: Nothing matches.
    """
    from datasets import Split
    from datasets.data_files import DataFilesDict, DataFilesList

    items = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not items:
        raise UsageError("no file was named")
    found: dict[str, tuple[Any, ...]] = {}
    for item in [os.fspath(item) for item in items]:
        found |= _remote(item) if "://" in item else _local(item, suffixes)
    return DataFilesDict({Split.TRAIN: DataFilesList(list(found), list(found.values()))})


def chosen_files(files: DataFilesDict, names: Sequence[str]) -> DataFilesDict:
    """Those of the files that `find_files` found that have one of the names."""
    from datasets import Split
    from datasets.data_files import DataFilesDict, DataFilesList

    found = dict(zip(files[Split.TRAIN], files[Split.TRAIN].origin_metadata, strict=True))
    return DataFilesDict({Split.TRAIN: DataFilesList(list(names), [found[name] for name in names])})


def shown(name: str) -> str:
    """A path or an address as a message may name it: of an address neither its query, which may be signed, nor a user.

    >>> shown("s3://ann:secret@bucket/a.tar?X-Amz-Signature=0af3"), shown("/data/a.tar")
    ('s3://bucket/a.tar', '/data/a.tar')
    """
    protocol, mark, rest = name.partition("://")
    if not mark:
        return name
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    # The Hub's addresses name a revision after an "@", further on.
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"


def label(name: str) -> str:
    """What is kept beside published rows of a file's name: no folder of this machine, no address.

    >>> label("/home/ann/cc3m/0001.tar"), label("https://a.b/c/0001.tar?token=0af3")
    ('0001.tar', '0001.tar')
    """
    return re.split(r"[/\\]", shown(name).rstrip("/"))[-1]


def expand_braces(pattern: str) -> Iterator[str]:
    """Write out braces as a shell does.

    >>> list(expand_braces("{train,val}-{08..11}.tar"))[2:6]
    ['train-10.tar', 'train-11.tar', 'val-08.tar', 'val-09.tar']
    """
    parts = _BRACES.split(pattern)  # text, inside, text, inside, ..., text
    choices = [[part] if place % 2 == 0 else _choices(part) for place, part in enumerate(parts)]
    return ("".join(chosen) for chosen in itertools.islice(itertools.product(*choices), _MOST_FILES + 1))


def _choices(inside: str) -> Sequence[str]:
    if (ends := _RANGE.fullmatch(inside)) is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = map(int, ends.groups())
    if abs(last - first) >= _MOST_FILES:
        raise UsageError(f"{{{inside}}} stands for more than {_MOST_FILES:,} files")
    step = 1 if first <= last else -1
    return [str(number).zfill(len(ends[1])) for number in range(first, last + step, step)]


def _local(item: str, suffixes: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    found: list[str] = []
    if os.path.isfile(item):
        found = [item]
    elif os.path.isdir(item):
        names = (entry.name for entry in os.scandir(item) if entry.is_file() and not entry.name.startswith("."))
        found = [os.path.join(item, name) for name in sorted(names) if name.lower().endswith(suffixes)]
        if not found:
            raise UsageError(f"no file in the folder {item} ends in {' or '.join(suffixes)}")
    else:
        for name in expand_braces(item):
            there = sorted(file for file in glob.glob(name, recursive=True) if os.path.isfile(file))
            if not there:
                raise UsageError(_matches_none(name, item))
            found += there
    # Absolute, so that a stream goes on reading after a change of the working directory.
    stats = ((os.path.abspath(file), os.stat(file)) for file in found)
    return {file: (str(state.st_size), str(state.st_mtime_ns)) for file, state in stats}


def _remote(item: str) -> dict[str, tuple[Any, ...]]:
    item = _pinned(item)
    names = list(expand_braces(item))
    # A listing finds many at once; web servers have none.
    listed = len(names) > 1 and not item.startswith(("http://", "https://"))
    there: dict[str, tuple[Any, ...]] = {}
    for pattern in [_BRACES.sub("*", item)] if listed else names:
        there |= _resolve(pattern)
    if not listed:
        return there
    by_path = {_path(file): file for file in there}
    found: dict[str, tuple[Any, ...]] = {}
    for name in names:
        path = _path(name)
        paths = fnmatch.filter(by_path, path) if glob.has_magic(path) else [path] if path in by_path else []
        if not paths:
            raise UsageError(_matches_none(name, item))
        found |= {by_path[path]: there[by_path[path]] for path in paths}
    return found


def _matches_none(name: str, item: str) -> str:
    return f"{shown(name)!r} matches no file" + (f" (of {shown(item)!r})" if name != item else "")


def _path(address: str) -> str:
    """An address without its protocol: file systems differ in the slashes that they write after it."""
    return address.partition("://")[2].lstrip("/")


def _resolve(pattern: str) -> dict[str, tuple[Any, ...]]:
    from datasets.data_files import DataFilesList

    try:
        files = DataFilesList.from_patterns([pattern])
    except FileNotFoundError:
        files = DataFilesList([], [])
    if not files:
        raise UsageError(_matches_none(pattern, pattern))
    return dict(sorted(zip(files, files.origin_metadata, strict=True)))


def _pinned(item: str) -> str:
    """An address on the Hub at the commit that its revision has now: a long stream does not change half-way."""
    match = _HUB_FILE.fullmatch(item)
    if match is None or _COMMIT.fullmatch(match["revision"] or ""):
        return item
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(match["repo"], revision=unquote(match["revision"]) if match["revision"] else None)
    return f"hf://datasets/{match['repo']}@{info.sha}/{match['path']}"

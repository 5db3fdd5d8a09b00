"""Which files of this machine may travel as pictures of a data set.

A row may name any file: a data set that a stranger made can hold ``/home/ann/photos/passport.png``, or the address of a
private repository, and whoever published its pictures with their own rights would publish those too. So a file is
opened only where something other than the rows vouches for it:

- the rows come from a reader that finds pictures in a folder by itself, and never by what a table says
  (`load_picture_folder` and `datasets`' imagefolder, which refuses names that lead out of the folder);
- the rows were built in this process (`Dataset.from_dict` and its like), hence by the caller's own code; then a path
  on this machine may be opened, an address (``://``) not;
- or the caller names the place.

Tables that were loaded (Parquet, JSON, CSV), saved data sets, streams and whatever cannot be told apart from these
keep the pictures whose bytes are in their rows, and no other. One thing cannot be told apart: a saved data set that was
read with ``load_from_disk(..., keep_in_memory=True)`` looks like rows that were built here. Read a stranger's without.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.images import MAX_BYTES

if TYPE_CHECKING:
    from datasets import Dataset

PictureRoot = str | Path | Sequence[str | Path]

OWN_FOLDER = "imagefolder"
"""The builder's name by which a data set says that its reader found the pictures in a folder."""


class RefusedFileError(Exception):
    """A file that nothing but a row vouches for; it never leaves this package."""


def root_of_source(source: str) -> str | None:
    """What a person vouches for by naming a source of rows: its folder, the folder of its list, its repository.

    >>> root_of_source("me/photos"), root_of_source("s3://bucket/list.tsv")
    ('hf://datasets/me/photos', None)
    """
    from hf_mllm_aug.loaders.recognise import is_hub_id

    path = Path(source).expanduser()
    if path.exists():
        return str(path if path.is_dir() else path.parent)
    return f"hf://datasets/{source}" if is_hub_id(source) else None


@dataclass(frozen=True)
class PictureFiles:
    """The files that may be opened for one data set.

    Args:
        roots: Folders, with links resolved, and addresses: what lies below them may be opened.
        any_local: Whether every file of this machine may be.
    """

    roots: tuple[str, ...] = ()
    any_local: bool = False

    @classmethod
    def of(cls, dataset: Dataset, picture_root: PictureRoot | None) -> PictureFiles:
        """What may be opened for a data set, by where its rows come from and what the caller vouches for."""
        given = [] if picture_root is None else [picture_root] if isinstance(picture_root, str | Path) else picture_root
        roots = [str(root) if "://" in str(root) else os.path.realpath(Path(root).expanduser()) for root in given]
        return cls(tuple(roots), _names_its_own_files(dataset))

    def read(self, path: str) -> bytes:
        """The bytes of a file.

        Raises:
            RefusedFileError: It may not be opened.
            OSError: It cannot be.
        """
        if "://" in path:
            if not any(_is_below(path, root, _ends_of(root)) for root in self.roots if "://" in root):
                raise RefusedFileError(path)
            import fsspec

            with fsspec.open(path, "rb") as file:
                return _all_of(file)
        if not self.any_local:
            real = os.path.realpath(path)
            if not any(_is_below(real, root, os.sep) for root in self.roots):
                raise RefusedFileError(path)
            path = real  # what was checked, should a link change in between
        if not Path(path).is_file():  # a pipe or a device would be read for ever
            raise FileNotFoundError(path)
        with Path(path).open("rb") as file:
            return _all_of(file)


def _all_of(file: Any) -> bytes:
    """A file's bytes, if a picture can be so large."""
    data: bytes = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes, which no picture has")
    return data


def _ends_of(root: str) -> str:
    """What may follow an address: the revision of a repository stands behind an ``@``, and so does another host."""
    return "/@" if root.startswith("hf://") else "/"


def _is_below(path: str, root: str, separators: str) -> bool:
    """Whether a path lies below a root; of a repository's address the revision may follow, behind an ``@``.

    >>> _is_below("hf://datasets/me/x@main/1.png", "hf://datasets/me/x", "/@"), _is_below("/ab/c", "/a", "/")
    (True, False)
    """
    if ".." in path.split("/") and "://" in path:
        return False
    root = root.rstrip(separators)
    return path.startswith(tuple(root + separator for separator in separators))


def _names_its_own_files(dataset: Dataset) -> bool:
    """Whether the paths in the rows were written by a reader of folders, or by code of this process.

    What a data set says of its builder can be forged by whoever saved it, but not where its rows lie: in the cache of
    `datasets`, or nowhere but in memory.
    """
    from datasets import config
    from datasets.fingerprint import get_temporary_cache_files_directory

    # The second is this process's own, for what it makes of rows in memory.
    temporary = os.path.realpath(get_temporary_cache_files_directory())
    caches = [os.path.realpath(config.HF_DATASETS_CACHE), temporary]
    files = [os.path.realpath(file["filename"]) for file in dataset.cache_files]
    if not files and config.IN_MEMORY_MAX_SIZE:  # `load_from_disk` then reads small data sets into memory
        return False
    if dataset.info.builder_name == OWN_FOLDER:
        return all(any(_is_below(file, cache, os.sep) for cache in caches) for file in files)
    return dataset.info.builder_name is None and all(_is_below(file, temporary, os.sep) for file in files)

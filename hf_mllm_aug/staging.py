"""The files of a staged folder: the shards of every config, the figures of the card, and how they get their place."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from hf_mllm_aug.errors import OutputExistsError, UsageError
from hf_mllm_aug.parquet_shards import WrittenSplit, write_split
from hf_mllm_aug.picture_files import PictureRoot

if TYPE_CHECKING:
    from datasets import Dataset

FIGURES = "figures"
"""The folder of what a card shows, in a staged folder and in a repository; no config can bear the name."""
_FIGURE = re.compile(rf"{FIGURES}/[A-Za-z0-9][A-Za-z0-9._+-]*\.(svg|webp|png|jpg)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?")


def write_configs(
    named: Mapping[str, Mapping[str, Dataset]],
    folder: Path,
    max_shard_bytes: int,
    picture_root: PictureRoot | None,
    num_proc: int | None,
) -> dict[str, dict[str, WrittenSplit]]:
    """Encode every split of every config, several at once; the arguments are those of `save_configs`."""
    jobs = [(name, split) for name, splits in named.items() for split in splits]
    with ThreadPoolExecutor(workers(num_proc)) as pool:
        done = pool.map(
            lambda job: write_split(named[job[0]][job[1]], folder / job[0], job[1], max_shard_bytes, picture_root), jobs
        )
        written = dict(zip(jobs, done, strict=True))
    return {name: {split: written[name, split] for split in splits} for name, splits in named.items()}


def workers(num_proc: int | None) -> int:
    """How many threads do a release's work.

    >>> workers(3)
    3
    """
    if num_proc is not None and num_proc < 1:
        raise UsageError(f"num_proc={num_proc}: give 1 or more, or None.")
    return num_proc or min(4, os.cpu_count() or 1)


def write_figures(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a card's files, which lie below ``figures/`` and nowhere else."""
    for path, data in files.items():
        if not _FIGURE.fullmatch(path) or ".." in path:
            raise UsageError(f"{path!r} cannot be a card's file: use figures/NAME.svg, .webp, .png or .jpg.")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or that would be lost.

    Raises:
        UsageError: It has no name of its own, such as ``.``.
        OutputExistsError: Something is there that is not to be replaced, or is no staged folder.
    """
    from hf_mllm_aug.staged import is_staged

    if folder.name in ("", ".."):
        raise UsageError(f"{str(folder)!r} is no name for a folder to make. Choose another.")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise OutputExistsError(f"{folder} exists and is not empty. Choose another folder, or pass overwrite=True.")
    if not is_staged(folder):
        raise OutputExistsError(f"{folder} is no staged folder, so it is not replaced. Choose another, or empty it.")


def put_in_place(staging: Path, folder: Path) -> None:
    """Give a complete folder its name, in place of what has it; if that fails, the old one keeps it."""
    old = None
    if folder.exists() and any(folder.iterdir()):
        old = folder.rename(staging.with_suffix(".old"))
    elif folder.exists():
        folder.rmdir()
    try:
        staging.rename(folder)
    except OSError:
        if old is not None:
            old.rename(folder)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def shard_bytes(size: int | str) -> int:
    """A shard size in bytes.

    >>> shard_bytes("500MB"), shard_bytes("1KiB"), shard_bytes(10)
    (500000000, 1024, 10)
    """
    match = _SIZE.fullmatch(str(size).strip())
    if not match or float(match[1]) <= 0:
        raise UsageError(f"max_shard_size={size!r}: give bytes, or text such as '500MB'.")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2].lower() or " "))

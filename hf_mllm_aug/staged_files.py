"""Files of a staged folder as the Hub will know them: size, checksums, rows, and which config each belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_mllm_aug.errors import FormatError, UsageError
from hf_mllm_aug.staging import FIGURES

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_FOOTER = 8  # bytes: the length of the metadata, and the format's name


@dataclass(frozen=True)
class StagedFile:
    """A file as the Hub will know it. `data` is its bytes where there is no file."""

    size: int
    sha256: str
    data: bytes | Path

    @classmethod
    def of_file(cls, path: Path) -> StagedFile:
        """Read a file once for its checksum."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        return cls(path.stat().st_size, digest.hexdigest(), path)

    @classmethod
    def of_bytes(cls, data: bytes) -> StagedFile:
        """Bytes that are no file."""
        return cls(len(data), hashlib.sha256(data).hexdigest(), data)

    def equals(self, remote: RepoFile) -> bool:
        """Whether the Hub has the same bytes, by its checksum."""
        if remote.size != self.size:
            return False
        if remote.lfs:
            return self.sha256 == remote.lfs.sha256
        data = self.data.read_bytes() if isinstance(self.data, Path) else self.data  # small: large ones go by LFS
        return hashlib.sha1(b"blob %d\0" % self.size + data, usedforsecurity=False).hexdigest() == remote.blob_id


def check_links(folder: Path, files: Iterable[Path]) -> None:
    """Refuse files of a staged folder that are links to files elsewhere: a folder of a stranger could name any.

    Raises:
        UsageError: There is one.
    """
    root = folder.resolve()
    if away := next((path for path in files if not path.resolve().is_relative_to(root)), None):
        raise UsageError(
            f"{away} leads out of the folder, so it may be any file of this machine, and was not published. "
            f"If it is yours, copy the folder with its files first: cp -rL {folder} COPY"
        )


def owner_of(path: str, configs: Iterable[str]) -> str | None:
    """The config that a file belongs to: a Parquet file by its folder, a figure by the start of its name.

    >>> configs = ["all", "otter", "otter-2"]
    >>> owner_of("otter/train-0.parquet", configs), owner_of("figures/otter-2-lengths.svg", configs)
    ('otter', 'otter-2')
    >>> owner_of("figures/logo.svg", configs), owner_of("LICENSE", configs)
    (None, None)
    """
    head, _, name = path.partition("/")
    if head == FIGURES:
        fitting = [config for config in configs if name.startswith(f"{config}-")]
        return max(fitting, key=len, default=None)
    return head if path.endswith(".parquet") and head in set(configs) else None


def rows_of_file(path: Path) -> int:
    """The rows of a Parquet file, by its footer.

    Raises:
        FormatError: It is none.
    """
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except ValueError as error:
        raise FormatError(f"{path} is no whole Parquet file ({error}). Stage it again.") from error


def rows_of_tail(tail: bytes) -> int | None:
    """The rows of a Parquet file, by its last bytes; None if those do not hold the whole footer.

    Raises:
        ValueError: They are not the end of a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if tail[-4:] != b"PAR1":
        raise ValueError("not a Parquet file")
    if footer_size(tail) > len(tail):
        return None
    return int(pq.read_metadata(pa.BufferReader(tail)).num_rows)


def footer_size(tail: bytes) -> int:
    """How many bytes the footer has that ends so.

    >>> footer_size(bytes([5, 1, 0, 0]) + b"PAR1")
    269
    """
    return int.from_bytes(tail[-_FOOTER:-4], "little") + _FOOTER


def split_of(path: str) -> str:
    """The split of a Parquet file, by its name.

    >>> split_of("raw/train-00000-of-00002.parquet")
    'train'
    """
    return re.sub(r"-\d+-of-\d+\.parquet$", "", path.rpartition("/")[2])

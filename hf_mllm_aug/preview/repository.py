"""The files of a data set repository, in a folder or on the Hub: its card, the Parquet of its configs, its figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hf_mllm_aug.configs import README, default_config
from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.safe_text import plain

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

FIGURES = "figures/"
PICTURE_TYPES = {
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
MAX_FILE_BYTES = 16 * 1024 * 1024
"""Larger pictures of a card are not shown."""

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LARGEST_CARD = 8 * 1024 * 1024
_MOST_ROWS = 10**12


@dataclass(frozen=True)
class SplitFiles:
    """The Parquet files of one split, in order.

    Args:
        config: The config's name.
        split: The split's name.
        files: Paths within the repository.
        claimed_rows: How many rows the card says there are; None where it does not say.
    """

    config: str
    split: str
    files: tuple[str, ...]
    claimed_rows: int | None = None


@dataclass
class Repository:
    """A repository that can be read.

    Args:
        name: What to call it: the folder's name, or the Hub id.
        filesystem: An fsspec file system.
        root: Where the repository begins in it.
        paths: Its files, relative to the root.
        card: Its card.
        revision: The commit that is shown; None for a folder.
    """

    name: str
    filesystem: Any
    root: str
    paths: frozenset[str]
    card: DatasetCard
    revision: str | None = None
    splits: dict[str, dict[str, SplitFiles]] = field(init=False)

    def __post_init__(self) -> None:
        self.splits = {name: splits for name, splits in _splits(self.card, self.paths) if name and splits}
        if not self.splits:
            raise FormatError(f"{self.name}: no Parquet files of the configs that its {README} lists.")

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return self.revision is None

    @property
    def default_config(self) -> str:
        """The config that is shown first."""
        chosen = [
            scalar(c.get("config_name")) for c in _dictionaries(self.card.data.get("configs")) if c.get("default")
        ]
        return next((name for name in chosen if name in self.splits), default_config(self.splits))

    @property
    def plots(self) -> list[str]:
        """The paths of its plots."""
        return sorted(path for path in self.paths if path.startswith(FIGURES) and path.lower().endswith(".svg"))

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""
        file: IO[bytes] = self.filesystem.open(f"{self.root}/{path}", "rb")
        return file

    def location(self, path: str) -> str | None:
        """Where a file lies on this machine; None for one on the Hub."""
        return f"{self.root}/{path}" if self.is_local else None

    def picture(self, path: str) -> tuple[str, bytes] | None:
        """A picture that belongs to the card, as its media type and bytes; None where there is none of that path.

        The type goes by the name's ending, as on the Hub.
        """
        kind = PICTURE_TYPES.get(Path(path).suffix.lower())
        if kind is None or path not in self.paths:
            return None
        with self.open(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
        return (kind, data) if len(data) <= MAX_FILE_BYTES else None


def open_repository(source: str, *, revision: str | None = None) -> Repository:
    """Find a repository.

    Args:
        source: A staged folder, or a Hub id; a folder of that name is preferred.
        revision: The branch, tag or commit on the Hub; the head of its main branch if None.

    Returns:
        The repository; one on the Hub as it is at this moment, whatever is pushed later.

    Raises:
        FormatError: There is none, its card cannot be read, or it lists no configs with Parquet files.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise FormatError(f"{source} is a folder, which has no revisions. Leave --revision out.")
        return _open_folder(folder)
    if folder.exists() or not _REPO_ID.fullmatch(source):
        raise FormatError(f"no such folder: {source}. Give a staged folder, or OWNER/NAME on the Hub.")
    return _open_hub(source, revision)


def _open_folder(folder: Path) -> Repository:
    from fsspec.implementations.local import LocalFileSystem

    readme = folder / README
    if not readme.is_file():
        raise FormatError(
            f"{folder} is not a staged data set: no {README} that lists configs. Stage one with: caption."
        )
    # A link could lead to any picture of this person's, and an exported page would give it away.
    homes = _homes(folder)
    paths = frozenset(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and any(file.resolve().is_relative_to(home) for home in homes)
    )
    with readme.open("rb") as file:
        card = _card(file.read(_LARGEST_CARD), str(folder))
    return Repository(folder.absolute().name or "/", LocalFileSystem(), folder.absolute().as_posix(), paths, card)


def _homes(folder: Path) -> list[Path]:
    """Where the files of a folder may lie: in it, or for a snapshot in huggingface_hub's cache among its blobs."""
    home = folder.resolve()
    cached = home.parent.name == "snapshots" and home.parent.parent.name.startswith("datasets--")
    return [home, home.parent.parent / "blobs"] if cached else [home]


def _open_hub(repo_id: str, revision: str | None) -> Repository:
    from huggingface_hub import HfApi, HfFileSystem

    info = HfApi().dataset_info(repo_id, revision=revision)
    paths = frozenset(file.rfilename for file in info.siblings or [])
    if README not in paths:
        raise FormatError(f"{repo_id} has no {README} that lists configs.")
    # One commit from now on: a push in between would mix the rows of two.
    sha = str(info.sha)
    filesystem, root = HfFileSystem(), f"datasets/{repo_id}@{sha}"
    with filesystem.open(f"{root}/{README}", "rb") as file:
        text = file.read(_LARGEST_CARD)
    return Repository(repo_id, filesystem, root, paths, _card(text, repo_id), sha)


def _card(text: bytes, source: str) -> DatasetCard:
    """Read a card.

    Raises:
        FormatError: What stands between its first lines of ``---`` is no YAML dictionary.
    """
    from huggingface_hub import DatasetCard
    from yaml import YAMLError

    try:
        return DatasetCard(text.decode("utf-8", "replace"), ignore_metadata_errors=True)
    except (YAMLError, ValueError) as error:
        line = f", line {mark.line + 1} of it" if (mark := getattr(error, "problem_mark", None)) else ""
        problem = plain(str(getattr(error, "problem", None) or error), 200)
        raise FormatError(f"{source}: the YAML of its {README} cannot be read{line}: {problem}.") from error


def _splits(card: DatasetCard, paths: Iterable[str]) -> Iterable[tuple[str, dict[str, SplitFiles]]]:
    parquet = sorted(path for path in paths if path.endswith(".parquet"))
    claimed = {
        (scalar(info.get("config_name", "default")), scalar(split.get("name"))): split.get("num_examples")
        for info in _dictionaries(card.data.get("dataset_info"))
        for split in _dictionaries(info.get("splits"))
    }
    for config in _dictionaries(card.data.get("configs")):
        name = scalar(config.get("config_name"))
        found = {}
        for split, patterns in _data_files(config.get("data_files")):
            files = tuple(path for path in parquet if any(_matches(path, pattern) for pattern in patterns))
            rows = claimed.get((name, split))
            likely = isinstance(rows, int) and 0 <= rows <= _MOST_ROWS
            if files:
                found[split] = SplitFiles(name, split, files, rows if likely else None)
        yield name, found


def _data_files(value: Any) -> Iterable[tuple[str, list[str]]]:
    """The splits and patterns of one config, in any form that the Hub takes."""
    if isinstance(value, str):
        yield "train", [value]
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield "train", value
    else:
        for item in _dictionaries(value):
            path = item.get("path")
            patterns = path if isinstance(path, list) else [path]
            yield scalar(item.get("split", "train")), [p for p in patterns if isinstance(p, str)]


def _matches(path: str, pattern: str) -> bool:
    """Whether a file is one of a pattern's, whose ``*`` stays within a folder.

    >>> _matches("all/train-0.parquet", "all/train-*"), _matches("all/old/train-0.parquet", "all/*")
    (True, False)
    """
    return fnmatchcase(path, pattern) and ("**" in pattern or path.count("/") == pattern.count("/"))


def scalar(value: Any) -> str:
    """A value of a card's YAML that is no list or dictionary, as text; of others, which may nest without end, nothing.

    >>> scalar("cc-by-4.0"), scalar(3), scalar([["a"]])
    ('cc-by-4.0', '3', '')
    """
    return (
        str(value) if isinstance(value, (str, bool, float)) or (isinstance(value, int) and abs(value) < 10**18) else ""
    )


def _dictionaries(value: Any) -> list[Mapping[str, Any]]:
    """The dictionaries in what should be a list of them, or is a single one."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, Mapping)]

"""Whether what is on the Hub is what was sent: checksums of all files, and the rows in the footers of new ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hf_mllm_aug.hub_branch import HubBranch
from hf_mllm_aug.staged_files import StagedFile, footer_size, rows_of_file, rows_of_tail, split_of

_TAIL = 64 * 1024  # bytes; the footer of a shard of a few hundred row groups is in it


def compare(
    branch: HubBranch, commit: str, files: Mapping[str, StagedFile], new: Sequence[str], num_threads: int
) -> list[str]:
    """What is wrong with a commit.

    Args:
        branch: Where it was made.
        commit: Its oid.
        files: What it should hold, by path.
        new: The paths that it added or replaced; of these the Parquet files are read back, by their last bytes.
        num_threads: How many are read at once.

    Returns:
        Each file that is missing or other than it was sent, with what is there instead.
    """
    remote = branch.tree(commit)
    wrong = [f"{path} is missing" for path in files if path not in remote]
    wrong += [
        f"{path} has other bytes ({remote[path].size:,} of them, {file.size:,} were sent)"
        for path, file in files.items()
        if path in remote and not file.equals(remote[path])
    ]
    if wrong:
        return wrong
    parquet = [path for path in new if path.endswith(".parquet")]

    def check(path: str) -> str | None:
        data = files[path].data
        sent = rows_of_file(data) if isinstance(data, Path) else None
        try:
            found = _rows(branch, commit, path)
        except ValueError as error:
            return f"{path} cannot be read back as Parquet ({error})"
        return None if found == sent else f"{path} has {found:,} rows there, {sent:,} were sent"

    with ThreadPoolExecutor(num_threads) as pool:
        return [found for found in pool.map(check, parquet) if found]


def _rows(branch: HubBranch, commit: str, path: str) -> int:
    tail = branch.read(commit, path, last=_TAIL)
    rows = rows_of_tail(tail)
    if rows is None:
        rows = rows_of_tail(branch.read(commit, path, last=footer_size(tail)))
    if rows is None:
        raise ValueError("its footer is cut off")
    return rows


def count_rows(paths: Mapping[str, Path]) -> Counter[tuple[str, str]]:
    """The rows of each split of each config in a folder, by the footers of its Parquet files.

    Args:
        paths: The files, by their paths in the repository.
    """
    rows: Counter[tuple[str, str]] = Counter()
    for name, path in paths.items():
        if name.endswith(".parquet"):
            rows[name.partition("/")[0], split_of(name)] += rows_of_file(path)
    return rows

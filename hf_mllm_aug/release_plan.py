"""What a release would change on the Hub: files, configs with their rows, and the card as a diff."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from hf_mllm_aug import schema
from hf_mllm_aug.card_merge import published_configs
from hf_mllm_aug.safe_text import plain

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

FileAction = Literal["add", "replace", "keep", "delete"]
ConfigAction = Literal["new", "renewed", "same", "untouched", "deleted"]


@dataclass(frozen=True)
class ReleaseStep:
    """What a release does with one file of the repository.

    Args:
        action: What happens to it.
        path: Its place in the repository.
        size: In bytes, of the file that is there afterwards, or that was there if it is deleted.
        old_size: In bytes, of the file that is there before; None if there is none.
    """

    action: FileAction
    path: str
    size: int = 0
    old_size: int | None = None

    def __str__(self) -> str:
        before = f"  (was {self.old_size:,})" if self.action == "replace" and self.old_size is not None else ""
        return f"{self.action:<8}{self.size:>14,}  {plain(self.path)}{before}"


@dataclass(frozen=True)
class ConfigStep:
    """What a release does with one config.

    Args:
        action: ``same`` is a config of the release whose files are on the Hub already, ``untouched`` one that is not
            in the release.
        name: Its name.
        rows_before: Its rows on the Hub in all splits; None where they are not known or there are none.
        rows_after: Its rows after the release; likewise.
    """

    action: ConfigAction
    name: str
    rows_before: int | None = None
    rows_after: int | None = None

    def __str__(self) -> str:
        before, after = (f"{rows:,}" if rows is not None else "?" for rows in (self.rows_before, self.rows_after))
        rows = {"new": after, "deleted": before, "renewed": f"{before} -> {after}"}.get(self.action, after)
        return f"{self.action:<10}{plain(self.name)}: {rows} rows"


@dataclass(frozen=True)
class ReleasePlan(Sequence[ReleaseStep]):
    r"""A release that was not made: a sequence of its files' steps, by path, and more.

    Args:
        steps: The files.
        configs: The configs.
        card_diff: The card's unified diff, one line an item, fit for a terminal; empty where nothing changes.
        warnings: What a reader of the data set would trip over.

    >>> print(*ReleasePlan((ReleaseStep("add", "raw/train-0.parquet", 2048),)), sep="\n")
    add              2,048  raw/train-0.parquet
    """

    steps: tuple[ReleaseStep, ...]
    configs: tuple[ConfigStep, ...] = ()
    card_diff: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> ReleaseStep: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ReleaseStep, ...]: ...

    def __getitem__(self, index: int | slice) -> ReleaseStep | tuple[ReleaseStep, ...]:
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[ReleaseStep]:
        return iter(self.steps)

    def lines(self) -> list[str]:
        """The whole plan for a person: files, configs, warnings, and the card's diff."""
        blocks = [list(map(str, self.steps)), list(map(str, self.configs)), [f"warning: {w}" for w in self.warnings]]
        blocks.append(list(self.card_diff))
        return [line for block in blocks if block for line in ["", *block]][1:]


def rows_of_configs(card: DatasetCard | None) -> dict[str, dict[str, int]]:
    r"""The rows of each split of each config, by a card's metadata; configs that it counts no rows of are left out.

    >>> from huggingface_hub import DatasetCard
    >>> info = "dataset_info: {config_name: raw, splits: [{name: train, num_examples: 3}]}"
    >>> rows_of_configs(DatasetCard("---\n" + info + "\n---\n"))
    {'raw': {'train': 3}}
    """
    value = card.data.get("dataset_info") if card is not None else None
    found: dict[str, dict[str, int]] = {}
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        splits = item.get("splits")
        if isinstance(splits, list) and all(isinstance(split, dict) for split in splits):
            rows = {str(s.get("name")): s["num_examples"] for s in splits if isinstance(s.get("num_examples"), int)}
            if rows:
                found[str(item.get("config_name", "default"))] = rows
    return found


def config_steps(
    before: DatasetCard | None, after: DatasetCard, released: Sequence[str], changed: Sequence[str]
) -> tuple[ConfigStep, ...]:
    """What happens to each config, in the order of the card that will be.

    Args:
        before: The published card; None if there is none.
        after: The card that will be.
        released: The configs of the release.
        changed: Those of them whose files differ from the published ones.
    """
    old, new = ({name: sum(r.values()) for name, r in rows_of_configs(card).items()} for card in (before, after))
    was = published_configs(before)
    steps: list[ConfigStep] = []
    for name in published_configs(after):
        action: ConfigAction = "untouched"
        if name in released:
            action = "new" if name not in was else "renewed" if name in changed else "same"
        steps.append(ConfigStep(action, name, old.get(name), new.get(name)))
    gone = [name for name in was if name not in published_configs(after)]
    return (*steps, *(ConfigStep("deleted", name, old.get(name)) for name in gone))


def warnings_of(after: DatasetCard, released: Sequence[str], newer: Sequence[str]) -> tuple[str, ...]:
    """What a reader would trip over: configs of other rows than the rest, and a config `all` that lacks captions.

    Args:
        after: The card that will be.
        released: The configs of the release.
        newer: The configs that `all` lacks, see `card_staleness`.
    """
    warnings = []
    rows = rows_of_configs(after)
    others = {name: splits for name, splits in rows.items() if name not in released}
    for name in released:
        unlike = [
            f"{rows[other][split]:,} in {other!r}"
            for split in rows.get(name, {})
            for other in others
            if rows[other].get(split, rows[name][split]) != rows[name][split]
        ]
        if unlike:
            counts = ", ".join(f"{count:,} in {split}" for split, count in rows[name].items())
            warnings.append(
                f"config {name!r} has other rows than those that stay ({counts}; but {unlike[0]}): configs of one data "
                "set should have the same rows, to be joined by position as well as by key"
            )
    if newer:
        warnings.append(
            f"config {schema.ALL_CONFIG!r} lacks the new captions of {', '.join(map(repr, newer))}: publish "
            f"{schema.ALL_CONFIG!r} again to renew it; the card says so until then"
        )
    return tuple(warnings)


def card_diff(before: str, after: str) -> tuple[str, ...]:
    r"""A unified diff of two cards, fit for a terminal: without control characters, long lines cut.

    >>> card_diff("a\n", "a\nb\x1b[31m\n")
    ('--- README.md on the Hub', '+++ README.md', '@@ -1 +1,2 @@', ' a', '+b[31m')
    """
    old, new = (text.splitlines() for text in (before, after))
    lines = difflib.unified_diff(old, new, "README.md on the Hub", "README.md", lineterm="")
    return tuple(_shown(line) for line in lines)


def _shown(line: str) -> str:
    body = line[1:]
    indent = len(body) - len(body.lstrip(" "))
    return f"{line[:1]}{' ' * min(indent, 40)}{plain(body, 400)}"


def file_steps(staged: Mapping[str, Any], remote: Mapping[str, Any], stale: Sequence[str]) -> tuple[ReleaseStep, ...]:
    """What happens to each file, by path.

    Args:
        staged: The release's files, `StagedFile` by their paths.
        remote: The repository's, `RepoFile` by their paths.
        stale: Those of the repository that go.
    """
    steps = []
    for path, file in staged.items():
        old = remote.get(path)
        action: FileAction = "add" if old is None else "keep" if file.equals(old) else "replace"
        steps.append(ReleaseStep(action, path, file.size, old.size if old is not None else None))
    steps += [ReleaseStep("delete", path, remote[path].size, remote[path].size) for path in stale]
    return tuple(sorted(steps, key=lambda step: step.path))

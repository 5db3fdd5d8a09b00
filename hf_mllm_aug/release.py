"""One release: what it does to the repository's files, the commit, and the comparison afterwards.

Everything is decided against the head that was just read, and the commit names that head as its parent. So a try that
comes too late changes nothing, and the next one decides anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.card_merge import merge_cards, published_configs, with_repo_id
from hf_mllm_aug.card_removal import without_configs
from hf_mllm_aug.card_staleness import note_newer
from hf_mllm_aug.configs import README
from hf_mllm_aug.errors import PublishError, UnknownNameError, UsageError
from hf_mllm_aug.hub_branch import Gated, HubBranch
from hf_mllm_aug.hub_calls import Retry, explain, hub_errors, may_have_happened
from hf_mllm_aug.release_check import compare, count_rows
from hf_mllm_aug.release_plan import (
    ReleasePlan,
    ReleaseStep,
    card_diff,
    config_steps,
    file_steps,
    rows_of_configs,
    warnings_of,
)
from hf_mllm_aug.staged import read_card
from hf_mllm_aug.staged_files import StagedFile, check_links, owner_of
from hf_mllm_aug.staging import workers

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, DatasetCard
    from huggingface_hub.hf_api import RepoFile

_LOG = logging.getLogger(__name__)
_VERIFYING_TRIES = 3


@dataclass(frozen=True)
class _Decision:
    """What a release does to the repository as it is at one commit."""

    files: dict[str, StagedFile]
    published: DatasetCard | None
    card: DatasetCard
    steps: tuple[ReleaseStep, ...]
    changed: list[str]
    newer: list[str]


class Release:
    """One folder on its way to one branch of one repository.

    Args:
        folder: What `save_configs` wrote.
        branch: Where it goes; None compares with nothing.
        retry: How failures are met.
        config_names: The configs that go; None are all.
        create_pr: Whether the commit is a pull request.
        num_proc: How many files are hashed at once; see `save_configs`.
    """

    def __init__(
        self,
        folder: Path,
        branch: HubBranch | None,
        retry: Retry,
        *,
        config_names: Sequence[str] | None = None,
        create_pr: bool = False,
        num_proc: int | None = None,
    ) -> None:
        self.folder, self.branch, self.retry, self.create_pr = folder, branch, retry, create_pr
        self._workers = workers(num_proc)
        readme = folder / README
        if not readme.is_file():
            raise UsageError(f"{folder} is no staged release: it has no {README}. Write it with save_configs.")
        card = read_card(folder)
        present = published_configs(card)
        for name in config_names or []:
            if name not in present:
                raise UnknownNameError("config", name, present, f"Those are the configs of {folder}.")
        if config_names is not None:
            card = without_configs(card, [name for name in present if name not in config_names])
        self.card = with_repo_id(card, branch.repo_id if branch and branch.repo_id else "OWNER/NAME")
        self.configs = published_configs(self.card)
        self.paths = _files(folder)
        if config_names is not None:
            self.paths = {name: p for name, p in self.paths.items() if owner_of(name, present) in self.configs}
        if not self.configs or not any(path.endswith(".parquet") for path in self.paths):
            raise UsageError(f"{folder} is no staged release: its card lists no configs, or it holds no Parquet files.")
        self._digests: dict[str, StagedFile] = {}
        self._may_have_happened = False
        self._decided: _Decision | None = None

    def publish(
        self, private: bool | None, gated: Gated | None, message: str | None, description: str | None
    ) -> CommitInfo:
        """Make the commit and verify it.

        Raises:
            PublishError: See `push_to_hub`.
        """
        message = message or f"Publish {', '.join(self.configs)}"
        self._check_rows()
        branch = self._target()
        try:
            self.retry("opening the repository", lambda: branch.open(private, gated))
            self.card = with_repo_id(self.card, branch.repo_id)
            commit = self.retry("committing", lambda: self._commit(message, description), conflicts=True)
        except hub_errors() as error:
            if isinstance(error, PublishError):
                raise
            raise PublishError(self._failure(error)) from error
        self._verify(commit)
        if self._decided is not None:
            for warning in warnings_of(self._decided.card, self.configs, self._decided.newer):
                _LOG.warning("%s: %s", branch.repo_id, warning)
        return commit

    def plan(self) -> ReleasePlan:
        """What would be done to the head as it is now.

        Raises:
            PublishError: The Hub cannot be asked.
        """
        self._check_rows()
        try:
            head = self.retry("reading the repository", self.branch.head) if self.branch else None
            decision = self.retry("comparing with the repository", lambda: self._decide(head))
        except hub_errors() as error:
            if isinstance(error, PublishError) or self.branch is None:
                raise
            raise PublishError(f"{explain(error, self.branch.repo_id, self.branch.endpoint)}.") from error
        before = str(decision.published) if decision.published is not None else ""
        return ReleasePlan(
            decision.steps,
            config_steps(decision.published, decision.card, self.configs, decision.changed),
            card_diff(before, str(decision.card)),
            warnings_of(decision.card, self.configs, decision.newer),
        )

    def _target(self) -> HubBranch:
        if self.branch is None:
            raise PublishError("no repository was named. Nothing was published.")
        return self.branch

    def _decide(self, head: str | None) -> _Decision:
        """What to do to the files at a commit; None is an empty repository."""
        remote = self._target().tree(head) if head else {}
        published = self._target().card(head) if head and README in remote else None
        staged = self._staged()
        stale = self._stale(remote, published)
        steps = file_steps(staged, remote, stale)
        rows = [step for step in steps if step.path.endswith(".parquet")]
        touched = {owner_of(step.path, self.configs) for step in rows if step.action != "keep"}
        changed = [name for name in self.configs if name in touched]
        card = merge_cards(published, self.card)
        newer = note_newer(card, self.configs, changed) if published is not None else []
        files = {**staged, README: StagedFile.of_bytes(str(card).encode())}
        return _Decision(files, published, card, file_steps(files, remote, stale), changed, newer)

    def _commit(self, message: str, description: str | None) -> CommitInfo:
        """Build the commit on the present head, and make it. Called again, it sends nothing that has arrived."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        branch = self._target()
        head = branch.known_head()
        decision = self._decided = self._decide(head)
        if all(step.action == "keep" for step in decision.steps):
            # All is there, perhaps by the try before. The client would answer with the head that is there by then,
            # which may be another publisher's.
            return branch.made(head, message, description)
        additions = []
        unchanged = {step.path for step in decision.steps if step.action == "keep"} - {README}
        for path, file in decision.files.items():
            if path in unchanged:  # Xet would read it whole to find that it is there
                continue
            # A new operation for each try, as it remembers the state of the head; but the file is read once.
            additions.append(CommitOperationAdd(path, file.data))
            additions[-1].upload_info.sha256 = bytes.fromhex(file.sha256)
        gone = [CommitOperationDelete(step.path) for step in decision.steps if step.action == "delete"]
        if self.create_pr and self._may_have_happened:
            raise PublishError(
                f"the connection broke while the pull request to {branch.repo_id} was made. Look whether it is there; "
                f"if not, publish {self.folder} again."
            )
        # Before the commit and apart from it: a line that breaks here has committed nothing.
        branch.upload(additions, self.create_pr)
        operations: list[Any] = [*gone, *additions]
        try:
            return branch.commit(operations, head, message, description, self.create_pr)
        except hub_errors() as error:
            # Perhaps only the answer was lost. On a branch the next try finds its files there; a new pull request
            # would be a second one.
            self._may_have_happened |= may_have_happened(error)
            raise

    def _stale(self, remote: Mapping[str, RepoFile], published: DatasetCard | None) -> list[str]:
        """Parquet files and figures of our configs that are not part of this release."""
        every = {*published_configs(published), *self.configs}
        return sorted(p for p in remote if p not in self.paths and owner_of(p, every) in self.configs)

    def _staged(self) -> dict[str, StagedFile]:
        if not self._digests:
            with ThreadPoolExecutor(self._workers) as pool:
                files = pool.map(StagedFile.of_file, self.paths.values())
                self._digests = dict(zip(self.paths, files, strict=True))
        return self._digests

    def _check_rows(self) -> None:
        """Compare the card's numbers of rows with the files'.

        Raises:
            UsageError: They differ, and the data set could not be loaded.
        """
        found = count_rows(self.paths)
        for name, splits in rows_of_configs(self.card).items():
            for split, rows in splits.items():
                there = found.get((name, split), rows)  # files that people named otherwise are not counted
                if there != rows:
                    raise UsageError(
                        f"{self.folder}: the card says that {name}/{split} has {rows:,} rows, and its files have "
                        f"{there:,}. Stage it again with save_configs."
                    )

    def _verify(self, commit: CommitInfo) -> None:
        """Compare the files at the commit with those that were staged.

        Raises:
            PublishError: They differ.
        """
        branch, decision = self._target(), self._decided
        if decision is None:
            return
        new = [step.path for step in decision.steps if step.action in ("add", "replace")]
        try:
            # Not for as long as the commit was tried: it is made, and worth telling of.
            again = Retry(min(self.retry.max_retries, _VERIFYING_TRIES))
            wrong = again("verifying", lambda: compare(branch, commit.oid, decision.files, new, self._workers))
        except hub_errors() as error:
            why = explain(error, branch.repo_id, branch.endpoint)
            _LOG.warning("%s is published as %s, but could not be verified: %s", branch.repo_id, commit.oid, why)
            return
        if wrong:
            raise PublishError(
                f"commit {commit.oid} of {branch.repo_id} does not hold what was sent: {'; '.join(wrong[:3])}. "
                f"Publish {self.folder} again; the commit before it is whole."
            )

    def _failure(self, error: Exception) -> str:
        branch = self._target()
        why = explain(error, branch.repo_id, branch.endpoint)
        resume = (
            f"The release is staged in {self.folder}; push_to_hub({str(self.folder)!r}, {branch.repo_id!r}) resumes it."
        )
        if self._may_have_happened:
            return f"{why}. The answer to a commit was lost: it may have been made, whole, or not at all. {resume}"
        return f"{why}. Nothing was published. {resume}"


def _files(folder: Path) -> dict[str, Path]:
    """All files of a folder but the card and hidden ones, by their paths in the repository.

    Raises:
        UsageError: One is a link to a file elsewhere, which whoever made the folder may not have been able to read.
    """
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {
        name: path
        for name, path in found.items()
        if name != README and not any(part.startswith(".") for part in name.split("/"))
    }
    check_links(folder, files.values())
    return files

"""One release: what it does to the repository's files, the commit, and the comparison afterwards.

Everything is decided against the head that was just read, and the commit names that head as its parent. So a try that
comes too late changes nothing, and the next one decides anew.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_mllm_aug.card_merge import merge_cards, published_configs, with_repo_id
from hf_mllm_aug.configs import README
from hf_mllm_aug.errors import PublishError, UsageError
from hf_mllm_aug.hub_calls import Retry, explain, hub_errors, is_connection_error, status_of

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi
    from huggingface_hub.hf_api import RepoFile

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleaseStep:
    """What a release does with one file of the repository. `size` is in bytes, of the file that is there afterwards."""

    action: Literal["add", "replace", "keep", "delete"]
    path: str
    size: int = 0

    def __str__(self) -> str:
        return f"{self.action:<8}{self.size:>14,}  {self.path}"


@dataclass(frozen=True)
class _Staged:
    """A staged file as the Hub will know it. `data` is its bytes where there is no file."""

    size: int
    sha256: str
    data: bytes | Path

    @classmethod
    def of_file(cls, path: Path) -> _Staged:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return cls(path.stat().st_size, digest.hexdigest(), path)

    def equals(self, remote: RepoFile) -> bool:
        if remote.size != self.size:
            return False
        if remote.lfs:
            return self.sha256 == remote.lfs.sha256
        data = self.data.read_bytes() if isinstance(self.data, Path) else self.data  # small: large ones go by LFS
        return hashlib.sha1(b"blob %d\0" % self.size + data, usedforsecurity=False).hexdigest() == remote.blob_id


class Release:
    """One folder on its way to one branch of one repository; the arguments are those of `push_to_hub`."""

    def __init__(
        self,
        folder: Path,
        repo_id: str,
        revision: str | None,
        create_pr: bool,
        token: str | bool | None,
        endpoint: str | None,
        retry: Retry,
    ) -> None:
        from huggingface_hub import DatasetCard, HfApi

        self.folder, self.repo_id, self.revision, self.create_pr = folder, repo_id, revision or "main", create_pr
        self.token, self.retry = token, retry
        self.api: HfApi = HfApi(endpoint=endpoint, token=token, library_name="hf-mllm-aug")
        readme = folder / README
        if not readme.is_file():
            raise UsageError(f"{folder} is no staged release: it has no {README}. Write it with save_configs.")
        self.card = with_repo_id(
            DatasetCard(readme.read_text("utf-8"), ignore_metadata_errors=True), repo_id or "OWNER/NAME"
        )
        self.configs = published_configs(self.card)
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != readme)
        self.paths = {path.relative_to(folder).as_posix(): path for path in paths if not _is_hidden(path, folder)}
        if not self.configs or not any(path.endswith(".parquet") for path in self.paths):
            raise UsageError(f"{folder} is no staged release: its card lists no configs, or it holds no Parquet files.")
        self._digests: dict[str, _Staged] = {}
        self._may_have_happened = False

    def publish(self, private: bool | None, message: str | None, description: str | None) -> CommitInfo:
        """Make the commit and verify it.

        Raises:
            PublishError: See `push_to_hub`.
        """
        message = message or f"Publish {', '.join(self.configs)}"
        try:
            self.retry("opening the repository", lambda: self._open(private))
            commit = self.retry("committing", lambda: self._commit(message, description), conflicts=True)
        except hub_errors() as error:
            if isinstance(error, PublishError):
                raise
            raise PublishError(self._failure(error)) from error
        self._verify(commit)
        return commit

    def plan(self) -> list[ReleaseStep]:
        """The steps against the head as it is now.

        Raises:
            PublishError: The Hub cannot be asked.
        """
        try:
            head = self.retry("reading the repository", self._head) if self.repo_id else None
            remote = self.retry("listing the repository", lambda: self._tree(head)) if head else {}
            card = self._merged_card(head, remote).encode()
        except hub_errors() as error:
            if isinstance(error, PublishError):
                raise
            raise PublishError(f"{explain(error, self.repo_id, self.api.endpoint)}.") from error
        steps = []
        for path, staged in {
            **self._staged(),
            README: _Staged(len(card), hashlib.sha256(card).hexdigest(), card),
        }.items():
            old = remote.get(path)
            action: Literal["add", "keep", "replace"] = (
                "add" if old is None else "keep" if staged.equals(old) else "replace"
            )
            steps.append(ReleaseStep(action, path, staged.size))
        steps += [ReleaseStep("delete", path) for path in self._stale(remote)]
        return sorted(steps, key=lambda step: step.path)

    def _open(self, private: bool | None) -> None:
        """Make sure that the repository and the branch are there, with as few rights as will do."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        if "/" not in self.repo_id:
            self.repo_id = f"{self.api.whoami()['name']}/{self.repo_id}"
            self.card = with_repo_id(self.card, self.repo_id)
        try:
            self.api.repo_info(self.repo_id, repo_type="dataset", revision=self.revision)
        except RevisionNotFoundError:
            self.api.create_branch(self.repo_id, branch=self.revision, repo_type="dataset", exist_ok=True)
        except RepositoryNotFoundError:
            self.api.create_repo(self.repo_id, repo_type="dataset", private=private, exist_ok=True)
            if self.revision != "main":
                self.api.create_branch(self.repo_id, branch=self.revision, repo_type="dataset", exist_ok=True)

    def _head(self) -> str | None:
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return self.api.repo_info(self.repo_id, repo_type="dataset", revision=self.revision).sha
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None

    def _tree(self, commit: str) -> dict[str, RepoFile]:
        from huggingface_hub.hf_api import RepoFile

        items = self.api.list_repo_tree(self.repo_id, recursive=True, revision=commit, repo_type="dataset")
        return {item.path: item for item in items if isinstance(item, RepoFile)}

    def _commit(self, message: str, description: str | None) -> CommitInfo:
        """Build the commit on the present head, and make it. Called again, it sends nothing that has arrived."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        head = self.api.repo_info(self.repo_id, repo_type="dataset", revision=self.revision).sha
        if head is None:
            raise PublishError(f"{self.repo_id} has no commit to build upon.")
        remote = self._tree(head)
        operations: list[Any] = [CommitOperationDelete(path) for path in self._stale(remote)]
        for path, file in self.paths.items():
            add = CommitOperationAdd(path, file)
            # A new operation for each try, as it remembers the state of the head; but the file is read once.
            add.upload_info.sha256 = bytes.fromhex(self._staged()[path].sha256)
            operations.append(add)
        operations.append(CommitOperationAdd(README, self._merged_card(head, remote).encode()))
        if self.create_pr and self._may_have_happened:
            raise PublishError(
                f"the connection broke while the pull request to {self.repo_id} was made. Look whether it is there; "
                f"if not, publish {self.folder} again."
            )
        # Before the commit and apart from it: a line that breaks here has committed nothing.
        self.api.preupload_lfs_files(
            self.repo_id,
            [operation for operation in operations if isinstance(operation, CommitOperationAdd)],
            repo_type="dataset",
            revision=self.revision,
            create_pr=self.create_pr,
            free_memory=False,
        )
        try:
            return self.api.create_commit(
                self.repo_id,
                operations,
                commit_message=message,
                commit_description=description,
                repo_type="dataset",
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=head,
            )
        except hub_errors() as error:
            # Perhaps only the answer was lost. On a branch the next try finds its files there; a new pull request
            # would be a second one.
            self._may_have_happened |= is_connection_error(error)
            raise

    def _merged_card(self, head: str | None, remote: Mapping[str, RepoFile]) -> str:
        from huggingface_hub import DatasetCard

        published = None
        if head and README in remote:
            text = self._read(head, README)
            try:
                published = DatasetCard(text, ignore_metadata_errors=True)
            except ValueError as error:
                raise PublishError(f"the card of {self.repo_id} has metadata that cannot be read: {error}") from error
        return str(merge_cards(published, self.card))

    def _read(self, commit: str, path: str) -> str:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        url = hf_hub_url(self.repo_id, path, repo_type="dataset", revision=commit, endpoint=self.api.endpoint)
        response = get_session().get(url, headers=build_hf_headers(token=self.token))
        hf_raise_for_status(response)
        return bytes(response.content).decode("utf-8")

    def _stale(self, remote: Mapping[str, RepoFile]) -> list[str]:
        """Parquet files of our configs that are not part of this release."""
        ours = re.compile("|".join(f"{re.escape(name)}/.+" for name in self.configs))
        return sorted(p for p in remote if p.endswith(".parquet") and ours.fullmatch(p) and p not in self.paths)

    def _staged(self) -> dict[str, _Staged]:
        if not self._digests:
            self._digests = {path: _Staged.of_file(file) for path, file in self.paths.items()}
        return self._digests

    def _verify(self, commit: CommitInfo) -> None:
        """Compare the files at the commit with those that were staged.

        Raises:
            PublishError: They differ.
        """
        try:
            remote = self.retry("verifying", lambda: self._tree(commit.oid))
        except hub_errors() as error:
            why = explain(error, self.repo_id, self.api.endpoint)
            _LOG.warning("%s is published as %s, but could not be verified: %s", self.repo_id, commit.oid, why)
            return
        wrong = [path for path, file in self._staged().items() if path not in remote or not file.equals(remote[path])]
        if wrong or README not in remote:
            shown = ", ".join(wrong[:3]) or README
            raise PublishError(
                f"commit {commit.oid} of {self.repo_id} does not hold what was sent: {shown}. "
                f"Publish {self.folder} again; the commit before it is whole."
            )

    def _failure(self, error: Exception) -> str:
        why = explain(error, self.repo_id, self.api.endpoint)
        resume = (
            f"The release is staged in {self.folder}; push_to_hub({str(self.folder)!r}, {self.repo_id!r}) resumes it."
        )
        if self._may_have_happened and status_of(error) is None:
            return (
                f"{why}. The connection broke during the commit: it may have been made, whole, or not at all. {resume}"
            )
        return f"{why}. Nothing was published. {resume}"


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)

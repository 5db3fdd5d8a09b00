"""One branch of one repository on the Hub: what a release asks of it, each call as the client's errors leave it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from hf_mllm_aug.card_marks import README, parse_card
from hf_mllm_aug.errors import FormatError, PublishError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, DatasetCard, HfApi
    from huggingface_hub.hf_api import RepoFile

RepoType = Literal["dataset", "space"]
Gated = Literal["auto", "manual", False]


class HubBranch:
    """A branch of a repository; nothing is asked before a method is called.

    Args:
        repo_id: ``"owner/name"``; ``"name"`` becomes the token's user's when the branch is opened.
        revision: The branch; None is ``main``.
        token: See `push_to_hub`.
        endpoint: See `push_to_hub`.
        repo_type: What the repository is.
        num_threads: How many files are hashed and uploaded at once.
    """

    def __init__(
        self,
        repo_id: str,
        revision: str | None = None,
        *,
        token: str | bool | None = None,
        endpoint: str | None = None,
        repo_type: RepoType = "dataset",
        num_threads: int = 5,
    ) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.revision, self.repo_type = repo_id, revision or "main", repo_type
        self.num_threads = num_threads
        self.api: HfApi = HfApi(endpoint=endpoint, token=token, library_name="hf-mllm-aug")

    @property
    def endpoint(self) -> str:
        """The Hub's address."""
        return str(self.api.endpoint)

    def open(self, private: bool | None = None, gated: Gated | None = None, **settings: Any) -> None:
        """Make sure that the repository and the branch are there, with as few rights as will do.

        Args:
            private: Whether a repository that is created here is private; one that is public is refused then.
            gated: Whether readers must ask, and whether their asking is enough; None leaves that as it is. It is set
                before anything is published.
            **settings: Of a repository that is created here, such as ``space_sdk``.

        Raises:
            PublishError: What should be private is public.
        """
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        if "/" not in self.repo_id:
            self.repo_id = f"{self.api.whoami()['name']}/{self.repo_id}"
        present: Any = False
        try:
            info = self._info()
            present = getattr(info, "gated", False)
            if private and getattr(info, "private", None) is False:
                raise PublishError(
                    f"{self.repo_id} is there already, and public: private=True is for new repositories. Leave it out "
                    "to publish for all to see, or make the repository private in its settings. Nothing was published."
                )
        except RevisionNotFoundError:
            self.api.create_branch(self.repo_id, branch=self.revision, repo_type=self.repo_type, exist_ok=True)
            present = None  # not asked: the answer was about the branch
        except RepositoryNotFoundError:
            self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=private, exist_ok=True, **settings)
            if self.revision != "main":
                self.api.create_branch(self.repo_id, branch=self.revision, repo_type=self.repo_type, exist_ok=True)
        if gated is not None and gated != present:
            self.api.update_repo_settings(self.repo_id, gated=gated, repo_type=self.repo_type)

    def head(self) -> str | None:
        """The commit that the branch is at; None if there is no such repository or branch."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            sha: str | None = self._info().sha
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None
        return sha

    def known_head(self) -> str:
        """The commit that the branch is at.

        Raises:
            PublishError: There is none; errors of the client say whether the repository is there.
        """
        sha = self._info().sha
        if sha is None:
            raise PublishError(f"{self.repo_id} has no commit to build upon.")
        return str(sha)

    def _info(self) -> Any:
        return self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=self.revision)

    def tree(self, commit: str) -> dict[str, RepoFile]:
        """All files at a commit."""
        from huggingface_hub.hf_api import RepoFile

        items = self.api.list_repo_tree(self.repo_id, recursive=True, revision=commit, repo_type=self.repo_type)
        return {item.path: item for item in items if isinstance(item, RepoFile)}

    def read(self, commit: str, path: str, last: int | None = None) -> bytes:
        """A file at a commit, or its last bytes. Not by the client's cache: what is there now counts.

        Args:
            commit: The commit.
            path: The file.
            last: How many bytes; all if None.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        url = hf_hub_url(self.repo_id, path, repo_type=self.repo_type, revision=commit, endpoint=self.endpoint)
        headers = build_hf_headers(token=self.api.token)
        if last is not None:
            headers["Range"] = f"bytes=-{last}"
        response = get_session().get(url, headers=headers)
        hf_raise_for_status(response)
        return bytes(response.content)

    def card(self, commit: str) -> DatasetCard:
        """The card at a commit.

        Raises:
            PublishError: Its text or its metadata cannot be read.
        """
        try:
            return parse_card(self.read(commit, README), f"the card of {self.repo_id}")
        except FormatError as error:
            raise PublishError(f"{error} Mend it on the Hub, and try again. Nothing was changed.") from error

    def upload(self, additions: Sequence[Any], create_pr: bool = False) -> None:
        """Send large files ahead of their commit; what has arrived before is not sent again."""
        self.api.preupload_lfs_files(
            self.repo_id,
            additions,
            repo_type=self.repo_type,
            revision=self.revision,
            create_pr=create_pr,
            free_memory=False,
            num_threads=self.num_threads,
        )

    def commit(
        self, operations: Sequence[Any], parent: str, message: str, description: str | None, create_pr: bool = False
    ) -> CommitInfo:
        """Make a commit upon its parent, or nothing at all."""
        return self.api.create_commit(
            self.repo_id,
            operations,
            commit_message=message,
            commit_description=description,
            repo_type=self.repo_type,
            revision=self.revision,
            create_pr=create_pr,
            parent_commit=parent,
            num_threads=self.num_threads,
        )

    def made(self, commit: str, message: str, description: str | None) -> CommitInfo:
        """What the client says of a commit that is there."""
        from huggingface_hub import CommitInfo

        url = f"{self.endpoint}/{self.repo_type}s/{self.repo_id}/commit/{commit}"
        return CommitInfo(
            commit_url=url,
            commit_message=message,
            commit_description=description or "",
            oid=commit,
            _endpoint=self.endpoint,
        )


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot name a repository.

    Raises:
        PublishError: It cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} cannot name a repository: use OWNER/NAME. Nothing was published.") from error


def check_gated(gated: object) -> None:
    """Refuse what is no way of gating.

    Raises:
        UsageError: It is none.
    """
    if gated not in (None, False, "auto", "manual"):
        raise UsageError(f"gated={gated!r}: choose 'auto', 'manual', False, or None to leave it as it is.")

"""A config off the Hub, in one commit: its files, its figures and what the card says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_mllm_aug import schema
from hf_mllm_aug.card_merge import published_configs
from hf_mllm_aug.card_removal import without_configs
from hf_mllm_aug.configs import README
from hf_mllm_aug.errors import PublishError, UnknownNameError, UsageError
from hf_mllm_aug.hub_branch import HubBranch, check_repo_id
from hf_mllm_aug.hub_calls import Retry, explain, hub_errors, may_have_happened
from hf_mllm_aug.release_plan import ReleasePlan, ReleaseStep, card_diff, config_steps
from hf_mllm_aug.staged_files import StagedFile, owner_of

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, DatasetCard


def delete_config(
    repo_id: str,
    name: str,
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    max_retries: int = 8,
    endpoint: str | None = None,
) -> CommitInfo:
    """Delete one config of a data set.

    Its Parquet files and figures go, and so does what the card says of it; other configs and what people wrote stay.
    If it was the default, `all` becomes that, or the first that is left. Earlier commits keep it, and so does `all`,
    which has its captions in a column: publish `all` without them to be rid of those too.

    Args:
        repo_id: ``"owner/name"``.
        name: The config.
        token: See `push_to_hub`.
        revision: The branch; None is ``main``.
        create_pr: Open a pull request instead of changing the branch.
        commit_message: The commit's first line.
        max_retries: See `push_to_hub`.
        endpoint: See `push_to_hub`.

    Returns:
        The commit.

    Raises:
        UnknownNameError: The data set has no such config.
        UsageError: It is the only one.
        PublishError: The Hub did not do it.
    """
    removal = Removal(repo_id, name, token=token, revision=revision, endpoint=endpoint, max_retries=max_retries)
    return removal.commit(commit_message or f"Delete the config {name}", create_pr)


def plan_removal(
    repo_id: str,
    name: str,
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
) -> ReleasePlan:
    """What `delete_config` would do; its arguments and errors. Nothing is changed."""
    return Removal(repo_id, name, token=token, revision=revision, endpoint=endpoint, max_retries=2).plan()


class Removal:
    """One config on its way off one branch; the arguments are those of `delete_config`."""

    def __init__(
        self,
        repo_id: str,
        name: str,
        *,
        token: str | bool | None,
        revision: str | None,
        endpoint: str | None,
        max_retries: int,
    ) -> None:
        check_repo_id(repo_id)
        if "/" not in repo_id:
            raise UsageError(f"{repo_id!r} names no repository to delete from: use OWNER/NAME.")
        self.name, self.retry = name, Retry(max_retries)
        self.branch = HubBranch(repo_id, revision, token=token, endpoint=endpoint)
        self._may_have_happened = False

    def commit(self, message: str, create_pr: bool) -> CommitInfo:
        """Delete it."""
        return self._asked("deleting", lambda: self._commit(message, create_pr), conflicts=True)  # type: ignore[no-any-return]

    def plan(self) -> ReleasePlan:
        """What would be done."""
        return self._asked("reading the repository", self._plan)  # type: ignore[no-any-return]

    def _asked(self, what: str, call: Any, conflicts: bool = False) -> Any:
        try:
            return self.retry(what, call, conflicts=conflicts)
        except hub_errors() as error:
            if isinstance(error, (PublishError, UsageError)):
                raise
            why = explain(error, self.branch.repo_id, self.branch.endpoint)
            raise PublishError(f"{why}. To do: look whether the config is still there, and try again.") from error

    def _decide(self, head: str) -> tuple[DatasetCard, DatasetCard, list[ReleaseStep], StagedFile]:
        """The card before and after, what happens to the files, and the card's bytes."""
        from huggingface_hub import DatasetCard

        remote = self.branch.tree(head)
        before = self.branch.card(head) if README in remote else DatasetCard("")
        names = published_configs(before)
        if self.name not in names:
            raise UnknownNameError("config", self.name, names, f"Those are the configs of {self.branch.repo_id}.")
        if len(names) == 1:
            raise UsageError(
                f"{self.name!r} is the only config of {self.branch.repo_id}: a data set without configs does not load. "
                "To do: delete the repository, or publish another config first."
            )
        after = without_configs(before, [self.name])
        gone = sorted(path for path in remote if owner_of(path, names) == self.name)
        card = StagedFile.of_bytes(str(after).encode())
        steps = [ReleaseStep("delete", path, remote[path].size, remote[path].size) for path in gone]
        steps.append(ReleaseStep("replace", README, card.size, remote[README].size))
        return before, after, steps, card

    def _plan(self) -> ReleasePlan:
        before, after, steps, _ = self._decide(self.branch.known_head())
        warnings = []
        if schema.ALL_CONFIG in published_configs(after):
            warnings.append(f"config {schema.ALL_CONFIG!r} keeps the captions of {self.name!r} in a column of its own")
        return ReleasePlan(
            tuple(sorted(steps, key=lambda step: step.path)),
            config_steps(before, after, [], []),
            card_diff(str(before), str(after)),
            tuple(warnings),
        )

    def _commit(self, message: str, create_pr: bool) -> CommitInfo:
        from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete

        head = self.branch.known_head()
        try:
            _, _, steps, card = self._decide(head)
        except UnknownNameError:
            if not self._may_have_happened or create_pr:
                raise
            # It was there before the connection broke: the commit was made, and only its answer was lost.
            url = f"{self.branch.endpoint}/datasets/{self.branch.repo_id}/commit/{head}"
            return CommitInfo(commit_url=url, commit_message=message, commit_description="", oid=head)
        if create_pr and self._may_have_happened:
            raise PublishError(
                f"the connection broke while the pull request to {self.branch.repo_id} was made. Look whether it is "
                "there; if not, delete again."
            )
        operations: list[Any] = [CommitOperationDelete(step.path) for step in steps if step.action == "delete"]
        operations.append(CommitOperationAdd(README, card.data))
        try:
            return self.branch.commit(operations, head, message, None, create_pr)
        except hub_errors() as error:
            self._may_have_happened |= may_have_happened(error)
            raise

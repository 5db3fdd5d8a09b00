"""The package's metric as a Space: its four files, in one commit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hf_mllm_aug.configs import README
from hf_mllm_aug.errors import FormatError, PublishError, UsageError
from hf_mllm_aug.hub_branch import HubBranch, check_repo_id
from hf_mllm_aug.hub_calls import Retry, explain, hub_errors
from hf_mllm_aug.release_plan import ReleasePlan, card_diff, file_steps
from hf_mllm_aug.staged_files import StagedFile

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

_WANTED = ("app.py", "requirements.txt", README)
_SDK = "gradio"


def publish_metric(
    repo_id: str,
    name: str = "retrieval_recall",
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    max_retries: int = 8,
    endpoint: str | None = None,
) -> CommitInfo:
    """Publish a metric of this package as a Space, from which ``evaluate.load("OWNER/NAME")`` loads it.

    `evaluate` looks for a module that is called as the Space is, so the module travels under that name.

    Args:
        repo_id: ``"owner/name"``; ``"name"`` goes to the user of the token. It is created if it is not there.
        name: The metric, see `metric_path`.
        private: Whether a Space that is created here is private. With True, one that is public is refused.
        token: A token with write access; None takes the one that `hf auth login` saved.
        commit_message: The commit's first line.
        max_retries: How many failures in a row are met by another try.
        endpoint: The Hub's address; None takes ``HF_ENDPOINT`` or the public Hub.

    Returns:
        The commit.

    Raises:
        UnknownNameError: There is no such metric.
        UsageError: The Space cannot have that name.
        PublishError: The Hub did not take it.
    """
    from huggingface_hub import CommitOperationAdd

    check_repo_id(repo_id)
    files = space_files(name, repo_id)
    branch = HubBranch(repo_id, token=token, endpoint=endpoint, repo_type="space")
    retry = Retry(max_retries)
    message = commit_message or f"Publish the metric {name}"

    def commit() -> CommitInfo:
        operations = [CommitOperationAdd(path, data) for path, data in files.items()]  # they remember the head
        return branch.commit(operations, branch.known_head(), message, None)

    try:
        retry("opening the Space", lambda: branch.open(private, space_sdk=_SDK))
        made = retry("committing", commit, conflicts=True)
        remote = retry("verifying", lambda: branch.tree(made.oid))
    except hub_errors() as error:
        if isinstance(error, PublishError):
            raise
        why = explain(error, branch.repo_id, branch.endpoint)
        raise PublishError(f"{why}. To do: run the same command again; nothing is half there.") from error
    sent = {path: StagedFile.of_bytes(data) for path, data in files.items()}
    if wrong := [path for path, file in sent.items() if path not in remote or not file.equals(remote[path])]:
        raise PublishError(f"commit {made.oid} of {branch.repo_id} does not hold what was sent: {', '.join(wrong)}.")
    return made


def plan_metric(
    repo_id: str,
    name: str = "retrieval_recall",
    *,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> ReleasePlan:
    """What `publish_metric` would do; its arguments and errors. Nothing is changed."""
    check_repo_id(repo_id)
    files = {path: StagedFile.of_bytes(data) for path, data in space_files(name, repo_id).items()}
    branch = HubBranch(repo_id, token=token, endpoint=endpoint, repo_type="space")
    retry = Retry(2)
    try:
        head = retry("reading the Space", branch.head)
        remote = retry("listing the Space", lambda: branch.tree(head)) if head else {}
        before = retry("reading the card", lambda: branch.read(head, README)) if head and README in remote else b""
    except hub_errors() as error:
        raise PublishError(f"{explain(error, repo_id, branch.endpoint)}.") from error
    after = files[README].data
    text = after.decode() if isinstance(after, bytes) else ""
    return ReleasePlan(file_steps(files, remote, []), card_diff=card_diff(before.decode("utf-8", "replace"), text))


def space_files(name: str, repo_id: str) -> Mapping[str, bytes]:
    """The files of a metric's Space, by their paths in it.

    Args:
        name: The metric.
        repo_id: The Space: the module travels under its name.

    Raises:
        UnknownNameError: There is no such metric.
        UsageError: The Space has a name that no module of it can bear: ``app``, or one with a dot.
        FormatError: The package lacks a file of it.

    >>> sorted(space_files("retrieval_recall", "me/recall"))
    ['README.md', 'app.py', 'recall.py', 'requirements.txt']
    """
    from hf_mllm_aug.metrics import metric_path

    folder = Path(metric_path(name))
    module = f"{repo_id.rpartition('/')[2]}.py"
    if module in _WANTED or "." in module.removesuffix(".py"):
        raise UsageError(f"{repo_id!r} cannot name a metric's Space: its module {module} could not be loaded from it.")
    places = {path: folder / path for path in _WANTED} | {module: folder / f"{name}.py"}
    if missing := [str(place.name) for place in places.values() if not place.is_file()]:
        raise FormatError(f"the metric {name} lacks {', '.join(missing)}: install hf-mllm-aug again.")
    files = {path: place.read_bytes() for path, place in places.items()}
    return {path: data.replace(f"{name}.py".encode(), module.encode()) for path, data in files.items()}

"""A folder or configs -> one commit on the Hub, and the proof that it is what was meant.

One commit, made on a parent that was read just before: a reader sees the release before or the release after, several
publishers cannot overwrite each other's cards, and an interruption anywhere leaves the data set as it was. Files that
arrived before an interruption are not sent again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_mllm_aug.configs import save_configs, to_configs
from hf_mllm_aug.errors import PublishError, UsageError
from hf_mllm_aug.hub_calls import Retry
from hf_mllm_aug.release import Release, ReleaseStep

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from huggingface_hub import CommitInfo, DatasetCard

__all__ = ["ReleaseStep", "plan_release", "push_to_hub"]


def push_to_hub(
    configs: Mapping[str, Dataset | DatasetDict] | Dataset | DatasetDict | str | Path,
    repo_id: str,
    *,
    card: DatasetCard | str | None = None,
    images: Literal["none", "embed"] = "none",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    max_shard_size: int | str = "500MB",
    max_retries: int = 8,
    endpoint: str | None = None,
) -> CommitInfo:
    """Publish configs and their card in one commit.

    Configs of the same names are replaced with all their files; other configs of the repository stay, and so does what
    people wrote in its card (see `merge_cards`). The commit is built on the head that was just read; if others were
    faster it is built again, and nothing that has arrived is uploaded twice. Rate limits, failures of the server and
    broken connections are waited out. Afterwards the files at the new commit are compared with those that were staged.

    Args:
        configs: What `to_configs` returned, an augmented data set, or a folder that `save_configs` wrote.
        repo_id: ``"owner/name"``; ``"name"`` goes to the user of the token. It is created if it is not there.
        card: The card; see `save_configs`. Not for a folder, which has one.
        images: For an augmented data set: whether the pictures travel too, see `to_configs`.
        private: Whether a repository that is created here is private.
        token: A token with write access; None takes the one that `hf auth login` saved.
        revision: The branch, created if it is not there; None is ``main``.
        create_pr: Open a pull request instead of changing ``main``.
        commit_message: The commit's first line.
        commit_description: The rest of it, and the pull request's text.
        max_shard_size: See `save_configs`.
        max_retries: How many failures in a row are met by another try.
        endpoint: The Hub's address; None takes ``HF_ENDPOINT`` or the public Hub.

    Returns:
        The commit: `oid`, `commit_url`, and `pr_url` for a pull request.

    Raises:
        PublishError: The release did not happen, or its files are not what was sent; the message says which, and
            names the staged folder, with which it can be tried again.
        UsageError: The arguments contradict each other.

    ``push_to_hub(save_configs(configs, "release"), "me/photos-captioned").commit_url`` is the address of the release.

    >>> push_to_hub("release", "not a name")
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.PublishError: 'not a name' cannot name a repository: use OWNER/NAME. Nothing was published.
    """
    _check(configs, repo_id, card, revision, create_pr)
    if isinstance(configs, (str, Path)):
        release = Release(Path(configs), repo_id, revision, create_pr, token, endpoint, Retry(max_retries))
        return release.publish(private, commit_message, commit_description)

    parts = configs if _is_mapping_of_configs(configs) else to_configs(configs, images=images)
    home = Path(tempfile.mkdtemp(prefix="hf-mllm-aug-"))
    try:
        folder = save_configs(parts, home / "release", card=card, max_shard_size=max_shard_size)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    release = Release(folder, repo_id, revision, create_pr, token, endpoint, Retry(max_retries))
    commit = release.publish(private, commit_message, commit_description)
    shutil.rmtree(home, ignore_errors=True)  # kept after a failure: with it the release can be tried again
    return commit


def plan_release(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
) -> list[ReleaseStep]:
    r"""What publishing a folder would do, file by file. Nothing is changed anywhere.

    Args:
        folder: A folder that `save_configs` wrote.
        repo_id: The repository to compare with, over the network; None compares with an empty one, and needs none.
        token: See `push_to_hub`.
        revision: See `push_to_hub`.
        endpoint: See `push_to_hub`.

    Returns:
        The steps, by path. ``print(*plan_release(folder), sep="\n")`` is a dry run.

    Raises:
        PublishError: The Hub cannot be asked.
        UsageError: The folder is no staged release.
    """
    if repo_id is not None:
        _check(folder, repo_id, None, revision, create_pr=False)
    release = Release(Path(folder), repo_id or "", revision, False, token, endpoint, Retry(2))
    return release.plan()


def _check(configs: Any, repo_id: str, card: object, revision: str | None, create_pr: bool) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} cannot name a repository: use OWNER/NAME. Nothing was published.") from error
    if isinstance(configs, (str, Path)) and card is not None:
        raise UsageError("a staged folder has its card already: pass card= to save_configs, or edit its README.md.")
    if create_pr and revision not in (None, "main"):
        raise UsageError("create_pr=True makes a pull request to main: leave out revision=.")


def _is_mapping_of_configs(configs: Any) -> bool:
    from datasets import Dataset, DatasetDict

    if isinstance(configs, (Dataset, DatasetDict)):
        return False
    if isinstance(configs, Mapping):
        return True
    raise UsageError(f"cannot publish a {type(configs).__name__}: pass configs, a Dataset, or a staged folder.")

"""A folder or configs -> one commit on the Hub, and the proof that it is what was meant.

One commit, made on a parent that was read just before: a reader sees the release before or the release after, several
publishers cannot overwrite each other's cards, and an interruption anywhere leaves the data set as it was. Files that
arrived before an interruption are not sent again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_mllm_aug.configs import save_configs, to_configs
from hf_mllm_aug.errors import PublishError, UnknownNameError, UsageError
from hf_mllm_aug.hub_branch import Gated, HubBranch, check_gated, check_repo_id
from hf_mllm_aug.hub_calls import Retry
from hf_mllm_aug.picture_files import PictureRoot
from hf_mllm_aug.release import Release
from hf_mllm_aug.release_plan import ReleasePlan, ReleaseStep
from hf_mllm_aug.removal import delete_config
from hf_mllm_aug.staging import workers

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from huggingface_hub import CommitInfo, DatasetCard

__all__ = ["ReleasePlan", "ReleaseStep", "delete_config", "plan_release", "push_to_hub"]


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
    config_names: Sequence[str] | None = None,
    num_proc: int | None = None,
    gated: Gated | None = None,
    picture_root: PictureRoot | None = None,
) -> CommitInfo:
    """Publish configs and their card in one commit.

    Configs of the same names are replaced with all their files; other configs of the repository stay, and so does what
    people wrote in its card (see `merge_cards`). Where a captioner is added or renewed without `all`, which has its
    captions in a column, the card says that `all` is older, and so does a logged warning.

    The commit is built on the head that was just read; if others were faster it is built again, and nothing that has
    arrived is uploaded twice. Rate limits, failures of the server and broken connections are waited out. Afterwards the
    files at the new commit are compared with those that were staged: their checksums, and the rows in the footers of
    the Parquet files that travelled, which are read back.

    Args:
        configs: What `to_configs` returned, an augmented data set, or a folder that `save_configs` wrote.
        repo_id: ``"owner/name"``; ``"name"`` goes to the user of the token. It is created if it is not there.
        card: The card; see `save_configs`. Not for a folder, which has one.
        images: For an augmented data set: whether the pictures travel too, see `to_configs`.
        private: Whether a repository that is created here is private. With True, one that is public is refused.
        token: A token with write access; None takes the one that `hf auth login` saved.
        revision: The branch, created if it is not there; None is ``main``.
        create_pr: Open a pull request instead of changing ``main``.
        commit_message: The commit's first line.
        commit_description: The rest of it, and the pull request's text.
        max_shard_size: See `save_configs`.
        max_retries: How many failures in a row are met by another try.
        endpoint: The Hub's address; None takes ``HF_ENDPOINT`` or the public Hub.
        config_names: The configs that are published, of those that were given; None publishes all of them.
        num_proc: How many configs are encoded, and how many files hashed, uploaded and read back at once, in threads;
            see `save_configs`. Uploads by Xet choose their own number.
        gated: Whether readers must ask for access: ``"auto"`` lets in whoever asks, ``"manual"`` whom you let in,
            False anyone; None leaves that as it is. It is set before the files are there, and needs a token that may
            change the repository's settings.
        picture_root: See `save_configs`.

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
    check_gated(gated)
    threads = workers(num_proc)
    branch = HubBranch(repo_id, revision, token=token, endpoint=endpoint, num_threads=max(threads, 5))

    def publish(folder: Path) -> CommitInfo:
        retry = Retry(max_retries)
        release = Release(folder, branch, retry, config_names=config_names, create_pr=create_pr, num_proc=num_proc)
        return release.publish(private, gated, commit_message, commit_description)

    if isinstance(configs, (str, Path)):
        return publish(Path(configs))
    parts = configs if _is_mapping_of_configs(configs) else to_configs(configs, images=images)
    parts = _chosen(parts, config_names)
    home = Path(tempfile.mkdtemp(prefix="hf-mllm-aug-"))
    try:
        folder = save_configs(
            parts,
            home / "release",
            card=card,
            max_shard_size=max_shard_size,
            picture_root=picture_root,
            num_proc=num_proc,
        )
        commit = publish(folder)
    except PublishError:
        raise  # it names the folder, with which the release can be tried again
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    shutil.rmtree(home, ignore_errors=True)
    return commit


def plan_release(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    config_names: Sequence[str] | None = None,
) -> ReleasePlan:
    r"""What publishing a folder would do: to each file, to each config, to the card. Nothing is changed anywhere.

    Args:
        folder: A folder that `save_configs` wrote.
        repo_id: The repository to compare with, over the network; None compares with an empty one, and needs none.
        token: See `push_to_hub`.
        revision: See `push_to_hub`.
        endpoint: See `push_to_hub`.
        config_names: See `push_to_hub`.

    Returns:
        The steps of the files, by path, and more: ``print(*plan_release(folder).lines(), sep="\n")`` is a dry run.

    Raises:
        PublishError: The Hub cannot be asked.
        UsageError: The folder is no staged release.
    """
    branch = None
    if repo_id is not None:
        _check(folder, repo_id, None, revision, create_pr=False)
        branch = HubBranch(repo_id, revision, token=token, endpoint=endpoint)
    return Release(Path(folder), branch, Retry(2), config_names=config_names).plan()


def _check(configs: Any, repo_id: str, card: object, revision: str | None, create_pr: bool) -> None:
    check_repo_id(repo_id)
    if isinstance(configs, (str, Path)) and card is not None:
        raise UsageError("a staged folder has its card already: pass card= to save_configs, or edit its README.md.")
    if create_pr and revision not in (None, "main"):
        raise UsageError("create_pr=True makes a pull request to main: leave out revision=.")


def _chosen(parts: Mapping[str, Any], names: Sequence[str] | None) -> Mapping[str, Any]:
    for name in names or []:
        if name not in parts:
            raise UnknownNameError("config", name, parts)
    return parts if names is None else {name: rows for name, rows in parts.items() if name in names}


def _is_mapping_of_configs(configs: Any) -> bool:
    from datasets import Dataset, DatasetDict

    if isinstance(configs, (Dataset, DatasetDict)):
        return False
    if isinstance(configs, Mapping):
        return True
    raise UsageError(f"cannot publish a {type(configs).__name__}: pass configs, a Dataset, or a staged folder.")

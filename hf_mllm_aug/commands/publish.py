"""``hf-mllm-aug publish``: a staged data set onto the Hub, in one commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_mllm_aug import schema
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import DebugOption, Images
from hf_mllm_aug.commands.terminal import count, say
from hf_mllm_aug.errors import UsageError

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hf_mllm_aug.staged import Staged


def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A staged data set, such as `caption` writes.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME on the Hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of changing main.")
    ] = False,
    images: Annotated[
        Images | None,
        typer.Option(
            "--images", help="none = leave staged pictures out; embed = insist on them. As staged if not given."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change on the Hub, and change nothing.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Publish a staged data set in one commit.

    All of its configs and its card go together; other configs of the repository stay, and so does what people wrote in
    its card.
    """
    from hf_mllm_aug import push_to_hub, save_configs
    from hf_mllm_aug.publish import plan_release
    from hf_mllm_aug.staged import open_staged

    with quiet.progress(wanted=False):
        staged = open_staged(folder)
        without_pictures = _without_pictures(staged) if images == "none" else None
        if images == "embed":
            _check_pictures(staged)
        if dry_run:
            with tempfile.TemporaryDirectory(prefix="hf-mllm-aug-") as home:
                if without_pictures is not None:
                    folder = save_configs(without_pictures, Path(home) / "release", card=staged.card)
                steps = plan_release(folder, repo_id)
            for step in steps:
                say(str(step))
            say(f"dry run: {count(len(steps), 'file')} for {repo_id}; nothing was changed")
            return
        commit = push_to_hub(
            folder if without_pictures is None else without_pictures,
            repo_id,
            card=None if without_pictures is None else staged.card,
            private=private or None,
            create_pr=create_pr,
        )
    say(f"published {', '.join(staged.config_names)}: {commit.pr_url or commit.commit_url}")
    if not create_pr:
        full_id = repo_id if "/" in repo_id else commit.repo_url.repo_id
        name = staged.config_names[-1]
        say(f'load it with: load_dataset("{full_id}", "{name}", split="{staged.split(name)}")')


def _check_pictures(staged: Staged) -> None:
    if schema.IMAGE not in next(iter(staged.open().values())).column_names:
        raise UsageError(
            f"{staged.folder} was staged without pictures. Stage it again with: caption ... --images embed"
        )


def _without_pictures(staged: Staged) -> dict[str, DatasetDict] | None:
    """The configs less their pictures; None if there are none to leave out."""
    configs = {name: staged.open(name) for name in staged.config_names}
    pictured = configs.get(schema.ALL_CONFIG)
    if pictured is None or schema.IMAGE not in next(iter(pictured.values())).column_names:
        return None
    return {**configs, schema.ALL_CONFIG: pictured.remove_columns(schema.IMAGE)}

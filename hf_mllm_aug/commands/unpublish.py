"""``hf-mllm-aug unpublish``: one config of a published data set off the Hub, in one commit."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import DebugOption
from hf_mllm_aug.commands.publish import CommitMessageOption, CreatePrOption, DryRunOption, RevisionOption
from hf_mllm_aug.commands.terminal import count, say


def unpublish(
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME on the Hub.")],
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="The config to delete.")],
    create_pr: CreatePrOption = False,
    revision: RevisionOption = None,
    commit_message: CommitMessageOption = None,
    dry_run: DryRunOption = False,
    debug: DebugOption = False,
) -> None:
    """Delete one config of a published data set.

    Its files and what the card says of it go in one commit; the other configs and what people wrote in the card stay.
    Earlier commits keep it, and so does the column of its captions in `all`.
    """
    from hf_mllm_aug.publish import delete_config
    from hf_mllm_aug.removal import plan_removal

    with quiet.progress(wanted=False):
        if dry_run:
            plan = plan_removal(repo_id, config, revision=revision)
            for line in plan.lines():
                say(line)
            say(f"dry run: {count(len(plan), 'file')} of {repo_id}; nothing was changed")
            return
        commit = delete_config(repo_id, config, revision=revision, create_pr=create_pr, commit_message=commit_message)
    say(f"deleted {config}: {commit.pr_url or commit.commit_url}")

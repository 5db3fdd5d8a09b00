"""``hf-mllm-aug publish-metric``: the retrieval metric as a Space."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import DebugOption
from hf_mllm_aug.commands.publish import CommitMessageOption, DryRunOption
from hf_mllm_aug.commands.terminal import count, say


def publish_metric(
    repo_id: Annotated[
        str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME of the Space; made if it is not there.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new Space private; refuse a public one.")] = False,
    commit_message: CommitMessageOption = None,
    dry_run: DryRunOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish the metric Retrieval Recall@K as a Space of `evaluate`.

    Everyone can then call evaluate.load("OWNER/NAME"), and try it on the Space's page.
    """
    from hf_mllm_aug.space import plan_metric
    from hf_mllm_aug.space import publish_metric as push

    with quiet.progress(wanted=False):
        if dry_run:
            plan = plan_metric(repo_id)
            for line in plan.lines():
                say(line)
            say(f"dry run: {count(len(plan), 'file')} for the Space {repo_id}; nothing was changed")
            return
        commit = push(repo_id, private=private or None, commit_message=commit_message)
    say(f"published retrieval_recall: {commit.commit_url}")
    say(f'load it with: evaluate.load("{repo_id if "/" in repo_id else commit.repo_url.repo_id}")')

"""``hf-mllm-aug publish``: a staged data set, or some of its configs, onto the Hub in one commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hf_mllm_aug import schema
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import DebugOption, Images
from hf_mllm_aug.commands.terminal import count, say
from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.staging import FIGURES

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hf_mllm_aug.card import Card
    from hf_mllm_aug.staged import Staged

GatedName = Literal["auto", "manual", "off"]

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would change on the Hub, and change nothing.")]
CreatePrOption = Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of changing main.")]
RevisionOption = Annotated[
    str | None,
    typer.Option("--revision", metavar="BRANCH", help="The branch; made if it is not there. [default: main]"),
]
CommitMessageOption = Annotated[
    str | None, typer.Option("--commit-message", metavar="TEXT", help="The commit's first line.")
]


def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A staged data set, such as `caption` writes.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME on the Hub; made if it is not there.")],
    config: Annotated[
        list[str] | None,
        typer.Option("--config", metavar="NAME", help="Publish this config alone; may be given several times."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private; refuse a public one.")
    ] = False,
    gated: Annotated[
        GatedName | None,
        typer.Option("--gated", help="Whether readers must ask: auto lets them in, manual asks you, off lets all in."),
    ] = None,
    create_pr: CreatePrOption = False,
    revision: RevisionOption = None,
    commit_message: CommitMessageOption = None,
    images: Annotated[
        Images | None,
        typer.Option(
            "--images", help="none = leave staged pictures out; embed = insist on them. As staged if not given."
        ),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            "--max-shard-size",
            metavar="SIZE",
            help="Write the Parquet files again, of this size. As staged if not given.",
        ),
    ] = None,
    num_proc: Annotated[
        int | None, typer.Option("--num-proc", min=1, help="Files that are encoded, hashed and uploaded at once.")
    ] = None,
    dry_run: DryRunOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish a staged data set in one commit.

    All of its configs and its card go together, or those that --config names; other configs of the repository stay,
    and so does what people wrote in its card.
    """
    from hf_mllm_aug import push_to_hub, save_configs
    from hf_mllm_aug.publish import plan_release
    from hf_mllm_aug.staged import open_staged
    from hf_mllm_aug.staged_files import check_links

    with quiet.progress(wanted=False), tempfile.TemporaryDirectory(prefix="hf-mllm-aug-") as home:
        staged = open_staged(folder)
        check_links(folder, folder.rglob("*"))  # before anything is read through one
        if images == "embed":
            _check_pictures(staged)
        parts = _without_pictures(staged) if images == "none" else None
        if max_shard_size is not None and parts is None:
            parts = {name: staged.open(name) for name in staged.config_names}
        if parts is not None:
            size = max_shard_size or "500MB"
            folder = save_configs(
                parts,
                Path(home) / "release",
                card=_card_with_figures(staged, images != "none"),
                max_shard_size=size,
                num_proc=num_proc,
            )
        if dry_run:
            plan = plan_release(folder, repo_id, revision=revision, config_names=config)
            for line in plan.lines():
                say(line)
            say(f"dry run: {count(len(plan), 'file')} for {repo_id}; nothing was changed")
            return
        commit = push_to_hub(
            folder,
            repo_id,
            private=private or None,
            gated=False if gated == "off" else gated,
            create_pr=create_pr,
            revision=revision,
            commit_message=commit_message,
            config_names=config,
            num_proc=num_proc,
        )
    names = [name for name in staged.config_names if config is None or name in config]
    say(f"published {', '.join(names)}: {commit.pr_url or commit.commit_url}")
    if not create_pr:
        full_id = repo_id if "/" in repo_id else commit.repo_url.repo_id
        at = f', revision="{revision}"' if revision not in (None, "main") else ""
        say(f'load it with: load_dataset("{full_id}", "{names[-1]}", split="{staged.split(names[-1])}"{at})')


def _card_with_figures(staged: Staged, pictures: bool) -> Card:
    """The card of a staged folder with the files that it shows, for another folder; samples of pictures if wanted."""
    from hf_mllm_aug.card import Card
    from hf_mllm_aug.card_removal import without_figures

    files = {f"{FIGURES}/{path.name}": path for path in sorted((staged.folder / FIGURES).glob("*.*"))}
    left_out = [] if pictures else [name for name in files if not name.endswith(".svg")]
    card = without_figures(staged.card, left_out)
    return Card(str(card), {name: path.read_bytes() for name, path in files.items() if name not in left_out})


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

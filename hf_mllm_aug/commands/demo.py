"""``hf-mllm-aug demo``: shows the whole way, on real pictures, with nothing to download."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from hf_mllm_aug import schema
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.evaluate import show_recall
from hf_mllm_aug.commands.options import DebugOption
from hf_mllm_aug.commands.terminal import count, say, show_table
from hf_mllm_aug.errors import PublishError
from hf_mllm_aug.safe_text import plain

if TYPE_CHECKING:
    from datasets import Dataset


def demo(
    repo: Annotated[
        str | None,
        typer.Option("--repo", metavar="ID", help="Publish to this repository on the Hub, not to one on this machine."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to stage; an earlier demo there is replaced.")
    ] = Path("demo-output"),
    debug: DebugOption = False,
) -> None:
    """Show the whole way on the pictures in this package.

    Caption, shear, stage, publish, read back, score. Without --repo the release goes to a Hub server on this machine,
    which lives as long as the demo runs.
    """
    from hf_mllm_aug import demo as steps

    start = time.perf_counter()
    folder = steps.prepare_output(out)
    with quiet.progress(wanted=False):
        rows, augment = steps.caption_pictures()
        names = [member.label for member in augment.members]
        _heading(f"Captions by {', '.join(names)}, sheared to their first sentence")
        headings = ["picture: raw caption", "captioner", "generated ⟨cut: what shearing took off⟩", "caption"]
        show_table(headings, _cells(rows, names))
        for name in names:
            failed = sum(reason is not None for reason in rows[schema.error_column(name)])
            say(f"{name}: {count(len(rows), 'picture')}, {len(rows) - failed} captioned, {failed} failed")

        _heading("Staged")
        configs = steps.stage(rows, augment, folder)
        for name, config in configs.items():
            say(f"{name}: {count(len(config), 'row')} of {', '.join(config.column_names)}")
        say(f"card: {folder / 'README.md'}")

        _heading("Published, in one commit, and read back")
        repo_id = repo or steps.LOCAL_REPO
        with steps.hub(repo) as hub:
            steps.publish(folder, repo_id, hub)
            note = " (a Hub server on this machine, gone when the demo ends)" if hub.local else ""
            say(f"published to {hub.address}{note}")
            for name, found in steps.read_back(repo_id, list(configs), hub).items():
                if differing := steps.differing_rows(configs[name], found):
                    raise PublishError(
                        f"{count(differing, 'row')} of {name} came back otherwise than they were staged."
                    )
                pictures = "" if found.pictures is None else f", {count(found.pictures, 'picture')} decoded"
                read = f"{count(len(found.keys), 'row')}, equal to the staged ones{pictures}"
                say(f'load_dataset("{repo_id}", "{name}"): {read}')

        _heading("Recall@K of raw against new captions")
        show_recall(steps.ENCODER, rows, [schema.CAPTION, *map(schema.caption_column, names)])
        say(
            f"{steps.ENCODER} is a miniature too and sees with the captioners' eyes, so it flatters the new captions; "
            "with so few pictures the figures show the way, no more."
        )
    say()
    say("The captioners are miniatures that need no download; they are no substitute for the full models.")
    say(f"done in {time.perf_counter() - start:.0f} s. Next, on pictures of yours:")
    say("  hf-mllm-aug models")
    say("  hf-mllm-aug caption FOLDER --captioner llava-1.5 --out captions")
    say("  hf-mllm-aug publish captions OWNER/NAME")


def _heading(text: str) -> None:
    say()
    say(Text(text, style="bold"))


def _cells(rows: Dataset, captioners: Sequence[str]) -> Iterator[list[str | Text]]:
    """A line for each picture and captioner; the picture is named in its first line."""
    from hf_mllm_aug.demo import split_tail

    columns = [column(captioner) for captioner in captioners for column in _COLUMNS]
    for row in rows.select_columns([schema.KEY, schema.CAPTION, *columns]):
        picture = f"{row[schema.KEY].rpartition('/')[2]}: {row[schema.CAPTION] or ''}"
        for captioner in captioners:
            generated, caption, error = (row[column(captioner)] for column in _COLUMNS)
            if caption is None:
                yield [picture, captioner, Text(f"({error})", style="dim"), ""]
            else:
                kept, cut = split_tail(plain(generated), plain(caption))
                shown = Text(kept)
                if cut:
                    # The brackets say it where there are no colours.
                    shown.append(f"⟨cut: {cut}⟩", style="dim strike")
                yield [picture, captioner, shown, caption]
            picture = ""


_COLUMNS = (schema.generated_column, schema.caption_column, schema.error_column)

"""The command line: parse, call one library function, show what came of it.

Installed as ``hf-mllm-aug``, so that ``hf mllm-aug`` works too once it is an extension of the ``hf`` command.
Exit code 0; 1 when the work failed, with the reason and what to do next on one line of stderr; 2 for wrong usage;
130 when interrupted. A traceback is shown only with ``--debug``.
"""

from __future__ import annotations

import io
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from hf_mllm_aug import __version__
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.caption import caption
from hf_mllm_aug.commands.convert import convert
from hf_mllm_aug.commands.demo import demo
from hf_mllm_aug.commands.evaluate import evaluate
from hf_mllm_aug.commands.failures import INTERRUPTED, exit_code, explain
from hf_mllm_aug.commands.models import models
from hf_mllm_aug.commands.plan import plan
from hf_mllm_aug.commands.preview import preview
from hf_mllm_aug.commands.publish import publish
from hf_mllm_aug.commands.publish_metric import publish_metric
from hf_mllm_aug.commands.shear import shear
from hf_mllm_aug.commands.unpublish import unpublish

app = typer.Typer(
    name="hf-mllm-aug",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: hf-mllm-aug demo",
)
app.command(epilog="Example: hf-mllm-aug demo")(demo)
app.command(epilog="Example: hf-mllm-aug caption photos/ --captioner tiny-llava --out captions")(caption)
app.command(epilog="Example: hf-mllm-aug plan photos/ --captioner tiny-llava --rows 1000000")(plan)
app.command(epilog="Example: hf-mllm-aug shear captions --out captions-short --rule raw")(shear)
app.command(epilog="Example: hf-mllm-aug preview captions")(preview)
app.command(epilog="Example: hf-mllm-aug publish captions OWNER/NAME --private")(publish)
app.command(epilog="Example: hf-mllm-aug unpublish OWNER/NAME otter --dry-run")(unpublish)
app.command("publish-metric", epilog="Example: hf-mllm-aug publish-metric OWNER/NAME")(publish_metric)
app.command(epilog="Example: hf-mllm-aug evaluate --model openai/clip-vit-base-patch32 --dataset captions")(evaluate)
app.command(epilog="Example: hf-mllm-aug models")(models)
app.add_typer(convert, name="convert")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf-mllm-aug {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _hf_mllm_aug(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Give every picture of an image-text data set captions by several multimodal LLMs, sheared to web-caption style,
    and publish them as one Hub data set.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: The words after the program's name; by default the process's own.
    """
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words  # each command has the option; its place here is to reach the failures of parsing too
    quiet.set_up(debug)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # captions have letters that a terminal's encoding may lack
    try:
        # Typer says an interruption by its return value; other failures come as exceptions with standalone_mode off.
        code = app(words, prog_name="hf-mllm-aug", standalone_mode=False) or 0
        if code == INTERRUPTED:
            raise KeyboardInterrupt
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where failures become advice
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {explain(error)}", err=True)
        code = exit_code(error)
    sys.exit(code)

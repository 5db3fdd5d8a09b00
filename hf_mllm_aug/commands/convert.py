"""``hf-mllm-aug convert``: published weights that no library reads as they are -> a checkpoint that captions."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hf_mllm_aug.commands.options import DebugOption, OutOption
from hf_mllm_aug.commands.terminal import say

convert = typer.Typer(
    help="Make a checkpoint from an MLLM's published files.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

_EXAMPLE = (
    "Example: hf-mllm-aug convert minigpt-4 --vit eva_vit_g.pth --qformer blip2_pretrained_flant5xxl.pth "
    "--vicuna vicuna-7b --projection pretrained_minigpt4_7b.pth --out minigpt-4"
)


@convert.callback(epilog=_EXAMPLE)
def _convert() -> None:
    """Make a checkpoint from an MLLM's published files."""


@convert.command("minigpt-4", epilog=_EXAMPLE)
def minigpt_4(
    vit: Annotated[
        Path,
        typer.Option(
            "--vit", metavar="FILE", exists=True, dir_okay=False, help="EVA's vision transformer: eva_vit_g.pth."
        ),
    ],
    qformer: Annotated[
        Path,
        typer.Option(
            "--qformer",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="BLIP-2's Q-Former for Flan-T5-XXL: blip2_pretrained_flant5xxl.pth.",
        ),
    ],
    vicuna: Annotated[
        Path,
        typer.Option(
            "--vicuna",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="A Vicuna v0 in transformers' layout, 7B or 13B, with its tokenizer.",
        ),
    ],
    projection: Annotated[
        Path,
        typer.Option(
            "--projection",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="MiniGPT-4's own layer for that Vicuna: pretrained_minigpt4_7b.pth or pretrained_minigpt4.pth.",
        ),
    ],
    out: OutOption,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="JSON of the sizes that are not MiniGPT-4's; Vicuna's come from its own config.json.",
        ),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Make a checkpoint of MiniGPT-4 from the files that its authors, BLIP-2's and Vicuna's published.

    Each may be a pickle of torch (.pth, .bin) or safetensors; pickles that would run code are refused. It takes the
    memory of the largest file, and the disk space of all of them once more.
    """
    from hf_mllm_aug.mllms.minigpt4_convert import convert_minigpt4
    from hf_mllm_aug.staged import check_free

    check_free(out)
    folder = convert_minigpt4(vit=vit, qformer=qformer, vicuna=vicuna, projection=projection, out=out, config=config)
    size = sum(file.stat().st_size for file in folder.iterdir())
    say(f"{folder}: MiniGPT-4, {size / 1e9:,.1f} GB")
    # With the preset's name: the columns are then named after the MLLM, and a folder may be called like a preset.
    given = shlex.quote(f"minigpt-4={folder}")
    say(f"Use it: hf-mllm-aug caption SOURCE --captioner {given} --out captions")

"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Rule = Literal["sentence", "raw", "seed"]
Images = Literal["embed", "none"]

# Read by `cli.main`, for it also shows where a failure of parsing came from.
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the libraries' own messages.")]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write; it must not exist yet.")]
_RULES = (
    "How captions are cut: sentence = after the first sentence; raw = to the length of the raw caption, "
    "in words; seed = before the first full stop, as the paper's published files are."
)
RuleOption = Annotated[Rule, typer.Option("--rule", help=_RULES)]
CaptionRuleOption = Annotated[
    Rule | None, typer.Option("--rule", help=f"{_RULES} [default: sentence; with --preset paper: seed]")
]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="The split to read where there are several; train, or the only one, if not given."),
]
ImageColumnOption = Annotated[
    str | None,
    typer.Option("--image-column", help="The column of pictures; image, or the only such column, if not given."),
]
MaxSamplesOption = Annotated[int | None, typer.Option("--max-samples", min=1, help="Read no more rows than this.")]

"""Options that several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_mllm_aug.captioners.engine import Quantization
from hf_mllm_aug.captioners.presets import VariantName

if TYPE_CHECKING:
    from hf_mllm_aug.captioners.captioner import Captioner

Rule = Literal["sentence", "raw", "seed"]
Images = Literal["embed", "none"]
EngineName = Literal["transformers", "vllm", "openai"]

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
PresetOption = Annotated[
    VariantName,
    typer.Option("--preset", help="default, or paper: asked and cut as the paper's scripts did, by --rule seed."),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Pictures a model call; the captioner's own number if not given."),
]
EngineOption = Annotated[
    EngineName, typer.Option("--engine", help="What runs the model: this process by transformers or vllm, or a server.")
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option("--base-url", metavar="URL", help="Of the server, with --engine openai. [default: $OPENAI_BASE_URL]"),
]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Whether decoding is compiled, which changes no caption; on a GPU, and where it can be, if not given.",
    ),
]
QuantizationOption = Annotated[
    Quantization | None,
    typer.Option("--quantization", help="Weights of eight bits: half the memory, slightly other captions."),
]
MaxSamplesOption = Annotated[int | None, typer.Option("--max-samples", min=1, help="Read no more rows than this.")]
ShardSizeOption = Annotated[int, typer.Option("--shard-size", min=1, help="Rows a shard: what an interruption costs.")]
RunDirOption = Annotated[
    str | None,
    typer.Option(
        "--run-dir", metavar="DIR", help="Where finished shards are kept, a folder or URL. [default: DIR.run]"
    ),
]


def run_folder(out: Path, run_dir: str | None) -> str:
    """The folder of a run: the one that is named, or the one beside the output.

    >>> run_folder(Path("out/captions"), None), run_folder(Path("captions"), "s3://bucket/run")
    ('out/captions.run', 's3://bucket/run')
    """
    return f"{out}.run" if run_dir is None else run_dir


def named(text: str) -> tuple[str, str | None]:
    """A captioner's name and the checkpoint that stands behind ``=``; folders may have that sign in their names, too.

    >>> named("minigpt-4=my/folder"), named("qwen-vl"), named("runs/lr=1e-4")
    (('minigpt-4', 'my/folder'), ('qwen-vl', None), ('runs/lr=1e-4', None))
    """
    from hf_mllm_aug.captioners.presets import PRESETS

    name, _, checkpoint = text.partition("=")
    return (name, checkpoint or None) if name in PRESETS else (text, None)


def chosen_captioners(names: Iterable[str], preset: VariantName, **settings: Any) -> list[Captioner]:
    """The captioners of ``--captioner NAME`` or ``NAME=CHECKPOINT``, all with the same settings.

    Args:
        names: As they were given.
        preset: The variant that they are asked as.
        **settings: Further arguments of `Captioner`.
    """
    from hf_mllm_aug import Captioner

    return [Captioner(name, checkpoint=given, preset=preset, **settings) for name, given in map(named, names)]


def chosen_rule(rule: Rule | None, preset: VariantName) -> Rule:
    """The rule that is given, or the preset's: the scripts' captions end at the first full stop, and any other rule
    would cut them once more.
    """
    return rule or ("seed" if preset == "paper" else "sentence")

"""``hf-mllm-aug plan``: what captioning SOURCE will cost, and how much of it is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import (
    BaseUrlOption,
    BatchSizeOption,
    CaptionRuleOption,
    CompileOption,
    DebugOption,
    EngineOption,
    ImageColumnOption,
    MaxSamplesOption,
    PresetOption,
    QuantizationOption,
    RunDirOption,
    ShardSizeOption,
    SplitOption,
    chosen_captioners,
    chosen_rule,
    run_folder,
)
from hf_mllm_aug.commands.terminal import count, say, show_table
from hf_mllm_aug.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hf_mllm_aug.long_runs import LongRun
    from hf_mllm_aug.long_runs.estimate import Estimate


def plan(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="As for caption.")],
    captioner: Annotated[
        list[str],
        typer.Option("--captioner", metavar="NAME[=CHECKPOINT]", help="As for caption. Repeat it for several."),
    ],
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="Reckon with so many rows, instead of those of SOURCE.")
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="How many pictures to measure with.")] = 32,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="That of caption; says how much of it is done.")
    ] = None,
    run_dir: RunDirOption = None,
    split: SplitOption = None,
    image_column: ImageColumnOption = None,
    max_samples: MaxSamplesOption = None,
    preset: PresetOption = "default",
    rule: CaptionRuleOption = None,
    batch_size: BatchSizeOption = None,
    engine: EngineOption = "transformers",
    base_url: BaseUrlOption = None,
    quantization: QuantizationOption = None,
    compile: CompileOption = None,  # noqa: A002 (typer takes the name of the argument)
    keep_unsheared: Annotated[
        bool, typer.Option("--keep-unsheared", help="Reckon with whole texts, not with first sentences.")
    ] = False,
    shard_size: ShardSizeOption = 1024,
    debug: DebugOption = False,
) -> None:
    """Measure the captioners on a few pictures of SOURCE, and say what all of them will cost.

    The hours are those of one process on a machine like this one. Nothing is kept.
    """
    from hf_mllm_aug import Shear
    from hf_mllm_aug.long_runs import LongRun
    from hf_mllm_aug.long_runs.estimate import measure
    from hf_mllm_aug.sources import open_source

    captioners = chosen_captioners(
        captioner,
        preset,
        batch_size=batch_size,
        engine=engine,
        base_url=base_url,
        quantization=quantization,
        compile=compile,
    )
    shear = Shear(rule=chosen_rule(rule, preset))
    with quiet.progress(wanted=False):
        dataset = open_source(source, split=split, image_column=image_column, max_samples=max_samples)
        folder = None if out is None and run_dir is None else run_folder(out or Path(), run_dir)
        if folder is not None:
            run = LongRun(
                dataset, captioners, folder, shear=shear, keep_unsheared=keep_unsheared, shard_size=shard_size
            )
            _show_progress(run)
        estimates = [
            measure(dataset, member, shear=shear, keep_unsheared=keep_unsheared, pictures=pictures)
            for member in captioners
        ]
    n_rows = rows or len(dataset)
    say(f"{count(n_rows, 'row')} in {count(-(-n_rows // shard_size), 'shard')} of {shard_size:,}")
    _show_estimates(estimates, n_rows)


def _show_progress(run: LongRun) -> None:
    try:
        done, total = run.finished()
    except UsageError as error:  # what the captions would cost is still worth knowing
        say(f"{run.store} cannot be gone on with: {error}")
        return
    say(f"{run.store}: {done:,} of {count(total or 0, 'shard')} finished")


def _show_estimates(estimates: Sequence[Estimate], rows: int) -> None:
    table = [
        (
            found.captioner,
            f"{found.images_per_second:,.1f}",
            _duration(found.hours(rows)),
            f"{found.bytes_per_row * rows / 1e6:,.1f} MB",
            f"{found.failures} of {found.pictures}",
        )
        for found in estimates
    ]
    show_table(("captioner", "images/s", "time", "captions", "failures measured"), table)
    size = sum(found.bytes_per_row for found in estimates) * rows / 1e6
    total = sum(found.hours(rows) for found in estimates)
    say(f"in all: {_duration(total)} on a machine like this one, and at most {size:,.1f} MB of captions")
    if any(found.failures == found.pictures for found in estimates):
        say("warning: a captioner captioned none of the pictures; its figures say nothing")


def _duration(hours: float) -> str:
    """A time as people say it.

    >>> _duration(0.001), _duration(0.5), _duration(36.04)
    ('4 s', '30.0 min', '36.0 h')
    """
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.1f} min" if hours < 1 else f"{hours:,.1f} h"

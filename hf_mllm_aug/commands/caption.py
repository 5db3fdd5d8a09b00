"""``hf-mllm-aug caption``: SOURCE in, a staged data set out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hf_mllm_aug import schema
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import (
    BaseUrlOption,
    BatchSizeOption,
    CaptionRuleOption,
    CompileOption,
    DebugOption,
    EngineOption,
    ImageColumnOption,
    Images,
    MaxSamplesOption,
    OutOption,
    PresetOption,
    QuantizationOption,
    RunDirOption,
    ShardSizeOption,
    SplitOption,
    chosen_captioners,
    chosen_rule,
    run_folder,
)
from hf_mllm_aug.commands.outcomes import show_outcomes, show_resumption, show_speed, show_staged
from hf_mllm_aug.commands.terminal import count, say
from hf_mllm_aug.errors import OutputExistsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

    from hf_mllm_aug.long_runs import LongRun


def caption(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of pictures, a data set, a .json or .tsv list, tar or Parquet shards, a Hub id.",
        ),
    ],
    captioner: Annotated[
        list[str],
        typer.Option(
            "--captioner",
            metavar="NAME[=CHECKPOINT]",
            help="See `models`; CHECKPOINT is a folder or Hub id in place of its own. Repeat it for several captions.",
        ),
    ],
    out: OutOption,
    preset: PresetOption = "default",
    split: SplitOption = None,
    image_column: ImageColumnOption = None,
    max_samples: MaxSamplesOption = None,
    batch_size: BatchSizeOption = None,
    engine: EngineOption = "transformers",
    base_url: BaseUrlOption = None,
    quantization: QuantizationOption = None,
    compile: CompileOption = None,  # noqa: A002 (typer takes the name of the argument)
    images: Annotated[
        Images, typer.Option("--images", help="embed = the pictures travel in the config `all`; none = captions only.")
    ] = "none",
    picture_root: Annotated[
        list[Path] | None,
        typer.Option(
            "--picture-root",
            metavar="DIR",
            help="With --images embed: the pictures that SOURCE names may lie here too. May be given several times.",
        ),
    ] = None,
    keep_unsheared: Annotated[
        bool, typer.Option("--keep-unsheared", help="Keep what each captioner generated, in columns generated_*.")
    ] = False,
    rule: CaptionRuleOption = None,
    shard_size: ShardSizeOption = 1024,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="For job arrays: work every Nth shard from I on; stage nothing."),
    ] = None,
    run_dir: RunDirOption = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Try the pictures again that failed in finished shards.")
    ] = False,
    log_json: Annotated[
        Path | None, typer.Option("--log-json", metavar="FILE", help="Gets a line of JSON for each finished shard.")
    ] = None,
    executor: Annotated[
        Literal["local", "ray"], typer.Option("--executor", help="What runs the captioners: this process, or Ray.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option("--address", help="Of a Ray cluster, or auto. Without it, one is started on this machine."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Caption the pictures of SOURCE into a staged data set.

    The captions are sheared, and staged as a Hub data set of several configs with its card. A picture that cannot be
    captioned gets a null caption and a reason; no other row is affected. Finished shards are kept in the run folder:
    after an interruption the same command goes on, and several may work on one folder at a time.
    """
    from hf_mllm_aug import Shear, to_configs
    from hf_mllm_aug.configs import check_config_names, config_name
    from hf_mllm_aug.long_runs import LongRun
    from hf_mllm_aug.long_runs.long_run import parse_piece
    from hf_mllm_aug.sources import open_source

    # Whatever can be refused is refused before the work, so that no caption is lost to it.
    parse_piece(shard)
    folder = run_folder(out, run_dir)
    _check_output(out, folder)
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
        rows = open_source(source, split=split, image_column=image_column, max_samples=max_samples)
        if schema.KEY in rows.column_names:
            to_configs(rows.select_columns([schema.KEY]))
        run = LongRun(
            rows,
            captioners,
            folder,
            shear=shear,
            keep_unsheared=keep_unsheared,
            shard_size=shard_size,
            shard=shard,
            executor=executor,
            address=address,
            retry_errors=retry_errors,
        )
        check_config_names([config_name(member.label) for member in run.members])
        # Of several processes that `accelerate launch` starts, one speaks for all.
        first = os.environ.get("RANK", "0") == "0"
        if first:
            names = ", ".join(member.label for member in run.members)
            say(f"{count(len(rows), 'picture')} of {source}, captioned by {names}")
            show_resumption(run)
        summary = run.work(log_json=log_json, progress=first)
        if not first:
            return
        if shard is not None:
            show_speed(summary)
            _show_piece(run, shard)
            return
        rows = run.rows()
    show_outcomes(rows, run.members)
    show_speed(summary)
    with quiet.progress(wanted=False):
        _stage(rows, run, out, images, source, picture_root or [])


def _stage(
    rows: Dataset, run: LongRun, out: Path, images: Images, source: str, picture_roots: Sequence[str | Path]
) -> None:
    """Stage the captioned rows with their card, and say so."""
    from hf_mllm_aug import build_card, save_configs, to_configs
    from hf_mllm_aug.configs import split_name
    from hf_mllm_aug.dataset_job import this_command
    from hf_mllm_aug.loaders.recognise import is_hub_id
    from hf_mllm_aug.picture_files import root_of_source
    from hf_mllm_aug.staged import keep_record

    roots = [*([root] if (root := root_of_source(source)) else []), *picture_roots]
    augment = run.augment
    configs = to_configs(rows, captioners=list(run.members), images=images)
    card = build_card(
        configs,
        captioners=list(run.members),
        shear=augment.shear if augment is not None else None,
        source=source if is_hub_id(source) else None,
        command=this_command(),
        plan=run.job.plan.summary(),
        picture_root=roots,
    )
    if augment is not None:
        keep_record(card, augment.describe())
    save_configs(configs, out, card=card, split=split_name(rows.split), picture_root=roots)
    show_staged(out, {name: len(config) for name, config in configs.items()})


def _check_output(out: Path, folder: str) -> None:
    """Refuse an output folder that is taken, or a run folder within it.

    Raises:
        OutputExistsError: The output is there; says where the captions are, if there are any.
        UsageError: It cannot be made, or the run's folder is in it.
    """
    from hf_mllm_aug.staged import check_free

    place = folder.removeprefix("file://")
    local = None if "://" in place else Path(place).expanduser()
    if local is not None and local.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            f"--run-dir {folder} is in --out {out}, which is written at the end. Choose another --run-dir."
        )
    try:
        check_free(out)
    except OutputExistsError as error:
        if local is None or not local.is_dir():
            raise
        raise OutputExistsError(
            f"{error} The captions are safe in {folder}: to stage them under another name, add --run-dir {folder}"
        ) from error


def _show_piece(run: LongRun, shard: str) -> None:
    done, total = run.finished()
    say(f"--shard {shard} is done; {done:,} of {count(total or 0, 'shard')} are finished")
    say("next: the same command without --shard, which stages the data set when all are")

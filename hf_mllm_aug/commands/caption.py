"""``hf-mllm-aug caption``: SOURCE in, a staged data set out."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from hf_mllm_aug import schema
from hf_mllm_aug.captioners.presets import VariantName
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import (
    CaptionRuleOption,
    DebugOption,
    ImageColumnOption,
    Images,
    MaxSamplesOption,
    OutOption,
    SplitOption,
)
from hf_mllm_aug.commands.terminal import count, say
from hf_mllm_aug.errors import CaptionError
from hf_mllm_aug.loaders.picture_folder import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset

    from hf_mllm_aug import Captioner

_REASONS_SHOWN = 5


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
    preset: Annotated[
        VariantName,
        typer.Option("--preset", help="default, or paper: asked and cut as the paper's scripts did, by --rule seed."),
    ] = "default",
    split: SplitOption = None,
    image_column: ImageColumnOption = None,
    max_samples: MaxSamplesOption = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Pictures a model call; the captioner's own number if not given."),
    ] = None,
    images: Annotated[
        Images, typer.Option("--images", help="embed = the pictures travel in the config `all`; none = captions only.")
    ] = "none",
    keep_unsheared: Annotated[
        bool, typer.Option("--keep-unsheared", help="Keep what each captioner generated, in columns generated_*.")
    ] = False,
    rule: CaptionRuleOption = None,
    debug: DebugOption = False,
) -> None:
    """Caption the pictures of SOURCE into a staged data set.

    The captions are sheared, and staged as a Hub data set of several configs with its card. A picture that cannot be
    captioned gets a null caption and a reason; no other row is affected.
    """
    from hf_mllm_aug import Augment, Captioner, Shear, build_card, save_configs, to_configs
    from hf_mllm_aug.configs import check_config_names, config_name, split_name
    from hf_mllm_aug.sources import is_hub_id, open_source
    from hf_mllm_aug.staged import check_free, keep_record

    # Whatever can be refused is refused before the work, so that no caption is lost to it.
    check_free(out)
    captioners = [
        Captioner(name, checkpoint=checkpoint, preset=preset, batch_size=batch_size)
        for name, checkpoint in map(named, captioner)
    ]
    # The scripts' captions end at the first full stop; any other rule would cut them once more.
    shear = Shear(rule=rule or ("seed" if preset == "paper" else "sentence"))
    augment = Augment(captioners, shear=shear, keep_unsheared=keep_unsheared)
    check_config_names([config_name(member.label) for member in augment.members])
    with quiet.progress(wanted=False):
        rows = open_source(source, split=split, image_column=image_column, max_samples=max_samples)
        if schema.KEY in rows.column_names:
            to_configs(rows.select_columns([schema.KEY]))
    say(f"{count(len(rows), 'picture')} of {source}, captioned by {', '.join(member.label for member in captioners)}")

    start = time.perf_counter()
    with quiet.progress(wanted=True):
        rows = rows.map(
            augment,
            batched=True,
            batch_size=4 * max(member.micro_batch for member in augment.members),
            features=augment.features(rows.features),
            desc="captioning",
        )
    seconds = time.perf_counter() - start
    _show_outcomes(rows, augment.members)
    say(f"{len(rows) / seconds:,.1f} images/s in {seconds:,.1f} s, loading the models included")

    with quiet.progress(wanted=False):
        configs = to_configs(rows, captioners=list(augment.members), images=images)
        card = build_card(
            configs,
            captioners=list(augment.members),
            shear=augment.shear,
            source=source if is_hub_id(source) else None,
        )
        keep_record(card, augment.describe())
        save_configs(configs, out, card=card, split=split_name(rows.split))
    show_staged(out, {name: len(config) for name, config in configs.items()})


def named(text: str) -> tuple[str, str | None]:
    """A captioner's name and the checkpoint that stands behind ``=``; folders may have that sign in their names, too.

    >>> named("minigpt-4=my/folder"), named("qwen-vl"), named("runs/lr=1e-4")
    (('minigpt-4', 'my/folder'), ('qwen-vl', None), ('runs/lr=1e-4', None))
    """
    from hf_mllm_aug.captioners.presets import PRESETS

    name, _, checkpoint = text.partition("=")
    return (name, checkpoint or None) if name in PRESETS else (text, None)


def _show_outcomes(rows: Dataset, captioners: Sequence[Captioner]) -> None:
    """Say of each captioner how many captions there are, and why the others are missing.

    Raises:
        CaptionError: There is no caption at all, by any of them.
    """
    reasons = {
        captioner.label: Counter(_reason(text) for text in rows[captioner.error_column] if text is not None)
        for captioner in captioners
    }
    if len(rows) and all(found.total() == len(rows) for found in reasons.values()):
        label, found = next(iter(reasons.items()))
        reason, times = found.most_common(1)[0]
        others = f" (nor did {', '.join(list(reasons)[1:])})" if len(reasons) > 1 else ""
        raise CaptionError(
            f"{label} captioned none of {count(len(rows), 'picture')}{others}; {times:,} times: {reason}. "
            "Nothing was staged."
        )
    for captioner in captioners:
        found = reasons[captioner.label]
        say(f"{captioner.label}: {len(rows) - found.total():,} captioned, {found.total():,} failed")
        for reason, times in found.most_common(_REASONS_SHOWN):
            say(f"  {times:,} x {reason}")
        if len(found) > _REASONS_SHOWN:
            say(f"  and {len(found) - _REASONS_SHOWN:,} other reasons, in the column {captioner.error_column}")


def _reason(failure: str) -> str:
    """A failure's reason without the picture's name, so that equal reasons are counted together.

    >>> _reason("a.jpg: not a picture"), _reason("the model wrote nothing")
    ('not a picture', 'the model wrote nothing')
    """
    name, _, reason = failure.partition(": ")
    return reason if reason and PurePath(name).suffix.lower() in SUFFIXES else failure


def show_staged(folder: Path, sizes: Mapping[str, int]) -> None:
    """Say where a staged data set lies, what is in it, and how to publish it.

    Args:
        folder: The staged folder.
        sizes: Rows by config.
    """
    say(f"staged in {folder}: " + ", ".join(f"{name} ({count(size, 'row')})" for name, size in sizes.items()))
    say(f"card: {folder / 'README.md'}")
    say(f"next: hf-mllm-aug publish {folder} OWNER/NAME")

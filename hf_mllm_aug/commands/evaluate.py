"""``hf-mllm-aug evaluate``: Recall@K of caption columns, under an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hf_mllm_aug import schema
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import DebugOption, ImageColumnOption, MaxSamplesOption, SplitOption
from hf_mllm_aug.commands.terminal import count, say, show_table
from hf_mllm_aug.errors import ColumnError, UsageError

if TYPE_CHECKING:
    from datasets import Dataset

_IMAGE_TO_TEXT, _TEXT_TO_IMAGE = "text_retrieval_recall", "image_retrieval_recall"


def evaluate(
    model: Annotated[
        str,
        typer.Option("--model", help="The encoder: a Hub id or folder of a CLIP-like model, or tiny-clip (embedded)."),
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="SOURCE", help="What to score: a SOURCE, as of `caption`.")
    ],
    more_columns: Annotated[list[str] | None, typer.Argument(metavar="", hidden=True)] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="C ...", help="Columns of captions, one or several. All if not given."),
    ] = None,
    split: SplitOption = None,
    image_column: ImageColumnOption = None,
    max_samples: MaxSamplesOption = None,
    debug: DebugOption = False,
) -> None:
    """Score captions by Recall@K under a dual encoder."""
    from hf_mllm_aug.sources import open_source

    # An option of typer's takes one value; the further ones arrive as arguments.
    if more_columns and not columns:
        raise UsageError(f"unexpected argument {more_columns[0]!r}: name caption columns with --columns.")
    chosen = [*(columns or []), *(more_columns or [])]
    with quiet.progress(wanted=False):
        rows = open_source(dataset, split=split, image_column=image_column, max_samples=max_samples)
        show_recall(model, rows, chosen or [schema.CAPTION, *schema.caption_columns(rows.column_names)])


def show_recall(model: str, rows: Dataset, columns: Sequence[str]) -> None:
    """Score each of the columns, and show them as a table with one line a column.

    Raises:
        ColumnError: A column is missing.
    """
    from hf_mllm_aug.embedding import DualEncoder, evaluate_model

    for column in columns:
        if column not in rows.column_names:
            raise ColumnError(column, rows.column_names, "name caption columns with --columns")
    encoder = DualEncoder.load(model)
    results = [evaluate_model(encoder, rows, columns=[column]) for column in columns]
    recalls = [name for name in results[0] if name.startswith((_IMAGE_TO_TEXT, _TEXT_TO_IMAGE))]
    say(f"encoder: {model}; image to text (i2t) and text to image (t2i)")
    show_table(
        [
            "captions",
            "rows",
            *(name.replace(_IMAGE_TO_TEXT, "i2t R").replace(_TEXT_TO_IMAGE, "t2i R") for name in recalls),
        ],
        [
            [column, f"{found['n_images']:,}", *(f"{found[name]:.1%}" for name in recalls)]
            for column, found in zip(columns, results, strict=True)
        ],
    )
    if bad := max(found["n_bad_images"] for found in results):
        say(f"left out: {count(bad, 'row')} whose picture cannot be decoded")

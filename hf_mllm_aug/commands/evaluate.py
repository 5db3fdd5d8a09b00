"""``hf-mllm-aug evaluate``: Recall@K of caption columns, under an encoder."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_mllm_aug import schema
from hf_mllm_aug.commands import quiet
from hf_mllm_aug.commands.options import DebugOption, ImageColumnOption, MaxSamplesOption, SplitOption
from hf_mllm_aug.commands.terminal import count, say, show_table
from hf_mllm_aug.errors import ColumnError, OutputExistsError, UsageError

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_mllm_aug.dual_encoders import DualEncoder

_IMAGE_TO_TEXT, _TEXT_TO_IMAGE = "text_retrieval_recall", "image_retrieval_recall"
_LIBRARIES = ("hf-mllm-aug", "torch", "transformers", "datasets", "numpy", "pillow")


def evaluate(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="The encoder: a Hub id or folder of a CLIP, SigLIP, ALIGN, BLIP (retrieval) or other dual encoder; or "
            "tiny-clip (embedded).",
        ),
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="SOURCE", help="What to score: a SOURCE, as of `caption`.")
    ],
    more_columns: Annotated[list[str] | None, typer.Argument(metavar="C", hidden=True)] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            metavar="C ...",
            help="Columns of captions, each of strings or of lists of strings. All if not given.",
        ),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Score the columns as one: all of them are the captions of a picture.")
    ] = False,
    split: SplitOption = None,
    image_column: ImageColumnOption = None,
    max_samples: MaxSamplesOption = None,
    ks: Annotated[str, typer.Option("--ks", metavar="K,...", help="Cut-offs of Recall@K.")] = "1,5,10",
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="95% intervals by the bootstrap over pictures.")
    ] = True,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Commit, tag or branch of the encoder's Hub id.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Pictures, or captions, that are embedded at once.")
    ] = 64,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. [default: the GPU if there is one]")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the weights: float32, bfloat16 or float16.")] = "float32",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Gets everything: figures, intervals, counts, versions."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Score captions by Recall@K under a dual encoder, zero-shot.

    Image to text (i2t): the share of pictures with any of their captions among the K nearest ones. Text to image (t2i):
    the share of captions with their picture among the K nearest ones. Intervals say how far a figure would move with
    other pictures of the same kind; they hold the number of candidates fixed.
    """
    from hf_mllm_aug.dual_encoders import DualEncoder
    from hf_mllm_aug.embedding import evaluate_columns
    from hf_mllm_aug.sources import open_source

    # An option of typer's takes one value; the further ones arrive as arguments.
    if more_columns and not columns:
        raise UsageError(f"unexpected argument {more_columns[0]!r}: name caption columns with --columns.")
    cutoffs = _cutoffs(ks)
    if json_file is not None:
        _check_free(json_file)
    with quiet.progress(wanted=False):
        rows = open_source(dataset, split=split, image_column=image_column, max_samples=max_samples)
        chosen = list(dict.fromkeys([*(columns or []), *(more_columns or [])])) or _caption_columns(rows)
        _check(rows, chosen)
        encoder = DualEncoder.load(model, revision=revision, device=device, dtype=dtype)
        groups = {" + ".join(chosen): chosen} if together else {column: [column] for column in chosen}
        results = evaluate_columns(
            encoder, rows, groups, ks=cutoffs, batch_size=batch_size, intervals=intervals or json_file is not None
        )
    _show(encoder.name, results, intervals)
    if json_file is not None:
        facts = _facts(encoder, dtype, dataset, rows, split, max_samples, cutoffs)
        text = json.dumps({**facts, "captions": {name: _as_json(found, cutoffs) for name, found in results.items()}})
        json_file.write_text(text + "\n", encoding="utf-8")


def show_recall(model: str, rows: Dataset, columns: Sequence[str]) -> None:
    """Score each of the columns, and show them as a table with one line a column.

    Args:
        model: A Hub id, a folder or the name of an embedded encoder.
        rows: Rows of the schema.
        columns: Columns of captions.

    Raises:
        ColumnError: A column is missing.
    """
    from hf_mllm_aug.embedding import evaluate_columns

    _check(rows, columns)
    _show(model, evaluate_columns(model, rows, columns), intervals=False)


def _cutoffs(text: str) -> list[int]:
    """The values of ``--ks``.

    >>> _cutoffs("1,5, 10")
    [1, 5, 10]
    """
    from hf_mllm_aug.retrieval_inputs import cutoffs

    try:
        return cutoffs([int(part) for part in text.split(",")])
    except ValueError:  # UsageError is one
        raise UsageError(f"--ks is {text!r}: give cut-offs of at least 1, such as --ks 1,5,10.") from None


def _check_free(file: Path) -> None:
    """Make the folder of a file to be written, before the work that it is for."""
    if file.exists():
        raise OutputExistsError(f"{file} is there already: name another file with --json, or delete it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder of {file}: {error.strerror}. Name another --json.") from error
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {file}: its folder is not writable. Name another --json.")


def _caption_columns(rows: Dataset) -> list[str]:
    """All columns of captions: the raw ones, the new ones, and else lists of strings, as COCO's and Flickr30K's."""
    from datasets import List, Value

    raw = rows.data.column(schema.CAPTION)
    names = [schema.CAPTION] if raw.null_count < len(raw) else []
    names += schema.caption_columns(rows.column_names)
    if names:
        return names
    lists = [name for name, feature in rows.features.items() if feature == List(Value("string"))]
    if not lists:
        raise ColumnError(schema.CAPTION, rows.column_names, "name the columns of captions with --columns")
    return lists


def _check(rows: Dataset, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in rows.column_names:
            raise ColumnError(column, rows.column_names, "name caption columns with --columns")


def _show(model: str, results: Mapping[str, Mapping[str, Any]], intervals: bool) -> None:
    """One line a column of captions, and below it one of intervals."""
    recalls = [name for name in next(iter(results.values())) if name.startswith((_IMAGE_TO_TEXT, _TEXT_TO_IMAGE))]
    say(f"encoder: {model}; image to text (i2t) and text to image (t2i)")
    heads = [name.replace(_IMAGE_TO_TEXT, "i2t R").replace(_TEXT_TO_IMAGE, "t2i R") for name in recalls]
    lines = []
    for column, found in results.items():
        n_texts = "" if found["n_texts"] == found["n_images"] else f" / {found['n_texts']:,}"
        lines.append([column, f"{found['n_images']:,}{n_texts}", *(f"{found[name]:.1%}" for name in recalls)])
        if intervals:
            bounds = [found["intervals"][name] for name in recalls]
            lines.append(["", "95%:", *(f"{100 * low:.1f}-{100 * high:.1f}" for low, high in bounds)])
    several = any(found["n_texts"] != found["n_images"] for found in results.values())
    show_table(["captions", "rows / texts" if several else "rows", *heads], lines)
    if bad := max(found["n_bad_images"] for found in results.values()):
        say(f"left out: {count(bad, 'row')} whose picture cannot be decoded")
    if bare := max(found["n_without_caption"] for found in results.values()):
        unequal = len({found["n_images"] for found in results.values()}) > 1
        caution = " in one of the columns; recall is higher among fewer candidates" if unequal else ""
        say(f"left out: {count(bare, 'row')} without a caption{caution}")


def _as_json(found: Mapping[str, Any], ks: Sequence[int]) -> dict[str, Any]:
    """The figures of a column, with the mean of both directions at each K."""
    means = {f"mean_recall@{k}": (found[f"{_IMAGE_TO_TEXT}@{k}"] + found[f"{_TEXT_TO_IMAGE}@{k}"]) / 2 for k in ks}
    return {**{name: value for name, value in found.items() if name != "model"}, **means}


def _facts(
    encoder: DualEncoder,
    dtype: str,
    dataset: str,
    rows: Dataset,
    split: str | None,
    max_samples: int | None,
    ks: Sequence[int],
) -> dict[str, Any]:
    """What was scored by what."""
    from hf_mllm_aug.checkpoints import label

    return {
        "model": encoder.name,
        "revision": encoder.revision,
        "architecture": type(getattr(encoder.model, "network", encoder.model)).__name__,
        "dtype": dtype,
        "device": str(encoder.model.device),
        "dataset": label(dataset),
        "split": split or (str(rows.split) if rows.split is not None else None),
        "max_samples": max_samples,
        "n_rows": len(rows),
        "ks": list(ks),
        "intervals": {"level": 0.95, "samples": 2000, "seed": 0, "method": "percentile bootstrap over pictures"},
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }

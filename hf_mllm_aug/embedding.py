"""A dual encoder and a data set -> embeddings -> Recall@K.

Scores are cosines, as CLIP-like models were trained. Pictures that cannot be decoded are left out and counted, so that
one bad file neither ends an evaluation nor passes unseen. Pictures are read and embedded in batches, each once however
many columns of captions are scored; of a data set no more than embeddings and captions stays in memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hf_mllm_aug import schema
from hf_mllm_aug.dual_encoders import DualEncoder as DualEncoder
from hf_mllm_aug.errors import ColumnError, EmbeddingError, FormatError, ImageError, UsageError
from hf_mllm_aug.images import to_rgb
from hf_mllm_aug.intervals import bootstrap_recall
from hf_mllm_aug.retrieval import retrieval_hits

if TYPE_CHECKING:
    from PIL import Image as PilImage

logger = logging.getLogger(__name__)

_NO_NAME = ""


def evaluate_model(
    model: str | os.PathLike[str] | DualEncoder,
    dataset: Any,
    *,
    image_column: str = schema.IMAGE,
    columns: Sequence[str] | None = None,
    ks: Iterable[int] | int = (1, 5, 10),
    batch_size: int = 64,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    intervals: bool = False,
) -> dict[str, Any]:
    """Score a CLIP-like model on a data set by zero-shot retrieval: cosines, Recall@K both ways.

    Args:
        model: A Hub id, a local folder, the name of an embedded model, or a loaded `DualEncoder`.
        dataset: A `Dataset`, an `IterableDataset` or any iterable of rows (mappings).
        image_column: The column of pictures, in any form that `hf_mllm_aug.images.to_rgb` takes.
        columns: The caption columns; each holds a string or a list of strings a row, and all of them together are the
            picture's captions. None takes the raw captions, ``caption``.
        ks: Cut-offs.
        batch_size: Pictures, or captions, embedded at once.
        device: None takes the GPU if there is one. It has no effect on a loaded encoder.
        dtype: Of the model's weights. It has no effect on a loaded encoder.
        revision: Commit, tag or branch of a Hub id.
        intervals: Whether to add 95% intervals over the pictures, by `bootstrap_recall`.

    Returns:
        The keys of `retrieval_recall`, then ``n_images`` and ``n_texts`` that were scored, ``n_bad_images`` (rows
        left out, for their picture cannot be decoded), ``n_without_caption`` (rows left out, for they have no
        caption), ``model``, its name: of a folder the base name, and with ``intervals`` also ``intervals``, the
        dictionary of `bootstrap_recall`.

    Raises:
        CheckpointError: The model cannot be loaded or is no dual encoder.
        ColumnError: A column is missing.
        EmbeddingError: No row can be scored, or an embedding is NaN.
        UsageError: A split has to be chosen first, or an argument cannot work.
    """
    if isinstance(columns, str):
        columns = [columns]
    found = evaluate_columns(
        model,
        dataset,
        {_NO_NAME: tuple(columns or (schema.CAPTION,))},
        image_column=image_column,
        ks=ks,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        revision=revision,
        intervals=intervals,
    )
    return found[_NO_NAME]


def evaluate_columns(
    model: str | os.PathLike[str] | DualEncoder,
    dataset: Any,
    columns: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    image_column: str = schema.IMAGE,
    ks: Iterable[int] | int = (1, 5, 10),
    batch_size: int = 64,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    intervals: bool = False,
) -> dict[str, dict[str, Any]]:
    """Score several columns of captions, each on its own, with every picture embedded once.

    Args:
        model: As in `evaluate_model`.
        dataset: The same.
        columns: Names of columns; or a dictionary of a name and the columns that are together, under that name, the
            captions of a picture.
        image_column: As in `evaluate_model`.
        ks: The same.
        batch_size: The same.
        device: The same.
        dtype: The same.
        revision: The same.
        intervals: The same.

    Returns:
        What `evaluate_model` returns, for each column or name. Rows without a caption in one column are left out of
        that one only.

    Raises:
        EmbeddingError: No row can be scored, in at least one column.
        AugError: As `evaluate_model`.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}: it must be at least 1")
    groups = {
        name: tuple(own)
        for name, own in (columns if isinstance(columns, Mapping) else {name: [name] for name in columns}).items()
    }
    rows = _Rows(dataset, image_column, groups)
    encoder = model if isinstance(model, DualEncoder) else None
    image_parts: list[torch.Tensor] = []
    captions: dict[str, list[list[str]]] = {name: [] for name in groups}
    for pictures, batch in rows.batches(batch_size):
        if encoder is None:  # a missing column has shown by now, before minutes of loading
            encoder = DualEncoder.load(model, revision=revision, device=device, dtype=dtype)  # type: ignore[arg-type]
        image_parts.append(encoder.images(pictures))
        for own in batch:
            for name, texts in own.items():
                captions[name].append(texts)
    results = {}
    for name, own_columns in groups.items():
        counts = {"n_bad_images": rows.n_bad_images[name], "n_without_caption": rows.n_without_caption[name]}
        if encoder is None or not any(captions[name]):
            raise EmbeddingError(
                f"nothing to score: of {rows.n_rows} rows, {counts['n_bad_images']} have a picture that cannot be "
                f"decoded and {counts['n_without_caption']} no caption in {', '.join(own_columns)}"
            )
        scores = _score(encoder, torch.cat(image_parts), captions[name], ks, batch_size, intervals)
        results[name] = {**scores, **counts, "model": encoder.name}
    return results


def _score(
    encoder: DualEncoder,
    images: torch.Tensor,
    captions: Sequence[Sequence[str]],
    ks: Iterable[int] | int,
    batch_size: int,
    intervals: bool,
) -> dict[str, Any]:
    """The recalls of the pictures that have captions, and how many there are."""
    with_caption = [row for row, own in enumerate(captions) if own]
    owner = [number for number, row in enumerate(with_caption) for _ in captions[row]]
    texts = [text for own in captions for text in own]
    parts = [encoder.texts(texts[at : at + batch_size]) for at in range(0, len(texts), batch_size)]
    if len(with_caption) < len(images):
        images = images[with_caption]
    hits = retrieval_hits(images, torch.cat(parts), owner, ks=ks, normalize=True, device=encoder.model.device)
    found: dict[str, Any] = {**hits.recall(), "n_images": len(with_caption), "n_texts": len(texts)}
    return {**found, "intervals": bootstrap_recall(hits)} if intervals else found


class _Rows:
    """The rows that can be scored, in batches; the others are counted."""

    def __init__(self, dataset: Any, image_column: str, groups: Mapping[str, tuple[str, ...]]) -> None:
        self.n_rows = 0
        self.n_bad_images, self.n_without_caption = dict.fromkeys(groups, 0), dict.fromkeys(groups, 0)
        self._groups = groups
        self._image_column = image_column
        if isinstance(dataset, Mapping):  # a DatasetDict is a dict of data sets
            raise UsageError(f"choose a split first: the data set has {', '.join(map(str, dataset))}")
        features = getattr(dataset, "features", None)
        if features is not None:
            self._check_columns(features)
            from datasets import Image

            if isinstance(features[image_column], Image):
                # Decoded by `datasets`, one corrupt picture would end the loop.
                dataset = dataset.cast_column(image_column, Image(decode=False))
        self._rows = dataset

    def _check_columns(self, present: Iterable[str]) -> None:
        names = list(present)
        if self._image_column not in names:
            raise ColumnError(self._image_column, names, "name the column of pictures with image_column=")
        for column in (name for group in self._groups.values() for name in group):
            if column not in names:
                raise ColumnError(column, names, "name the caption columns with columns=")

    def batches(self, size: int) -> Iterator[tuple[list[PilImage.Image], list[dict[str, list[str]]]]]:
        pictures: list[PilImage.Image] = []
        captions: list[dict[str, list[str]]] = []
        for number, row in enumerate(self._rows):
            self._check_columns(row)
            self.n_rows += 1
            own = {
                name: [text for column in group for text in _captions(row[column], column, number)]
                for name, group in self._groups.items()
            }
            for name in (name for name, texts in own.items() if not texts):
                self.n_without_caption[name] += 1
            if not any(own.values()):
                continue
            try:
                pictures.append(to_rgb(row[self._image_column]))
            except ImageError as error:
                for name in (name for name, texts in own.items() if texts):
                    self.n_bad_images[name] += 1
                logger.info("row %d is left out: %s", number, error)
                continue
            captions.append(own)
            if len(pictures) == size:
                yield pictures, captions
                pictures, captions = [], []
        if pictures:
            yield pictures, captions


def _captions(value: Any, column: str, row: int) -> list[str]:
    """The captions in a cell: a string, a list of them, or null; blank ones are none."""
    values = [value] if value is None or isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or any(text is not None and not isinstance(text, str) for text in values):
        raise FormatError(
            f"column {column!r}, row {row}: captions are a string or a list of strings, not {value!r:.80}"
        )
    return [text for text in values if text and text.strip()]

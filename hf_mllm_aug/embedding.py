"""A dual encoder and a data set -> embeddings -> Recall@K.

Any model of transformers with `get_image_features` and `get_text_features` will do: CLIP, SigLIP, ALIGN, Chinese-CLIP,
vision-text dual encoders. Scores are cosines, as these models were trained. Pictures that cannot be decoded are left
out and counted, so that one bad file neither ends an evaluation nor passes unseen.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_mllm_aug import schema
from hf_mllm_aug.checkpoints import label, reason, refuse_foreign_code, refuse_missing_weights
from hf_mllm_aug.errors import (
    AugError,
    CheckpointError,
    ColumnError,
    EmbeddingError,
    FormatError,
    ImageError,
    UsageError,
)
from hf_mllm_aug.images import to_rgb
from hf_mllm_aug.retrieval import retrieval_recall

if TYPE_CHECKING:
    from PIL import Image as PilImage

logger = logging.getLogger(__name__)

# Models trained on captions padded to one length see another distribution when these are padded less.
_FIXED_LENGTH = {"align": 64, "siglip": 64, "siglip2": 64}
_EMBEDDED = Path(__file__).parent / "captioners" / "tiny"


@dataclass(frozen=True)
class DualEncoder:
    """A loaded model with its image processor and tokenizer.

    Args:
        model: A model of transformers with `get_image_features` and `get_text_features`, on its device.
        image_processor: Takes RGB pictures, gives ``pixel_values``.
        tokenizer: The text side's.
        name: What to call it in results.
    """

    model: Any
    image_processor: Any
    tokenizer: Any
    name: str

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
    ) -> DualEncoder:
        """Load a checkpoint.

        Args:
            model: A Hub id, a local folder, or the name of an embedded model.
            revision: Commit, tag or branch of a Hub id.
            device: None takes the GPU if there is one.
            dtype: Of weights and activations, a name or a type of torch. Embeddings are float32 in any case.

        Raises:
            CheckpointError: There is no such checkpoint, it is damaged or incomplete, it is no dual encoder, or it
                would need code from its repository.
        """
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        given = os.fspath(model)
        embedded = _EMBEDDED / given.removeprefix("tiny-")
        is_embedded = given.startswith("tiny-") and embedded.is_dir()
        source, name = (str(embedded), given) if is_embedded else (given, label(given))
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        precision = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not isinstance(precision, torch.dtype):
            raise UsageError(
                f"dtype is {dtype!r}: give the name of a float type of torch, such as 'float32' or 'bfloat16'"
            )
        try:
            refuse_foreign_code(source, name, revision)
            auto_model: Any = AutoModel
            auto_processor: Any = AutoImageProcessor
            where: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
            network, info = auto_model.from_pretrained(source, dtype=precision, output_loading_info=True, **where)
            network = network.eval().to(place)
            processor = auto_processor.from_pretrained(source, backend="pil", **where)
            tokenizer = AutoTokenizer.from_pretrained(source, **where)
        except AugError:
            raise
        except Exception as error:  # safetensors, pickle and torch have errors of their own
            raise CheckpointError(f"cannot load {name}: {reason(error, source, name)}") from error
        if not (hasattr(network, "get_image_features") and hasattr(network, "get_text_features")):
            raise CheckpointError(
                f"{name} is a {type(network).__name__}, which embeds no image-text pairs: "
                "give a dual encoder such as CLIP or SigLIP"
            )
        refuse_missing_weights(info, name)
        return cls(network, processor, tokenizer, name)

    def images(self, pictures: Sequence[PilImage.Image]) -> torch.Tensor:
        """Embed pictures.

        Args:
            pictures: RGB pictures of any sizes; one batch.

        Returns:
            (n, dim) float32 on the CPU, not normalized.
        """
        inputs = self.image_processor(images=list(pictures), return_tensors="pt")
        inputs = {name: self._placed(values) for name, values in inputs.items()}
        with torch.inference_mode():
            return _pooled(self.model.get_image_features(**inputs))

    def texts(self, captions: Sequence[str]) -> torch.Tensor:
        """Embed captions; longer ones than the model's context are cut.

        Args:
            captions: One batch.

        Returns:
            (n, dim) float32 on the CPU, not normalized.
        """
        config = self.model.config
        fixed = _FIXED_LENGTH.get(config.model_type)
        text_config = getattr(config, "text_config", config)
        context = getattr(text_config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        limit = min(fixed or context, context, self.tokenizer.model_max_length)
        inputs = self.tokenizer(
            list(captions),
            padding="max_length" if fixed else True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
        )
        inputs = {name: self._placed(values) for name, values in inputs.items()}
        with torch.inference_mode():
            return _pooled(self.model.get_text_features(**inputs))

    def _placed(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.model.device, self.model.dtype if values.is_floating_point() else None)


def _pooled(features: Any) -> torch.Tensor:
    """The (n, dim) tensor in what get_*_features returned: transformers 5 gives an output object, 4 gave the tensor."""
    if isinstance(features, tuple):
        features = features[1]
    elif not isinstance(features, torch.Tensor):
        features = features.pooler_output
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise CheckpointError("the model gives no single vector per picture and caption: it is no dual encoder")
    return features.float().cpu()


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

    Returns:
        The keys of `retrieval_recall`, then ``n_images`` and ``n_texts`` that were scored, ``n_bad_images`` (rows
        left out, for their picture cannot be decoded), ``n_without_caption`` (rows left out, for they have no
        caption) and ``model``, its name: of a folder the base name.

    Raises:
        CheckpointError: The model cannot be loaded or is no dual encoder.
        ColumnError: A column is missing.
        EmbeddingError: No row can be scored, or an embedding is NaN.
        UsageError: A split has to be chosen first, or an argument cannot work.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}: it must be at least 1")
    if isinstance(columns, str):
        columns = [columns]
    rows = _Rows(dataset, image_column, tuple(columns or (schema.CAPTION,)))
    encoder = model if isinstance(model, DualEncoder) else None
    image_parts: list[torch.Tensor] = []
    texts: list[str] = []
    owner: list[int] = []
    n_images = 0
    for pictures, captions in rows.batches(batch_size):
        if encoder is None:  # a missing column has shown by now, before minutes of loading
            encoder = DualEncoder.load(model, revision=revision, device=device, dtype=dtype)  # type: ignore[arg-type]
        image_parts.append(encoder.images(pictures))
        owner += [n_images + row for row, own in enumerate(captions) for _ in own]
        n_images += len(pictures)
        texts += [text for own in captions for text in own]
    if encoder is None:
        raise EmbeddingError(
            f"nothing to score: of {rows.n_rows} rows, {rows.n_bad_images} have a picture that cannot be decoded and "
            f"{rows.n_without_caption} no caption in {', '.join(rows.columns)}"
        )
    text_parts = [encoder.texts(texts[at : at + batch_size]) for at in range(0, len(texts), batch_size)]
    recall = retrieval_recall(
        torch.cat(image_parts), torch.cat(text_parts), owner, ks=ks, normalize=True, device=encoder.model.device
    )
    return {
        **recall,
        "n_images": n_images,
        "n_texts": len(texts),
        "n_bad_images": rows.n_bad_images,
        "n_without_caption": rows.n_without_caption,
        "model": encoder.name,
    }


class _Rows:
    """The rows that can be scored, in batches; the others are counted."""

    def __init__(self, dataset: Any, image_column: str, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.n_rows = self.n_bad_images = self.n_without_caption = 0
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
        for column in self.columns:
            if column not in names:
                raise ColumnError(column, names, "name the caption columns with columns=")

    def batches(self, size: int) -> Iterator[tuple[list[PilImage.Image], list[list[str]]]]:
        pictures: list[PilImage.Image] = []
        captions: list[list[str]] = []
        for number, row in enumerate(self._rows):
            self._check_columns(row)
            self.n_rows += 1
            own = [text for column in self.columns for text in _captions(row[column], column, number)]
            if not own:
                self.n_without_caption += 1
                continue
            try:
                pictures.append(to_rgb(row[self._image_column]))
            except ImageError as error:
                self.n_bad_images += 1
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

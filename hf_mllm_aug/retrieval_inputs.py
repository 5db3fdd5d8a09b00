"""What is given to `retrieval_hits`, checked and brought into one form; every message names the row at fault."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from hf_mllm_aug.errors import EmbeddingError, UsageError


def cutoffs(ks: Iterable[int] | int) -> list[int]:
    """The values of K, checked, in the given order."""
    try:
        numbers = [operator.index(k) for k in (ks if isinstance(ks, Iterable) else (ks,))]
    except TypeError:
        raise UsageError(f"ks is {ks!r:.80}: give integers, such as (1, 5, 10)") from None
    if not numbers or min(numbers) < 1:
        raise UsageError(f"ks is {numbers}: give one or more cut-offs of at least 1, such as (1, 5, 10)")
    return numbers


def matrix(values: Any, name: str) -> torch.Tensor:
    """Embeddings as a (n, dim) tensor of a float type, without a copy where possible."""
    if isinstance(values, (list, tuple)) and values and all(isinstance(row, torch.Tensor) for row in values):
        widths = {tuple(row.shape) for row in values}
        if len(widths) > 1:
            raise EmbeddingError(f"{name}: rows of different shapes: {sorted(widths)}")
        values = torch.stack(list(values))
    if not isinstance(values, torch.Tensor):
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise EmbeddingError(f"{name}: rows of different lengths; every embedding must have the same") from error
        if array.dtype.kind in "iu" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
            array = array.astype(np.float64)
        if array.dtype.kind != "f":
            raise EmbeddingError(f"{name}: values of type {array.dtype}; embeddings are real numbers")
        # torch shares memory only with arrays that are in the machine's byte order, writable and of positive stride.
        values = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    if values.ndim != 2 or 0 in values.shape:
        raise EmbeddingError(f"{name}: shape {tuple(values.shape)}; it must be (rows, dimensions), neither of them 0")
    if values.is_complex() or values.dtype == torch.bool:
        raise EmbeddingError(f"{name}: values of type {values.dtype}; embeddings are real numbers")
    tensor: torch.Tensor = values.detach()
    return tensor if tensor.is_floating_point() else tensor.double()


def owner(text_image_index: Any, n_images: int, n_texts: int) -> torch.Tensor:
    """The picture of each caption, checked: (n_texts,) int64."""
    if text_image_index is None:
        if n_images != n_texts:
            raise EmbeddingError(
                f"{n_images} images and {n_texts} texts cannot be paired row by row: "
                "pass text_image_index, the row of the image that each text belongs to"
            )
        return torch.arange(n_images)
    index = torch.as_tensor(np.asarray(text_image_index) if not torch.is_tensor(text_image_index) else text_image_index)
    if index.shape != (n_texts,):
        raise EmbeddingError(
            f"text_image_index has shape {tuple(index.shape)}; with {n_texts} texts it must be ({n_texts},)"
        )
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise EmbeddingError(f"text_image_index has values of type {index.dtype}; row numbers are integers")
    index = index.long()
    wrong = torch.nonzero((index < 0) | (index >= n_images)).flatten().tolist()
    if wrong:
        raise EmbeddingError(
            f"text_image_index: text {wrong[0]} points to image {int(index[wrong[0]])}, "
            f"but images are 0 to {n_images - 1}"
        )
    counts = torch.bincount(index.cpu(), minlength=n_images)
    lonely = torch.nonzero(counts == 0).flatten().tolist()
    if lonely:
        more = f" (nor have {len(lonely) - 1} others)" if len(lonely) > 1 else ""
        raise EmbeddingError(
            f"image {lonely[0]} has no text{more}: drop such rows from image_embeddings and renumber text_image_index, "
            "for a picture without a caption can neither be hit nor missed"
        )
    return index

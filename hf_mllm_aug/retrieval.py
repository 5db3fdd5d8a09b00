"""Embeddings -> hits and Recall@K, image to text and text to image, in one pass over blocks of the score matrix.

The rank of the right item is the number of wrong items that score at least as much, so nothing is ever sorted: a
block of scores is compared with one threshold a row and one a column, and the comparisons are summed.

Scores come from a float32 matrix product, whose rounding depends on the shape of the block, the threads and the device.
Ties would then be broken by chance. So every comparison is made twice, against the threshold less and plus a bound on
that rounding: where both say the same about every K, the query is settled. The few others (all of them, for a
collapsed encoder) are scored again in float64. Results equal those of a float64 score matrix, for any block size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hf_mllm_aug import retrieval_inputs
from hf_mllm_aug.errors import EmbeddingError, UsageError

logger = logging.getLogger(__name__)

# Edges of a block: on a CPU the scores and the comparisons of a block stay in its cache; a GPU wants large launches.
_CPU_BLOCK = 1024
_GPU_BLOCK = 8192
_EXACT_ELEMENTS = 2**22  # float64 scores held at once, 32 MiB
# float64 copies are made of so many values at a time: larger ones cost a CPU ten times the arithmetic in fresh pages.
_CPU_CHUNK = 2**16
_GPU_CHUNK = 2**24
_SAFE_NORM = 2.0**40  # beyond it, or below its inverse, float32 products come near overflow or underflow


def retrieval_recall(
    image_embeddings: Any,
    text_embeddings: Any,
    text_image_index: Any = None,
    *,
    ks: Iterable[int] | int = (1, 5, 10),
    normalize: bool | None = None,
    block_size: int | None = None,
    device: str | torch.device | None = None,
) -> dict[str, float]:
    """Score a dual encoder on image-text retrieval, both ways.

    ``text_retrieval_recall@K`` is the share of pictures with any of their captions among the K best-scored captions
    (image to text); ``image_retrieval_recall@K`` the share of captions with their picture among the K best-scored
    pictures (text to image), as in CLIP's zero-shot retrieval tables (Radford et al. 2021) and CLIP_benchmark. A
    wrong item whose score equals the right one's counts as ranked before it: an encoder that maps everything to one
    point scores 0, not 1.

    Args:
        image_embeddings: (n_images, dim): a tensor, an array or a list of rows, of any float type.
        text_embeddings: (n_texts, dim), the same.
        text_image_index: (n_texts,) integers: the row of ``image_embeddings`` that each caption belongs to; a picture
            may have any number of captions but none. None pairs row with row, and needs n_images == n_texts.
        ks: Cut-offs, or a single one. A K beyond the number of candidates is fine; every query is a hit then.
        normalize: True scores by cosine, the field's measure; False by the dot product of what is given. None does as
            False, and logs a warning where lengths differ by more than 1%, for then the two measures differ. A row of
            zeros has cosine 0 with everything.
        block_size: Edge of a block of the score matrix, in rows; None takes 1,024 on a CPU, 8,192 elsewhere. It
            bounds the memory, about 8 * block_size**2 bytes, and changes no result.
        device: Where to compute. None takes the device of ``image_embeddings`` if that is a tensor, else the CPU.

    Returns:
        ``{"text_retrieval_recall@K": fraction, ..., "image_retrieval_recall@K": fraction, ...}``, K in the given order.

    Raises:
        EmbeddingError: Shapes that do not fit, NaN or infinite values, an index out of range, a picture without a
            caption; the message names the row.
        UsageError: ``ks`` are no positive integers, or ``block_size`` is not positive.

    >>> images = [[1.0, 0.0], [0.0, 1.0]]
    >>> texts = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]  # the third belongs to picture 1, and is nearer to picture 0
    >>> retrieval_recall(images, texts, [0, 0, 1], ks=(1, 2), normalize=True) == {
    ...     "text_retrieval_recall@1": 1.0, "text_retrieval_recall@2": 1.0,
    ...     "image_retrieval_recall@1": 2 / 3, "image_retrieval_recall@2": 1.0}
    True
    """
    return retrieval_hits(
        image_embeddings,
        text_embeddings,
        text_image_index,
        ks=ks,
        normalize=normalize,
        block_size=block_size,
        device=device,
    ).recall()


@dataclass(frozen=True)
class Hits:
    """Which queries find a right item among the first K: Recall@K before the mean.

    Args:
        image_to_text: (n_images, len(ks)) bool: any of the picture's captions is among the K best-scored captions.
        text_to_image: (n_texts, len(ks)) bool: the caption's picture is among the K best-scored pictures.
        text_image_index: (n_texts,) int64: the picture of each caption.
        ks: The values of K, one a column.
    """

    image_to_text: npt.NDArray[np.bool_]
    text_to_image: npt.NDArray[np.bool_]
    text_image_index: npt.NDArray[np.int64]
    ks: tuple[int, ...]

    def recall(self) -> dict[str, float]:
        """The shares of hits, under the keys of `retrieval_recall`.

        >>> retrieval_hits([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.1], [1.0, 0.2]], ks=1).recall()
        {'text_retrieval_recall@1': 0.5, 'image_retrieval_recall@1': 0.5}
        """
        sides = {"text_retrieval_recall": self.image_to_text, "image_retrieval_recall": self.text_to_image}
        return {
            f"{name}@{k}": int(hits[:, column].sum()) / len(hits)
            for name, hits in sides.items()
            for column, k in enumerate(self.ks)
        }


def retrieval_hits(
    image_embeddings: Any,
    text_embeddings: Any,
    text_image_index: Any = None,
    *,
    ks: Iterable[int] | int = (1, 5, 10),
    normalize: bool | None = None,
    block_size: int | None = None,
    device: str | torch.device | None = None,
) -> Hits:
    """Find out which pictures and which captions are hits; their shares are `retrieval_recall`.

    Single hits are what intervals and paired comparisons are made of (`hf_mllm_aug.intervals`).

    Args:
        image_embeddings: (n_images, dim), as in `retrieval_recall`.
        text_embeddings: (n_texts, dim), the same.
        text_image_index: (n_texts,), the same.
        ks: Cut-offs, or a single one.
        normalize: Cosines or dot products, the same.
        block_size: Rows, the same.
        device: Where to compute, the same.

    Returns:
        The hits, as arrays in the order of the rows given.

    Raises:
        EmbeddingError: As `retrieval_recall`.
        UsageError: As `retrieval_recall`.

    >>> texts = [[1.0, 0.1], [0.9, 0.3], [0.95, 0.2]]
    >>> hits = retrieval_hits([[1.0, 0.0], [0.0, 1.0]], texts, [0, 0, 1], ks=(1, 2), normalize=False)
    >>> hits.image_to_text.tolist(), hits.text_to_image.tolist()
    ([[True, True], [False, True]], [[True, True], [True, True], [False, True]])
    """
    cutoffs = retrieval_inputs.cutoffs(ks)
    if block_size is not None and block_size < 1:
        raise UsageError(f"block_size is {block_size}: it must be at least 1")
    images = retrieval_inputs.matrix(image_embeddings, "image_embeddings")
    texts = retrieval_inputs.matrix(text_embeddings, "text_embeddings")
    if images.shape[1] != texts.shape[1]:
        raise EmbeddingError(
            f"image_embeddings have {images.shape[1]} dimensions and text_embeddings {texts.shape[1]}: "
            "both must come from the same dual encoder, after its projections"
        )
    owner = retrieval_inputs.owner(text_image_index, len(images), len(texts))
    place = torch.device(device) if device is not None else images.device
    if place.type == "mps":  # it has no float64
        place = torch.device("cpu")
    block = block_size or (_CPU_BLOCK if place.type == "cpu" else _GPU_BLOCK)
    with torch.no_grad(), torch.autocast(place.type, enabled=False):
        image_side = _Side.of(images.to(place), "image_embeddings", normalize)
        text_side = _Side.of(texts.to(place), "text_embeddings", normalize)
        image_hits, text_hits = _hits(image_side, text_side, owner.to(place), cutoffs, block)
    return Hits(image_hits.cpu().numpy(), text_hits.cpu().numpy(), owner.cpu().numpy(), tuple(cutoffs))


@dataclass(frozen=True)
class _Side:
    """The embeddings of one modality, ready for both precisions."""

    given: torch.Tensor  # (n, dim), as passed
    scale: torch.Tensor | None  # (n, 1) float64: what a row is multiplied by, if anything
    norms: torch.Tensor  # (n,) float64: lengths after scaling
    fast: torch.Tensor  # (n, dim) float32, scaled; `given` itself where nothing is to be done

    @classmethod
    def of(cls, given: torch.Tensor, name: str, normalize: bool | None) -> _Side:
        norms = torch.cat(
            [torch.linalg.vector_norm(given[rows], dim=1, dtype=torch.float64) for rows in _chunks(given)]
        )
        bad = torch.nonzero(~torch.isfinite(norms)).flatten().tolist()
        if bad:
            more = f" (and {len(bad) - 1} more rows)" if len(bad) > 1 else ""
            raise EmbeddingError(f"{name}: row {bad[0]}{more} has NaN, infinite or overflowing values")
        longest = float(norms.max())
        if normalize:
            scale = torch.where(norms > 1e-300, 1 / norms, 0.0)[:, None]  # shorter than that is zero
            return cls(given, scale, (scale[:, 0] > 0).double(), _scaled(given, scale))
        if normalize is None and float(norms.min()) < 0.99 * longest:
            logger.warning(
                "%s: rows have lengths from %.3g to %.3g, and dot products are not cosines; pass normalize=True for "
                "cosines, the field's measure, or normalize=False to keep dot products without this line",
                name,
                float(norms.min()),
                longest,
            )
        if longest == 0 or 1 / _SAFE_NORM < longest < _SAFE_NORM:
            fast = given if given.dtype == torch.float32 else given.float()
            return cls(given, None, norms, fast)
        # A power of two for all rows changes no comparison.
        factor = 2.0 ** -round(float(np.log2(longest)))
        scale = torch.full_like(norms, factor)[:, None]
        return cls(given, scale, norms * factor, _scaled(given, scale))

    def __len__(self) -> int:
        return len(self.given)

    def exact(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """The scaled rows in float64."""
        values = self.given[rows].double()
        return values if self.scale is None else values * self.scale[rows]


def _scaled(given: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    fast = torch.empty(given.shape, dtype=torch.float32, device=given.device)
    for rows in _chunks(given):
        fast[rows] = given[rows].double() * scale[rows]
    return fast


def _chunks(matrix: torch.Tensor) -> Iterator[slice]:
    values = _CPU_CHUNK if matrix.device.type == "cpu" else _GPU_CHUNK
    step = max(1, values // matrix.shape[1])
    return (slice(at, at + step) for at in range(0, len(matrix), step))


def _hits(
    images: _Side, texts: _Side, owner: torch.Tensor, cutoffs: Sequence[int], block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pictures, and which captions, find a right item among the first K: bool, one column a K."""
    own = _paired_scores(images, texts, owner)
    best = torch.full_like(images.norms, -torch.inf).scatter_reduce(0, owner, own, "amax")

    roundoff = _float32_roundoff(images.fast.shape[1])
    image_error = roundoff * (images.norms * texts.norms.max() + 2.0**-100)
    text_error = roundoff * (texts.norms * images.norms.max() + 2.0**-100)
    image_count, text_count = _count_blocks(images, texts, best, own, image_error, text_error, block)

    # The lower thresholds are two errors below, so that own captions within one error of the best are surely counted.
    sure = (own >= (best - image_error)[owner]).long()
    image_count.most -= torch.zeros_like(image_count.most).index_add(0, owner, sure)
    text_count.most -= 1

    picture = torch.arange(len(images), device=owner.device)
    return (
        _settle(image_count, cutoffs, images, texts, best, picture, owner),
        _settle(text_count, cutoffs, texts, images, own, owner, picture),
    )


def _paired_scores(images: _Side, texts: _Side, owner: torch.Tensor) -> torch.Tensor:
    """The score of each caption with its own picture: (n_texts,) float64."""
    return torch.cat(
        [torch.linalg.vecdot(images.exact(owner[rows]), texts.exact(rows)) for rows in _chunks(texts.given)]
    )


def _float32_roundoff(dim: int) -> float:
    """A bound on the rounding error of a float32 dot product, in any order of summation, over the product of lengths.

    The textbook bound (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1) with a few roundings to
    spare for scaling and for the thresholds. Where torch may multiply in TF32 or bfloat16 instead, their coarser
    inputs count too.
    """
    try:
        coarse = torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # torch refuses to say where a setting was made per back end
        coarse = True
    return 1.01 * (dim + 8) * 2.0**-24 + (2.0**-6 if coarse else 0.0)


@dataclass
class _Count:
    """Wrong items ranked before the right one: at least, and at most; both (n_queries,) int64."""

    least: torch.Tensor
    most: torch.Tensor


def _count_blocks(
    images: _Side,
    texts: _Side,
    best: torch.Tensor,
    own: torch.Tensor,
    image_error: torch.Tensor,
    text_error: torch.Tensor,
    block: int,
) -> tuple[_Count, _Count]:
    """The one pass over the score matrix: count scores beyond each query's thresholds, own items included."""
    image_low, image_high = (best - 2 * image_error).float()[:, None], (best + image_error).float()[:, None]
    text_low, text_high = (own - 2 * text_error).float(), (own + text_error).float()
    device = images.fast.device
    image_count = _Count(*torch.zeros((2, len(images)), dtype=torch.int64, device=device))
    text_count = _Count(*torch.zeros((2, len(texts)), dtype=torch.int64, device=device))
    # On a CPU, comparisons into float32 and sums of float32 are vectorized and those of bool are not: 5 times faster.
    # Sums of up to 2**24 ones are exact.
    flag = torch.float32 if device.type == "cpu" else torch.bool
    height, width = min(block, len(images)), min(block, len(texts))
    score_buffer = torch.empty(height * width, dtype=torch.float32, device=device)
    flag_buffer = torch.empty(height * width, dtype=flag, device=device)
    for left in range(0, len(texts), width):
        columns = slice(left, min(left + width, len(texts)))
        text_block = texts.fast[columns].T
        for top in range(0, len(images), height):
            rows = slice(top, min(top + height, len(images)))
            shape = (rows.stop - top, columns.stop - left)
            scores = score_buffer[: shape[0] * shape[1]].view(shape)
            flags = flag_buffer[: shape[0] * shape[1]].view(shape)
            torch.mm(images.fast[rows], text_block, out=scores)
            image_count.most[rows] += torch.ge(scores, image_low[rows], out=flags).sum(1).long()
            image_count.least[rows] += torch.gt(scores, image_high[rows], out=flags).sum(1).long()
            text_count.most[columns] += torch.ge(scores, text_low[columns], out=flags).sum(0).long()
            text_count.least[columns] += torch.gt(scores, text_high[columns], out=flags).sum(0).long()
    return image_count, text_count


def _settle(
    count: _Count,
    cutoffs: Sequence[int],
    queries: _Side,
    gallery: _Side,
    threshold: torch.Tensor,
    query_owner: torch.Tensor,
    gallery_owner: torch.Tensor,
) -> torch.Tensor:
    """Turn bounds on ranks into hits, (n_queries, len(cutoffs)); queries that the bounds leave open go by float64."""
    is_open = torch.zeros_like(count.most, dtype=torch.bool)
    for k in cutoffs:
        is_open |= (count.least < k) & (count.most >= k)
    undecided = torch.nonzero(is_open).flatten()
    rank = count.most
    # Equal to within float64's own rounding is equal: duplicates of a direction at several lengths are ties, too.
    error = 2.0**-52 * (queries.fast.shape[1] + 8) * queries.norms * gallery.norms.max()
    height = min(1024, len(undecided))
    width = _EXACT_ELEMENTS // max(height, 1)
    for some in torch.split(undecided, max(height, 1)):
        rows = queries.exact(some)
        low = (threshold[some] - error[some])[:, None]
        ranks = torch.zeros_like(some)
        for left in range(0, len(gallery), width):
            columns = slice(left, left + width)
            before = (rows @ gallery.exact(columns).T) >= low
            before &= query_owner[some][:, None] != gallery_owner[columns]
            ranks += before.sum(1)
        rank[some] = ranks
    return rank[:, None] < torch.tensor(cutoffs, device=rank.device)

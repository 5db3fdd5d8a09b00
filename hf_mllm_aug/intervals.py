"""Confidence intervals of Recall@K, and of differences between two encoders, by the bootstrap over pictures.

The captions of one picture are no independent samples, so whole pictures are drawn, with replacement, and each brings
its captions along: the cluster bootstrap (Efron, Bootstrap methods: another look at the jackknife, Annals of
Statistics 1979; Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). The bounds are
percentiles. A resample is a vector of how often each picture was drawn; its recall is a product with a table of hits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hf_mllm_aug.errors import EmbeddingError, UsageError
from hf_mllm_aug.retrieval import Hits

_Array = npt.NDArray[np.float64]
_DRAWS = 2**21  # drawn pictures held at once: 16 MiB, and as much again for their counts


def bootstrap_recall(
    hits: Hits, *, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Estimate how far Recall@K would move had other pictures of the same kind been in the test set.

    The interval covers the choice of the test pictures, with their captions, as queries. The candidates are held
    fixed: it does not say what recall would be among more or fewer of them. Nor does it cover another training run
    of the encoder; for that, train with several seeds and give them to `bootstrap_difference`. With few pictures
    (under 50, say), or recalls near 0 or 1, percentile intervals are too narrow; a recall of exactly 0 or 1 has an
    interval of no width.

    Args:
        hits: What `hf_mllm_aug.retrieval.retrieval_hits` returns.
        samples: Number of resampled test sets.
        level: Of confidence, between 0 and 1.
        seed: Of the resampling; the same seed gives the same interval on every machine.

    Returns:
        ``{key: (low, high)}`` for each key of `retrieval_recall`, then ``mean_recall@K``, the mean of both directions.

    Raises:
        UsageError: ``samples`` is not positive, or ``level`` not between 0 and 1.

    >>> from hf_mllm_aug.retrieval import retrieval_hits
    >>> hits = retrieval_hits([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.2], [0.9, 0.1]], ks=1)
    >>> bootstrap_recall(hits)  # of two pictures one is found: a resample may have it never, or twice
    {'text_retrieval_recall@1': (0.0, 1.0), 'image_retrieval_recall@1': (0.0, 1.0), 'mean_recall@1': (0.0, 1.0)}
    """
    recalls = _resampled([_Table.of(hits)], samples, seed)[0]
    low, high = _percentiles(recalls, level)
    return {key: (float(low[at]), float(high[at])) for at, key in enumerate(_keys(hits))}


def bootstrap_difference(
    hits_a: Hits | Sequence[Hits],
    hits_b: Hits | Sequence[Hits],
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """Estimate by how much the Recall@K of ``a`` is above that of ``b``, on the same test pictures.

    Each resample draws the same pictures for both sides, so what makes a picture easy or hard for both cancels out.
    An interval that excludes 0 says that the sign would likely hold on other pictures of the same kind, of the same
    runs: their spread over training seeds is a question of its own, and averaging over runs only lessens it.

    Args:
        hits_a: The hits of an encoder, or of several runs of one recipe (its seeds): hits are averaged over runs,
            picture by picture, before resampling.
        hits_b: What to compare with, the same. Pictures must be the same as in ``hits_a``, in the same order;
            captions may be others.
        samples: Number of resampled test sets.
        level: Of confidence, between 0 and 1.
        seed: Of the resampling.

    Returns:
        ``{key: (difference, low, high)}`` for the keys of `bootstrap_recall`; ``difference`` is that of the recalls
        themselves, ``a`` less ``b``, as a fraction.

    Raises:
        EmbeddingError: Hits of different numbers of pictures or different K, or runs of one side that were scored on
            different captions.
        UsageError: No hits, ``samples`` is not positive, or ``level`` not between 0 and 1.

    >>> from hf_mllm_aug.retrieval import retrieval_hits
    >>> images = [[1.0, 0.0], [0.0, 1.0]]
    >>> good, bad = retrieval_hits(images, images, ks=1), retrieval_hits(images, images[::-1], ks=1)
    >>> bootstrap_difference(good, bad)["mean_recall@1"]
    (1.0, 1.0, 1.0)
    """
    runs_a = [hits_a] if isinstance(hits_a, Hits) else list(hits_a)
    runs_b = [hits_b] if isinstance(hits_b, Hits) else list(hits_b)
    if not runs_a or not runs_b:
        raise UsageError("no hits to compare: give at least one run of each side")
    for run in (*runs_a, *runs_b):
        if run.ks != runs_a[0].ks or len(run.image_to_text) != len(runs_a[0].image_to_text):
            raise EmbeddingError(
                f"hits of {len(runs_a[0].image_to_text)} images at K = {runs_a[0].ks} and of {len(run.image_to_text)} "
                f"images at K = {run.ks} cannot be compared: score both sides on the same images, with the same ks"
            )
    table_a, table_b = _Table.mean(runs_a), _Table.mean(runs_b)
    recalls_a, recalls_b = _resampled([table_a, table_b], samples, seed)
    low, high = _percentiles(recalls_a - recalls_b, level)
    once = np.ones((1, len(table_a.n_texts)))
    difference = (table_a.recalls(once) - table_b.recalls(once))[0]
    return {key: (float(difference[at]), float(low[at]), float(high[at])) for at, key in enumerate(_keys(runs_a[0]))}


class _Table:
    """Hits summed picture by picture, from which the recalls of any resample follow."""

    def __init__(self, image_hits: _Array, text_hits: _Array, n_texts: _Array) -> None:
        self.image_hits = image_hits  # (n_images, len(ks)): 1 or 0, or between over several runs
        self.text_hits = text_hits  # (n_images, len(ks)): how many of the picture's captions are hits
        self.n_texts = n_texts  # (n_images,): how many captions it has

    @classmethod
    def of(cls, hits: Hits) -> _Table:
        n_images = len(hits.image_to_text)
        columns = [np.bincount(hits.text_image_index, column, n_images) for column in hits.text_to_image.T]
        n_texts = np.bincount(hits.text_image_index, minlength=n_images).astype(np.float64)
        return cls(hits.image_to_text.astype(np.float64), np.stack(columns, axis=1), n_texts)

    @classmethod
    def mean(cls, runs: Sequence[Hits]) -> _Table:
        if any(not np.array_equal(run.text_image_index, runs[0].text_image_index) for run in runs):
            raise EmbeddingError("the runs of one side were scored on different captions: their hits have no mean")
        tables = [cls.of(run) for run in runs]
        return cls(
            np.mean([table.image_hits for table in tables], axis=0),
            np.mean([table.text_hits for table in tables], axis=0),
            tables[0].n_texts,
        )

    def recalls(self, counts: _Array) -> _Array:
        """Recalls of resamples that have each picture ``counts`` times, (samples, n_images): one row a resample."""
        image_to_text = counts @ self.image_hits / counts.sum(1, keepdims=True)
        text_to_image = counts @ self.text_hits / (counts @ self.n_texts)[:, None]
        return np.concatenate([image_to_text, text_to_image, (image_to_text + text_to_image) / 2], axis=1)


def _resampled(tables: Sequence[_Table], samples: int, seed: int) -> list[_Array]:
    """The recalls of each table under the same resamples: (samples, 3 * len(ks)) a table."""
    if samples < 1:
        raise UsageError(f"samples is {samples}: it must be at least 1")
    n_images = len(tables[0].n_texts)
    random = np.random.default_rng(seed)
    parts: list[list[_Array]] = [[] for _ in tables]
    step = max(1, _DRAWS // n_images)
    for start in range(0, samples, step):
        n = min(step, samples - start)
        # Multinomial counts, by counting draws: many times faster than a binomial a picture.
        draws = random.integers(0, n_images, (n, n_images)) + np.arange(n)[:, None] * n_images
        counts = np.bincount(draws.ravel(), minlength=n * n_images).reshape(n, n_images).astype(np.float64)
        for part, table in zip(parts, tables, strict=True):
            part.append(table.recalls(counts))
    return [np.concatenate(part) for part in parts]


def _percentiles(values: _Array, level: float) -> _Array:
    if not 0 < level < 1:
        raise UsageError(f"level is {level}: it is a probability between 0 and 1, such as 0.95")
    bounds: _Array = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return bounds


def _keys(hits: Hits) -> list[str]:
    names = ("text_retrieval_recall", "image_retrieval_recall", "mean_recall")
    return [f"{name}@{k}" for name in names for k in hits.ks]

"""What a column of captions looks like in numbers: how long, how varied, how often the same.

A column is read once, a batch at a time. What stays in memory is a histogram, 8 bytes a caption (its hash, to find
repetitions) and a bounded sample (to count distinct words): 24 MB and the sample for 3 million captions.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = 20_000
"""The most captions whose words are compared. Longer texts repeat more words, so distinct-n of samples of one size can
be compared from data set to data set."""

LONGEST = 1000
"""Captions of this many words and more are counted together."""

_BATCH_ROWS = 50_000
_SEED = 0
_PUNCTUATION = string.punctuation + "\u2018\u2019\u201c\u201d\u00ab\u00bb\u2026\u3002\uff0c\u3001\uff01\uff1f"


@dataclass(frozen=True)
class TextCounts:
    """A column of captions in numbers. Words are what stands between spaces.

    Args:
        texts: Captions that are there: rows, less nulls.
        lengths: How many captions have 0, 1, 2 ... words; those of `LONGEST` words or more stand at the end.
            Shape (LONGEST + 1,).
        words: The words of all captions.
        distinct_1: Distinct words for each word, 0 to 1 (Li et al. 2016, arXiv 1510.03055), of at most `SAMPLE`
            captions spread evenly over the rows. None without words.
        distinct_2: Distinct pairs of neighbouring words for each word, likewise.
        repeated: The share of captions whose text another row has too, upper and lower case and the number of spaces
            aside. None without captions.
    """

    texts: int
    lengths: Any = field(repr=False)
    words: int
    distinct_1: float | None = None
    distinct_2: float | None = None
    repeated: float | None = None

    @property
    def mean(self) -> float | None:
        """Mean number of words; None without captions."""
        return self.words / self.texts if self.texts else None

    def quantile(self, share: float) -> int:
        """The number of words that this share of the captions does not exceed.

        >>> TextCounts(4, np.array([0, 1, 2, 1]), 8).quantile(0.5)
        2
        """
        reached = np.cumsum(self.lengths)
        return int(np.searchsorted(reached, share * reached[-1])) if self.texts else 0


def column(datasets: Iterable[Dataset], name: str) -> Iterator[Any]:
    """A column's values, an Arrow array at a time; nothing from data sets that do not have it."""
    for dataset in datasets:
        if name in dataset.column_names:
            for batch in dataset.select_columns([name]).with_format("arrow").iter(_BATCH_ROWS):
                yield batch.column(name)


def count_texts(datasets: Sequence[Dataset], name: str, *, closely: bool = True) -> TextCounts:
    """Count a column of captions.

    Args:
        datasets: The splits.
        name: The column.
        closely: Whether distinct words and repetitions are counted too.

    Source: distinct-1 and distinct-2 are those of Li et al. 2016 (arXiv 1510.03055): the number of distinct unigrams
    or bigrams, divided by the number of words. Here upper and lower case and the punctuation around a word are one,
    and a bigram lies within one caption.

    >>> from datasets import Dataset
    >>> counts = count_texts([Dataset.from_dict({"caption": ["a dog", "A  dog", None, "a red bus"]})], "caption")
    >>> counts.texts, counts.words, round(counts.repeated, 2), round(counts.distinct_1, 2), round(counts.distinct_2, 2)
    (3, 7, 0.67, 0.57, 0.43)
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = _sampled_rows(sum(len(dataset) for dataset in datasets if name in dataset.column_names))
    lengths = np.zeros(LONGEST + 1, dtype=np.int64)
    texts = words = start = 0
    hashes, sample = [], []
    for values in column(datasets, name):
        stop = start + len(values)
        values = values.cast(pa.large_string())
        present = values.drop_null()
        texts += len(present)
        for plain, counts in _plain(present):
            words += int(counts.sum())
            lengths += np.bincount(np.minimum(counts, LONGEST), minlength=LONGEST + 1)
            if closely:
                hashes.append(_hashes(plain))
        if closely:
            here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)] - start
            sample.append(pc.drop_null(values.take(pa.array(here))))
        start = stop
    if not closely or not texts:
        return TextCounts(texts, lengths, words)
    _, times = np.unique(np.concatenate(hashes), return_counts=True)
    one, two = _distinct(sample)
    return TextCounts(texts, lengths, words, one, two, float(times[times > 1].sum() / texts))


def _sampled_rows(rows: int) -> Any:
    """Rows spread evenly: one, at random, of each of `SAMPLE` equal stretches, so that no period of the data is met."""
    if rows <= SAMPLE:
        return np.arange(rows)
    place = np.random.default_rng(_SEED).random(SAMPLE)
    return ((np.arange(SAMPLE) + place) * rows / SAMPLE).astype(np.int64)


def _plain(texts: Any) -> list[tuple[Any, Any]]:
    """The texts in lower case with one space between words, and the number of words of each; in parts, out of order.

    Splitting takes longer than all else, so only what needs it is split: texts with other signs than ASCII's, among
    which spaces of other kinds may be, and texts with several spaces in a row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    regular = pc.and_not(pc.ascii_is_printable(trimmed), pc.match_substring(trimmed, "  "))
    plain, odd = trimmed.filter(regular), trimmed.filter(pc.invert(regular))
    counts = pc.add(pc.count_substring(plain, " "), pc.cast(pc.not_equal(plain, ""), pa.int32()))
    words = pc.utf8_split_whitespace(odd)
    parts = [(plain, counts), (pc.binary_join(words, pa.scalar(" ", pa.large_string())), pc.list_value_length(words))]
    return [(part, number.to_numpy(zero_copy_only=False)) for part, number in parts if len(part)]


def _hashes(texts: Any) -> Any:
    """64 bits of each text: of 3 million, two that differ have the same with a chance of 1 to 4 million."""
    import pandas as pd

    return pd.util.hash_array(texts.to_numpy(zero_copy_only=False), categorize=False)


def _distinct(sample: Sequence[Any]) -> tuple[float | None, float | None]:
    """Distinct words, and distinct pairs of neighbouring words, for each word."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pa.chunked_array([chunk for part in sample for chunk in getattr(part, "chunks", [part])]).combine_chunks()
    split = pc.utf8_split_whitespace(pc.utf8_lower(texts))
    words = pc.utf8_trim(pc.list_flatten(split), characters=_PUNCTUATION)
    kept = pc.not_equal(words, "")
    coded = words.filter(kept).dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    rows = pc.list_parent_indices(split).filter(kept).to_numpy(zero_copy_only=False)
    if not len(codes):
        return None, None
    pairs = codes[:-1] * len(coded.dictionary) + codes[1:]
    pairs = np.sort(pairs[rows[:-1] == rows[1:]])  # a third of the time of np.unique
    distinct = int(np.count_nonzero(np.diff(pairs))) + bool(len(pairs))
    return len(coded.dictionary) / len(codes), distinct / len(codes)

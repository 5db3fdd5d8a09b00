"""Captions in numbers, against a count by hand and against a slow count of the same thing."""

from __future__ import annotations

import itertools
import random

import pytest
from datasets import Dataset

from hf_mllm_aug import card_statistics
from hf_mllm_aug.card_statistics import LONGEST, count_texts


def rows(*texts: str | None) -> Dataset:
    return Dataset.from_dict({"caption": list(texts)})


def slowly(texts: list[str]) -> tuple[float, float, float]:
    """distinct-1, distinct-2 and the share of repetitions, one caption at a time."""
    words, ones, pairs = 0, set(), set()
    for text in texts:
        said = [word.strip(".,!?\"'") for word in text.lower().split()]
        said = [word for word in said if word]
        words += len(said)
        ones |= set(said)
        pairs |= set(itertools.pairwise(said))
    same = [" ".join(text.lower().split()) for text in texts]
    return len(ones) / words, len(pairs) / words, sum(same.count(text) > 1 for text in same) / len(same)


def test_counts_are_those_of_a_count_one_by_one() -> None:
    chance = random.Random(7)
    vocabulary = ["a", "A", "red", "bus,", "bus", '"bus"', "stop.", "!", "tree"]
    texts = [" ".join(chance.choices(vocabulary, k=chance.randint(1, 4))) for _ in range(300)]
    counts = count_texts([rows(*texts[:100]), rows(*texts[100:])], "caption")
    assert (counts.distinct_1, counts.distinct_2, counts.repeated) == pytest.approx(slowly(texts))
    assert counts.words == sum(len(text.split()) for text in texts)
    assert counts.lengths[:5].tolist() == [sum(len(text.split()) == n for text in texts) for n in range(5)]


def test_nulls_are_no_captions_and_blanks_are_captions_without_words() -> None:
    counts = count_texts([rows(None, " ", "a bus", None)], "caption")
    assert (counts.texts, counts.words, counts.lengths[:3].tolist()) == (2, 2, [1, 0, 1])
    assert (counts.mean, counts.repeated) == (1.0, 0.0)


@pytest.mark.parametrize("texts", [[None, None], []])
def test_without_captions_there_is_nothing_to_say(texts: list[str | None]) -> None:
    counts = count_texts([rows(*texts)], "caption")
    assert (counts.texts, counts.mean, counts.distinct_1, counts.repeated, counts.quantile(0.5)) == (
        0,
        None,
        None,
        None,
        0,
    )
    assert count_texts([rows("x")], "no such column").texts == 0


def test_punctuation_alone_has_no_distinct_words() -> None:
    counts = count_texts([rows("...", "!")], "caption")
    assert (counts.words, counts.distinct_1) == (2, None)


def test_captions_differ_by_more_than_case_and_spaces_or_they_repeat() -> None:
    assert count_texts([rows("A bus", "a  BUS ", "a tram", "ÉTÉ", "été")], "caption").repeated == 0.8


def test_pairs_lie_within_one_caption() -> None:
    assert count_texts([rows("a b", "c d")], "caption").distinct_2 == 0.5


def test_very_long_captions_are_counted_together() -> None:
    counts = count_texts([rows("x " * 3 * LONGEST, "x " * LONGEST)], "caption")
    assert counts.lengths[LONGEST] == 2
    assert counts.words == 4 * LONGEST


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a red bus", None, "a tram", "A TRAM", "the sea at night", None, "a red bus"]
    whole = count_texts([rows(*texts)], "caption")
    monkeypatch.setattr(card_statistics, "_BATCH_ROWS", 2)
    parts = count_texts([rows(*texts)], "caption")
    assert (parts.lengths == whole.lengths).all()
    assert (parts.texts, parts.words, parts.repeated) == (whole.texts, whole.words, whole.repeated)
    assert (parts.distinct_1, parts.distinct_2) == (whole.distinct_1, whole.distinct_2)


def test_the_sample_is_bounded_spread_evenly_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_statistics, "SAMPLE", 10)
    monkeypatch.setattr(card_statistics, "_BATCH_ROWS", 7)
    texts = [f"w{i}" for i in range(100)]
    picked = card_statistics._sampled_rows(100).tolist()
    assert [row // 10 for row in picked] == list(range(10)), "not one of each ten rows"
    assert picked == card_statistics._sampled_rows(100).tolist()
    counts = count_texts([rows(*texts[:33]), rows(*texts[33:])], "caption")
    assert counts.distinct_1 == 1.0
    one_kind = ["same" if i in picked else f"w{i}" for i in range(100)]
    assert count_texts([rows(*one_kind)], "caption").distinct_1 == 0.1, "other rows than the sampled ones were counted"
    assert counts.texts == 100


def test_quantiles_are_those_of_the_lengths() -> None:
    counts = count_texts([rows("a", "a b", "a b c", "a b c d")], "caption")
    assert [counts.quantile(share) for share in (0.25, 0.5, 0.75, 1.0)] == [1, 2, 3, 4]


def test_every_space_of_python_separates_words() -> None:
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    texts = [f"{space}a red{space}bus  of {space}wood{space}" for space in spaces] + ["", " ", "\u3000", "one"]
    counts = count_texts([rows(*texts)], "caption")
    assert counts.words == sum(len(text.split()) for text in texts)
    assert counts.repeated == (len(spaces) + 3) / len(texts)

"""Intervals cover what they claim to, equal a resampling done row by row, and pair what is paired."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_mllm_aug import intervals
from hf_mllm_aug.errors import EmbeddingError, UsageError
from hf_mllm_aug.intervals import bootstrap_difference, bootstrap_recall
from hf_mllm_aug.retrieval import Hits, retrieval_hits, retrieval_recall


def random_hits(seed: int, n_images: int = 40, share: float = 0.4, captions: int | None = None) -> Hits:
    """Hits at K = 1 and 5; those at 5 include those at 1; one to four captions a picture in mixed order."""
    rng = np.random.default_rng(seed)
    each = np.full(n_images, captions) if captions else rng.integers(1, 5, n_images)
    owner = rng.permutation(np.repeat(np.arange(n_images), each))
    image, text = rng.random(n_images), rng.random(len(owner))
    both = [np.stack([values < share, values < share + 0.3], axis=1) for values in (image, text)]
    return Hits(both[0], both[1], owner, (1, 5))


def resampled_by_hand(hits: Hits, pictures: Any) -> dict[str, float]:
    """The recalls of a test set that is made of the drawn pictures, each with its captions."""
    found: dict[str, float] = {}
    for column, k in enumerate(hits.ks):
        to_text = [bool(hits.image_to_text[picture, column]) for picture in pictures]
        to_image = [
            bool(hit)
            for picture in pictures
            for hit, owner in zip(hits.text_to_image[:, column], hits.text_image_index, strict=True)
            if owner == picture
        ]
        found[f"text_retrieval_recall@{k}"] = sum(to_text) / len(to_text)
        found[f"image_retrieval_recall@{k}"] = sum(to_image) / len(to_image)
        found[f"mean_recall@{k}"] = (found[f"text_retrieval_recall@{k}"] + found[f"image_retrieval_recall@{k}"]) / 2
    return found


def test_bounds_equal_percentiles_over_test_sets_put_together_by_hand() -> None:
    """Two ways to many resamples of the same hits: bounds agree to within the error of 3,000 samples."""
    hits = random_hits(0)
    rng = np.random.default_rng(99)
    sets = [resampled_by_hand(hits, rng.integers(0, 40, 40)) for _ in range(3000)]
    bounds = bootstrap_recall(hits, samples=20_000, level=0.9)
    assert set(bounds) == set(sets[0])
    for key, found in bounds.items():
        expected = np.quantile([one[key] for one in sets], [0.05, 0.95])
        assert found == pytest.approx(expected, abs=0.015), key
        assert found[0] < found[1]


def test_the_mean_of_resamples_is_the_recall_and_their_spread_is_that_of_a_share() -> None:
    """One caption a picture: the bootstrap's standard error is the binomial's, sqrt(p (1 - p) / n)."""
    hits = random_hits(1, n_images=400, captions=1)
    share = hits.recall()["image_retrieval_recall@1"]
    low, high = bootstrap_recall(hits, samples=20_000)["image_retrieval_recall@1"]
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(share * (1 - share) / 400), rel=0.05)
    assert (high + low) / 2 == pytest.approx(share, abs=0.005)


def test_captions_of_a_picture_that_hit_together_widen_the_interval() -> None:
    """Five captions that stand or fall together are one observation, not five."""
    owner = np.repeat(np.arange(200), 5)
    picture = np.random.default_rng(2).random((200, 1)) < 0.5
    together = Hits(picture, picture[owner], owner, (1,))
    apart = Hits(picture, np.random.default_rng(3).random((1000, 1)) < 0.5, owner, (1,))
    widths = [np.diff(bootstrap_recall(hits)["image_retrieval_recall@1"])[0] for hits in (together, apart)]
    assert widths[0] == pytest.approx(widths[1] * np.sqrt(5), rel=0.15)


def test_nineteen_in_twenty_intervals_hold_the_true_recall() -> None:
    held = 0
    for trial in range(300):
        hits = random_hits(trial, n_images=150, share=0.4)
        low, high = bootstrap_recall(hits, samples=400, seed=trial)["mean_recall@1"]
        held += low <= 0.4 <= high
    assert 0.90 < held / 300 < 0.99


def test_intervals_depend_on_the_seed_alone_and_not_on_how_resamples_are_batched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hits = random_hits(4)
    first = bootstrap_recall(hits, seed=7)
    assert bootstrap_recall(hits, seed=7) == first
    assert bootstrap_recall(hits, seed=8) != first
    monkeypatch.setattr(intervals, "_DRAWS", 7 * 40)
    in_parts = bootstrap_recall(hits, seed=7)
    for key, bounds in first.items():
        assert in_parts[key] == pytest.approx(bounds, abs=1e-12), key


def test_equal_encoders_differ_by_nothing_and_opposite_sides_by_opposite_amounts() -> None:
    one, other = random_hits(5), random_hits(6)
    other = Hits(other.image_to_text, one.text_to_image[::-1], one.text_image_index, one.ks)
    assert set(bootstrap_difference(one, one).values()) == {(0.0, 0.0, 0.0)}
    there, back = bootstrap_difference(one, other), bootstrap_difference(other, one)
    for key, (difference, low, high) in there.items():
        assert (difference, low, high) == pytest.approx((-back[key][0], -back[key][2], -back[key][1]), abs=1e-12)
    expected = one.recall()["text_retrieval_recall@1"] - other.recall()["text_retrieval_recall@1"]
    assert there["text_retrieval_recall@1"][0] == pytest.approx(expected)


def test_pairing_makes_the_interval_of_a_difference_narrow_where_both_find_the_same_pictures() -> None:
    """A hits everything that B hits and one more of 200 pictures: the pictures' own spread cancels out."""
    b = random_hits(7, n_images=200, captions=1)
    better = b.image_to_text.copy()
    better[np.flatnonzero(~b.image_to_text[:, 0])[:10], 0] = True
    a = Hits(better, b.text_to_image, b.text_image_index, b.ks)
    difference, low, high = bootstrap_difference(a, b)["text_retrieval_recall@1"]
    alone = np.diff(bootstrap_recall(b)["text_retrieval_recall@1"])[0]
    assert difference == pytest.approx(10 / 200)
    assert 0 < low < difference < high
    assert high - low < alone / 2


def test_runs_are_averaged_picture_by_picture_before_resampling() -> None:
    """Two runs that hit opposite halves are, together, half a hit everywhere: a mean without any spread."""
    half = np.arange(60)[:, None] < 30
    owner = np.arange(60)
    runs = [Hits(half, half, owner, (1,)), Hits(~half, ~half, owner, (1,))]
    nothing = Hits(np.zeros((60, 1), bool), np.zeros((60, 1), bool), owner, (1,))
    for values in bootstrap_difference(runs, nothing).values():
        assert values == pytest.approx((0.5, 0.5, 0.5))
    assert bootstrap_difference(runs[:1], nothing) == bootstrap_difference(runs[0], [nothing])


def test_sides_may_have_other_captions_but_not_other_pictures() -> None:
    few, many = random_hits(8, captions=1), random_hits(9, captions=3)
    assert bootstrap_difference(few, many)["image_retrieval_recall@5"][0] == pytest.approx(
        few.recall()["image_retrieval_recall@5"] - many.recall()["image_retrieval_recall@5"]
    )
    with pytest.raises(EmbeddingError, match=r"40 images at K = .* of 41 images"):
        bootstrap_difference(few, random_hits(8, n_images=41))
    with pytest.raises(EmbeddingError, match=r"at K = \(1, 3\) cannot be compared"):
        bootstrap_difference(few, Hits(few.image_to_text, few.text_to_image, few.text_image_index, (1, 3)))
    with pytest.raises(EmbeddingError, match="different captions"):
        bootstrap_difference([few, many], few)


@pytest.mark.parametrize("options", [{"samples": 0}, {"level": 0}, {"level": 1}, {"level": 95}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))} is"):
        bootstrap_recall(random_hits(0), **options)
    with pytest.raises(UsageError, match="no hits"):
        bootstrap_difference([], random_hits(0))


def test_the_hits_of_an_encoder_have_its_recalls_inside_their_intervals() -> None:
    rng = np.random.default_rng(10)
    owner = np.repeat(np.arange(120), 2)
    images = rng.normal(size=(120, 16))
    texts = images[owner] + 1.2 * rng.normal(size=(240, 16))
    bounds = bootstrap_recall(retrieval_hits(images, texts, owner, normalize=True))
    for key, value in retrieval_recall(images, texts, owner, normalize=True).items():
        assert bounds[key][0] <= value <= bounds[key][1], key
    assert {f"mean_recall@{k}" for k in (1, 5, 10)} < set(bounds)

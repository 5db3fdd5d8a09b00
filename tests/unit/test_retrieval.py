"""Recall@K equals a brute force, whatever the block, the ties, the type of the input or the number of captions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mllm_aug import retrieval
from hf_mllm_aug.errors import EmbeddingError, UsageError
from hf_mllm_aug.retrieval import retrieval_hits, retrieval_recall


def brute_force_hits(
    images: Any, texts: Any, owner: Any, ks: tuple[int, ...], cosine: bool = False
) -> dict[str, list[bool]]:
    """The definition, one comparison at a time."""
    images, texts = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    scores = images @ texts.T
    if cosine:
        lengths = np.linalg.norm(images, axis=1)[:, None] * np.linalg.norm(texts, axis=1)
        scores = np.round(np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0), 12)
    hits: dict[str, list[bool]] = {f"{side}_retrieval_recall@{k}": [] for side in ("text", "image") for k in ks}
    for picture in range(len(images)):
        right = max(scores[picture, t] for t in range(len(texts)) if owner[t] == picture)
        rank = sum(scores[picture, t] >= right for t in range(len(texts)) if owner[t] != picture)
        for k in set(ks):
            hits[f"text_retrieval_recall@{k}"].append(rank < k)
    for text in range(len(texts)):
        right = scores[owner[text], text]
        rank = sum(scores[i, text] >= right for i in range(len(images)) if i != owner[text])
        for k in set(ks):
            hits[f"image_retrieval_recall@{k}"].append(rank < k)
    return hits


def brute_force(images: Any, texts: Any, owner: Any, ks: tuple[int, ...], cosine: bool = False) -> dict[str, float]:
    """The shares of hits."""
    return {key: float(np.mean(values)) for key, values in brute_force_hits(images, texts, owner, ks, cosine).items()}


def random_case(seed: int) -> tuple[Any, Any, Any, tuple[int, ...]]:
    """Few distinct values, so that ties abound; ragged captions in random order; some K beyond the gallery."""
    rng = np.random.default_rng(seed)
    n_images, dim = int(rng.integers(1, 16)), int(rng.integers(1, 7))
    owner = rng.permutation(np.repeat(np.arange(n_images), rng.integers(1, 6, n_images)))
    images = rng.integers(-2, 3, (n_images, dim)).astype(np.float32)
    texts = rng.integers(-2, 3, (len(owner), dim)).astype(np.float32)
    return images, texts, owner, (1, 2, 5, len(owner) + 3)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("seed", range(200))
def test_equals_brute_force_with_ties_ragged_captions_and_k_beyond_the_gallery(seed: int, cosine: bool) -> None:
    images, texts, owner, ks = random_case(seed)
    expected = brute_force(images, texts, owner, ks, cosine)
    for block in (None, 1, 2, 3, 7):
        assert retrieval_recall(images, texts, owner, ks=ks, normalize=cosine, block_size=block) == pytest.approx(
            expected, abs=1e-12
        ), f"seed {seed}, block {block}"


@pytest.mark.parametrize("value", [1.0, 0.1, -3.7, 0.0, 1e-30, 1e25])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_collapsed_encoder_scores_zero(value: float, normalize: bool) -> None:
    owner = np.arange(90) % 30
    for block in (1, 7, 16, 33, None):
        scores = retrieval_recall(
            np.full((30, 65), value, np.float32),
            np.full((90, 65), value, np.float32),
            owner,
            normalize=normalize,
            block_size=block,
        )
        assert set(scores.values()) == {0.0}, f"block {block}: {scores}"


def test_a_collapsed_encoder_hits_only_when_k_takes_in_the_whole_gallery() -> None:
    scores = retrieval_recall(np.ones((3, 2)), np.ones((3, 2)), ks=(2, 3))
    assert list(scores.values()) == [0, 1, 0, 1]


@pytest.mark.parametrize("dim", [1, 3, 17, 512])
def test_duplicates_tie_to_the_bit_in_blocks_of_any_size(dim: int) -> None:
    """Rounding differs from block to block; copies of one real-valued vector must tie all the same."""
    rng = np.random.default_rng(dim)
    images = rng.normal(size=(12, dim)).astype(np.float32)[rng.integers(0, 12, 40)]
    owner = np.concatenate([np.arange(40), rng.integers(0, 40, 37)])
    texts = (images[owner] + rng.normal(size=(1, dim)).astype(np.float32))[np.arange(77) % 60]
    owner = owner[np.arange(77) % 60]
    owner[-17:] = np.arange(17)
    ks = (1, 2, 3, 5)
    # Brute force over the distinct vectors: each pair has one score, wherever it stands.
    unique_i, where_i = np.unique(images, axis=0, return_inverse=True)
    unique_t, where_t = np.unique(texts, axis=0, return_inverse=True)
    table = unique_i.astype(np.float64) @ unique_t.astype(np.float64).T
    scores = table[where_i.ravel()][:, where_t.ravel()]
    text_hits = [
        (scores[i, owner != i] >= scores[i, owner == i].max()).sum() if (owner == i).any() else 0 for i in range(40)
    ]
    image_hits = [(np.delete(scores[:, t], owner[t]) >= scores[owner[t], t]).sum() for t in range(77)]
    expected = {f"text_retrieval_recall@{k}": np.mean(np.array(text_hits) < k) for k in ks} | {
        f"image_retrieval_recall@{k}": np.mean(np.array(image_hits) < k) for k in ks
    }
    for block in range(1, 79, 4):
        assert retrieval_recall(images, texts, owner, ks=ks, normalize=False, block_size=block) == pytest.approx(
            expected, abs=1e-12
        ), f"block {block}"


def test_scaled_copies_of_a_direction_tie_under_cosine() -> None:
    direction = np.random.default_rng(0).normal(size=(1, 37))
    lengths = np.linspace(0.3, 9, 20)[:, None]
    scores = retrieval_recall(direction * lengths, direction * lengths[::-1], normalize=True)
    assert set(scores.values()) == {0.0}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 64))
def test_the_block_size_changes_nothing(seed: int, block: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(9), rng.integers(0, 9, 20)])
    images, texts = rng.normal(size=(9, dim)), rng.normal(size=(29, dim))
    whole = retrieval_recall(images, texts, owner, ks=(1, 2, 3), normalize=True)
    assert retrieval_recall(images, texts, owner, ks=(1, 2, 3), normalize=True, block_size=block) == whole


@pytest.mark.parametrize("seed", range(50))
def test_single_hits_equal_brute_force_row_for_row(seed: int) -> None:
    images, texts, owner, ks = random_case(seed)
    expected = brute_force_hits(images, texts, owner, ks)
    hits = retrieval_hits(images, texts, owner, ks=ks, block_size=3)
    assert hits.ks == ks
    assert hits.text_image_index.tolist() == owner.tolist()
    assert {str(side.dtype) for side in (hits.image_to_text, hits.text_to_image)} == {"bool"}
    for column, k in enumerate(ks):
        assert hits.image_to_text[:, column].tolist() == expected[f"text_retrieval_recall@{k}"], f"K {k}"
        assert hits.text_to_image[:, column].tolist() == expected[f"image_retrieval_recall@{k}"], f"K {k}"
    assert hits.recall() == retrieval_recall(images, texts, owner, ks=ks)


def clip_benchmark(images: torch.Tensor, texts: torch.Tensor, owner: torch.Tensor, k: int) -> dict[str, float]:
    """CLIP_benchmark's definitions of zero-shot retrieval, over the whole matrix.

    Pairs of a text and its image are marked in a matrix beside that of the scores. The K best candidates of each query
    are looked up in it; a query counts when at least one of them is marked.
    """
    scores = texts @ images.T  # texts are rows
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(texts)), owner] = True
    found = {}
    for name, table, right in (("image", scores, positive), ("text", scores.T, positive.T)):
        best = table.topk(k, dim=1).indices
        found[f"{name}_retrieval_recall@{k}"] = float((right.gather(1, best).sum(1) > 0).double().mean())
    return found


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_definitions_of_clip_benchmark_where_nothing_ties(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(100), torch.randint(0, 100, (250,), generator=generator)])
    owner = owner[torch.randperm(350, generator=generator)]
    images = torch.nn.functional.normalize(torch.randn(100, 32, generator=generator), dim=1)
    noise = torch.randn(350, 32, generator=generator)
    texts = torch.nn.functional.normalize(images[owner] + (0.4 + 0.05 * seed) * noise, dim=1)
    got = retrieval_recall(images, texts, owner)
    for k in (1, 5, 10):
        for key, expected in clip_benchmark(images, texts, owner, k).items():
            assert got[key] == pytest.approx(expected, abs=1e-6), key
    assert 0.05 < got["image_retrieval_recall@1"] < 0.98, "the case must be neither trivial nor hopeless"


FORMS: list[Callable[[Any], Any]] = [
    lambda x: x.tolist(),
    lambda x: list(x),
    lambda x: x.astype(np.float64),
    lambda x: x.astype(np.float16),
    lambda x: x.astype(np.int64),
    lambda x: x.astype(">f4"),
    lambda x: np.asfortranarray(x),
    lambda x: x[::-1].copy()[::-1],
    lambda x: torch.tensor(x),
    lambda x: torch.tensor(x, dtype=torch.bfloat16),
    lambda x: torch.tensor(x, requires_grad=True),
    lambda x: [torch.tensor(row) for row in x],
]


@pytest.mark.parametrize("form", FORMS)
def test_lists_arrays_and_tensors_of_any_real_type_score_the_same(form: Callable[[Any], Any]) -> None:
    images, texts, owner, ks = random_case(5)
    expected = brute_force(images, texts, owner, ks)
    assert retrieval_recall(form(images), form(texts), owner.tolist(), ks=ks) == pytest.approx(expected, abs=1e-12)


def test_read_only_arrays_are_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    images, texts, owner, _ = random_case(3)
    images.setflags(write=False)
    retrieval_recall(images, texts, owner)
    assert not recwarn.list


def test_keys_come_in_the_order_of_ks_text_first() -> None:
    assert list(retrieval_recall(np.eye(3), np.eye(3), ks=(5, 1))) == [
        "text_retrieval_recall@5",
        "text_retrieval_recall@1",
        "image_retrieval_recall@5",
        "image_retrieval_recall@1",
    ]


def test_autocast_and_reduced_precision_change_nothing() -> None:
    rng = np.random.default_rng(1)
    images, texts = rng.normal(size=(50, 64)).astype(np.float32), rng.normal(size=(50, 64)).astype(np.float32)
    texts += images
    expected = retrieval_recall(images, texts)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert retrieval_recall(images, texts) == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_settled_queries_are_not_scored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float64 path is for near ties: with real-valued scores it must stay almost unused."""
    seen: list[int] = []
    settle = retrieval._settle

    def spy(count: Any, cutoffs: Any, *rest: Any) -> Any:
        seen.append(int(sum(((count.least < k) & (count.most >= k)).sum() for k in cutoffs)))
        return settle(count, cutoffs, *rest)

    monkeypatch.setattr(retrieval, "_settle", spy)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(300, 64)).astype(np.float32)
    retrieval_recall(images, images + rng.normal(size=(300, 64)).astype(np.float32))
    assert sum(seen) <= 6, f"{seen} queries of 300 + 300 were scored twice"


@pytest.mark.parametrize(
    ("images", "texts", "index", "message"),
    [
        ([[1.0, 0], [np.nan, 0]], np.eye(2), None, "image_embeddings: row 1 has NaN"),
        (np.eye(3), [[0.0, 1, 0], [np.inf, 0, 0], [np.nan, 0, 0]], None, r"text_embeddings: row 1 \(and 1 more rows\)"),
        (np.eye(2), np.eye(3), None, "2 dimensions and text_embeddings 3"),
        (np.eye(2), np.ones((3, 2)), None, "pass text_image_index"),
        (np.eye(2), np.ones((3, 2)), [0, 1], r"shape \(2,\).* must be \(3,\)"),
        (np.eye(2), np.ones((3, 2)), [0, 1, 2], "text 2 points to image 2, but images are 0 to 1"),
        (np.eye(2), np.ones((3, 2)), [0, -1, 1], "text 1 points to image -1"),
        (np.eye(2), np.ones((3, 2)), [0.0, 1.0, 1.0], "row numbers are integers"),
        (np.eye(3), np.ones((3, 3)), [0, 0, 2], "image 1 has no text: drop such rows"),
        (np.eye(4), np.ones((2, 4)), [3, 3], r"image 0 has no text \(nor have 2 others\)"),
        (np.ones(3), np.ones((3, 1)), None, r"image_embeddings: shape \(3,\)"),
        (np.ones((0, 3)), np.ones((0, 3)), None, r"shape \(0, 3\)"),
        ([[1.0, 2], [1.0]], np.eye(2), None, "rows of different lengths"),
        ([torch.ones(2), torch.ones(3)], np.eye(2), None, "rows of different shapes"),
        ([["a", "b"]], [[1.0, 2]], None, "real numbers"),
        (np.eye(2) * 1j, np.eye(2), None, "real numbers"),
        (torch.eye(2) > 0, np.eye(2), None, "real numbers"),
    ],
)
def test_input_that_makes_no_score_is_an_error_that_says_where(
    images: Any, texts: Any, index: Any, message: str
) -> None:
    with pytest.raises(EmbeddingError, match=message):
        retrieval_recall(images, texts, index)


@pytest.mark.parametrize("options", [{"ks": ()}, {"ks": (0,)}, {"ks": (1, -5)}, {"block_size": 0}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        retrieval_recall(np.eye(2), np.eye(2), **options)


def test_dot_products_of_uneven_lengths_are_warned_of_until_the_caller_decides(
    caplog: pytest.LogCaptureFixture,
) -> None:
    images, texts = np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 0.2], [2.0, 1.5]])
    with caplog.at_level(logging.WARNING):
        undecided = retrieval_recall(images, texts)
        assert "normalize=True" in caplog.text
        caplog.clear()
        assert retrieval_recall(images, texts, normalize=False) == undecided
        assert retrieval_recall(images, texts, normalize=True) != undecided
        assert not caplog.records


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_figures() -> None:
    for seed in range(20):
        images, texts, owner, ks = random_case(seed)
        assert retrieval_recall(images, texts, owner, ks=ks, device="cuda", block_size=4) == pytest.approx(
            brute_force(images, texts, owner, ks), abs=1e-12
        )


def test_a_single_cutoff_needs_no_list() -> None:
    images, texts, owner, _ = random_case(3)
    five: Any = np.int64(5)
    assert retrieval_recall(images, texts, owner, ks=5) == retrieval_recall(images, texts, owner, ks=[five])


@pytest.mark.parametrize("ks", [5.0, [1, 2.5], "15", None, ["5"]])
def test_cutoffs_that_are_no_integers_are_refused(ks: Any) -> None:
    with pytest.raises(UsageError, match="give integers, such as"):
        retrieval_recall([[1.0]], [[1.0]], ks=ks)

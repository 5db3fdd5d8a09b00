"""Every architecture that embeds pictures and captions is scored as transformers itself scores it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from hf_mllm_aug.dual_encoders import DualEncoder
from hf_mllm_aug.embedding import evaluate_model
from hf_mllm_aug.errors import CheckpointError, UsageError
from tests.tiny_dual_encoders import ARCHITECTURES, WORDS, tokenizer


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dual encoder with random weights, as a folder."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model, processor = ARCHITECTURES[request.param]()
    with torch.no_grad():  # far from where training starts: biases and positions, too, must count
        for weights in model.parameters():
            weights.add_(0.2 * torch.randn_like(weights))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer(request.param).save_pretrained(folder)
    return folder


COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 0, 0), (0, 90, 0), (130, 130, 255)]
CAPTIONS = ["red square", "a green square", "blue", "dark red square", "photo of a dark green square", "light blue"]


def pictures() -> list[PilImage.Image]:
    rng = np.random.default_rng(0)
    noise = [rng.integers(-60, 60, (9, 10, 3)) for _ in COLORS]
    return [
        PilImage.fromarray(np.clip(np.array(color) + grain, 0, 255).astype(np.uint8))
        for color, grain in zip(COLORS, noise, strict=True)
    ]


def scores_of_transformers(encoder: DualEncoder) -> torch.Tensor:
    """Cosines of all pairs by the model's own forward pass, without the library's embedding methods."""
    inputs = {**encoder.image_processor(images=pictures(), return_tensors="pt"), **encoder.tokens(CAPTIONS)}
    with torch.inference_mode():
        if encoder.model.config.model_type == "blip":
            inputs.pop("token_type_ids", None)
            scores: torch.Tensor = encoder.model.network(**inputs, use_itm_head=False).itm_score
            return scores
        output = encoder.model(**inputs)
    sides = [torch.nn.functional.normalize(side, dim=1) for side in (output.image_embeds, output.text_embeds)]
    return sides[0] @ sides[1].T


def test_cosines_equal_those_of_the_models_own_forward_pass(checkpoint: Path) -> None:
    encoder = DualEncoder.load(checkpoint, device="cpu")
    images = torch.nn.functional.normalize(encoder.images(pictures()), dim=1)
    texts = torch.nn.functional.normalize(encoder.texts(CAPTIONS), dim=1)
    expected = scores_of_transformers(encoder)
    torch.testing.assert_close(images @ texts.T, expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-4, "all pairs score alike: the case tells nothing"


def test_recall_equals_brute_force_over_those_cosines(checkpoint: Path) -> None:
    """Two captions a picture, the second the next picture's too: image to text has two right answers."""
    encoder = DualEncoder.load(checkpoint, device="cpu")
    rows = [{"image": image, "captions": [CAPTIONS[at], CAPTIONS[(at + 1) % 6]]} for at, image in enumerate(pictures())]
    got = evaluate_model(encoder, rows, columns=["captions"], ks=(1, 3), batch_size=2)
    scores = scores_of_transformers(encoder).double()
    columns = [caption for at in range(6) for caption in (at, (at + 1) % 6)]
    owner = [at for at in range(6) for _ in range(2)]
    # Every text stands twice in the gallery, under two pictures: a tie, which counts as ranked before.
    for k in (1, 3):
        to_text = []
        for picture in range(6):
            right = max(scores[picture, columns[text]] for text in range(12) if owner[text] == picture)
            wrong = [scores[picture, columns[text]] for text in range(12) if owner[text] != picture]
            to_text.append(sum(bool(score >= right - 1e-6) for score in wrong) < k)
        to_image = [
            sum(bool(scores[i, columns[text]] >= scores[owner[text], columns[text]] - 1e-6) for i in range(6)) - 1 < k
            for text in range(12)
        ]
        assert got[f"text_retrieval_recall@{k}"] == sum(to_text) / 6
        assert got[f"image_retrieval_recall@{k}"] == sum(to_image) / 12


def clip_benchmark(scores: torch.Tensor, owner: torch.Tensor, k: int) -> dict[str, float]:
    """CLIP_benchmark's definitions: a query counts when any of its K best candidates, by `topk`, is paired with it.

    Args:
        scores: (n_texts, n_images).
        owner: (n_texts,): the image of each text.
        k: The cut-off.
    """
    paired = torch.zeros_like(scores, dtype=torch.bool)
    paired[torch.arange(len(owner)), owner] = True
    image = paired.gather(1, scores.topk(k, dim=1).indices).any(1)
    text = paired.T.gather(1, scores.T.topk(k, dim=1).indices).any(1)
    return {
        f"image_retrieval_recall@{k}": float(image.double().mean()),
        f"text_retrieval_recall@{k}": float(text.double().mean()),
    }


def test_tie_free_data_score_as_by_the_definitions_of_clip_benchmark(checkpoint: Path) -> None:
    """Thirty random pictures with one to four random captions each, all different."""
    rng = np.random.default_rng(1)
    images = [PilImage.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(30)]
    texts = list(dict.fromkeys(" ".join(rng.choice(WORDS, 7)) for _ in range(90)))
    owner = np.sort(np.concatenate([np.arange(30), rng.integers(0, 30, len(texts) - 30)]))
    columns = [[text for text, own in zip(texts, owner, strict=True) if own == row] for row in range(30)]
    rows = [{"image": image, "captions": own} for image, own in zip(images, columns, strict=True)]

    encoder = DualEncoder.load(checkpoint, device="cpu")
    got = evaluate_model(encoder, rows, columns=["captions"], ks=(1, 5, 10), batch_size=128)
    sides = [encoder.texts(texts).double(), encoder.images(images).double()]
    unit = [torch.nn.functional.normalize(side, dim=1) for side in sides]
    scores = unit[0] @ unit[1].T
    assert min(len(row.unique()) for row in scores) == 30, "a tie: the definitions would differ"
    assert min(len(column.unique()) for column in scores.T) == len(texts), "a tie: the definitions would differ"
    for k in (1, 5, 10):
        for key, expected in clip_benchmark(scores, torch.tensor(owner), k).items():
            assert got[key] == pytest.approx(expected, abs=1e-6), key
    assert 0 < got["image_retrieval_recall@10"] < 1


def test_batches_of_captions_of_any_length_give_the_same_embeddings(checkpoint: Path) -> None:
    encoder = DualEncoder.load(checkpoint, device="cpu")
    one_by_one = torch.cat([encoder.texts([caption]) for caption in CAPTIONS])
    torch.testing.assert_close(encoder.texts(CAPTIONS), one_by_one, rtol=0, atol=1e-5)
    assert torch.isfinite(encoder.texts(["red " * 500, "blue"])).all()


def test_half_precision_comes_back_as_float32_and_close(checkpoint: Path) -> None:
    whole = DualEncoder.load(checkpoint, device="cpu")
    half = DualEncoder.load(checkpoint, device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    for one, other in (
        (whole.images(pictures()), half.images(pictures())),
        (whole.texts(["red"]), half.texts(["red"])),
    ):
        assert other.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(one, other).min() > 0.98


def test_blip_captions_are_cut_where_its_authors_cut_them(tmp_path: Path) -> None:
    model, processor = ARCHITECTURES["blip"]()
    for part in (model, processor, tokenizer()):
        part.save_pretrained(tmp_path)
    encoder = DualEncoder.load(tmp_path, device="cpu")
    assert encoder.tokens(["red " * 60])["input_ids"].shape == (1, 35)


def test_a_blip_that_captions_has_no_contrastive_heads(tmp_path: Path) -> None:
    from transformers import BlipForConditionalGeneration

    model, processor = ARCHITECTURES["blip"]()
    BlipForConditionalGeneration(model.config).save_pretrained(tmp_path / "captioner")
    for part in (processor, tokenizer()):
        part.save_pretrained(tmp_path / "captioner")
    with pytest.raises(CheckpointError, match=r"^captioner lacks .* of the model's weights"):
        DualEncoder.load(tmp_path / "captioner", device="cpu")


@pytest.mark.parametrize(
    ("device", "message"), [("cuda:99", "'cuda:99', and torch finds"), ("gpu", "give one of torch's")]
)
def test_a_device_that_is_not_there_is_named(device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DualEncoder.load("tiny-clip", device=device)

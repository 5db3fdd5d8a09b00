"""Any dual encoder of transformers is scored; bad pictures are counted, not fatal; nothing is shifted."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Image
from PIL import Image as PilImage
from transformers import CLIPImageProcessorPil

from hf_mllm_aug.embedding import DualEncoder, evaluate_columns, evaluate_model
from hf_mllm_aug.errors import CheckpointError, ColumnError, EmbeddingError, FormatError, UsageError
from hf_mllm_aug.intervals import bootstrap_recall
from hf_mllm_aug.retrieval import retrieval_hits, retrieval_recall
from tests.tiny_dual_encoders import ARCHITECTURES, LAYERS, tokenizer


@pytest.fixture(scope="module", params=["clip", "siglip"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dual encoder with random weights, as a folder."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    for part in (*ARCHITECTURES[request.param](), tokenizer(request.param)):
        part.save_pretrained(folder)
    return folder


def png(color: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    PilImage.new("RGB", (10, 9), color).save(buffer, "png")
    return buffer.getvalue()


COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 0, 0), (0, 90, 0), (130, 130, 255)]
CAPTIONS = ["red square", "a green square", "blue", "dark red square", "photo of a dark green square", "light blue"]


def rows() -> list[dict[str, Any]]:
    return [
        {"image": {"bytes": png(color), "path": None}, "caption": text, "several": [text, "a photo of a " + text]}
        for color, text in zip(COLORS, CAPTIONS, strict=True)
    ]


def by_hand(checkpoint: Path, captions: list[list[str]], colors: list[tuple[int, int, int]]) -> dict[str, float]:
    """One picture and one caption at a time through the model itself."""
    encoder = DualEncoder.load(checkpoint, device="cpu")
    images = [encoder.images([PilImage.new("RGB", (10, 9), color)])[0] for color in colors]
    texts = [encoder.texts([text])[0] for own in captions for text in own]
    owner = [row for row, own in enumerate(captions) for _ in own]
    return retrieval_recall(images, texts, owner, normalize=True)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_equal_those_of_embeddings_made_one_by_one(checkpoint: Path, batch_size: int) -> None:
    result = evaluate_model(str(checkpoint), rows(), batch_size=batch_size, device="cpu")
    assert {key: result[key] for key in result if "@" in key} == by_hand(checkpoint, [[c] for c in CAPTIONS], COLORS)
    assert result["n_images"] == result["n_texts"] == 6
    assert (result["n_bad_images"], result["n_without_caption"]) == (0, 0)
    assert result["model"] == checkpoint.name


def test_columns_of_lists_and_several_columns_give_several_captions_a_picture(checkpoint: Path) -> None:
    result = evaluate_model(checkpoint, rows(), columns=["caption", "several"], device="cpu")
    assert (result["n_images"], result["n_texts"]) == (6, 18)
    captions = [[text, text, "a photo of a " + text] for text in CAPTIONS]
    assert {key: result[key] for key in result if "@" in key} == by_hand(checkpoint, captions, COLORS)


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_pictures_and_missing_captions_are_left_out_and_counted(checkpoint: Path, streaming: bool) -> None:
    bad = rows()
    bad[1]["image"] = {"bytes": png((0, 255, 0))[:40], "path": None}
    bad[2]["caption"] = None
    bad[4]["image"] = None
    for row in bad:
        del row["several"]
    data: Any = Dataset.from_list(bad).cast_column("image", Image())
    result = evaluate_model(checkpoint, data.to_iterable_dataset() if streaming else data, device="cpu")
    assert (result["n_images"], result["n_bad_images"], result["n_without_caption"]) == (3, 2, 1)
    kept = [0, 3, 5]
    expected = by_hand(checkpoint, [[CAPTIONS[row]] for row in kept], [COLORS[row] for row in kept])
    assert {key: result[key] for key in result if "@" in key} == expected


def test_columns_scored_at_once_score_as_on_their_own(checkpoint: Path) -> None:
    """Also where one column lacks captions that another has, and where a picture is bad."""
    data = rows()
    data[0]["caption"] = None
    data[1]["several"] = []
    data[2]["several"], data[2]["caption"] = None, " "
    data[4]["image"] = b"no picture"
    found = evaluate_columns(checkpoint, data, ["caption", "several"], batch_size=2, device="cpu")
    assert list(found) == ["caption", "several"]
    for column, result in found.items():
        alone = evaluate_model(checkpoint, data, columns=[column], device="cpu")
        assert result == alone, column
        assert (alone["n_images"], alone["n_bad_images"], alone["n_without_caption"]) == (3, 1, 2), column
    both = evaluate_columns(checkpoint, data, {"all of them": ["caption", "several"]}, device="cpu")
    assert both["all of them"] == evaluate_model(checkpoint, data, columns=["caption", "several"], device="cpu")
    assert both["all of them"]["n_texts"] == 3 + 6


def test_each_picture_is_embedded_once_for_all_columns(checkpoint: Path) -> None:
    class Counting:
        """An image processor that counts what passes."""

        def __init__(self, processor: Any) -> None:
            self.processor, self.pictures = processor, 0

        def __call__(self, images: Any, **options: Any) -> Any:
            self.pictures += len(images)
            return self.processor(images=images, **options)

    loaded = DualEncoder.load(checkpoint, device="cpu")
    counting = Counting(loaded.image_processor)
    encoder = DualEncoder(loaded.model, counting, loaded.tokenizer, "mine")
    evaluate_columns(encoder, rows(), ["caption", "several"], batch_size=4)
    assert counting.pictures == 6


def test_intervals_are_those_of_the_hits(checkpoint: Path) -> None:
    result = evaluate_model(checkpoint, rows(), columns=["several"], device="cpu", ks=(1, 2), intervals=True)
    encoder = DualEncoder.load(checkpoint, device="cpu")
    images = encoder.images([PilImage.new("RGB", (10, 9), color) for color in COLORS])
    texts = encoder.texts([text for row in rows() for text in row["several"]])
    hits = retrieval_hits(images, texts, np.repeat(np.arange(6), 2), ks=(1, 2), normalize=True)
    assert result["intervals"] == bootstrap_recall(hits)
    assert "intervals" not in evaluate_model(encoder, rows())


def test_a_column_without_any_caption_is_named(checkpoint: Path) -> None:
    data = [{**row, "caption_x": None} for row in rows()]
    with pytest.raises(EmbeddingError, match=r"of 6 rows, 0 have a picture .* and 6 no caption in caption_x"):
        evaluate_columns(checkpoint, data, ["caption", "caption_x"], device="cpu")


def test_a_loaded_encoder_serves_several_columns(checkpoint: Path) -> None:
    encoder = DualEncoder.load(checkpoint, device="cpu", dtype=torch.float32)
    assert evaluate_model(encoder, rows(), ks=[2]) == evaluate_model(checkpoint, rows(), ks=[2], device="cpu")


def test_long_captions_are_cut_to_the_context(checkpoint: Path) -> None:
    encoder = DualEncoder.load(checkpoint, device="cpu")
    assert torch.isfinite(encoder.texts(["red " * 500, "blue"])).all()


def test_nothing_to_score_is_an_error_with_the_counts(checkpoint: Path) -> None:
    with pytest.raises(EmbeddingError, match="of 2 rows, 1 have a picture that cannot be decoded and 1 no caption"):
        evaluate_model(checkpoint, [{"image": b"no", "caption": "a"}, {"image": png((0, 0, 0)), "caption": ""}])


def test_wrong_columns_splits_and_values_are_named_before_the_model_loads() -> None:
    data = Dataset.from_list([{"image": {"bytes": png((0, 0, 0)), "path": None}, "text": "a"}])
    with pytest.raises(ColumnError, match="no column 'caption'; the data set has: image, text"):
        evaluate_model("no/such-model", data)
    with pytest.raises(ColumnError, match="no column 'picture'"):
        evaluate_model("no/such-model", [{"image": None, "text": "a"}], image_column="picture", columns=["text"])
    with pytest.raises(UsageError, match="choose a split first: the data set has train"):
        evaluate_model("no/such-model", DatasetDict({"train": data}))
    with pytest.raises(FormatError, match="row 0: captions are a string or a list of strings"):
        evaluate_model("no/such-model", [{"image": None, "caption": 3}])
    with pytest.raises(UsageError, match="batch_size"):
        evaluate_model("no/such-model", data, batch_size=0)


def test_models_that_are_no_dual_encoders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot load"):
        DualEncoder.load(tmp_path / "nothing-here")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "exotic", "auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(CheckpointError, match="'exotic', and this library runs no code"):
        DualEncoder.load(tmp_path)
    with pytest.raises(UsageError, match="dtype"):
        DualEncoder.load(tmp_path, dtype="float33")


def test_a_text_model_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(vocab_size=9, **LAYERS)).save_pretrained(tmp_path)
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="BertModel, which embeds no image-text pairs"):
        DualEncoder.load(tmp_path, device="cpu")


def test_pictures_in_other_forms_give_the_same_embeddings(checkpoint: Path, tmp_path: Path) -> None:
    forms: list[list[Any]] = [
        [png(color) for color in COLORS],
        [PilImage.open(io.BytesIO(png(color))) for color in COLORS],
        [PilImage.fromarray(np.full((9, 10, 3), color, np.uint8)) for color in COLORS],
    ]
    results = [
        evaluate_model(
            checkpoint,
            [{"image": image, "caption": text} for image, text in zip(form, CAPTIONS, strict=True)],
            device="cpu",
        )
        for form in forms
    ]
    assert results[0] == results[1] == results[2]


def test_an_incomplete_encoder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "incomplete"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "logit" not in name and "patch_embedding" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"^incomplete lacks \d of the model's weights"):
        DualEncoder.load(folder)


def test_neither_results_nor_messages_bear_a_path(checkpoint: Path, tmp_path: Path) -> None:
    result = evaluate_model(checkpoint, rows(), batch_size=4, ks=5)
    assert result["model"] == checkpoint.name
    assert "text_retrieval_recall@5" in result
    with pytest.raises(CheckpointError) as caught:
        DualEncoder.load(tmp_path)
    assert str(tmp_path) not in str(caught.value)

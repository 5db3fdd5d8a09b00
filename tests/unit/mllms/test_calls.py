"""The three models are called alike: ``(input_ids, attention_mask, pixel_values)``, by place or by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hf_mllm_aug import mllms
from hf_mllm_aug.errors import UsageError
from tests.tiny_mllms import MAKERS

NAMES = ("input_ids", "attention_mask", "pixel_values")


@pytest.fixture(scope="module", params=MAKERS)
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A model, and two rows of different lengths."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    mllms.register()
    folder: Path = MAKERS[request.param](tmp_path_factory.mktemp("alike"))
    kind: Any = AutoModelForImageTextToText
    model = kind.from_pretrained(folder).eval()
    kind = AutoProcessor
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    batch = kind.from_pretrained(folder)(
        images=pictures, text=["A <image> dog", "The <image> cat sits on a mat"], return_tensors="pt"
    )
    assert set(batch) == set(NAMES)
    assert batch["attention_mask"].min() == 0
    return model, {name: batch[name] for name in NAMES}


@torch.inference_mode()
def test_by_place_gives_what_by_name_gives(asked: tuple[Any, dict[str, Any]]) -> None:
    model, given = asked
    by_name, by_place = model(**given).logits, model(*given.values()).logits
    assert by_name.shape[:2] == given["input_ids"].shape
    assert torch.equal(by_name, by_place)
    assert list(inspect.signature(model.forward).parameters)[:3] == list(NAMES)


@torch.inference_mode()
@pytest.mark.parametrize("return_dict", [True, None])
def test_an_output_has_its_logits_by_name_however_it_is_asked(
    return_dict: bool | None, asked: tuple[Any, dict[str, Any]]
) -> None:
    model, given = asked
    options = {} if return_dict is None else {"return_dict": return_dict}
    assert torch.equal(model(**given, **options).logits, model(**given).logits)


@torch.inference_mode()
def test_the_pictures_features_are_an_output_or_a_tuple(asked: tuple[Any, dict[str, Any]]) -> None:
    model, given = asked
    pixels = given["pixel_values"]
    features = model.get_image_features(pixels)
    named = model.get_image_features(pixel_values=pixels, return_dict=True)
    seen, pooled = model.get_image_features(pixels, return_dict=False)[:2]
    assert torch.equal(features.pooler_output, named.pooler_output)
    assert torch.equal(features.pooler_output, pooled)
    assert torch.equal(features.last_hidden_state, seen)
    assert pooled.shape[0] == len(pixels)
    assert not torch.equal(pooled[0], pooled[1]), "the pictures make no difference"


def test_generation_takes_the_same_inputs(asked: tuple[Any, dict[str, Any]]) -> None:
    model, given = asked
    n = given["input_ids"].shape[1]
    out = model.generate(**given, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    first = given.pop("input_ids")
    again = model.generate(first, **given, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    given["input_ids"] = first
    assert out.shape == (2, n + 3)
    assert torch.equal(out[:, :n], first)
    assert torch.equal(out, again)


@torch.inference_mode()
def test_marks_without_a_picture_are_refused_where_the_picture_is_needed(asked: tuple[Any, dict[str, Any]]) -> None:
    model, given = asked
    if type(model).__name__.startswith("Qwen"):
        assert model(given["input_ids"]).logits.shape[:2] == given["input_ids"].shape  # it reads text alone as well
        return
    for call in (model, model.generate):
        with pytest.raises(UsageError, match="give pixel_values"):
            call(given["input_ids"], attention_mask=given["attention_mask"])


def test_labels_give_the_loss_of_the_next_ids(asked: tuple[Any, dict[str, Any]]) -> None:
    model, given = asked
    row = {name: value[1:] for name, value in given.items()}  # the one without padding
    out = model(**row, labels=row["input_ids"])
    wanted = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), row["input_ids"][:, 1:].flatten())
    torch.testing.assert_close(out.loss, wanted)

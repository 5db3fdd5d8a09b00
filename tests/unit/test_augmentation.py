"""`Augment`: several captioners, sheared."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug import Augment, Captioner, Shear, augment
from hf_mllm_aug.captioners import engine
from hf_mllm_aug.captioners.engine import Generated, Request
from hf_mllm_aug.errors import CaptionError, ColumnError, ImageError, UnknownNameError, UsageError
from hf_mllm_aug.images import to_rgb


class Talker:
    """Writes two sentences about a picture, or a full stop alone about one 7 wide; notes how it was asked."""

    max_batch = None

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def generate(
        self, images: Sequence[Image.Image], keys: Sequence[str], request: Request
    ) -> Sequence[Generated | ImageError]:
        self.requests.append(request)
        texts = ["." if image.width == 7 else f"A {image.width} px St. Bernard. It barks." for image in images]
        return [Generated(text) for text in texts]


@pytest.fixture
def talker(monkeypatch: pytest.MonkeyPatch) -> Talker:
    found = Talker()
    monkeypatch.setattr(engine, "loaded", lambda key: found)
    return found


def pictures_of(*widths: int) -> list[Any]:
    return [Image.new("RGB", (width, 9)) for width in widths]


def test_every_captioner_gets_its_columns_in_order(talker: Talker) -> None:
    both = Augment(["tiny-llava", Captioner("llava-1.5")])
    found = both({"image": [*pictures_of(5), b"?"]})
    assert list(found) == both.output_columns
    assert found["caption_tiny_llava"] == found["caption_llava_1_5"] == ["A 5 px St. Bernard", None]
    assert found["error_llava_1_5"] == [None, "not a picture in a known format"]


def test_an_example_gives_scalars(talker: Talker) -> None:
    found = augment({"image": pictures_of(5)[0]})
    assert found == {"caption_tiny_llava": "A 5 px St. Bernard", "error_tiny_llava": None}


def test_texts_before_shearing_can_be_kept_and_are_then_whole(talker: Talker) -> None:
    found = Augment(keep_unsheared=True)({"image": [*pictures_of(5), None]})
    assert list(found) == ["caption_tiny_llava", "generated_tiny_llava", "error_tiny_llava"]
    assert found["generated_tiny_llava"] == ["A 5 px St. Bernard. It barks.", None]
    assert found["caption_tiny_llava"] == ["A 5 px St. Bernard", None]
    assert not talker.requests[0].sentence_stop


@pytest.mark.parametrize(
    ("shear", "stops", "caption"),
    [
        (Shear(), True, "A 5 px St. Bernard"),
        (Shear(max_words=2), True, "A 5"),
        (Shear(rule="seed"), False, "A 5 px St"),
        (Shear(rule="raw"), False, "A 5 px"),
        (None, False, "A 5 px St. Bernard. It barks."),
    ],
)
def test_decoding_ends_early_only_where_shearing_keeps_the_first_sentence(
    shear: Shear | None, stops: bool, caption: str, talker: Talker
) -> None:
    found = Augment(shear=shear)({"image": pictures_of(5), "caption": ["a raw caption"]})
    assert found["caption_tiny_llava"] == [caption]
    assert talker.requests[0].sentence_stop is stops


@pytest.mark.parametrize(("rule", "caption"), [("seed", "A dog! It runs on grass"), ("sentence", "A dog!")])
def test_the_papers_captions_need_the_papers_rule(rule: Any, caption: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Barker(Talker):
        def generate(
            self, images: Sequence[Image.Image], keys: Sequence[str], request: Request
        ) -> Sequence[Generated | ImageError]:
            return [Generated("A dog! It runs on grass. Next")] * len(images)

    monkeypatch.setattr(engine, "loaded", lambda key: Barker())
    paper = Augment(Captioner("otter", preset="paper"), shear=Shear(rule=rule))
    assert paper({"image": pictures_of(5)})["caption_otter"] == [caption]


def test_the_language_of_shearing_is_that_of_the_sentence_stop() -> None:
    assert Augment(shear=Shear(language="ja")).members[0].language == "ja"


def test_shearing_by_the_raw_captions_needs_them(talker: Talker) -> None:
    with pytest.raises(ColumnError, match="no column 'caption'; the data set has: image"):
        Augment(shear=Shear(rule="raw"))({"image": pictures_of(5)})


def test_a_caption_of_which_shearing_leaves_nothing_is_a_failure(talker: Talker) -> None:
    found = augment({"image": pictures_of(7)[0]})
    assert found["caption_tiny_llava"] is None
    assert found["error_tiny_llava"] == "nothing was left after shearing"


def test_pictures_are_decoded_once_for_all_captioners(talker: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_mllm_aug.captioners import pipeline

    decoded = []

    def noted(value: Any) -> Image.Image:
        decoded.append(value)
        return to_rgb(value)

    monkeypatch.setattr(pipeline, "to_rgb", noted)
    Augment(["tiny-llava", "llava-1.5"])({"image": pictures_of(*range(10, 20))})
    assert len(decoded) == 10


def test_captioners_that_would_write_the_same_column_are_refused() -> None:
    with pytest.raises(UsageError, match=r"both write 'caption_tiny_llava'. To do: give one of them another name="):
        Augment(["tiny-llava", Captioner(prompt="What is it?")])
    assert len(Augment(["tiny-llava", Captioner(prompt="What?", name="tiny-llava-what")]).output_columns) == 4


def test_captioners_that_read_different_columns_are_refused() -> None:
    with pytest.raises(UsageError, match=r"differ in image_column: image, photo. To do: pass image_column="):
        Augment(["tiny-llava", Captioner("llava-1.5", image_column="photo")])
    both = Augment(["tiny-llava", Captioner("llava-1.5", image_column="photo")], image_column="img")
    assert {captioner.image_column for captioner in both.members} == {"img"}


def test_nothing_and_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="no captioner"):
        Augment([])
    with pytest.raises(UnknownNameError, match=r"did you mean 'llava-1\.5'"):
        Augment(["tiny-llava", "llava-1-5"])


def test_settings_reach_all_captioners(talker: Talker) -> None:
    strict = Augment(["tiny-llava", "llava-1.5"], on_error="raise", key_column="id", batch_size=3, device="cpu")
    assert {(c.on_error, c.batch_size, c.device) for c in strict.members} == {("raise", 3, "cpu")}
    with pytest.raises(CaptionError, match="tiny-llava: row 'b'"):
        strict({"image": [*pictures_of(5), b"?"], "id": ["a", "b"]})


def test_the_hash_sees_captioners_and_shearing_and_survives_a_pickle(random_llava: Path) -> None:
    from datasets.fingerprint import Hasher

    variants = [
        augment,
        Augment("llava-1.5"),
        Augment(shear=Shear(rule="seed")),
        Augment(keep_unsheared=True),
        Augment(Captioner(seed=3)),
        Augment(Captioner(random_llava)),
    ]
    hashes = [Hasher.hash(variant) for variant in variants]
    assert len(set(hashes)) == len(variants)
    assert [Hasher.hash(pickle.loads(pickle.dumps(variant))) for variant in variants] == hashes
    assert Hasher.hash(Augment()) == Hasher.hash(Augment(["tiny-llava"])) == hashes[0]
    assert Hasher.hash(replace(variants[3], keep_unsheared=False)) != hashes[3]


def test_features_and_description_name_all_columns() -> None:
    from datasets import Features, Image, Value

    both = Augment(["tiny-llava", "llava-1.5"], keep_unsheared=True)
    features = both.features(Features({"image": Image()}))
    assert list(features) == ["image", *both.output_columns]
    assert all(features[column] == Value("string") for column in both.output_columns)
    described = both.describe()
    assert [captioner["name"] for captioner in described["captioners"]] == ["tiny-llava", "llava-1.5"]
    assert described["shear"]["rule"] == "sentence"

"""A `Captioner` as a function of rows, with an engine that needs no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug.captioners import Captioner
from hf_mllm_aug.errors import CaptionError, ColumnError, UsageError

Pictures = Callable[..., list[Any]]

BROKEN = b"<html>"


def test_a_batch_gives_lists_and_an_example_gives_scalars(fake: Any, pictures_of: Pictures) -> None:
    assert Captioner()({"image": pictures_of(5, 6)}) == {
        "caption_tiny_llava": ["a picture 5 wide.", "a picture 6 wide."],
        "error_tiny_llava": [None, None],
    }
    assert Captioner()({"image": pictures_of(5)[0]}) == {
        "caption_tiny_llava": "a picture 5 wide.",
        "error_tiny_llava": None,
    }
    assert Captioner()({"image": []}) == {"caption_tiny_llava": [], "error_tiny_llava": []}


def test_bad_rows_are_null_with_a_reason_and_the_others_keep_their_captions(fake: Any, pictures_of: Pictures) -> None:
    images = [*pictures_of(5, 13), BROKEN, None, *pictures_of(6)]
    batch = Captioner(batch_size=2)({"image": images})
    assert batch["caption_tiny_llava"] == ["a picture 5 wide.", None, None, None, "a picture 6 wide."]
    assert batch["error_tiny_llava"] == [None, "refused", "not a picture in a known format", "no picture", None]


def test_a_text_of_nothing_is_a_failure(fake: Any, pictures_of: Pictures) -> None:
    fake.answers = ["  "]
    assert Captioner()({"image": pictures_of(5)})["error_tiny_llava"] == ["the model wrote nothing"]


def test_with_raise_the_bad_row_is_named(fake: Any, pictures_of: Pictures) -> None:
    images = [*pictures_of(5), BROKEN]
    with pytest.raises(CaptionError, match=r"tiny-llava: row 'k1': not a picture"):
        Captioner(on_error="raise")({"image": images, "key": ["k0", "k1"]})
    with pytest.raises(CaptionError, match="row 1 of the batch"):
        Captioner(on_error="raise")({"image": images})


def test_an_engine_that_gives_another_number_of_captions_is_caught(fake: Any, pictures_of: Pictures) -> None:
    fake.answers = ["a", "b", "c"]
    with pytest.raises(CaptionError, match="gave 3 captions for 2 pictures"):
        Captioner()({"image": pictures_of(5, 6)})


def test_the_micro_batch_is_the_captioners_and_shrinks_when_memory_is_short(fake: Any, pictures_of: Pictures) -> None:
    Captioner(batch_size=4)({"image": pictures_of(*range(20, 30))})
    assert fake.calls == [4, 4, 2]
    fake.calls.clear()
    fake.max_batch = 3
    Captioner(batch_size=4)({"image": pictures_of(*range(20, 28))})
    assert fake.calls == [3, 1, 3, 1]


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(ColumnError, match=r"no column 'image'; the data set has: img, text. To do: pass image_column="):
        Captioner()({"img": [1], "text": ["a"]})


@pytest.mark.parametrize("passed", [[b"x"], Image.new("RGB", (4, 4))])
def test_input_columns_are_refused_with_advice(passed: Any) -> None:
    with pytest.raises(UsageError, match="drop input_columns="):
        Captioner()(passed)


def test_a_batch_may_hold_tuples(fake: Any, pictures_of: Pictures) -> None:
    captioner = Captioner(name="otter")
    assert captioner({"image": tuple(pictures_of(20, 21))}) == captioner({"image": pictures_of(20, 21)})

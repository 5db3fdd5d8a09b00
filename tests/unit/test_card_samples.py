"""Sample rows of a card: small pictures that carry nothing but pixels, and what shearing cut off."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value, load_dataset
from PIL import Image as PilImage

from hf_mllm_aug.card import build_card
from hf_mllm_aug.card_samples import cut_off, thumbnail
from hf_mllm_aug.configs import to_configs
from hf_mllm_aug.safe_text import plain
from tests.card_rows import Page

GPS = 0x8825


def file(colour: str = "red", size: tuple[int, int] = (600, 300), **options: Any) -> bytes:
    buffer = io.BytesIO()
    PilImage.new("RGB", size, colour).save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def with_pictures(pictures: list[Any], captions: list[str | None] | None = None, **more: list[Any]) -> dict[str, Any]:
    count = len(pictures)
    rows = {
        "key": [f"key{i}" for i in range(count)],
        "image": pictures,
        "caption": [f"raw {i}" for i in range(count)],
        "caption_otter": captions or [f"a picture {i}" for i in range(count)],
        **more,
    }
    features = Features({name: Image(decode=False) if name == "image" else Value("string") for name in rows})
    return to_configs(Dataset.from_dict(rows, features=features), images="embed")


def opened(content: bytes) -> PilImage.Image:
    return PilImage.open(io.BytesIO(content))


def test_eight_rows_are_shown_with_their_pictures() -> None:
    colours = [(255, 20 * i, 0) for i in range(12)]
    pictures = [{"bytes": file(f"rgb{colour}"), "path": None} for colour in colours]
    card = build_card(with_pictures(pictures))
    names = [f"figures/all-sample-{i}.webp" for i in range(8)]
    assert set(names) == {name for name in card.files if "sample" in name}
    page = Page(card)
    assert page.fetched == set(card.files)
    shown = [int(number) for number in re.findall(r"a picture (\d+)", page.text)]
    assert shown[0] == 0
    assert shown[-1] == 11
    assert len(shown) == 8
    for name, row in zip(names, shown, strict=True):
        small = opened(card.files[name])
        assert (small.format, small.size) == ("WEBP", (256, 128))
        red, green, blue = small.convert("RGB").getpixel((128, 64))  # type: ignore[misc]
        assert abs(green - colours[row][1]) < 12, f"{name} is not the picture of row {row}"
        assert red > 230
        assert blue < 25


def test_a_small_picture_holds_nothing_but_pixels() -> None:
    exif = PilImage.Exif()
    exif[0x010E] = "the description of ann"
    exif.get_ifd(GPS)[1] = "N"
    content = file("blue", format="JPEG", exif=exif, comment=b"a comment", icc_profile=b"profile of ann" * 20)
    assert b"the description of ann" in content
    small = thumbnail(content)
    assert small is not None
    assert opened(small).info.keys() <= {"loop", "background", "timestamp", "duration"}
    assert not opened(small).getexif()
    for part in (b"ann", b"EXIF", b"ICCP", b"XMP", b"comment"):
        assert part not in small


def test_a_picture_that_stands_on_its_side_is_put_upright() -> None:
    exif = PilImage.Exif()
    exif[0x0112] = 6
    small = thumbnail(file(size=(600, 300), format="JPEG", exif=exif))
    assert small is not None
    assert opened(small).size == (128, 256)


@pytest.mark.parametrize("content", [b"", b"<html>", file()[:40], b"\x89PNG\r\n\x1a\n" + b"x" * 100, None])
def test_what_is_no_picture_is_not_shown(content: bytes | None) -> None:
    assert thumbnail(content) is None
    card = build_card(with_pictures([{"bytes": content, "path": None} if content is not None else None]))
    assert "figures/all-sample-0.webp" not in card.files
    assert "key0" in Page(card).text


def test_a_row_cannot_name_a_file_of_the_publisher(tmp_path: Path) -> None:
    (tmp_path / "passport.png").write_bytes(file())
    parts = with_pictures([{"bytes": None, "path": str(tmp_path / "passport.png")}])
    pq.write_table(parts["all"].data.table, tmp_path / "downloaded.parquet")
    rows = load_dataset("parquet", data_files=str(tmp_path / "downloaded.parquet"), split="train")
    loaded = {**parts, "all": rows.cast_column("image", Image(decode=False))}
    assert rows.cast_column("image", Image(decode=False))[0]["image"]["path"] == str(tmp_path / "passport.png")
    assert not [name for name in build_card(loaded).files if "sample" in name]
    vouched = build_card(loaded, picture_root=tmp_path)
    assert [name for name in vouched.files if "sample" in name] == ["figures/all-sample-0.webp"]


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_of_few_rows_all_are_shown(rows: int) -> None:
    card = build_card(with_pictures([{"bytes": file(), "path": None}] * rows))
    assert len([name for name in card.files if "sample" in name]) == rows


def test_a_path_that_is_none_costs_a_picture_and_not_the_card() -> None:
    card = build_card(with_pictures([{"bytes": None, "path": "a\0b.png"}, {"bytes": file(), "path": None}]))
    assert [name for name in card.files if "sample" in name] == ["figures/all-sample-1.webp"]


def test_what_was_cut_off_is_struck_through() -> None:
    parts = with_pictures(
        [{"bytes": file(), "path": None}] * 2,
        ["A dog", None],
        generated_otter=["A dog. It waits for <b>ann</b>.", None],
        error_otter=[None, "too big"],
    )
    page = Page(card := build_card(parts))
    assert page.elements["del"] == 1
    assert "<del>. It waits for &#60;b&#62;ann" in card.text
    assert "struck through" in page.text
    inside = build_card(with_pictures([None], ["A dog"], generated_otter=["A dog waits."]))
    assert "A dog <del>waits.</del>" in inside.text, "the words run together"
    assert "null" in page.text
    assert "del" not in Page(build_card(with_pictures([None], ["A dog"], generated_otter=["A dog."]))).elements


@pytest.mark.parametrize(
    ("caption", "generated", "tail"),
    [
        ("A dog", "A dog. It waits.", ". It waits."),
        ("A dog", " A dog.\n", ""),
        ("A dog", "A cat. It waits.", ""),
        (None, "A dog", ""),
        ("A dog", None, ""),
        ("", "A dog", ""),
    ],
)
def test_the_tail_is_what_follows_the_caption(caption: str | None, generated: str | None, tail: str) -> None:
    assert cut_off(caption, generated) == tail


def test_words_without_end_do_not_widen_the_page() -> None:
    card = build_card(with_pictures([None], ["W" * 10_000], generated_otter=["W" * 10_000 + " and " + "V" * 10_000]))
    longest = max(len(word) for word in Page(card).text.split() if set(word) <= set("WV…"))
    assert longest == 41
    text = "图" * 80
    assert plain(text) in Page(build_card(with_pictures([None], [text]))).text, "words without spaces were cut"


def test_configs_of_other_rows_are_not_shown_side_by_side() -> None:
    parts = with_pictures([None, None])
    shorter = {**parts, "otter": parts["otter"].select([0])}
    assert "Sample rows" not in build_card(shorter).text
    swapped = {**parts, "otter": parts["otter"].select([1, 0])}
    assert "Sample rows" not in build_card(swapped).text

"""YFCC15M: OpenAI's list and its join with the captions, DeCLIP's list, the Hub's copy."""

from __future__ import annotations

import bz2
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mllm_aug import load_yfcc15m
from hf_mllm_aug.errors import FormatError, UsageError
from hf_mllm_aug.loaders.yfcc_metadata import clean_text, yfcc_caption

PHOTOS = [(10, 5001, "a" * 32), (20, 5002, "b" * 32), (30, 5003, "c" * 32)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    path = tmp_path / "yfcc100m_subset_data.tsv"
    path.write_text("".join(f"{line}\t{photo}\t{digest}\n" for line, photo, digest in PHOTOS))
    return path


def record(line: int, photo: int, title: str, description: str) -> list[str]:
    """A line of YFCC100M's own metadata: 25 columns."""
    columns = [f"column {i}" for i in range(25)]
    columns[:3] = [str(line), str(photo), "d" * 32]
    columns[8:10] = [title, description]
    columns[16] = f"http://farm1.staticflickr.com/1/{photo}_0.jpg"
    return columns


TABLE = [
    record(10, 5001, "My+Dog", "%3Cb%3ERex%3C%2Fb%3E%0A+sleeps."),
    record(11, 4999, "not+wanted", ""),
    record(20, 5002, "", "caf%C3%A9+%26amp%3B+bar"),
    record(30, 5003, "", ""),
]
EXPECTED = {"5001": "My Dog Rex sleeps.", "5002": "café &amp; bar", "5003": ""}


def tsv(rows: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def captions(rows: Any) -> dict[str, str]:
    return {row["key"]: row["caption"] for row in rows}


def test_openais_list_is_joined_with_the_metadata(photos: Path, tmp_path: Path, caplog: Any) -> None:
    metadata = tmp_path / "yfcc100m_dataset"
    metadata.write_text(tsv(TABLE))
    with caplog.at_level(logging.WARNING):
        rows = load_yfcc15m(photos, metadata=metadata)
    assert captions(rows) == EXPECTED
    assert rows[0]["url"] == "http://farm1.staticflickr.com/1/5001_0.jpg"
    assert "1 x empty captions, kept (first: line 4)" in caplog.text
    assert captions(load_yfcc15m(photos, metadata=metadata, streaming=True)) == EXPECTED


@pytest.mark.parametrize("form", ["bz2", "23 columns", "header", "clean header", "jsonl", "captions"])
def test_the_metadata_may_be_in_several_forms(photos: Path, tmp_path: Path, form: str) -> None:
    metadata = tmp_path / "metadata"
    texts = [(row[1], row[8], row[9], row[16]) for row in TABLE]
    cleaned = [(photo, clean_text(title), clean_text(text), url) for photo, title, text, url in texts]
    if form == "bz2":
        metadata.write_bytes(bz2.compress(tsv(TABLE).encode()))
    elif form == "23 columns":
        metadata.write_text(tsv([[row[1], *row[3:]] for row in TABLE]))
    elif form == "header":
        metadata.write_text(tsv([["photoid", "title", "description", "downloadurl"], *map(list, texts)]))
    elif form == "clean header":
        names = ["photoid", "title_clean", "description_clean", "downloadurl"]
        metadata.write_text(tsv([names, *map(list, cleaned)]))
    elif form == "captions":
        metadata.write_text(tsv([["caption", "photoid"], *([EXPECTED.get(row[1], "-"), row[1]] for row in TABLE)]))
    else:
        names = ["photoid", "title_clean", "description_clean", "downloadurl"]
        metadata.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in cleaned))
    rows = load_yfcc15m(photos, metadata=metadata)
    assert captions(rows) == EXPECTED
    assert rows[1]["url"] == (None if form == "captions" else "http://farm1.staticflickr.com/1/5002_0.jpg")


def test_photos_that_the_metadata_lack_are_said(photos: Path, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "metadata").write_text(tsv(TABLE[:2]))
    with caplog.at_level(logging.WARNING):
        assert captions(load_yfcc15m(photos, metadata=tmp_path / "metadata")) == {"5001": EXPECTED["5001"]}
    assert "2 of 3 photos are not in" in caplog.text
    assert "such as 5002, 5003" in caplog.text


def test_the_list_alone_has_no_captions_and_says_what_to_do(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"yfcc100m_subset_data\.tsv lists photos and has no captions. Pass metadata="):
        load_yfcc15m(photos)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5001\ttitle\n", r"metadata, line 1: 2 columns; YFCC100M's metadata has 25, or 23"),
        ("photoid\tuid\n5001\tx\n", r"metadata, line 1: no column with a title, a description or a caption"),
        (tsv([*TABLE[:2], TABLE[2][:9]]), r"metadata, line 3: 9 columns, expected 25"),
        (
            tsv([TABLE[0], ["0", "no number", *TABLE[0][2:]]]),
            r"metadata, line 2: 'photoid' is no number but 'no number'",
        ),
        ('{"photoid": 5001, "title": "x"}\n{"title": "y"}\n', r"metadata, line 2: no 'photoid'"),
    ],
)
def test_broken_metadata_are_named_by_line(photos: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metadata").write_text(text)
    with pytest.raises(FormatError, match=message):
        load_yfcc15m(photos, metadata=tmp_path / "metadata")


def test_a_broken_list_is_named_by_line(photos: Path, tmp_path: Path) -> None:
    photos.write_text(photos.read_text() + "40\tx5004\thash\n")
    (tmp_path / "metadata").write_text(tsv(TABLE))
    with pytest.raises(
        FormatError, match=r"subset_data\.tsv, line 4: expected 3 columns, line number, photo identifier"
    ):
        load_yfcc15m(photos, metadata=tmp_path / "metadata")


def test_declips_list(tmp_path: Path) -> None:
    path = tmp_path / "yfcc15m_clean_open_data.json"
    row = {"filename": "00/5010573116.jpg", "caption": "Rex, asleep", "url": "http://farm5.staticflickr.com/x.jpg"}
    path.write_text(json.dumps(row) + "\n")
    (plain,) = load_yfcc15m(path)
    assert plain == {"key": row["filename"], "image": None, "url": row["url"], "caption": row["caption"]}
    (rooted,) = load_yfcc15m(path, image_root=tmp_path)
    assert rooted["image"] == {"bytes": None, "path": str(tmp_path / "00" / "5010573116.jpg")}
    path.write_text(json.dumps({**row, "filename": "../secret.jpg"}))
    with pytest.raises(FormatError, match=r"line 1: the picture '\.\./secret\.jpg' lies outside image_root"):
        load_yfcc15m(path, image_root=tmp_path)


def test_the_hubs_columns(tmp_path: Path) -> None:
    columns = {
        "photoid": pa.array([5001, 5002]),
        "title_clean": ["My Dog", "A cat"],
        "description_clean": ["Rex sleeps.", None],
        "downloadurl": ["http://x/1.jpg", ""],
        "img": pa.array([b"JPEG", None], pa.binary()),
        "licensename": ["Attribution License", "x"],
    }
    pq.write_table(pa.table(columns), tmp_path / "train-00000.parquet")
    expected = [
        {
            "key": "5001",
            "image": {"bytes": b"JPEG", "path": None},
            "url": "http://x/1.jpg",
            "caption": "My Dog Rex sleeps.",
        },
        {"key": "5002", "image": None, "url": None, "caption": "A cat"},
    ]
    assert list(load_yfcc15m(tmp_path)) == expected
    assert list(load_yfcc15m(tmp_path, streaming=True)) == expected


def test_titles_and_descriptions_are_cleaned_as_they_are_published() -> None:
    assert clean_text("a+b%20c") == "a b c"
    assert clean_text("<a href='x'>y</a>  z\t\n") == "y z"
    assert clean_text("1 < 2, 3 > 2") == "1 2", "as the published rule has it: from < to > is a tag"
    assert yfcc_caption({"title_clean": "a+b", "title": "x"}) == "a+b", "what is clean stays as it is"
    assert yfcc_caption({"title_clean": None, "description_clean": None, "description": "a+b"}) == "a b"
    assert yfcc_caption({}) == ""


@pytest.mark.parametrize("photo", ["\u00b2", "\u0663", "9" * 20, "9" * 5_000])
def test_what_is_no_identifier_of_a_photo_is_named_with_its_line(photos: Path, tmp_path: Path, photo: str) -> None:
    metadata, table = tmp_path / "metadata.jsonl", tmp_path / "yfcc100m_dataset"
    metadata.write_text(json.dumps({"photoid": photo, "title": "x"}) + "\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"metadata\.jsonl, line 1: 'photoid' is no number"):
        load_yfcc15m(photos, metadata=metadata)
    table.write_text("\t".join(record(1, 5001, "x", "")).replace("5001", photo, 1) + "\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"yfcc100m_dataset, line 1: 'photoid' is no number"):
        load_yfcc15m(photos, metadata=table)
    photos.write_text(f"1\t5001\t{'a' * 32}\n2\t{photo}\t{'b' * 32}\n", encoding="utf-8")
    metadata.write_text(json.dumps({"photoid": 5001, "title": "x"}) + "\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"subset_data\.tsv, line 2: expected 3 columns"):
        load_yfcc15m(photos, metadata=metadata, form="openai-list")


def test_an_address_that_is_no_text_is_null(photos: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"photoid": 5001, "title": "x", "downloadurl": 7}, {"photoid": 5002, "title": "y"}]
    metadata = tmp_path / "metadata.jsonl"
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_yfcc15m(photos, metadata=metadata)["url"] == [None, None]

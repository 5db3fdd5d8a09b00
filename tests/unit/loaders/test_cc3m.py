"""CC3M as it is published: caption first, two splits, two configs, captions that are no keys."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mllm_aug import load_cc3m, to_configs
from hf_mllm_aug.errors import FormatError, UsageError

# The form of the published file's lines, quotes and entities and all.
LINES = [
    (
        "a very typical bus station",
        "http://lh6.ggpht.com/-IvRtNLNcG8o/TpFyrudaT6I/AAAAAAAAM6o/_11MuAAKalQ/IMG_3422.JPG?imgmax=800",
    ),
    (
        "sierra looked stunning in this top and this skirt while performing with <PERSON>",
        "http://78.media.tumblr.com/3b133294bdc7c7784b781b45aaad.jpg",
    ),
    (
        'young confused "girl" standing in front of a wardrobe',
        "https://media.gettyimages.com/photos/young-girl-picture-id490603138?k=6&m=49&s=612x612",
    ),
    ("interior design of modern living room", "http://a.b/1.jpg"),
    ("interior design of modern living room", "http://a.b/2.jpg"),
]


@pytest.fixture
def training(tmp_path: Path) -> Path:
    path = tmp_path / "Train_GCC-training.tsv"
    path.write_text("".join(f"{caption}\t{url}\n" for caption, url in LINES))
    return path


def test_the_published_list(training: Path) -> None:
    rows = load_cc3m(training)
    assert [(row["caption"], row["url"]) for row in rows] == LINES
    assert rows["image"] == [None] * 5
    assert rows[0]["key"] == hashlib.sha256(LINES[0][1].encode()).hexdigest()[:24]


def test_captions_of_several_pictures_stay_apart(training: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = load_cc3m(training)
    assert len(set(rows["key"])) == 5
    assert caplog.text == ""


def test_the_rows_can_be_published(training: Path) -> None:
    configs = to_configs(load_cc3m(training).add_column("caption_otter", ["x"] * 5), captioners=["otter"])
    assert configs["raw"]["key"] == load_cc3m(training)["key"][:]


def test_a_list_of_cc12m_is_noticed(tmp_path: Path) -> None:
    swapped = tmp_path / "cc12m.tsv"
    swapped.write_text("".join(f"{url}\t{caption}\n" for caption, url in LINES))
    with pytest.raises(FormatError, match=r"cc12m\.tsv, line 1: the columns are the other way round"):
        load_cc3m(swapped)


def test_the_labelled_config_has_no_other_columns(tmp_path: Path) -> None:
    extras: dict[str, dict[str, list[list[str]]]] = {
        "unlabeled": {},
        "labeled": {"labels": [["dog"]], "MIDs": [["/m/1"]]},
    }
    for config, extra in extras.items():
        (tmp_path / config).mkdir()
        columns = {"image_url": ["http://a.b/1.jpg"], "caption": [config], **extra}
        pq.write_table(pa.table(columns), tmp_path / config / "train-00000-of-00001.parquet")
    assert load_cc3m(tmp_path)["caption"] == ["unlabeled"]
    assert list(load_cc3m(tmp_path, config="labeled", streaming=True)) == [
        {
            "key": hashlib.sha256(b"http://a.b/1.jpg").hexdigest()[:24],
            "image": None,
            "url": "http://a.b/1.jpg",
            "caption": "labeled",
        }
    ]


def test_a_row_that_nothing_names_is_refused(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image_url": ["http://a.b/1.jpg", None], "caption": ["x", "y"]}), tmp_path / "train.parquet"
    )
    with pytest.raises(FormatError, match="row 2: neither a key nor a url"):
        load_cc3m(tmp_path)


def test_pairs_of_the_paper_take_an_image_root(tmp_path: Path) -> None:
    (tmp_path / "otter.json").write_text('[{"image": "cc3m/0001.jpg", "caption": "a bus"}]')
    (row,) = load_cc3m(tmp_path / "otter.json", image_root=tmp_path)
    assert row["key"] == "cc3m/0001.jpg"
    assert row["image"]["path"] == str(tmp_path / "cc3m" / "0001.jpg")
    with pytest.raises(UsageError, match="on_error= means nothing for the form 'pairs'"):
        load_cc3m(tmp_path / "otter.json", on_error="skip")


def test_a_row_of_a_table_that_nothing_names_is_named_by_its_number(tmp_path: Path) -> None:
    urls = [f"http://a.b/{i}.jpg" for i in range(1_500)]
    urls[1_234] = ""
    pq.write_table(pa.table({"image_url": urls, "caption": ["x"] * 1_500}), tmp_path / "train.parquet")
    with pytest.raises(FormatError, match=r"train\.parquet, row 1,235: neither a key nor a url"):
        load_cc3m(tmp_path / "train.parquet")

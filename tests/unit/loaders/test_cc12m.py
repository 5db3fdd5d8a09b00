"""CC12M as it is published: address first, one split; and the script that its repository may be."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from hf_mllm_aug import load_cc12m
from hf_mllm_aug.errors import ColumnError, FormatError

URL = "https://static.example.com/photos/1.jpg"


def test_the_published_list(tmp_path: Path) -> None:
    path = tmp_path / "cc12m.tsv"
    path.write_text(f'{URL}\tMetal Design Within Reach Ivory "Slipper" Chairs - a Pair For Sale - Image 7 of 10\n')
    (row,) = load_cc12m(path)
    assert (row["url"], row["image"]) == (URL, None)
    assert row["caption"] == 'Metal Design Within Reach Ivory "Slipper" Chairs - a Pair For Sale - Image 7 of 10'


def test_words_that_readers_of_tables_take_for_nothing_are_captions(tmp_path: Path) -> None:
    captions = ["NA", "null", "None", "nan", "0", "007", "1e5", "true", '"', "'", "#", " x ", "-", "\\N"]
    path = tmp_path / "cc12m.tsv"
    path.write_text("".join(f"{URL}?{i}\t{caption}\n" for i, caption in enumerate(captions)))
    assert load_cc12m(path)["caption"] == captions


def test_a_list_of_cc3m_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "Train_GCC-training.tsv"
    path.write_text(f"a dog\t{URL}\n")
    with pytest.raises(FormatError, match=r"the caption comes first, where the url should.*form='tsv-caption-url'"):
        load_cc12m(path, streaming=True).take(1).to_list()


def test_a_stream_can_go_to_worker_processes(tmp_path: Path) -> None:
    path = tmp_path / "cc12m.tsv"
    path.write_text("".join(f"{URL}?{i}\tcaption {i}\n" for i in range(30)))
    stream = load_cc12m(path, streaming=True)
    assert list(pickle.loads(pickle.dumps(stream))) == list(stream)


def test_a_table_of_other_columns_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"picture": ["x"], "words": ["y"]}), tmp_path / "data.parquet")
    with pytest.raises(ColumnError, match="no column 'image_url'; the data set has: picture, words"):
        load_cc12m(tmp_path)

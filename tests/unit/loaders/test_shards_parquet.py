"""img2dataset's Parquet files and folders: the columns that are found, and the samples that give no row."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mllm_aug.errors import FormatError, UsageError
from hf_mllm_aug.loaders.shards import load_img2dataset_folder, load_img2dataset_parquet
from tests.unit.loaders.samples import (
    keys,
    row,
    sample,
    take,
    write_folder,
    write_parquet,
)


def test_of_parquet_the_successes_are_rows_and_the_others_are_counted(tmp_path: Path) -> None:
    samples = [sample(n) for n in range(250)]
    for n in range(0, 250, 2):
        samples[n] |= {"status": "failed_to_download", "jpg": None}
    samples[1]["jpg"] = None
    samples[3]["caption"] = None
    file = write_parquet(tmp_path / "a.parquet", samples)
    for rows in (load_img2dataset_parquet(file), load_img2dataset_parquet(file, streaming=True)):
        found = take(rows)
        assert found[1:] == [row(n) for n in range(5, 250, 2)]
        assert found[0] == row(3) | {"caption": None}
    counted = "a.parquet: 124 rows; left out: 125 failed_to_download, 1 without a picture"
    assert load_img2dataset_parquet(file).info.description == counted


@pytest.mark.parametrize("column", ["png", "webp", "image", "picture"])
def test_the_column_of_pictures_is_found(tmp_path: Path, column: str) -> None:
    table = pa.Table.from_pylist([sample(0)]).rename_columns({"jpg": column})
    if column == "image":
        pictures = pa.array([{"bytes": sample(0)["jpg"], "path": "x.jpg"}])
        table = table.set_column(table.column_names.index("image"), "image", pictures)
    pq.write_table(table, tmp_path / "a.parquet")
    found = take(load_img2dataset_parquet(tmp_path / "a.parquet", streaming=True))
    assert found[0]["image"]["bytes"] == sample(0)["jpg"]


def test_a_file_of_records_is_told_from_one_of_pictures(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "files", {"00000": range(1)})
    for streaming in (True, False):
        with pytest.raises(FormatError, match=r"no column of pictures; it has: caption, url.*load_img2dataset_folder"):
            take(load_img2dataset_parquet(folder, streaming=streaming))
    write_parquet(tmp_path / "b.parquet", [{"jpg": b"x"}])
    with pytest.raises(FormatError, match=r"b\.parquet: no column 'key'; it has: jpg"):
        take(load_img2dataset_parquet(tmp_path / "b.parquet", streaming=True))


def test_a_parquet_file_that_is_cut_off_or_broken_within_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [sample(n, jpg=bytes([n]) * 4000) for n in range(20)]
    file = write_parquet(tmp_path / "a.parquet", samples, row_group_size=5, compression="gzip", use_dictionary=False)
    whole = file.read_bytes()
    broken = bytearray(whole)
    place = pq.ParquetFile(file).metadata.row_group(2)
    column = place.column(file_column(file, "jpg"))
    start = column.data_page_offset
    broken[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(broken)
    assert keys(load_img2dataset_parquet(file, streaming=True)) == list(range(10))
    assert f"{file}: damaged after row 10, with the key '000000009'" in caplog.text
    file.write_bytes(whole[: len(whole) // 2])
    caplog.clear()
    assert keys(load_img2dataset_parquet(file, streaming=True)) == []
    assert f"{file}: damaged after no row: no Parquet file, or one that is cut off" in caplog.text
    with pytest.raises(FormatError, match="cut off"):
        load_img2dataset_parquet(file, on_error="raise")


def file_column(file: Path, name: str) -> int:
    return int(pq.ParquetFile(file).schema_arrow.names.index(name))


def test_text_of_parquet_that_is_not_utf8_is_null_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"fine"]).buffers())
    table = pa.table({"key": ["0", "1"], "caption": bad, "jpg": [b"x", b"y"]})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=False)
    found = take(load_img2dataset_parquet(tmp_path / "a.parquet", streaming=True))
    assert [each["caption"] for each in found] == [None, "fine"]
    assert "1 with a caption that is not UTF-8" in caplog.text


def test_one_of_the_folders_alone_may_be_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "files", {"00000": range(2), "00001": range(2, 5)})
    assert keys(load_img2dataset_folder(root / "00001")) == [2, 3, 4]
    assert load_img2dataset_folder(root).info.description == "", "records and statistics beside them are no samples"


def test_in_a_folder_what_failed_is_counted_and_devices_are_not_opened(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "files", {"00000": range(3)}) / "00000"
    (folder / "000000001.json").write_text(json.dumps({"status": "failed_to_resize"}))
    (folder / "000000009.txt").write_text("alone")
    os.mkfifo(folder / "000000008.jpg")
    rows = load_img2dataset_folder(folder.parent)
    assert keys(rows) == [0, 2]
    assert rows.info.description.endswith("2 rows; left out: 1 failed_to_resize, 1 without a picture")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such folder on this machine: .*/none"):
        load_img2dataset_folder(tmp_path / "none")

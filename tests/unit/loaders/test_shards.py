"""Tars, Parquet files and folders of img2dataset become rows: all of them, once, and what is missing is said."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node

from hf_mllm_aug.errors import FormatError, UsageError
from hf_mllm_aug.loaders.shards import load_img2dataset_folder, load_img2dataset_parquet, load_webdataset


def sample(number: int, **changes: Any) -> dict[str, Any]:
    """A sample's record, with its picture's bytes as ``jpg``."""
    made = {
        "caption": f"Picture {number}, the one  with “quotes”.",
        "url": f"https://example.org/{number}.jpg?w=1",
        "key": f"{number:09d}",
        "status": "success",
        "error_message": None,
        "width": 8,
        "jpg": b"\xff\xd8 picture %d" % number,
    }
    return made | changes


def members(made: dict[str, Any]) -> dict[str, bytes]:
    """The members of a sample in a tar, by name."""
    record = {name: value for name, value in made.items() if name != "jpg"}
    parts = {f"{made['key']}.jpg": made["jpg"], f"{made['key']}.json": json.dumps(record).encode()}
    if made["caption"] is not None:
        parts[f"{made['key']}.txt"] = made["caption"].encode()
    return parts


def tar_bytes(parts: dict[str, bytes] | list[tuple[str, bytes]], kind: str = "", **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}", **options) as tar:  # type: ignore[call-overload]
        for name, data in parts.items() if isinstance(parts, dict) else parts:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(path: Path, numbers: range) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes({name: data for n in numbers for name, data in members(sample(n)).items()}))
    return path


def write_parquet(path: Path, samples: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(samples), path, **options)
    return path


def write_folder(root: Path, shards: dict[str, range]) -> Path:
    """The "files" form: folders of samples, and beside them records without pictures and statistics."""
    for shard, numbers in shards.items():
        (root / shard).mkdir(parents=True)
        for number in numbers:
            for name, data in members(sample(number)).items():
                (root / shard / name).write_bytes(data)
        records = [{k: v for k, v in sample(n).items() if k != "jpg"} for n in numbers]
        write_parquet(root / f"{shard}.parquet", records)
        (root / f"{shard}_stats.json").write_text("{}")
    return root


def row(number: int) -> dict[str, Any]:
    """The row that a sample gives."""
    made = sample(number)
    image = {"bytes": made["jpg"], "path": f"{made['key']}.jpg"}
    return {"key": made["key"], "image": image, "url": made["url"], "caption": made["caption"]}


def take(rows: Dataset | IterableDataset) -> list[dict[str, Any]]:
    return list(rows)


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Four tars of 3, 1, 4 and 2 samples, numbered from 0."""
    starts = [0, 3, 4, 8, 10]
    return [str(write_tar(tmp_path / f"cc-{i:04d}.tar", range(starts[i], starts[i + 1]))) for i in range(4)]


LOADERS: dict[str, Callable[..., Any]] = {
    "tar": load_webdataset,
    "parquet": load_img2dataset_parquet,
    "folder": load_img2dataset_folder,
}


@pytest.fixture(params=LOADERS)
def form(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """The same ten samples in four shards, in one of the three forms."""
    root = tmp_path / "data"
    root.mkdir()
    ranges = [range(3), range(3, 4), range(4, 8), range(8, 10)]
    if request.param == "folder":
        write_folder(root, {f"{i:05d}": numbers for i, numbers in enumerate(ranges)})
    for i, numbers in enumerate(ranges):
        if request.param == "tar":
            write_tar(root / f"{i:05d}.tar", numbers)
        if request.param == "parquet":
            write_parquet(root / f"{i:05d}.parquet", [sample(n) for n in numbers])
    return lambda **options: LOADERS[request.param](root, **options)


# --- all forms


def test_the_three_forms_give_the_same_rows_mapped_and_streamed(form: Callable[..., Any]) -> None:
    for rows in (form(), form(streaming=True), form(streaming=False)):
        assert rows.column_names == ["key", "image", "url", "caption"]
        found = take(rows)
        for picture in (each["image"] for each in found):
            if picture["bytes"] is None:  # the folders' pictures stay where they are
                picture |= {"bytes": Path(picture["path"]).read_bytes(), "path": Path(picture["path"]).name}
        assert found == [row(number) for number in range(10)]
    assert isinstance(form(), Dataset)
    assert isinstance(form(streaming=True), IterableDataset)


def keys(rows: Dataset | IterableDataset) -> list[int]:
    return [int(each["key"]) for each in rows]


def test_shards_nodes_workers_and_shuffling_cover_each_row_once(form: Callable[..., Any]) -> None:
    stream, mapped = form(streaming=True), form()
    assert stream.num_shards == 4
    for rows in (stream, mapped):
        for count in (2, 3, 4):
            pieces = [keys(rows.shard(count, index)) for index in range(count)]
            assert sorted(itertools.chain(*pieces)) == list(range(10)), count
            assert all(pieces)
        for nodes in (2, 3, 4, 7):
            pieces = [keys(split_dataset_by_node(rows, rank=rank, world_size=nodes)) for rank in range(nodes)]
            assert sorted(itertools.chain(*pieces)) == list(range(10)), nodes
    options: dict[str, Any] = {"buffer_size": 3}
    shuffled = keys(stream.shuffle(seed=1, **options))
    assert sorted(shuffled) == list(range(10))
    assert shuffled != list(range(10))
    assert sorted(keys(mapped.shuffle(seed=1))) == list(range(10))


def test_a_stream_goes_on_from_where_its_state_was_taken(form: Callable[..., Any]) -> None:
    stream = form(streaming=True)
    seen = []
    for each in stream:
        seen.append(int(each["key"]))
        if len(seen) == 5:
            break
    again = form(streaming=True)
    again.load_state_dict(stream.state_dict())
    assert seen + keys(again) == list(range(10))


def test_an_edited_file_is_read_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", range(2))
    first = load_webdataset(file)
    assert load_webdataset(file).cache_files == first.cache_files
    write_tar(file, range(5, 8))
    assert keys(load_webdataset(file)) == [5, 6, 7]
    folder = write_folder(tmp_path / "files", {"00000": range(2)})
    assert load_img2dataset_folder(folder)["caption"][1] == sample(1)["caption"]
    (folder / "00000" / "000000001.txt").write_text("edited")
    assert load_img2dataset_folder(folder)["caption"][1] == "edited"


def test_rows_that_repeat_a_key_are_kept_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [write_tar(tmp_path / "a.tar", range(2)), write_tar(tmp_path / "b.tar", range(1, 3))]
    assert keys(load_webdataset(files)) == [0, 1, 1, 2]
    assert "1 of 4 rows repeat the key of an earlier row, such as '000000001'" in caplog.text


def test_an_unknown_policy_is_refused(shards: list[str]) -> None:
    with pytest.raises(UsageError, match="on_error='ignore': choose 'warn' or 'raise'"):
        load_webdataset(shards, on_error="ignore")  # type: ignore[call-overload]


# --- tars


def load_one(path: Path, parts: dict[str, bytes] | list[tuple[str, bytes]], **options: Any) -> list[dict[str, Any]]:
    path.write_bytes(tar_bytes(parts))
    streamed = take(load_webdataset(path, streaming=True, **options))
    assert take(load_webdataset(path, **options)) == streamed
    return streamed


def test_the_caption_is_what_the_text_holds_byte_for_byte(tmp_path: Path) -> None:
    captions = [" A  dog\n", "", "\ufeffémoji 🦆\r\n", "0", "null", "a\tb\u2028c\u200b", "<b>&amp;</b>"]
    parts: dict[str, bytes] = {}
    for number, caption in enumerate(captions):
        parts |= {f"{number}.jpg": b"x", f"{number}.txt": caption.encode(), f"{number}.json": b'{"caption": "other"}'}
    assert [each["caption"] for each in load_one(tmp_path / "a.tar", parts)] == captions


def test_the_record_gives_the_caption_where_there_is_no_text(tmp_path: Path) -> None:
    parts = {"1.jpg": b"x", "1.json": b'{"caption": "from json"}', "2.jpg": b"x", "2.json": b'{"caption": null}'}
    parts |= {"3.jpg": b"x"}
    assert [each["caption"] for each in load_one(tmp_path / "a.tar", parts)] == ["from json", None, None]


def test_samples_may_differ_in_their_parts_and_pictures_in_format(tmp_path: Path) -> None:
    parts = {"a.txt": b"no picture yet", "a.png": b"P", "b.webp": b"W", "c.cls": b"3", "c.JPEG": b"J", "c.TXT": b"C"}
    rows = load_one(tmp_path / "a.tar", parts)
    assert [(each["key"], each["image"]["path"], each["caption"]) for each in rows] == [
        ("a", "a.png", "no picture yet"),
        ("b", "b.webp", None),
        ("c", "c.jpeg", "C"),
    ]


def test_the_name_up_to_its_first_dot_makes_the_sample_and_a_plain_suffix_its_picture(tmp_path: Path) -> None:
    parts = {"v1.0/x.seg.png": b"S", "v1.0/x.jpg": b"J", "v1.0/y.image.jpg": b"I", "./z.jpg": b"Z", "z.txt": b"zed"}
    rows = load_one(tmp_path / "a.tar", parts)
    assert [(each["key"], each["image"]["bytes"]) for each in rows] == [("v1.0/x", b"J"), ("v1.0/y", b"I"), ("z", b"Z")]
    assert rows[2]["caption"] == "zed"


def test_failed_and_pictureless_samples_are_left_out_and_counted_by_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failed = [sample(n, status="failed_to_download", jpg=b"") for n in (1, 2)] + [sample(3, status="failed_to_resize")]
    parts = {name: data for made in [sample(0), *failed, sample(4)] for name, data in members(made).items()}
    parts |= {"5.txt": b"words alone", "6.json": b"{}"}
    file = tmp_path / "a.tar"
    file.write_bytes(tar_bytes(parts))
    summary = f"{file}: 2 rows; left out: 2 failed_to_download, 2 without a picture, 1 failed_to_resize"
    for _ in range(2):  # read, then from the cache
        caplog.clear()
        rows = load_webdataset(file, on_error="raise")
        assert keys(rows) == [0, 4]
        assert rows.info.description == summary
        assert summary in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert keys(load_webdataset(file, streaming=True, on_error="raise")) == [0, 4]
    assert [record.levelname for record in caplog.records if summary in record.message] == ["INFO"]


@pytest.mark.parametrize(
    ("parts", "reason", "kept"),
    [
        ([("a.jpg", b"1"), ("a.jpg", b"2")], "1 with two members .jpg", []),
        ([("a.b.jpg", b"1"), ("a.c.jpg", b"2")], "1 with several members that could be its .jpg", []),
        ([("../a.jpg", b"1")], "1 with a name that leads out of the archive", []),
        ([("/etc/a.jpg", b"1")], "1 with a name that leads out of the archive", []),
        ([("a\n.jpg", b"1")], "1 with a name that is too long or has control characters", []),
        ([("a" * 2000 + ".jpg", b"1")], "1 with a name that is too long or has control characters", []),
        ([("a\udcff.jpg", b"1")], "1 with a name that is not UTF-8", []),
        ([("a.jpg", b"1"), ("a.json", b"{")], "1 with a record that is no JSON object", [("a", None)]),
        ([("a.jpg", b"1"), ("a.json", b"[" * 100_000)], "1 with a record that is no JSON object", [("a", None)]),
        ([("a.jpg", b"1"), ("a.json", b"[1]")], "1 with a record that is no JSON object", [("a", None)]),
        ([("a.jpg", b"1"), ("a.txt", b"caf\xe9")], "1 with a caption that is not UTF-8", [("a", None)]),
        ([("a.jpg", b"1"), ("a.json", b'{"caption": "\\ud83d"}')], "that no UTF-8 can hold", [("a", None)]),
    ],
)
def test_samples_against_the_format_are_counted_or_an_error(
    tmp_path: Path,
    parts: list[tuple[str, bytes]],
    reason: str,
    kept: list[tuple[str, str | None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = [("y.jpg", b"1"), ("y.txt", b"why")], [("z.jpg", b"1"), ("z.txt", b"zed")]
    rows = load_one(tmp_path / "a.tar", [*good[0], *parts, *good[1]])
    assert [(each["key"], each["caption"]) for each in rows] == [("y", "why"), *kept, ("z", "zed")]
    assert reason in caplog.text
    for streaming in (True, False):
        with pytest.raises(FormatError, match=r"a\.tar, '.*': with "):
            take(load_webdataset(tmp_path / "a.tar", streaming=streaming, on_error="raise"))


def test_hidden_members_and_archives_without_samples_give_no_row(tmp_path: Path) -> None:
    parts = {"._a.jpg": b"x", "__MACOSX/__b.jpg": b"x", "README": b"x", ".hidden/.c.jpg": b"x"}
    assert load_one(tmp_path / "a.tar", parts) == []
    assert load_one(tmp_path / "b.tar", {}) == []


def test_a_tar_cut_anywhere_gives_the_whole_samples_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tar_bytes({name: part for n in range(5) for name, part in members(sample(n)).items()})
    body = len(data.rstrip(b"\0"))
    file = tmp_path / "cut.tar"
    for length in range(0, body, 211):
        file.write_bytes(data[:length])
        caplog.clear()
        found = take(load_webdataset(file, streaming=True))
        # Three members a sample, the caption the last, with a block for the header and one for the content of each.
        whole = sum(length >= n * 6 * 512 + 5 * 512 + len(str(sample(n)["caption"]).encode()) for n in range(5))
        assert found == [row(n) for n in range(whole)], length
        last = f"row {whole}, with the key '{whole - 1:09d}'" if whole else "no row"
        assert f"{file}: damaged after {last}: " in caplog.text, length
        with pytest.raises(FormatError, match=r"cut\.tar: damaged after "):
            take(load_webdataset(file, streaming=True, on_error="raise"))
    assert load_webdataset(file).info.description.endswith(f"1 cut off; damaged, with rows lost: {file}")
    # In front of the end mark: all is there, but it cannot be known.
    file.write_bytes(data[: 5 * 6 * 512])
    caplog.clear()
    assert keys(load_webdataset(file, streaming=True)) == list(range(5))
    assert "ends without the end mark" in caplog.text


def test_a_broken_shard_does_not_end_the_stream(tmp_path: Path, shards: list[str]) -> None:
    Path(shards[1]).write_bytes(b"<html>Service unavailable</html>" * 50)
    Path(shards[2]).write_bytes(b"")
    assert keys(load_webdataset(shards, streaming=True)) == keys(load_webdataset(shards)) == [0, 1, 2, 8, 9]


# --- Parquet


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
    counted = f"{file}: 124 rows; left out: 125 failed_to_download, 1 without a picture"
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


# --- folders


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

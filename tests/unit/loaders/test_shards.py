"""Tars, Parquet files and folders of img2dataset become rows: all of them, once, and what is missing is said."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node

from hf_mllm_aug.errors import FormatError, UsageError
from hf_mllm_aug.loaders.shards import load_img2dataset_folder, load_img2dataset_parquet, load_webdataset
from tests.unit.loaders.samples import (
    NUMBERS,
    key,
    keys,
    members,
    row,
    sample,
    take,
    tar_bytes,
    write_folder,
    write_parquet,
    write_tar,
)


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
        seen.append(NUMBERS[each["key"]])
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
    assert f"1 of 4 rows repeat the key of an earlier row, such as '{key(1)}'" in caplog.text


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
    summary = "a.tar: 2 rows; left out: 2 failed_to_download, 2 without a picture, 1 failed_to_resize"
    for _ in range(2):  # read, then from the cache
        caplog.clear()
        rows = load_webdataset(file, on_error="raise")
        assert keys(rows) == [0, 4]
        assert rows.info.description == summary
        assert summary in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert keys(load_webdataset(file, streaming=True, on_error="raise")) == [0, 4]
    streamed = summary.replace("a.tar", str(file))
    assert [record.levelname for record in caplog.records if streamed in record.message] == ["INFO"]


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
    assert (
        load_webdataset(file).info.description
        == "cut.tar: 4 rows; left out: 1 cut off; damaged, with rows lost: cut.tar"
    )
    # In front of the end mark: all is there, but it cannot be known.
    file.write_bytes(data[: 5 * 6 * 512])
    caplog.clear()
    assert keys(load_webdataset(file, streaming=True)) == list(range(5))
    assert "ends without the end mark" in caplog.text


def test_a_broken_shard_does_not_end_the_stream(tmp_path: Path, shards: list[str]) -> None:
    Path(shards[1]).write_bytes(b"<html>Service unavailable</html>" * 50)
    Path(shards[2]).write_bytes(b"")
    assert keys(load_webdataset(shards, streaming=True)) == keys(load_webdataset(shards)) == [0, 1, 2, 8, 9]


def test_a_sample_is_named_by_its_address_only_where_its_record_counts(tmp_path: Path) -> None:
    """Pixparse's names are the publisher's; img2dataset's count the rows of one person's list."""
    address = sample(7)["url"]
    counted = {"key": "000000000", "status": "success", "url": address}
    parts = {"a.jpg": b"1", "a.json": json.dumps({"url": address}).encode(), "b.jpg": b"2"}
    parts |= {"c.jpg": b"3", "c.json": json.dumps(counted).encode()}
    parts |= {"d.jpg": b"4", "d.json": json.dumps(counted | {"url": None}).encode()}
    assert [each["key"] for each in load_one(tmp_path / "a.tar", parts)] == ["a", "b", key(7), "d"]


def test_keys_are_those_of_another_download_of_the_same_pictures(form: Callable[..., Any], tmp_path: Path) -> None:
    """Another person's list has them in another order and among others, so their numbers are other ones."""
    parts: dict[str, bytes] = {}
    for place, number in enumerate([8, 250, 2]):
        parts |= members(sample(number, key=f"{place:09d}"))
    theirs = load_one(tmp_path / "theirs.tar", parts)
    ours = {each["key"]: each["caption"] for each in form()}
    assert [ours.get(each["key"]) for each in theirs] == [sample(8)["caption"], None, sample(2)["caption"]]


def test_names_of_files_in_messages_have_no_secrets_and_no_folders(tmp_path: Path) -> None:
    rows = load_webdataset(write_tar(tmp_path / "one.tar", range(2)))
    assert rows.info.description == ""
    (tmp_path / "cut.tar").write_bytes((tmp_path / "one.tar").read_bytes()[:5000])
    assert load_webdataset(tmp_path / "cut.tar").info.description.startswith("cut.tar: 1 rows; ")
    with pytest.raises(UsageError, match="matches no file") as raised:
        load_webdataset("http://ann:pass@127.0.0.1:9/{0..1}.tar?X-Amz-Signature=SECRET")
    assert "SECRET" not in str(raised.value)
    assert "pass" not in str(raised.value)

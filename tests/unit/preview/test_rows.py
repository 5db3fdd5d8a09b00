"""Rows by number and search, against the whole table in memory, over files with one row group and with many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.preview.repository import SplitFiles, open_repository
from hf_mllm_aug.preview.rows import WINDOW, Rows
from hf_mllm_aug.preview.search import Query, scan
from tests.conftest import picture_bytes
from tests.preview_folders import columns, stage

SIZES = (70, 1, 130)  # rows of the shards


@pytest.fixture(scope="module", params=[1000, 16, 1], ids=["one group", "many groups", "a group a row"])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """201 rows with pictures in three files."""
    folder = tmp_path_factory.mktemp("rows") / "data"
    stage(folder, 5)
    data: dict[str, list[Any]] = columns(sum(SIZES))
    data["image"] = [{"bytes": picture_bytes(i), "path": None} if i % 3 else None for i in range(sum(SIZES))]
    table = pa.table(data)
    first = 0
    for number, size in enumerate(SIZES):
        file = folder / "all" / f"train-{number:05d}-of-00003.parquet"
        pq.write_table(table.slice(first, size), file, row_group_size=request.param)
        first += size
    (folder / "all" / "train-00000-of-00001.parquet").unlink()
    repository = open_repository(str(folder))
    files = repository.splits["all"]["train"]
    return Rows(repository, files)


@pytest.mark.parametrize("numbers", [[0], [69, 70, 71, 72], list(range(40, 90)), [0, 15, 16, 17, 200], [199, 200, 201]])
def test_rows_are_read_by_number(split: Rows, numbers: list[int]) -> None:
    found = split.read(numbers, ["key", "caption_otter", "absent"])
    expected = columns(sum(SIZES))
    inside = [n for n in numbers if n < sum(SIZES)]
    assert [row["key"] for row in found] == [f"k{n}" for n in inside]
    assert [row["caption_otter"] for row in found] == [expected["caption_otter"][n] for n in inside]
    assert {row["absent"] for row in found} == {None}


def test_every_row_has_its_own_picture(split: Rows) -> None:
    assert split.picture_column == "image"
    for number in (1, 70, WINDOW - 1, WINDOW, 200):
        assert split.picture(number) == (picture_bytes(number) if number % 3 else None)
    assert split.picture(10**9) is None


def test_footers_are_read_as_far_as_they_are_needed(split: Rows) -> None:
    fresh = Rows(split._repository, split.files)
    fresh.read([3], ["key"])
    assert len(fresh._footers) == 1
    assert fresh.count() == sum(SIZES) == fresh.total


CASES = [
    Query(("caption", "caption_otter"), text="ROW 12"),
    Query(("caption_otter",), text="otter sees"),
    Query(("caption",), text=".*"),
    Query(("caption",), text="absent everywhere"),
    Query(("caption",), min_words=5),
    Query(("caption_tiny_llava", "caption_otter"), min_words=4, max_words=4),
    Query(("caption",), min_words=6),
    Query(("caption",), failed=("caption_otter",)),
    Query(("caption_otter",), failed=("caption_tiny_llava",)),
    Query(("caption",), text="row 1", failed=("caption_tiny_llava", "caption_otter")),
]


def slow(query: Query) -> list[int]:
    """What a query means, row by row."""
    data = columns(sum(SIZES))
    found = []
    for number in range(sum(SIZES)):
        captions = [data[name][number] for name in query.columns]
        fits = [
            text is not None
            and query.text.lower() in text.lower()
            and (query.min_words or 0) <= len(text.split()) <= (10**9 if query.max_words is None else query.max_words)
            for text in captions
        ]
        asks = bool(query.text) or query.min_words is not None or query.max_words is not None
        lost = [data[name][number] is None for name in query.failed]
        if (any(fits) or not asks) and (any(lost) or not query.failed):
            found.append(number)
    return found


@pytest.mark.parametrize("query", CASES, ids=str)
def test_a_scan_finds_what_a_loop_finds_page_by_page(split: Rows, query: Query) -> None:
    found: list[int] = []
    start: int | None = 0
    pages = 0
    while start is not None:
        page = scan(split, query, start=start, limit=7)
        assert len(page.numbers) <= 7
        found += page.numbers
        start = page.next
        pages += 1
        assert pages < 60
    assert found == slow(query)


def test_a_scan_without_time_says_where_to_go_on(split: Rows) -> None:
    query = Query(("caption",), text="row 200")
    first = scan(split, query, seconds=0)
    assert first.numbers == []
    assert first.next is not None
    assert 0 < first.next < sum(SIZES)
    assert first.looked == first.next
    assert scan(split, query, start=first.next).numbers == [200]


def test_groups_that_need_no_reading_take_time_too(split: Rows) -> None:
    """Their footers may be a journey each."""
    query = Query(("caption",), failed=("caption_tiny_llava",))
    first = scan(split, query, seconds=0)
    assert (first.numbers, first.looked) == ([], first.next)
    assert first.next is not None
    start: int | None = first.next
    steps = 0
    while start is not None:
        start = scan(split, query, start=start, seconds=0).next
        steps += 1
        assert steps <= sum(SIZES)


def test_words_are_counted_as_they_are_shown(tmp_path: Path) -> None:
    """`str.split` parts words at every space of Unicode."""
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    captions = [f"two{space}words" for space in spaces] + ["one\u200bword"]
    stage(tmp_path / "data", 5)
    file = tmp_path / "data" / "raw" / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"key": captions, "caption": captions}), file)
    repository = open_repository(str(tmp_path / "data"))
    rows = Rows(repository, repository.splits["raw"]["train"])
    assert scan(rows, Query(("caption",), min_words=2, max_words=2)).numbers == list(range(len(spaces)))
    assert scan(rows, Query(("caption",), max_words=1)).numbers == [len(spaces)]


def test_groups_without_nulls_are_not_read_for_failures(split: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    batches = Rows.batches

    def watched(self: Rows, group: Any, names: Any, size: int = 1) -> Any:
        read.append(group)
        return batches(self, group, names, size)

    monkeypatch.setattr(Rows, "batches", watched)
    assert scan(split, Query(("caption",), failed=("caption_tiny_llava",))).numbers == []
    assert read == []


def test_texts_that_are_not_utf8_are_shown_with_replacements(tmp_path: Path) -> None:
    stage(tmp_path / "data", 5)
    broken = pa.array([b"caf\xe9", b"fine"]).cast(pa.binary()).view(pa.string())
    file = tmp_path / "data" / "raw" / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"key": ["a", "b"], "caption": broken}), file)
    repository = open_repository(str(tmp_path / "data"))
    rows = Rows(repository, repository.splits["raw"]["train"])
    assert [row["caption"] for row in rows.read([0, 1], ["caption"])] == ["caf\ufffd", "fine"]
    assert scan(rows, Query(("caption",), text="FINE")).numbers == [1]


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    stage(tmp_path / "data", 5)
    (tmp_path / "data" / "raw" / "train-00000-of-00001.parquet").write_bytes(b"no parquet at all")
    repository = open_repository(str(tmp_path / "data"))
    with pytest.raises(FormatError, match=r"raw/train-00000-of-00001\.parquet: not a Parquet file"):
        Rows(repository, SplitFiles("raw", "train", ("raw/train-00000-of-00001.parquet",)))

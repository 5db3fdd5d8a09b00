"""What is given back to the system while a run works, and that nothing else is."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from hf_mllm_aug.long_runs.memory import GivingBack

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is given back on Linux alone")

MIB = 1 << 20


def resident(kind: str) -> int:
    """MiB of this process: ``RssAnon``, or ``RssFile`` for the pages of files."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) // 1024


def write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)


def letters(table: pa.Table) -> set[bytes]:
    """Reads all of it."""
    return {
        bytes([letter])
        for chunk in table["picture"].chunks
        for value in chunk
        for letter in memoryview(value.as_buffer())[::999]
    }


def test_pages_of_a_tables_file_go_and_come_back(tmp_path: Path) -> None:
    pictures = [bytes([number]) * MIB for number in range(64)]
    write(tmp_path / "rows.arrow", pa.table({"key": [str(n) for n in range(64)], "picture": pictures}))
    table = pa.ipc.open_stream(pa.memory_map(str(tmp_path / "rows.arrow"))).read_all()
    give_back = GivingBack(table.slice(5, 50))
    before = resident("RssFile")
    read = letters(table)
    assert len(read) == 64
    assert resident("RssFile") > before + 40, "the file's pages are not resident, so this shows nothing"
    give_back(now=True)
    assert resident("RssFile") < before + 8
    assert letters(table) == read


def test_a_table_in_memory_stays_what_it_is(tmp_path: Path) -> None:
    table = pa.table({"key": ["a", None], "picture": [b"\1" * MIB, b"\2" * MIB]})
    write(tmp_path / "rows.arrow", table)
    # A file that may be written has pages that are nowhere else.
    with pa.memory_map(str(tmp_path / "rows.arrow"), "r+") as file:
        writable = pa.ipc.open_stream(file).read_all()
        for kept in (table, writable, pa.table({"key": pa.array([], pa.string())})):
            copy = kept.to_pylist()
            GivingBack(kept)(now=True)
            assert kept.to_pylist() == copy


def test_what_lies_free_between_what_is_in_use_goes() -> None:
    before = resident("RssAnon")
    pieces = [(bytearray(64_000), bytearray(1_000)) for _ in range(1_000)]
    kept = [small for _, small in pieces]
    del pieces
    if resident("RssAnon") < before + 40:
        pytest.skip("this C library keeps nothing for itself")
    GivingBack()(now=True)
    assert resident("RssAnon") < before + 20
    assert not any(any(small) for small in kept)


def test_it_is_not_done_more_often_than_wanted(tmp_path: Path) -> None:
    write(tmp_path / "rows.arrow", pa.table({"picture": [bytes([number]) * MIB for number in range(64)]}))
    table = pa.ipc.open_stream(pa.memory_map(str(tmp_path / "rows.arrow"))).read_all()
    seldom, often = GivingBack(table, every=3600.0), GivingBack(table, every=0.0)
    letters(table)
    full = resident("RssFile")
    seldom()
    assert resident("RssFile") > full - 8
    often()
    assert resident("RssFile") < full - 40


class SlowLibrary:
    """Takes a while to find what is free."""

    def __init__(self) -> None:
        self.times = 0

    def malloc_trim(self, _: int) -> None:
        self.times += 1
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass

    def madvise(self, *_: int) -> None:
        pass


def test_the_longer_it_takes_the_less_often_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows.arrow", pa.table({"picture": [b"\1" * MIB]}))
    table = pa.ipc.open_stream(pa.memory_map(str(tmp_path / "rows.arrow"))).read_all()
    library = SlowLibrary()
    monkeypatch.setattr("hf_mllm_aug.long_runs.memory._library", lambda: library)
    give_back = GivingBack(table, every=0.0)
    give_back()
    give_back()
    assert library.times == 1, "a twentieth of the time would be a second from now"

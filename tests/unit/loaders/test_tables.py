"""Lists are cut at line ends, whatever the cut, and read alike by the block and by the line."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from datasets import IterableDataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mllm_aug import load_cc12m, schema
from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders import tables, text_blocks
from hf_mllm_aug.loaders.faults import Faults
from hf_mllm_aug.loaders.keys import leaves_root, place_picture, url_key
from hf_mllm_aug.loaders.tables import check_order, look_at, pair_table
from hf_mllm_aug.loaders.text_blocks import Block, cut, iter_blocks, newlines_before

SCHEMA = schema.base_features().arrow_schema
function_fixtures = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(st.binary(max_size=200), st.integers(1, 40), st.integers(1, 50))
@function_fixtures
def test_pieces_hold_each_line_once_wherever_they_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, piece: int, block: int
) -> None:
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\x1f\x8b", b"").replace(b"BZh", b"")
    path = tmp_path / "any"
    path.write_bytes(data)
    monkeypatch.setattr(text_blocks, "_SMALLEST_PIECE", piece)
    monkeypatch.setattr(text_blocks, "_BLOCK", block)
    pieces = cut(str(path))
    assert len(pieces) == max(1, min(256, len(data) // piece))
    blocks = [one for part in pieces for one in iter_blocks(part)]
    expected = data if data.endswith(b"\n") or not data else data + b"\n"
    assert b"".join(one.data for one in blocks) == expected
    assert all(one.data.endswith(b"\n") for one in blocks)
    seen = 0
    for one in blocks:
        assert one.line(0) == seen + 1, "the number of its first line"
        seen += one.data.count(b"\n")


def test_lines_before_an_offset_are_counted_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "_COUNTED", 7)
    data = b"a\nbb\n\nccc\n" * 9
    path = tmp_path / "any"
    path.write_bytes(data)
    for offset in range(len(data) + 1):
        assert newlines_before(str(path), offset) == data[:offset].count(b"\n")


# What captions and addresses hold in the wild, and what breaks readers of CSV: quotes, a lone CR, NUL, separators.
texts = st.text(st.sampled_from(list("ab \"'\\,;\r\0\u2028\x0b\x85éあ🐶\ufeff")), max_size=12)
addresses = st.text(st.sampled_from(list("abz/?=&%20\"',;é")), max_size=12).map(lambda tail: f"http://{tail}")


@given(st.lists(st.tuples(addresses, texts), min_size=1, max_size=12), st.sampled_from(["url-caption", "caption-url"]))
@function_fixtures
def test_captions_and_addresses_come_back_byte_for_byte(
    tmp_path: Path, rows: list[tuple[str, str]], order: Any
) -> None:
    rows = [(url, caption.rstrip("\r")) for url, caption in rows]  # CR LF is a line's end
    first = [(url, caption) if order == "url-caption" else (caption, url) for url, caption in rows]
    data = "".join(f"{a}\t{b}\n" for a, b in first).encode()
    table = pair_table(Block(data, (str(tmp_path / "list"), 0, None), 0), order, Faults("list"), SCHEMA)
    assert table.column("url").to_pylist() == [url for url, _ in rows]
    assert table.column("caption").to_pylist() == [caption for _, caption in rows]
    assert table.column("key").to_pylist() == [url_key(url) for url, _ in rows]
    assert table.schema == SCHEMA


lines = st.text(st.sampled_from(list("ah\t\t é")), max_size=8).map(lambda text: text.replace("h", "http://h"))


@given(st.lists(lines, min_size=1, max_size=8), st.sampled_from(["url-caption", "caption-url"]))
@function_fixtures
def test_a_block_is_read_as_its_lines_are(monkeypatch: pytest.MonkeyPatch, texts: list[str], order: Any) -> None:
    block = Block("".join(f"{text}\n" for text in texts).encode(), ("list", 0, None), 0)
    results = []
    for regular in (tables._regular, lambda data, order: None):
        monkeypatch.setattr(tables, "_regular", regular)
        faults = Faults("list", "skip")
        results.append((pair_table(block, order, faults, SCHEMA).to_pylist(), faults.report()))
        monkeypatch.undo()
    assert results[0] == results[1]


def test_the_layout_is_told_from_the_first_lines(tmp_path: Path) -> None:
    path = tmp_path / "list"
    for text, expected in [
        ("http://a\tb\n", (2, "url-caption", False)),
        ("b\tHTTPS://a\nc\thttp://d\n", (2, "caption-url", False)),
        ("http://a\tb\nc\thttp://d\n", (2, None, False)),
        ("URL\tCaption\r\nx\ty\n", (2, "url-caption", True)),
        ("text\timage_url\n", (2, "caption-url", True)),
        ("a\tb\tc\na\tb\tc\na\tb\n", (3, None, False)),
        ("a\tb\nabc\n", (2, None, False)),
    ]:
        path.write_text(text)
        shape = look_at(str(path))
        assert (shape.fields, shape.order, shape.header) == expected, text


def test_an_order_that_cannot_be_told_is_the_published_one(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("//a.b/c.jpg\ta dog\n")
    assert check_order(str(path), "url-caption") == "url-caption"
    path.write_text("caption\turl\n")
    assert check_order(str(path), "url-caption") == "caption-url", "a header says its own"
    path.write_text("\n\n")
    with pytest.raises(FormatError, match="the file is empty"):
        check_order(str(path), "url-caption")


def test_a_key_is_the_address_and_nothing_else() -> None:
    assert url_key("http://a.b/é.jpg") == url_key("http://a.b/é.jpg".encode())
    assert url_key("http://a.b/c.jpg") != url_key("http://a.b/c.jpg ")
    assert len(url_key("")) == 24
    assert url_key("\ud83d") != url_key("\ud83e"), "what no UTF-8 can hold still has a key"


def test_pictures_are_placed_under_the_root() -> None:
    assert place_picture("a\\b.jpg", "/root") == ("a/b.jpg", "/root/a/b.jpg")
    assert place_picture("/root/x/b.jpg", "/root") == ("x/b.jpg", "/root/x/b.jpg")
    assert place_picture("hf://d/e.jpg", "/root") == ("hf://d/e.jpg", "hf://d/e.jpg")
    assert place_picture("./a.jpg", None) == ("a.jpg", "./a.jpg")
    assert [leaves_root(path) for path in ("..", "a/../..", "/..", "..a", "a\\..\\..\\b")] == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_a_large_list_streams_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "_BLOCK", 1 << 16)
    path = tmp_path / "cc12m.tsv"
    with path.open("w") as out:
        for number in range(60_000):
            out.write(f"http://images.example.org/{number:09d}.jpg\tcaption number {number} of a long list\n")
    stream = load_cc12m(path, streaming=True)
    assert isinstance(stream, IterableDataset)
    next(iter(stream))
    tracemalloc.start()
    count = sum(len(batch["key"]) for batch in stream.iter(1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60_000
    assert peak < path.stat().st_size / 2, f"{peak:,} bytes for a list of {path.stat().st_size:,}"


@pytest.mark.parametrize("squeeze", [gzip.compress, bytes])
def test_a_file_of_one_endless_line_is_refused_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeeze: Any
) -> None:
    monkeypatch.setattr(text_blocks, "_BLOCK", 1 << 16)
    monkeypatch.setattr(text_blocks, "_COUNTED", 1 << 20)
    monkeypatch.setattr(text_blocks, "_LONGEST_LINE", 1 << 20)
    path = tmp_path / "endless.tsv"
    path.write_bytes(squeeze(b"http://a.b/c.jpg\ta cat\n" + b"http://a.b/d.jpg\t" + b"x" * (24 << 20)))
    pieces = cut(str(path))
    tracemalloc.start()
    for piece in (pieces[0], pieces[len(pieces) // 2]):
        with pytest.raises(FormatError, match=r"endless\.tsv, line 2: longer than 1,048,576 bytes"):
            list(iter_blocks(piece))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20, f"{peak >> 20} MiB"


def test_a_line_may_be_as_long_as_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "_BLOCK", 16)
    monkeypatch.setattr(text_blocks, "_LONGEST_LINE", 100)
    path = tmp_path / "list"
    for length, ending in itertools.product((99, 100), (b"\n", b"")):
        path.write_bytes(b"a\n" + b"x" * length + ending)
        found = b"".join(block.data for block in iter_blocks((str(path), 0, None)))
        assert found == b"a\n" + b"x" * length + b"\n"
    path.write_bytes(b"a\n" + b"x" * 101)
    with pytest.raises(FormatError, match="line 2: longer than 100 bytes"):
        list(iter_blocks((str(path), 0, None)))

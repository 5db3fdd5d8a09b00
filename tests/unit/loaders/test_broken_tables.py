"""Each way in which a list can be broken has its own message, with file and line; nothing is lost in silence."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_mllm_aug import load_cc3m, load_cc12m, load_yfcc15m
from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders import text_blocks

GOOD = [f"http://a.b/{i}.jpg\tcaption {i}" for i in range(8)]
GOOD_CC3M = ["\t".join(reversed(line.split("\t"))) for line in GOOD]
DECLIP = [json.dumps({"filename": f"{i}.jpg", "caption": f"c {i}", "url": f"http://a.b/{i}.jpg"}) for i in range(8)]


def broken(folder: Path, good: list[str], line: str | bytes, at: int = 5) -> Path:
    """A list with one line put in; ``at`` is its number, from 1."""
    lines: list[bytes] = [text.encode() for text in good]
    lines.insert(at - 1, line if isinstance(line, bytes) else line.encode())
    path = folder / "list.tsv"
    path.write_bytes(b"".join(text + b"\n" for text in lines))
    return path


def both_styles(load: Callable[..., Any], source: Path, **options: Any) -> list[Callable[[], Any]]:
    return [lambda: load(source, **options), lambda: list(load(source, streaming=True, **options))]


REFUSED = [
    (load_cc12m, GOOD, "no tab at all", r"1 column, expected 2: url and caption, with a tab between them: 'no tab at"),
    (load_cc3m, GOOD_CC3M, "no tab", r"1 column, expected 2: caption and url, with a tab between them: 'no tab'"),
    (load_cc12m, GOOD, "x\ty\tz", r"3 columns, expected 2: url and caption: 'x\\ty\\tz'"),
    (load_cc12m, GOOD, "a dog\thttp://a.b/x.jpg", r"the columns are the other way round: caption before url: 'a dog"),
    (load_cc3m, GOOD_CC3M, "http://a.b/x.jpg\ta dog", r"the columns are the other way round: url before caption"),
    (load_cc12m, GOOD, b"http://a.b/x.jpg\tcaf\xe9", r"not UTF-8: byte 21 is 0xe9 \(unexpected end of data\)"),
    (load_cc12m, GOOD, "\ta dog", "the url is empty"),
    (load_cc3m, GOOD_CC3M, "a dog\t", "the url is empty"),
    (load_yfcc15m, DECLIP, '{"filename": "x.jpg", "caption"', r"not JSON \(Expecting ':' delimiter"),
    (load_yfcc15m, DECLIP, '{"filename": "x.jpg", "url": "u"}', r"no 'caption'; the record has: 'filename', 'url'"),
    (load_yfcc15m, DECLIP, '{"filename": 3, "caption": "c", "url": "u"}', "'filename' is no text but int"),
    (load_yfcc15m, DECLIP, '{"filename": "", "caption": "c", "url": "u"}', "'filename' is empty"),
    (load_yfcc15m, DECLIP, '{"filename": "x", "caption": "\\ud83d", "url": "u"}', r"half a surrogate pair, \\ud83d"),
    (load_yfcc15m, DECLIP, '["x.jpg"]', "not a JSON object"),
    (load_yfcc15m, DECLIP, b'{"filename": "\xff"}', "not UTF-8: byte 15 is 0xff"),
]


@pytest.mark.parametrize(("load", "good", "line", "message"), REFUSED)
def test_a_row_that_cannot_be_read_is_refused_with_file_and_line(
    tmp_path: Path, load: Callable[..., Any], good: list[str], line: str | bytes, message: str
) -> None:
    source = broken(tmp_path, good, line)
    for read in both_styles(load, source):
        with pytest.raises(FormatError, match=message) as caught:
            read()
        assert str(caught.value).startswith(f"{source}, line 5: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("load", "good", "line", "message"), REFUSED)
def test_or_is_skipped_and_counted(
    tmp_path: Path,
    load: Callable[..., Any],
    good: list[str],
    line: str | bytes,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = broken(tmp_path, good, line)
    for read in both_styles(load, source, on_error="skip"):
        with caplog.at_level(logging.WARNING):
            assert len(read()) == len(good)
        assert "list.tsv: 1 rows skipped (first: line 5: " in caplog.text
        caplog.clear()


def test_what_was_skipped_is_said_again_when_the_rows_come_from_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = broken(tmp_path, GOOD, "no tab")
    first = load_cc12m(source, on_error="skip")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again = load_cc12m(source, on_error="skip")
    assert caplog.text.count("1 rows skipped (first: line 5: 1 column") == 1
    assert first.info.description == again.info.description
    assert str(tmp_path) not in again.info.description, "what may be published names no folder of this machine"


REPAIRED = [
    (load_cc12m, b"\xef\xbb\xbf" + "\n".join(GOOD).encode(), "1 x a byte order mark, left out (first: line 1)"),
    (load_cc12m, "\r\n".join(GOOD).encode() + b"\r\n", "8 x line ends of CR LF, read as LF (first: line 1)"),
    (load_cc3m, "\r\n".join(GOOD_CC3M).encode(), "7 x line ends of CR LF, read as LF (first: line 1)"),
    (load_cc12m, "\n\n".join(GOOD).encode(), "7 x blank lines, passed over (first: line 2)"),
    (load_cc12m, "\n".join(["url\tcaption", *GOOD]).encode(), "1 x a line of column names, not taken for a row"),
    (load_cc12m, "\n".join(["caption\turl", *GOOD_CC3M]).encode(), "1 x a line of column names, not taken for a row"),
    (load_yfcc15m, b"\xef\xbb\xbf" + "\r\n".join(DECLIP).encode(), "1 x a byte order mark, left out (first: line 1)"),
    (load_yfcc15m, "\n\n".join(DECLIP).encode(), "7 x blank lines, passed over (first: line 2)"),
]


@pytest.mark.parametrize(("load", "data", "message"), REPAIRED)
def test_what_is_unambiguous_is_put_right_and_counted(
    tmp_path: Path, load: Callable[..., Any], data: bytes, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "list.tsv"
    source.write_bytes(data)
    for read in both_styles(load, source):
        with caplog.at_level(logging.WARNING):
            rows = list(read())
        assert [row["url"] for row in rows] == [f"http://a.b/{i}.jpg" for i in range(8)]
        assert [row["caption"][-1:] for row in rows] == list("01234567")
        assert f"list.tsv: {message}" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    ("load", "good", "line", "caption", "message"),
    [
        (
            load_cc12m,
            GOOD,
            "http://a.b/x.jpg\ta\tb\tc",
            "a\tb\tc",
            "1 x captions with a tab in them, kept (first: line 5)",
        ),
        (load_cc3m, GOOD_CC3M, "a\tb\tc\thttp://a.b/x.jpg", "a\tb\tc", "1 x captions with a tab in them, kept (first"),
        (load_cc12m, GOOD, "http://a.b/x.jpg\t", "", "1 x empty captions, kept (first: line 5)"),
        (load_cc3m, GOOD_CC3M, "\thttp://a.b/x.jpg", "", "1 x empty captions, kept (first: line 5)"),
    ],
)
def test_unusual_captions_are_kept_byte_for_byte_and_counted(
    tmp_path: Path,
    load: Callable[..., Any],
    good: list[str],
    line: str,
    caption: str,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = broken(tmp_path, good, line)
    for read in both_styles(load, source):
        with caplog.at_level(logging.WARNING):
            rows = list(read())
        assert (rows[4]["url"], rows[4]["caption"]) == ("http://a.b/x.jpg", caption)
        assert len(rows) == 9
        assert f"list.tsv: {message}" in caplog.text
        caplog.clear()


def test_a_list_of_the_other_order_is_refused_with_the_remedy(tmp_path: Path) -> None:
    cc12m = broken(tmp_path, GOOD, GOOD[0])
    message = r"list\.tsv, line 1: the columns are the other way round: the url comes first, where the caption should"
    for read in both_styles(load_cc3m, cc12m):
        with pytest.raises(FormatError, match=message + r".*form='tsv-url-caption'"):
            read()
    assert len(load_cc3m(cc12m, form="tsv-url-caption")) == 9
    with pytest.raises(FormatError, match=r"the caption comes first.*form='tsv-caption-url'"):
        load_cc12m(broken(tmp_path, GOOD_CC3M, GOOD_CC3M[0]))


def test_a_table_of_other_columns_is_refused_at_its_first_line(tmp_path: Path) -> None:
    three = [f"http://a.b/{i}.jpg\tcaption\t{i}" for i in range(8)]
    with pytest.raises(FormatError, match=r"line 1: 3 columns, and so in most of the first lines; expected 2, url and"):
        load_cc12m(broken(tmp_path, three, three[0]))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("style", [0, 1])
def test_a_compressed_list_that_is_cut_off_is_refused(
    tmp_path: Path, pack: Callable[[bytes], bytes], style: int
) -> None:
    lines = "".join(f"http://a.b/{i * 7919 % 99991}.jpg\tcaption {i * 104729 % 1000003}\n" for i in range(60_000))
    packed = pack(lines.encode())
    for kept, message in ((len(packed) - 9, "cut off"), (len(packed) // 3, "cut off")):
        source = tmp_path / f"list-{kept}.tsv.gz"
        source.write_bytes(packed[:kept])
        with pytest.raises(FormatError, match=rf"list-{kept}\.tsv\.gz, after line \d+: .*{message}.*Download it again"):
            both_styles(load_cc12m, source, on_error="skip")[style]()
    damaged = tmp_path / "damaged.tsv.gz"
    damaged.write_bytes(packed[:5000] + bytes(200) + packed[5200:])
    with pytest.raises(FormatError, match=r"damaged\.tsv\.gz, (after )?line \d+: "):
        both_styles(load_cc12m, damaged)[style]()


def test_a_seed_list_that_is_cut_off_while_compressed_is_refused(tmp_path: Path) -> None:
    rows = [{"image": f"{i * 7919 % 9973}.jpg", "caption": f"c {i}"} for i in range(5_000)]
    source = tmp_path / "otter.jsonl.gz"
    packed = gzip.compress(json.dumps(rows).encode())
    source.write_bytes(packed)
    assert len(load_cc3m(source, form="pairs")) == 5_000
    source.write_bytes(packed[:-100])
    with pytest.raises(FormatError, match=r"otter\.jsonl\.gz, after line 1: the compressed file ends too early"):
        load_cc3m(source, form="pairs")


def test_the_line_is_right_in_a_later_piece_of_a_large_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(text_blocks, "_SMALLEST_PIECE", 40)
    monkeypatch.setattr(text_blocks, "_COUNTED", 50)
    for at in range(1, 10):
        source = broken(tmp_path, GOOD, "http://a.b/x.jpg\tnow\tthen", at)
        with caplog.at_level(logging.WARNING):
            rows = list(load_cc12m(source, streaming=True))
        assert len(rows) == 9
        assert caplog.text.count("1 x captions with a tab in them") == 1
        assert f"kept (first: line {at})" in caplog.text
        caplog.clear()


def test_a_damaged_zip_of_the_yfcc_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    record = json.dumps({"photoid": 7, "key": "a", "title_clean": "x"})
    (tmp_path / "metadata" / "metadata_00.jsonl.gz").write_bytes(gzip.compress(record.encode()))
    with zipfile.ZipFile(tmp_path / "data_00.zip", "w") as archive:
        archive.writestr("a.jpg", b"picture")
    assert load_yfcc15m(tmp_path)[0]["image"]["bytes"] == b"picture"
    (tmp_path / "data_00.zip").write_bytes((tmp_path / "data_00.zip").read_bytes()[:-30])
    with pytest.raises(FormatError, match=r"data_00\.zip: the zip is damaged or cut off"):
        load_yfcc15m(tmp_path)

"""The paper's JSON form: read as a stream, refused with the place of the fault, written back equal."""

from __future__ import annotations

import json
import logging
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, Features, Image, IterableDataset, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mllm_aug import schema
from hf_mllm_aug.errors import ColumnError, FormatError, OutputExistsError, UsageError
from hf_mllm_aug.loaders import json_records
from hf_mllm_aug.loaders.json_records import iter_records
from hf_mllm_aug.loaders.pairs import load_pairs, save_pairs

PAIRS: list[dict[str, Any]] = [
    {"image": "train/0001.jpg", "caption": "A view of St. Peter's Basilica"},
    {"image": "./train//0002.jpg", "caption": 'He said "Go" 🐶, 狗\u2028\n and \\ left'},
    {"image": "train/0003.jpg", "caption": ""},
    {"image": "train/0004.jpg", "caption": None},
    {"image": "train/0005.jpg", "caption": "0"},
]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(file: Path, pairs: Any = PAIRS) -> Path:
    file.write_text(json.dumps(pairs), encoding="utf-8")
    return file


def rows_of(dataset: Dataset | IterableDataset) -> list[dict[str, Any]]:
    return [dict(row) for row in dataset]


def test_pairs_become_schema_rows(tmp_path: Path) -> None:
    rows = load_pairs(write(tmp_path / "a.json"))
    assert rows.features == schema.base_features()
    assert rows[0] == {
        "key": "train/0001.jpg",
        "image": {"bytes": None, "path": "train/0001.jpg"},
        "url": None,
        "caption": "A view of St. Peter's Basilica",
    }
    assert rows["key"][:] == [f"train/000{i}.jpg" for i in range(1, 6)]
    assert rows["caption"][:] == [pair["caption"] for pair in PAIRS]


def test_relative_pictures_are_joined_with_the_root_and_keys_are_not(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    written = [
        *PAIRS,
        {"image": str(root / "b" / "x.png"), "caption": "x"},
        {"image": "/elsewhere/y.png", "caption": "y"},
    ]
    rows = load_pairs(write(tmp_path / "a.json", written), image_root=root)
    assert rows[0]["image"]["path"] == str(root / "train" / "0001.jpg")
    assert rows["key"][-2:] == ["b/x.png", "/elsewhere/y.png"]
    assert [image["path"] for image in rows["image"][-2:]] == [str(root / "b" / "x.png"), "/elsewhere/y.png"]


def test_a_web_address_is_a_url_and_no_picture(tmp_path: Path) -> None:
    rows = load_pairs(write(tmp_path / "a.json", [{"image": "https://a.b/c.jpg", "caption": "x"}]), image_root="root")
    assert rows[0] == {"key": "https://a.b/c.jpg", "image": None, "url": "https://a.b/c.jpg", "caption": "x"}


def test_several_files_a_glob_json_lines_and_streaming_give_the_same_rows(tmp_path: Path) -> None:
    whole = rows_of(load_pairs(write(tmp_path / "whole.json")))
    first, second = write(tmp_path / "part-0.json", PAIRS[:2]), write(tmp_path / "part-1.json", PAIRS[2:])
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\ufeff" + "\r\n\n".join(json.dumps(pair, ensure_ascii=False) for pair in PAIRS), encoding="utf-8")
    paths: list[Any] = [[first, str(second)], str(tmp_path / "part-*.json"), lines, [lines]]
    for path in paths:
        assert rows_of(load_pairs(path)) == whole
        assert rows_of(load_pairs(path, streaming=True)) == whole
    odd_name = write(tmp_path / "a[1].json")
    assert rows_of(load_pairs(odd_name)) == whole
    assert rows_of(load_pairs(write(tmp_path / "none.json", []))) == []


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", [{"image": "a.jpg", "caption": "one"}])
    assert load_pairs(file)["caption"][:] == ["one"]
    write(file, [{"image": "a.jpg", "caption": "two"}])
    assert load_pairs(file)["caption"][:] == ["two"]


def test_repeated_keys_are_kept_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = [
        *PAIRS,
        {"image": "train\\0002.jpg", "caption": "again"},
        {"image": "train/0002.jpg", "caption": "and again"},
    ]
    with caplog.at_level(logging.WARNING):
        rows = load_pairs(write(tmp_path / "a.json", pairs))
    assert len(rows) == 7
    assert "a.json: 2 of 7 rows repeat the key of an earlier row, such as 'train/0002.jpg'" in caplog.text
    caplog.clear()
    load_pairs(write(tmp_path / "b.json"))
    assert caplog.text == ""


GOOD = '{"image": "a.jpg", "caption": "x"}'
BROKEN = [
    ("", "the file is empty"),
    (" \n ", "the file is empty"),
    (f"[[{GOOD}", r"line 1, column 2: the list starts with '\[\['.*remove one"),
    (f"[\n{GOOD},\n]", r"line 3, column 1: a comma stands before the closing '\]' \(after record 1\)"),
    (f"[\n{GOOD}", r"line 2, column 35: the list is never closed: the file ends after record 1; append '\]'"),
    (f"[{GOOD},\n", r"line 2, column 1: the list is never closed: the file ends in a comma after record 1"),
    ("[", r"never closed: the file ends after record 0"),
    (f"[{GOOD}\n{GOOD}]", r"line 2, column 1: a comma is missing between records 1 and 2"),
    (f"[{GOOD}; {GOOD}]", r"expected ',' or '\]' after record 1, found ';'"),
    (f"[{GOOD}]\n[{GOOD}]", r"line 2, column 1: more text follows the end of the list \(1 records\)"),
    (f'[{GOOD},\n ["a.jpg", "x"]]', r"line 2, column 2: record 2 is no object: found '\['"),
    ('[{"image": "a.jpg", "caption" "x"}]', r"line 1, column 31: record 1 is broken: expecting ':' delimiter"),
    ('[{"image": "a.jpg",\n "caption": "x', r"line 2, column 13: record 1 is broken: the file ends within it"),
    ('[{"image": "a.jpg", "caption": "x\ny"}]', r"record 1 is broken: invalid control character"),
    (f"{GOOD},\n{GOOD}", r"line 1, column 35: found ',' after record 1: the list's opening '\[' is missing"),
    (f"{GOOD}\n]", r"line 2, column 1: found '\]' after record 1: the list's opening '\[' is missing"),
    ('"a.jpg"', r"""line 1, column 1: expected '\[' or '{', found '"'"""),
    ("key\tcaption\n", "expected '\\[' or '{', found 'k'"),
    ("[" + '{"a":' * 100_000, "record 1"),
    (f'[{GOOD},\n {{"image": "a.jpg"}}]', r"record 2 \(line 2\): no 'caption'; it has: 'image'\. Expected"),
    (f'[{GOOD},\n {{"caption": "x"}}]', r"record 2 \(line 2\): no 'image'; it has: 'caption'"),
    (f"[{GOOD},\n {{}}]", r"record 2 \(line 2\): no 'image'; it has: nothing"),
    ('[{"image": "", "caption": "x"}]', r"record 1 \(line 1\): 'image' is empty"),
    ('[{"image": 5, "caption": "x"}]', r"'image' is no string but int"),
    ('[{"image": "a.jpg", "caption": ["x"]}]', r"'caption' is no string but list"),
    ('[{"image": "a.jpg", "caption": "\\ud83d"}]', r"record 1 \(line 1\): half a surrogate pair, \\ud83d"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_a_broken_file_gets_one_message_with_the_place(
    tmp_path: Path, text: str, message: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_records, "_CHUNK", chunk)
    file = tmp_path / "broken.json"
    file.write_text(text, encoding="utf-8")
    for read in (lambda: list(load_pairs(file, streaming=True)), lambda: load_pairs(file)):
        with pytest.raises(FormatError, match=message) as caught:
            read()
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
        if chunk == 7:
            break


@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_bytes_that_are_no_utf8_are_named_by_line(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "_CHUNK", chunk)
    file = tmp_path / "latin.json"
    file.write_bytes('[{"image": "é.jpg",\n "caption": "caf'.encode() + b'\xe9"}]')
    with pytest.raises(FormatError, match=r"line 2, column 17: the file is not UTF-8"):
        list(iter_records(file))


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json' matches no file"):
        load_pairs(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"\*\.json' matches no file"):
        load_pairs(f"{tmp_path}/*.json")
    with pytest.raises(UsageError, match="is a folder"):
        load_pairs(tmp_path)
    with pytest.raises(UsageError, match="no JSON file"):
        load_pairs([])


def test_records_before_a_fault_are_delivered(tmp_path: Path) -> None:
    file = tmp_path / "cut.json"
    file.write_text(f"[{GOOD},\n{GOOD},\n" + '{"image"', encoding="utf-8")
    records = iter_records(file)
    assert [next(records)[0], next(records)[0]] == [1, 2]
    with pytest.raises(FormatError, match="line 3, column 9: record 3 is broken: the file ends within it"):
        next(records)


records = st.lists(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=30),
            lambda s: st.lists(s, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    ),
    max_size=6,
)


@given(records, st.integers(1, 40), st.sampled_from([None, 0, 2]), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_streaming_equals_json_load_for_every_piece_size(
    tmp_path: Path, pairs: list[dict[str, Any]], chunk: int, indent: int | None, ascii_only: bool, lines: bool
) -> None:
    file = tmp_path / "any.json"
    pairs = json.loads(json.dumps(pairs))
    if lines:
        text = "\n".join(json.dumps(pair, ensure_ascii=ascii_only) for pair in pairs) or "[]"
    else:
        text = json.dumps(pairs, indent=indent, ensure_ascii=ascii_only)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    saved = json_records._CHUNK
    json_records._CHUNK = chunk
    try:
        assert [record for _, record in iter_records(file)] == pairs
    finally:
        json_records._CHUNK = saved


def test_a_large_list_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "_CHUNK", 1 << 16)
    file = tmp_path / "large.json"
    with open(file, "w", encoding="utf-8") as out:
        out.write("[")
        for i in range(40_000):
            out.write(
                ("," if i else "") + json.dumps({"image": f"train/{i:08d}.jpg", "caption": f"Caption {i} of a list"})
            )
        out.write("]")
    tracemalloc.start()
    assert sum(1 for _ in iter_records(file)) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20, f"{peak >> 10} KiB for a file of {file.stat().st_size >> 10} KiB"


# --- writing


def test_what_is_saved_loads_equal(tmp_path: Path) -> None:
    rows = load_pairs(write(tmp_path / "a.json"))
    assert save_pairs(rows, tmp_path / "out" / "b.json") == [tmp_path / "out" / "b.json"]
    assert rows_of(load_pairs(tmp_path / "out" / "b.json")) == rows_of(rows)
    assert json.loads((tmp_path / "out" / "b.json").read_text(encoding="utf-8")) == PAIRS, "the form of json.load"
    save_pairs(rows.to_iterable_dataset(), tmp_path / "c.json")
    assert (tmp_path / "c.json").read_bytes() == (tmp_path / "out" / "b.json").read_bytes()
    save_pairs(rows.with_format("numpy"), tmp_path / "d.json")
    assert (tmp_path / "d.json").read_bytes() == (tmp_path / "c.json").read_bytes()
    save_pairs(rows.select([]), tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text()) == []


def test_paths_are_written_relative_to_the_root(tmp_path: Path) -> None:
    rows = load_pairs(write(tmp_path / "a.json"), image_root=tmp_path / "pictures")
    save_pairs(rows, tmp_path / "b.json", image_root=tmp_path / "pictures")
    assert rows_of(load_pairs(tmp_path / "b.json", image_root=tmp_path / "pictures")) == rows_of(rows)


@pytest.mark.parametrize("num_shards", [1, 2, 5, 8])
def test_shards_hold_the_rows_in_order_and_each_is_a_list(tmp_path: Path, num_shards: int) -> None:
    rows = load_pairs(write(tmp_path / "a.json"))
    files = save_pairs(rows, tmp_path / "captions.json", num_shards=num_shards)
    assert [file.name for file in files] == [f"captions-{i:05d}-of-{num_shards:05d}.json" for i in range(num_shards)]
    sizes = [len(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    assert sum(sizes) == 5
    assert max(sizes) - min(sizes) <= 1
    assert rows_of(load_pairs(str(tmp_path / "captions-*.json"))) == rows_of(rows)


def test_existing_files_are_kept_unless_asked(tmp_path: Path) -> None:
    rows = load_pairs(write(tmp_path / "a.json"))
    target = tmp_path / "b.json"
    target.write_text("precious")
    with pytest.raises(OutputExistsError, match=r"b\.json is there already.*overwrite=True"):
        save_pairs(rows, target)
    assert target.read_text() == "precious"
    save_pairs(rows, target, overwrite=True)
    assert rows_of(load_pairs(target)) == rows_of(rows)
    save_pairs(rows, target, num_shards=3)
    with pytest.raises(OutputExistsError, match="of-00003"):
        save_pairs(rows, target, num_shards=2)
    save_pairs(rows, target, num_shards=2, overwrite=True)
    assert rows_of(load_pairs(str(tmp_path / "b-*.json"))) == rows_of(rows), "shards of the other number are gone"


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def some_then_none() -> Iterator[dict[str, Any]]:
        yield {"key": "a", "image": None, "caption": "x"}
        yield {"key": None, "image": None, "caption": "y"}

    features = Features({"key": Value("string"), "image": Image(decode=False), "caption": Value("string")})
    rows = IterableDataset.from_generator(some_then_none, features=features)
    with pytest.raises(FormatError, match="row 2 has neither"):
        save_pairs(rows, tmp_path / "new.json")
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_named_by_path_else_key_and_never_decoded(tmp_path: Path) -> None:
    features = Features({"key": Value("string"), "image": Image(), "caption_otter": Value("string")})
    columns = {
        "key": ["k0", "k1", "k2"],
        "image": [{"path": "a.jpg", "bytes": b"no picture"}, {"path": None, "bytes": b"no picture"}, None],
        "caption_otter": ["x", None, "z"],
    }
    rows = Dataset.from_dict(columns, features=features)
    save_pairs(rows, tmp_path / "a.json", caption_column="caption_otter")
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"image": "a.jpg", "caption": "x"},
        {"image": "k1", "caption": None},
        {"image": "k2", "caption": "z"},
    ]
    save_pairs(Dataset.from_dict({"image": ["p.png"], "caption": ["x"]}), tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == [{"image": "p.png", "caption": "x"}]


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"key": ["a"], "caption": ["x"]})
    with pytest.raises(ColumnError, match=r"no column 'caption_otter'.*caption_column="):
        save_pairs(rows, tmp_path / "a.json", caption_column="caption_otter")
    with pytest.raises(ColumnError, match="no column 'image'"):
        save_pairs(rows.remove_columns("key"), tmp_path / "a.json")
    with pytest.raises(UsageError, match="at least 1"):
        save_pairs(rows, tmp_path / "a.json", num_shards=0)
    with pytest.raises(UsageError, match="length is known"):
        save_pairs(rows.to_iterable_dataset(), tmp_path / "a.json", num_shards=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image", ["../x.jpg", "a/../../x.jpg", "..", "..\\x.jpg", "a\\..\\..\\x.jpg"])
@pytest.mark.parametrize("root", ["pictures", "hf://datasets/me/mine"])
def test_a_picture_outside_the_root_is_refused_with_its_place(tmp_path: Path, image: str, root: str) -> None:
    file = write(tmp_path / "a.json", [PAIRS[0], {"image": image, "caption": "x"}])
    with pytest.raises(FormatError, match=r"a\.json, record 2 \(line 1\): .* lies outside image_root"):
        load_pairs(file, image_root=root)
    assert load_pairs(file).num_rows == 2


def test_backslashes_become_slashes_under_the_root(tmp_path: Path) -> None:
    written = [{"image": image, "caption": "x"} for image in ("a\\b.jpg", "..a/b.jpg", "a/../c.jpg", "hf://d/../../e")]
    rows = load_pairs(write(tmp_path / "a.json", written), image_root=tmp_path)
    joined = [str(tmp_path / name) for name in ("a/b.jpg", "..a/b.jpg", "c.jpg")]
    assert [image["path"] for image in rows["image"]] == [*joined, "hf://d/../../e"]
    assert rows["key"][:] == ["a/b.jpg", "..a/b.jpg", "c.jpg", "hf://d/../../e"]


def test_a_number_of_thousands_of_digits_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "long.json"
    file.write_text(f'[{GOOD},\n{{"image": {"9" * 5_000}}}]', encoding="utf-8")
    with pytest.raises(FormatError, match=r"long\.json, line 2, column 1: record 2 has a number that is too long"):
        list(iter_records(file))


def test_a_stream_outlives_a_change_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "pairs.json")
    monkeypatch.chdir(tmp_path)
    stream = load_pairs("pairs.json", streaming=True)
    monkeypatch.chdir("/")
    assert len(list(stream.decode(False))) == len(PAIRS)

"""Whatever SOURCE names is opened as schema rows, and what it cannot be is said in one line."""

import hashlib
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_mllm_aug import build_card, load_yfcc15m, save_configs, to_configs
from hf_mllm_aug.errors import ColumnError, FormatError, UsageError
from hf_mllm_aug.schema import base_features
from hf_mllm_aug.sources import open_source
from hf_mllm_aug.staged import keep_record, open_staged


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), "red").save(buffer, "PNG")
    return buffer.getvalue()


def _saved(folder: Path, column: str = "image", **columns: list[object]) -> str:
    """A saved data set of two rows, the second of which is no picture."""
    pictures = [{"path": None, "bytes": _png()}, {"path": None, "bytes": b"no picture"}]
    rows = Dataset.from_dict({column: pictures, **columns}).cast_column(column, ImageFeature())
    rows.save_to_disk(str(folder))
    return str(folder)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png())
    assert open_source(str(tmp_path))["key"] == ["a.png"]


def test_a_list_of_pairs_whose_paths_start_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png())
    (tmp_path / "pairs.json").write_text('[{"image": "a.png", "caption": "0"}]')
    rows = open_source(str(tmp_path / "pairs.json"))
    assert (rows["key"][:], rows["caption"][:]) == (["a.png"], ["0"])
    assert Path(rows[0]["image"]["path"]) == tmp_path / "a.png"


def test_a_staged_folder_is_read_by_its_config_with_all_columns(tmp_path: Path) -> None:
    data = {"key": ["a"], "caption": ["raw"], "caption_otter": ["new"]}
    features = Features({**{name: Value("string") for name in data}, "image": ImageFeature()})
    rows = Dataset.from_dict({**data, "image": [{"path": None, "bytes": _png()}]}, features=features)
    save_configs(to_configs(rows, captioners="otter", images="embed"), tmp_path / "staged")
    opened = open_source(str(tmp_path / "staged"))
    assert opened.column_names == ["key", "image", "url", "caption", "caption_otter"]
    assert opened[0]["image"]["bytes"] == _png()


def test_a_staged_folder_knows_its_captioners_by_its_card_or_by_its_configs(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"key": ["a"], "caption": ["raw"], "caption_llava_1_5": ["new"], "caption_otter": ["too"]})
    configs = to_configs(rows, captioners=["llava-1.5", "otter"])
    card = build_card(configs)
    keep_record(card, {"captioners": [{"name": "otter", "prompt": "What is it?"}]})
    save_configs(configs, tmp_path / "staged", card=card)
    staged = open_staged(tmp_path / "staged")
    assert staged.config_names == ["all", "raw", "llava-1.5", "otter"]
    found = staged.captioners(["caption_llava_1_5", "caption_otter", "caption_unknown"])
    assert found == ["llava-1.5", {"name": "otter", "prompt": "What is it?"}]
    with pytest.raises(FormatError, match=r"no config 'qwen'; it has: all, raw, llava-1\.5, otter"):
        staged.open("qwen")


def test_a_saved_data_set_gets_the_columns_of_the_schema_and_keeps_its_own(tmp_path: Path) -> None:
    rows = open_source(_saved(tmp_path / "saved", text=["0", "one"], label=[3, 4]))
    assert rows.column_names == ["image", "url", "caption", "label"]
    assert rows["caption"] == ["0", "one"]
    assert rows.features["url"] == Value("string")
    assert rows[1]["image"]["bytes"] == b"no picture"  # undecoded, or reading it would have failed


def test_the_only_column_of_pictures_is_taken(tmp_path: Path) -> None:
    rows = open_source(_saved(tmp_path / "saved", column="jpg", __key__=[1, 2]))
    assert "jpg" not in rows.column_names
    assert rows["key"] == ["1", "2"]


def test_lists_of_captions_keep_their_column_beside_a_string_of_another_name(tmp_path: Path) -> None:
    """A column of another name cannot take the place of one that is there."""
    captions: list[object] = [["a dog", "a red dog"], ["a cat"]]
    rows = open_source(_saved(tmp_path / "saved", caption=captions, text=["t", "u"], txt=["v", "w"]))
    assert (rows["caption"][:], rows["text"][:], rows["txt"][:]) == (captions, ["t", "u"], ["v", "w"])


def test_a_missing_image_column_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ColumnError, match=r"no column 'picture'; the data set has: image, n\..*--image-column"):
        open_source(_saved(tmp_path / "saved", n=[1, 2]), image_column="picture")


def test_a_column_of_other_things_is_not_taken_for_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"column 'n' holds .*int64.*, not pictures"):
        open_source(_saved(tmp_path / "saved", n=[1, 2]), image_column="n")


def test_max_samples_reads_no_more_rows_and_not_fewer_than_there_are(tmp_path: Path) -> None:
    source = _saved(tmp_path / "saved")
    assert len(open_source(source, max_samples=1)) == 1
    assert len(open_source(source, max_samples=9)) == 2


def test_one_of_several_splits_must_be_chosen(tmp_path: Path) -> None:
    features = Features({"image": ImageFeature()})
    splits = {name: Dataset.from_dict({"image": [None]}, features=features) for name in ("test", "validation")}
    DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert len(open_source(str(tmp_path / "saved"), split="test")) == 1
    with pytest.raises(UsageError, match="several splits; choose one with --split: test, validation"):
        open_source(str(tmp_path / "saved"))
    with pytest.raises(UsageError, match="no split 'dev'; it has: test, validation"):
        open_source(str(tmp_path / "saved"), split="dev")


def test_what_is_no_source_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"cannot read .*notes\.txt as a source"):
        open_source(str(tmp_path / "notes.txt"))
    with pytest.raises(UsageError, match="no such file or folder"):
        open_source(str(tmp_path / "gone"))


def _pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_png())


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b'{"label": "dog"}'), ("old.tar", b"no tar"), ("index.json", b""), ("z.parquet", b"PAR1 damaged")],
)
def test_a_folder_of_pictures_is_one_whatever_lies_beside_them(tmp_path: Path, name: str, content: bytes) -> None:
    _pictures(tmp_path, "a.jpg", "b.jpg", "sub/deep/c.jpg")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg", "caption": "from the metadata"}\n')
    (tmp_path / name).write_bytes(content)
    rows = open_source(str(tmp_path))
    assert rows["key"][:] == ["a.jpg", "b.jpg", "sub/deep/c.jpg"]
    assert rows["caption"][:] == ["from the metadata", None, None]


def _yfcc() -> dict[str, list[object]]:
    """Columns of the Hub's copy of the YFCC subset."""
    return {
        "photoid": ["5001", "5002"],
        "key": ["aa", "bb"],
        "title_clean": ["My Dog", ""],
        "description_clean": ["Rex", "A bird"],
        "downloadurl": ["http://a.b/1.jpg", "http://a.b/2.jpg"],
        "caption_otter": ["a dog", "a bird"],
    }


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_a_copy_of_a_published_repository_has_the_keys_that_python_gives_it(tmp_path: Path, form: str) -> None:
    if form == "saved":
        source = _saved(tmp_path / "copy", column="img", **_yfcc())
    else:
        source = str(tmp_path / "copy.parquet")
        pq.write_table(pa.table({**_yfcc(), "img": [_png(), b"no picture"]}), source)
    rows, python = open_source(source), load_yfcc15m(source)
    assert python["key"][:] == ["5001", "5002"]
    for column in ("key", "url", "caption"):
        assert rows[column][:] == python[column][:], column
    assert [row["image"]["bytes"] for row in rows] == [_png(), b"no picture"]
    assert rows["caption_otter"][:] == ["a dog", "a bird"], "its other columns are kept"


def test_rows_with_an_address_are_named_by_it_unless_two_have_the_same(tmp_path: Path) -> None:
    urls: list[object] = ["http://a.b/1.jpg", "http://a.b/2.jpg"]
    rows = open_source(_saved(tmp_path / "saved", url=urls, caption=["x", "y"]))
    assert rows["key"][:] == [hashlib.sha256(str(url).encode()).hexdigest()[:24] for url in urls]
    assert "key" not in open_source(_saved(tmp_path / "twice", url=urls[:1] * 2, caption=["x", "y"])).column_names
    assert "key" not in open_source(_saved(tmp_path / "null", url=[urls[0], None], caption=["x", "y"])).column_names


def test_a_parquet_file_of_pictures_and_texts_keeps_all_its_columns(tmp_path: Path) -> None:
    table = pa.table({"image": [_png()], "text": ["a cat"], "label": [3]})
    for name in ("rows.parquet", "folder/rows.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / name)
    for source in ("rows.parquet", "folder"):
        rows = open_source(str(tmp_path / source))
        assert rows.column_names == ["image", "url", "caption", "label"]
        assert (rows[0]["image"]["bytes"], rows[0]["caption"], rows[0]["label"]) == (_png(), "a cat", 3)


def test_a_source_without_a_row_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    for limit in (None, 3):
        with pytest.raises(UsageError, match=r"empty\.tar has no rows"):
            open_source(str(tmp_path / "empty.tar"), max_samples=limit)


def test_a_source_all_of_whose_files_are_damaged_is_an_error(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.tar").write_bytes(b"<html>Service unavailable</html>" * 50)
    with pytest.raises(FormatError, match=r"0\.tar and 1 more: no row could be read.*no header of a tar"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("address", ["hf://datasets/me/it/list.tsv", "hf://datasets/me/it/folder"])
def test_what_cannot_be_read_from_an_address_says_what_to_do(address: str) -> None:
    with pytest.raises(UsageError, match=r"list|folder.*Download it"):
        open_source(address)


def test_max_samples_are_held_in_a_file_and_read_again_when_the_source_changes(tmp_path: Path) -> None:
    def write(mark: str) -> None:
        with tarfile.open(tmp_path / "big.tar", "w") as tar:
            for number in range(40):
                for suffix, data in (("jpg", bytes(1 << 20)), ("txt", f"{mark} {number}".encode())):
                    member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

    write("first")
    before = pa.total_allocated_bytes()
    rows = open_source(str(tmp_path / "big.tar"), max_samples=38)
    assert len(rows) == 38
    assert pa.total_allocated_bytes() - before < 20 << 20, "38 MiB of pictures are in a file"
    write("second")
    assert open_source(str(tmp_path / "big.tar"), max_samples=1)["caption"] == ["second 0"]


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_a_source_without_rows_is_named(form: str, tmp_path: Path) -> None:
    rows = Dataset.from_dict({name: [] for name in base_features()}, features=base_features())
    path = tmp_path / ("empty" if form == "saved" else "empty.parquet")
    rows.save_to_disk(path) if form == "saved" else rows.to_parquet(path)
    with pytest.raises(UsageError, match=r"empty.* has no rows: there is nothing to caption"):
        open_source(str(path))

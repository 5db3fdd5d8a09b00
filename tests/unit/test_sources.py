"""Whatever SOURCE names is opened as schema rows, and what it cannot be is said in one line."""

import io
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_mllm_aug import build_card, save_configs, to_configs
from hf_mllm_aug.errors import ColumnError, FormatError, UsageError
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

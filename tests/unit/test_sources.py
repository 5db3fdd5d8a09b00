"""Whatever SOURCE names is opened as schema rows, and what it cannot be is said in one line."""

import io
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_mllm_aug.errors import ColumnError, UsageError
from hf_mllm_aug.sources import open_source


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

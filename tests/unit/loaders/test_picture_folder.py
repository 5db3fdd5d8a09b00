"""A folder of pictures becomes rows: in order, none left out, with the words that stand beside them."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.loaders.picture_folder import load_picture_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def test_rows_come_in_the_order_of_their_paths_with_the_path_as_key(folder: Path) -> None:
    rows = load_picture_folder(folder)
    assert rows["key"] == ["a.JPG", "b.png", "sub/c.webp"]
    assert rows.column_names == ["key", "image", "url", "caption"]
    assert rows["caption"] == [None, None, None]


def test_a_file_that_is_no_picture_is_a_row_all_the_same(folder: Path) -> None:
    (folder / "a.jpg").write_text("no picture")
    (folder / "empty.png").touch()
    rows = load_picture_folder(folder)
    assert rows["key"] == ["a.JPG", "a.jpg", "b.png", "empty.png", "sub/c.webp"]
    assert rows[1]["image"]["path"].endswith("a.jpg")


def test_hidden_files_and_folders_are_passed_over(folder: Path) -> None:
    (folder / ".thumbs").mkdir()
    (folder / ".thumbs" / "x.png").touch()
    (folder / "._b.png").touch()
    assert len(load_picture_folder(folder)) == 3


def test_captions_and_other_columns_come_from_metadata(folder: Path) -> None:
    lines = [
        {"file_name": "b.png", "caption": " Bee ", "credit": "me", "year": 2001},
        {"file_name": "sub/c.webp", "text": "Sea", "tags": ["x"], "year": 2002},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    rows = load_picture_folder(folder)
    assert rows["caption"] == [None, "Bee", "Sea"]
    assert rows["credit"] == [None, "me", None]
    assert rows["year"] == [None, 2001, 2002]
    assert rows["tags"] == [None, None, '["x"]']


def test_metadata_may_be_csv_and_lie_in_the_folder_that_it_is_about(folder: Path) -> None:
    (folder / "sub" / "metadata.csv").write_text('file_name,caption\nc.webp,"Sea, blue"\n')
    assert load_picture_folder(folder)["caption"] == [None, None, "Sea, blue"]


def test_captions_come_from_text_files_beside_the_pictures(folder: Path) -> None:
    (folder / "a.txt").write_text("\ufeffAn A\n", encoding="utf-8")
    (folder / "b.txt").write_text("\n")
    assert load_picture_folder(folder)["caption"] == ["An A", None, None]


def test_a_caption_that_looks_like_a_number_stays_text(folder: Path) -> None:
    (folder / "a.txt").write_text("0")
    (folder / "metadata.jsonl").write_text('{"file_name": "b.png", "caption": 7}\n')
    assert load_picture_folder(folder)["caption"] == ["0", "7", None]


def test_keys_come_from_metadata_when_every_picture_has_its_own(folder: Path) -> None:
    lines = [{"file_name": name, "key": f"k{place}"} for place, name in enumerate(("a.JPG", "b.png", "sub/c.webp"))]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_picture_folder(folder)["key"] == ["k0", "k1", "k2"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines[1:])))
    assert load_picture_folder(folder)["key"] == ["a.JPG", "b.png", "sub/c.webp"]


def test_metadata_of_pictures_that_are_not_there_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "gone.png"}\n')
    with caplog.at_level(logging.WARNING):
        assert len(load_picture_folder(folder)) == 3
    assert "gone.png" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", b'{"file_name": "b.png"}\n{"file_name"', r"metadata\.jsonl, line 2: not JSON"),
        ("metadata.jsonl", b'["b.png"]\n', r"line 1: not a JSON object"),
        ("metadata.jsonl", b'{"caption": "x"}\n', r"line 1: no 'file_name'"),
        ("metadata.csv", b"name,caption\nb.png,x\n", r"metadata\.csv, line 2: no 'file_name'"),
        ("metadata.jsonl", b'{"file_name": "\xff"}\n', r"not UTF-8"),
    ],
)
def test_broken_metadata_names_file_and_line(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        load_picture_folder(folder)


def test_a_folder_without_pictures_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FormatError, match="no pictures in"):
        load_picture_folder(tmp_path)

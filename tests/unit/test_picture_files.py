"""Which files may travel as pictures: those that something other than a row vouches for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value, concatenate_datasets, load_dataset, load_from_disk

from hf_mllm_aug.configs import save_configs, to_configs
from hf_mllm_aug.loaders.picture_folder import load_picture_folder
from hf_mllm_aug.picture_files import PictureFiles, RefusedFileError, root_of_source


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture that belongs to whoever publishes, and to no data set."""
    path = tmp_path / "home" / "passport.png"
    path.parent.mkdir()
    PIL.Image.new("RGB", (4, 4), (200, 0, 0)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for shade in range(3):
        PIL.Image.new("RGB", (4, 4), (shade, shade, shade)).save(folder / f"{shade}.png")
    return folder


def embedded(rows: Dataset, tmp_path: Path, **options: Any) -> list[bool]:
    """Which pictures travelled."""
    folder = save_configs(to_configs(rows, images="embed"), tmp_path / "staged", overwrite=True, **options)
    back = load_dataset(str(folder), "all", split="train").cast_column("image", Image(decode=False))
    return [row["image"] is not None for row in back]


def table(path: Path, images: list[str]) -> Dataset:
    """Rows as a stranger may have published them: Parquet with pictures that are nothing but paths."""
    features = Features({"key": Value("string"), "image": Image(decode=False), "caption": Value("string")})
    pictures = [{"bytes": None, "path": image} for image in images]
    data = {"key": [str(i) for i in range(len(images))], "image": pictures, "caption": ["x"] * len(images)}
    # Not by `Dataset.to_parquet`, which puts the files' bytes in.
    pq.write_table(pa.table(data, schema=features.arrow_schema), path)
    return load_dataset("parquet", data_files=str(path), split="train")


def test_a_table_of_a_stranger_opens_no_file(secret: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = table(tmp_path / "evil.parquet", [str(secret), f"file://{secret}"])
    assert [row["image"]["bytes"] for row in rows] == [None, None]
    assert embedded(rows, tmp_path) == [False, False]
    assert "2 pictures are published as null" in caplog.text
    assert "picture_root=" in caplog.text
    assert "passport.png" in caplog.text
    assert str(secret.parent) not in caplog.text


def test_names_in_json_that_become_pictures_open_no_file(secret: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"key": "a", "image": str(secret), "caption": "x"}]))
    rows = load_dataset("json", data_files=str(tmp_path / "rows.json"), split="train")
    assert embedded(rows, tmp_path) == [False]
    assert embedded(rows.map(lambda row: {"caption_otter": "y"}), tmp_path) == [False]
    assert embedded(rows.select([0]).cast_column("image", Image()), tmp_path) == [False]


def test_joined_with_rows_of_this_process_a_strangers_stay_a_strangers(secret: Path, tmp_path: Path) -> None:
    rows = table(tmp_path / "evil.parquet", [str(secret)])
    beside = Dataset.from_dict({"caption_otter": ["y"]})
    assert embedded(concatenate_datasets([rows, beside], axis=1), tmp_path) == [False]
    under = Dataset.from_dict({"key": ["b"], "image": [None], "caption": ["z"]}, features=rows.features)
    assert embedded(concatenate_datasets([rows, under]), tmp_path) == [False, False]


def test_a_saved_data_set_cannot_say_of_itself_that_it_may(secret: Path, tmp_path: Path) -> None:
    for name in ("imagefolder", None):
        rows = Dataset.from_dict({"key": ["a"], "image": [str(secret)], "caption": ["x"]})
        rows.info.builder_name = name
        rows.save_to_disk(tmp_path / f"saved-{name}")
        saved = load_from_disk(str(tmp_path / f"saved-{name}"))
        assert saved.info.builder_name == name
        assert embedded(saved, tmp_path) == [False], name


def test_a_named_root_opens_what_lies_below_it_and_nothing_else(photos: Path, secret: Path, tmp_path: Path) -> None:
    (photos / "link.png").symlink_to(secret)
    (tmp_path / "photos-2").mkdir()
    (tmp_path / "photos-2" / "a.png").write_bytes((photos / "0.png").read_bytes())
    (photos / "notes.png").write_text("no picture")
    paths = [
        photos / "0.png",
        photos / ".." / "home" / "passport.png",
        photos / "link.png",
        tmp_path / "photos-2/a.png",
    ]
    rows = table(tmp_path / "rows.parquet", [*map(str, paths), str(photos / "notes.png"), str(photos / "none.png")])
    assert embedded(rows, tmp_path, picture_root=photos) == [True, False, False, False, False, False]
    both = [photos, tmp_path / "photos-2"]
    assert embedded(rows, tmp_path, picture_root=both) == [True, False, False, True, False, False]


def test_addresses_are_opened_only_below_a_root_that_is_one(photos: Path, tmp_path: Path) -> None:
    disk = fsspec.filesystem("memory")
    disk.pipe("/mine/a.png", (photos / "0.png").read_bytes())
    disk.pipe("/other/a.png", (photos / "0.png").read_bytes())
    names = ["memory://mine/a.png", "memory://other/a.png", "memory://mine/../other/a.png"]
    data = {"key": list("abc"), "image": names, "caption": list("xyz")}
    rows = Dataset.from_dict(data)  # of this process, and yet
    assert embedded(rows, tmp_path) == [False, False, False]
    assert embedded(rows, tmp_path, picture_root="memory://mine") == [True, False, False]


def test_another_host_is_not_below_an_address_that_begins_like_it() -> None:
    files = PictureFiles(("memory://mine", "hf://datasets/me/x"))
    for path in ("memory://mine@other/a.png", "memory://mine.other/a.png", "hf://datasets/me/x-2/a.png"):
        with pytest.raises(RefusedFileError):
            files.read(path)


def test_a_pipe_ends_no_run_and_a_huge_file_fills_no_memory(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(photos / "pipe.png")
    (photos / "huge.png").write_bytes((photos / "0.png").read_bytes() + bytes(2000))
    monkeypatch.setattr("hf_mllm_aug.picture_files.MAX_BYTES", 2000)
    names = [str(photos / name) for name in ("0.png", "pipe.png", "huge.png")]
    rows = Dataset.from_dict({"key": list("abc"), "image": names, "caption": list("xyz")})
    assert embedded(rows, tmp_path) == [True, False, False]


def test_saved_rows_that_datasets_reads_into_memory_by_itself_stay_a_strangers(
    secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Dataset.from_dict({"key": ["a"], "image": [str(secret)], "caption": ["x"]}).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr("datasets.config.IN_MEMORY_MAX_SIZE", 10**6)
    saved = load_from_disk(str(tmp_path / "saved"))
    assert not saved.cache_files, "it was not read into memory"
    assert embedded(saved, tmp_path) == [False]


def test_pictures_that_were_found_or_built_here_travel(photos: Path, tmp_path: Path) -> None:
    found = load_dataset("imagefolder", data_dir=str(photos), split="train")
    found = found.map(lambda row: {"caption": "x"})
    assert embedded(found, tmp_path) == [True] * 3
    assert embedded(found.shuffle(seed=1), tmp_path) == [True] * 3
    assert embedded(load_picture_folder(photos), tmp_path) == [True] * 3
    built = Dataset.from_dict({"image": [str(photos / "0.png")], "caption": ["x"]}).cast_column("image", Image())
    assert embedded(built, tmp_path) == [True]
    assert embedded(built.map(lambda row: {"caption_otter": "y"}, num_proc=1), tmp_path) == [True]


def test_bytes_in_the_rows_travel_whoever_made_them(photos: Path, tmp_path: Path) -> None:
    rows = load_picture_folder(photos)
    folder = save_configs(to_configs(rows, images="embed"), tmp_path / "once")
    again = load_dataset(str(folder), "all", split="train")
    assert embedded(again, tmp_path) == [True] * 3


def test_a_source_vouches_for_its_own_place(photos: Path, tmp_path: Path) -> None:
    assert root_of_source(str(photos)) == str(photos)
    (tmp_path / "list.json").write_text("[]")
    assert root_of_source(str(tmp_path / "list.json")) == str(tmp_path)

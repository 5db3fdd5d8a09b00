"""The configs of an augmented data set, and the folder that is its repository to be."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk

from hf_mllm_aug import parquet_shards
from hf_mllm_aug.configs import save_configs, split_name, to_configs
from hf_mllm_aug.errors import ColumnError, FormatError, OutputExistsError, UsageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def png(shade: int, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def augmented(n: int = 6, **more: list[Any]) -> Dataset:
    data: dict[str, list[Any]] = {
        "key": [f"k{i}" for i in range(n)],
        "image": [{"bytes": png(i), "path": f"/home/ann/{i}.png"} for i in range(n)],
        "url": [None] * n,
        "caption": [f"raw {i}" for i in range(n)],
        "caption_llava_1_5": [None if i == 2 else f"llava {i}" for i in range(n)],
        "error_llava_1_5": ["cannot open /home/ann/2.png" if i == 2 else None for i in range(n)],
        "caption_tiny_llava": [f"tiny {i}" for i in range(n)],
        "error_tiny_llava": [None] * n,
        **more,
    }
    features = Features({name: Value("string") for name in data} | {"image": Image(decode=False)})
    return Dataset.from_dict(data, features=features)


def test_one_config_for_all_for_raw_and_for_each_captioner() -> None:
    configs = to_configs(augmented(), captioners=["tiny-llava", SimpleNamespace(name="llava-1.5", model="x/y")])
    assert list(configs) == ["all", "raw", "llava-1.5", "tiny-llava"]
    rest = ["caption_llava_1_5", "error_llava_1_5", "caption_tiny_llava", "error_tiny_llava"]
    assert configs["all"].column_names == ["key", "url", "caption", *rest]
    assert all(configs[name].column_names == ["key", "url", "caption"] for name in list(configs)[1:])
    assert configs["llava-1.5"]["caption"][:3] == ["llava 0", "llava 1", None]
    assert configs["raw"]["caption"][2] == "raw 2"
    assert all(part["key"][:] == configs["all"]["key"][:] for part in configs.values()), "a row has shifted"


def test_slug_names_a_config_where_no_captioner_does() -> None:
    assert list(to_configs(augmented())) == ["all", "raw", "llava-1.5", "tiny-llava"]
    unknown = augmented().rename_column("caption_llava_1_5", "caption_my_vlm")
    assert list(to_configs(unknown)) == ["all", "raw", "my_vlm", "tiny-llava"]


def test_hub_ids_and_local_folders_name_configs_that_can_be_folders() -> None:
    data = augmented().rename_column("caption_llava_1_5", "caption_org_model_x")
    assert "org--model-x" in to_configs(data, captioners=["org/model-x", "tiny-llava"])
    local = SimpleNamespace(model="/home/ann/tiny-llava")
    assert "tiny-llava" in to_configs(augmented(), captioners=local)


def test_pictures_travel_only_when_asked_and_only_in_all() -> None:
    configs = to_configs(augmented(), images="embed")
    assert configs["all"].column_names[:4] == ["key", "image", "url", "caption"]
    assert [name for name, part in configs.items() if "image" in part.column_names] == ["all"]
    assert not [name for name, part in to_configs(augmented()).items() if "image" in part.column_names]
    with pytest.raises(ColumnError, match="no column 'image'"):
        to_configs(augmented().remove_columns("image"), images="embed")


def test_other_columns_travel_in_all_and_other_pictures_do_not() -> None:
    data = augmented().add_column("label", ["cat"] * 6)
    second = Dataset.from_dict({"thumb": [png(0)] * 6}, features=Features({"thumb": Image()}))
    data = data.add_column("thumb", second.data.column("thumb").combine_chunks(), feature=Image())
    names = to_configs(data)["all"].column_names
    assert names[-1] == "label"
    assert "thumb" not in names


def test_missing_columns_are_made() -> None:
    data = Dataset.from_dict({"image": [png(1), png(2)]}, features=Features({"image": Image()}))
    configs = to_configs(data)
    assert configs["raw"].features == Features({name: Value("string") for name in ("key", "url", "caption")})
    assert len(set(configs["raw"]["key"])) == 2


def test_made_keys_belong_to_the_pair(tmp_path: Path) -> None:
    (tmp_path / "moved.png").write_bytes(png(1))
    features = Features({"image": Image(decode=False), "caption": Value("string")})
    pair = {"bytes": png(1), "path": "a.png"}
    one = Dataset.from_dict({"image": [pair, pair, {"bytes": png(2)}], "caption": ["x", "y", "x"]}, features=features)
    keys = to_configs(one)["raw"]["key"][:]
    assert len(set(keys)) == 3, "rows that differ share a key"
    assert to_configs(one.select([2, 0]))["raw"]["key"][:] == [keys[2], keys[0]], "a key depends on the row's place"
    moved = {"image": [str(tmp_path / "moved.png")], "caption": ["x"]}
    assert to_configs(Dataset.from_dict(moved, features=features))["raw"]["key"][0] == keys[0]
    twins = to_configs(Dataset.from_dict({"url": ["u", "u"], "caption": ["x", "x"]}))["raw"]["key"][:]
    assert twins[1] == f"{twins[0]}-2"


@pytest.mark.parametrize("dtype", ["string", "large_string", "binary", "large_binary"])
def test_pictures_that_are_paths_or_bytes_become_pictures(tmp_path: Path, dtype: str) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for shade, file in enumerate(files):
        file.write_bytes(png(shade))
    pictures = [str(file) if "string" in dtype else file.read_bytes() for file in files]
    features = Features({"picture": Value(dtype), "caption": Value("string")})
    rows = Dataset.from_dict({"picture": pictures, "caption": ["x", "x"]}, features=features)
    bare = to_configs(rows, image_column="picture")
    assert "image" not in bare["all"].column_names
    assert len(set(bare["raw"]["key"])) == 2
    folder = save_configs(to_configs(rows, image_column="picture", images="embed"), tmp_path / "out")
    back = load_dataset(str(folder), split="train")
    assert [row["image"].getpixel((0, 0))[0] for row in back] == [0, 1]
    assert all(str(tmp_path) not in str(row) for row in back.cast_column("image", Image(decode=False)))


@pytest.mark.parametrize("split", ["train[:2]", "validation+test", None])
def test_rows_picked_from_splits_are_staged_as_train(split: str | None) -> None:
    assert split_name(split) == "train"
    assert split_name("validation") == "validation"


def test_columns_of_other_names() -> None:
    data = Dataset.from_dict({"id": [7, 8], "text": ["a", "b"], "caption": ["not this", "nor this"]})
    raw = to_configs(data, key_column="id", caption_column="text")["raw"]
    assert raw[0] == {"key": "7", "url": None, "caption": "a"}
    with pytest.raises(ColumnError, match="no column 'txt'"):
        to_configs(data, caption_column="txt")


def test_keys_that_are_not_unique_are_named() -> None:
    data = augmented().remove_columns("key").add_column("key", ["a", "b", "a", "c", "b", "a"])
    with pytest.raises(FormatError, match=r"2 keys are not unique: 'a' \(3 times\), 'b' \(2 times\)"):
        to_configs(data)
    data = augmented().remove_columns("key").add_column("key", ["a", None, "b", "c", "d", "e"])
    with pytest.raises(FormatError, match="row 1 has no key"):
        to_configs(data)


def test_local_paths_in_reasons_stay_at_home() -> None:
    reasons = to_configs(augmented())["all"]["error_llava_1_5"][:]
    assert reasons[2] == "cannot open …/2.png"
    assert reasons.count(None) == 5


@pytest.mark.parametrize("name", ["data", "figures", "raw", "all", "default", "Tiny-Llava"])
def test_names_that_break_a_repository_are_refused(name: str) -> None:
    column = f"caption_{name.lower().replace('-', '_')}"
    data = augmented().remove_columns("caption_llava_1_5")
    if column not in data.column_names:
        data = data.add_column(column, ["x"] * 6)
    names: list[object] = [name] if name != "Tiny-Llava" else ["tiny-llava", name]
    with pytest.raises(UsageError):
        to_configs(data, captioners=names)


def test_columns_that_would_share_a_config_are_named() -> None:
    data = augmented().rename_column("caption_llava_1_5", "caption_mine")
    mine = SimpleNamespace(name="tiny-llava", caption_column="caption_mine")
    with pytest.raises(UsageError, match=r"'caption_mine' and 'caption_tiny_llava'.*'tiny-llava': rename one"):
        to_configs(data, captioners=mine)


def test_captioner_without_its_column_is_named() -> None:
    with pytest.raises(ColumnError, match=r"no column 'caption_otter'.*caption with 'otter' first"):
        to_configs(augmented(), captioners="otter")


def test_splits_stay_splits(tmp_path: Path) -> None:
    configs = to_configs(DatasetDict({"train": augmented(6), "validation": augmented(2)}))
    folder = save_configs(configs, tmp_path / "out")
    assert (folder / "raw" / "validation-00000-of-00001.parquet").is_file()
    assert {split: len(rows) for split, rows in load_dataset(str(folder), "raw").items()} == {
        "train": 6,
        "validation": 2,
    }


def test_folder_loads_as_it_is(tmp_path: Path) -> None:
    configs = to_configs(augmented(), captioners=["tiny-llava", "llava-1.5"], images="embed")
    folder = save_configs(configs, tmp_path / "out")
    for name in ("raw", "llava-1.5", "tiny-llava"):
        assert load_dataset(str(folder), name, split="train").to_list() == configs[name].to_list()
        assert list(load_dataset(str(folder), name, split="train", streaming=True)) == configs[name].to_list()
    default = load_dataset(str(folder), split="train")
    assert default[1]["image"].getpixel((0, 0)) == (1, 1, 1)
    paths = [row["path"] for row in default.cast_column("image", Image(decode=False))["image"]]
    assert paths == [f"{i}.png" for i in range(6)], "a local path travels"
    data = yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])
    assert [config["config_name"] for config in data["configs"]] == ["all", "raw", "llava-1.5", "tiny-llava"]
    assert [config["config_name"] for config in data["configs"] if config.get("default")] == ["all"]
    sizes = {info["config_name"]: info["download_size"] for info in data["dataset_info"]}
    assert sizes["raw"] == (folder / "raw" / "train-00000-of-00001.parquet").stat().st_size


def test_pictures_that_no_reader_could_open_become_null(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "there.png").write_bytes(png(5))
    good = png(7, (64, 64))
    pictures = [
        {"path": str(tmp_path / "there.png")},
        {"path": str(tmp_path / "gone.png")},
        {"bytes": b"<html>", "path": "x.jpg"},
        {"bytes": good[: len(good) // 2], "path": "cut.png"},
        None,
        {"bytes": b"", "path": None},
    ]
    data = augmented().remove_columns("image")
    table = Dataset.from_dict({"image": pictures}, features=Features({"image": Image(decode=False)}))
    data = data.add_column("image", table.data.column("image").combine_chunks(), feature=Image(decode=False))
    folder = save_configs(to_configs(data, images="embed"), tmp_path / "out")
    back = load_dataset(str(folder), "all", split="train")
    assert [row["image"] is not None for row in back] == [True, False, False, False, False, False]
    assert back["key"][:] == data["key"][:]
    assert "3 pictures cannot be decoded" in caplog.text


def test_shards_are_cut_by_size_and_written_in_content_defined_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_shards, "_BATCH_ROWS", 100)
    rows = Dataset.from_dict(
        {"key": [hashlib.sha256(b"%d" % i).hexdigest() for i in range(1000)], "caption": ["x"] * 1000}
    )
    folder = save_configs({"raw": rows}, tmp_path / "out", max_shard_size="5kB")
    files = sorted(file.name for file in (folder / "raw").iterdir())
    assert len(files) > 3
    assert files[0] == f"train-00000-of-{len(files):05d}.parquet"
    metadata = pq.read_metadata(folder / "raw" / files[0])
    assert b"content_defined_chunking" in metadata.metadata
    assert metadata.row_group(0).column(0).has_offset_index
    assert load_dataset(str(folder), split="train")["key"][:] == rows["key"][:]


def test_a_release_of_the_same_rows_has_the_same_bytes(tmp_path: Path) -> None:
    one = save_configs(to_configs(augmented(), images="embed"), tmp_path / "a")
    two = save_configs(to_configs(augmented(), images="embed"), tmp_path / "b")
    for file in sorted(path for path in one.rglob("*") if path.is_file()):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes(), file


def test_threads_change_no_byte(tmp_path: Path) -> None:
    configs = to_configs(augmented(caption_otter=[f"otter {i}" for i in range(6)]), images="embed")
    one = save_configs(configs, tmp_path / "a", num_proc=1)
    more = save_configs(configs, tmp_path / "b", num_proc=4)
    files = {path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()}
    assert {path.relative_to(more): path.read_bytes() for path in more.rglob("*") if path.is_file()} == files
    assert len([path for path in files if path.suffix == ".parquet"]) == len(configs)


def test_rows_picked_and_shuffled_are_written_in_their_order(tmp_path: Path) -> None:
    picked = augmented().select([4, 1, 3])
    assert load_dataset(str(save_configs(to_configs(picked), tmp_path / "a")), "raw", split="train")["key"][:] == [
        "k4",
        "k1",
        "k3",
    ]


def test_empty_splits_are_refused_for_they_could_not_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all/train has no rows"):
        save_configs(to_configs(augmented(0)), tmp_path / "out")


def test_a_card_of_ones_own_leaves_no_path_and_stays_yaml(tmp_path: Path) -> None:
    card = f"---\nsource: {tmp_path}/x.tsv\nnote: hf_abcdefghijklmnopqrst\n---\n# Made in {tmp_path}/made/\n"
    readme = (save_configs(to_configs(augmented()), tmp_path / "out", card=card) / "README.md").read_text("utf-8")
    assert str(tmp_path) not in readme
    data = yaml.safe_load(readme.split("---\n")[1])
    assert (data["source"], data["note"]) == ("…/x.tsv", "[secret]")


def test_existing_output_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    save_configs(to_configs(augmented()), folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        save_configs(to_configs(augmented(2)), folder)
    assert sorted(folder.rglob("*")) == before
    save_configs({"raw": to_configs(augmented(2))["raw"]}, folder, overwrite=True)
    assert not (folder / "all").exists()


def test_what_is_no_staged_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("# Years of work")
    with pytest.raises(OutputExistsError, match="no staged folder"):
        save_configs(to_configs(augmented()), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "README.md").read_text() == "# Years of work"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no name for a folder"):
        save_configs(to_configs(augmented()), ".", overwrite=True)


def test_a_card_that_is_made_here_shows_pictures_of_the_root_that_was_named(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = Dataset.from_dict({"key": ["a"], "image": [str(tmp_path / "a.png")], "caption": ["x"]})
    rows.save_to_disk(tmp_path / "saved")
    configs = to_configs(load_from_disk(str(tmp_path / "saved")), images="embed")
    for root, shown in ((None, []), (tmp_path, ["all-sample-0.webp"])):
        folder = save_configs(configs, tmp_path / f"staged-{shown}", picture_root=root)
        assert [path.name for path in folder.glob("figures/*.webp")] == shown


def test_failure_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = parquet_shards._row_groups

    def fail(dataset: Dataset, *args: Any) -> Any:
        yield from real(dataset, *args)
        if "caption_tiny_llava" not in dataset.column_names:
            raise OSError("disk full")

    configs = to_configs(augmented())
    save_configs(configs, tmp_path / "old")
    monkeypatch.setattr(parquet_shards, "_row_groups", fail)
    for folder, overwrite in [("new", False), ("old", True)]:
        with pytest.raises(OSError, match="disk full"):
            save_configs(configs, tmp_path / folder, overwrite=overwrite)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["old"]
    assert len(load_dataset(str(tmp_path / "old"), "raw", split="train")) == 6


def test_bad_arguments_say_what_would_be_right(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'500MB'"):
        save_configs(to_configs(augmented()), tmp_path / "out", max_shard_size="huge")
    with pytest.raises(UsageError, match="cannot name a split"):
        save_configs(to_configs(augmented()), tmp_path / "out", split="a-b")
    with pytest.raises(UsageError, match="no configs"):
        save_configs({}, tmp_path / "out")
    with pytest.raises(UsageError, match="'none' or 'embed'"):
        to_configs(augmented(), images="link")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not IterableDataset"):
        to_configs(augmented().to_iterable_dataset())
    assert not list(tmp_path.glob("*out*"))


def test_a_million_keys_are_checked_in_little_memory() -> None:
    keys = np.char.add("k", np.arange(300_000).astype(str))
    assert len(to_configs(Dataset.from_dict({"key": keys.tolist()}))["raw"]) == 300_000

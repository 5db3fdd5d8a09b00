"""What a source is, told by its contents: nothing is taken for something else, and nothing left out without a word."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_mllm_aug import load_cc3m, load_cc12m
from hf_mllm_aug.errors import FormatError, UsageError
from hf_mllm_aug.loaders.recognise import expand, files_of_split, is_picture_folder, recognise

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {".bz2": bz2.compress, ".xz": lzma.compress}


def tar(path: Path, number: int = 0, squeeze: Callable[[bytes], bytes] = bytes) -> Path:
    """A tar of one picture and its caption, perhaps compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for suffix, data in (("jpg", b"\xff\xd8"), ("txt", b"caption %d" % number)):
            member = tarfile.TarInfo(f"{number:09d}.{suffix}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.write_bytes(squeeze(buffer.getvalue()))
    return path


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.bz2", "x.tar.xz", "x.tgz", "no-suffix"])
def test_compressed_tars_are_tars_whatever_they_are_called(tmp_path: Path, name: str) -> None:
    file = tar(tmp_path / name, squeeze=COMPRESSIONS.get(Path(name).suffix, gzip.compress))
    assert recognise([str(file)]) == "webdataset"
    assert load_cc3m(file)["caption"] == ["caption 0"]


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_a_folder_of_compressed_tars_is_one_of_tars(tmp_path: Path, suffix: str) -> None:
    squeeze = COMPRESSIONS.get(Path(suffix).suffix, gzip.compress)
    for number in range(2):
        tar(tmp_path / f"{number:05d}{suffix}", number, squeeze)
    assert recognise([str(tmp_path)]) == "webdataset"
    assert load_cc3m(tmp_path)["caption"] == ["caption 0", "caption 1"]


def test_braces_are_written_out_and_each_name_must_be_there(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"{number:04d}.tar", number)
    assert load_cc3m(f"{tmp_path}/{{0000..0001}}.tar")["caption"] == ["caption 0", "caption 1"]
    assert [Path(name).name for name in expand(f"{tmp_path}/{{0002,0000}}.tar")] == ["0002.tar", "0000.tar"]
    with pytest.raises(UsageError, match=r"no such file or folder: .*0003\.tar"):
        expand(f"{tmp_path}/{{0002..0003}}.tar")


def test_paths_are_absolute_so_that_a_stream_outlives_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.tsv").write_text("http://a.b/c.jpg\ta cat\n")
    monkeypatch.chdir(tmp_path)
    stream = load_cc12m("list.tsv", streaming=True)
    monkeypatch.chdir("/")
    assert [row["caption"] for row in stream] == ["a cat"]


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(FormatError, match=r"a\.parquet: no Parquet file, or one that is cut off"):
        recognise([str(tmp_path)])


def test_files_with_and_without_a_split_are_not_mixed_silently() -> None:
    mixed = ["cc3m/train-0.tar", "cc3m/0001.tar", "cc3m/0002.tar"]
    with pytest.raises(UsageError, match=r"train-0\.tar.*2 others bear none, such as .*0001\.tar"):
        files_of_split(mixed, "train", "cc3m")
    assert files_of_split(mixed[:1], "train", "cc3m") == mixed[:1]
    assert files_of_split(mixed[1:], "train", "cc3m") == mixed[1:], "without any split's name all are of it"


def picture(folder: Path, name: str, record: object = None) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\xd8")
    if record is not None:
        path.with_suffix(".json").write_text(json.dumps(record))


RECORD = {"key": "000000001", "status": "success", "url": "http://a.b/c.jpg"}


def test_records_of_img2dataset_beside_pictures_make_its_folder(tmp_path: Path) -> None:
    picture(tmp_path, "00000/000000001.jpg", RECORD)
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 damaged")
    assert recognise([str(tmp_path)]) == "img2dataset-folder"
    assert not is_picture_folder(str(tmp_path))


@pytest.mark.parametrize("record", [{"label": "dog"}, {"key": "1"}, ["key", "status"], None])
def test_other_records_beside_pictures_do_not(tmp_path: Path, record: object) -> None:
    picture(tmp_path, "00000/000000001.jpg", record)
    assert recognise([str(tmp_path)]) != "img2dataset-folder"
    assert is_picture_folder(str(tmp_path))


def test_nor_do_folders_that_lie_deeper(tmp_path: Path) -> None:
    picture(tmp_path, "a/000000001.jpg", RECORD)
    picture(tmp_path, "a/b/c.png")
    assert recognise([str(tmp_path)]) != "img2dataset-folder"
    assert is_picture_folder(str(tmp_path))


def test_a_folder_without_pictures_is_none_of_pictures(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar")
    picture(tmp_path, ".hidden/a.jpg")
    assert not is_picture_folder(str(tmp_path))

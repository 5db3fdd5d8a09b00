"""The files that a person names: patterns, braces, folders and addresses."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.loaders.data_files import expand_braces, find_files

TARS = (".tar", ".tgz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b-9.tar", "b-10.tar", "a.tgz", "notes.txt", ".hidden.tar", "c[1].tar", "d{1,2}.tar"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "folder.tar").mkdir()
    return tmp_path


def found(*paths: str | Path) -> list[str]:
    files = find_files(paths[0] if len(paths) == 1 else paths, TARS)["train"]
    assert all(os.path.isabs(file) for file in files)
    return [os.path.basename(file) for file in files]


def test_files_folders_patterns_and_braces(folder: Path) -> None:
    assert found(folder / "b-9.tar") == ["b-9.tar"]
    assert found(folder) == ["a.tgz", "b-10.tar", "b-9.tar", "c[1].tar", "d{1,2}.tar"]
    assert found(f"{folder}/b-*.tar") == ["b-10.tar", "b-9.tar"]
    assert found(f"{folder}/b-{{9..10}}.tar") == ["b-9.tar", "b-10.tar"]
    assert found(f"{folder}/{{a.tgz,b-9.tar}}") == ["a.tgz", "b-9.tar"]
    assert found(folder / "b-9.tar", f"{folder}/b-*.tar") == ["b-9.tar", "b-10.tar"], "each once"


def test_names_that_look_like_patterns_are_names_first(folder: Path) -> None:
    assert found(folder / "c[1].tar", folder / "d{1,2}.tar") == ["c[1].tar", "d{1,2}.tar"]


def test_a_relative_path_stays_good_after_a_change_of_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_files("b-9.tar", TARS)["train"] == [str(folder / "b-9.tar")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.tar", "none.tar' matches no file$"),
        ("x-*.tar", r"x-\*.tar' matches no file$"),
        ("b-{8..9}.tar", r"b-8.tar' matches no file \(of '.*b-\{8..9\}.tar'\)"),
        ("b-{0..9999999}.tar", r"\{0..9999999\} stands for more than 1,000,000 files"),
        ("folder.tar", "no file in the folder .*folder.tar ends in .tar or .tgz"),
    ],
)
def test_what_is_not_there_is_named(folder: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_files(folder / name, TARS)
    with pytest.raises(UsageError, match="no file was named"):
        find_files([], TARS)


def test_braces_are_written_out_as_by_a_shell() -> None:
    assert list(expand_braces("a{08..11}")) == ["a08", "a09", "a10", "a11"]
    assert list(expand_braces("{2..0}")) == ["2", "1", "0"]
    assert list(expand_braces("{a,b}{1..2}")) == ["a1", "a2", "b1", "b2"]
    assert list(expand_braces("{word} {a..c} {")) == ["{word} {a..c} {"]


def test_addresses_are_found_by_their_file_system() -> None:
    for name in ("s-00.tar", "s-01.tar", "s-02.tar", "t-00.tar"):
        with fsspec.open(f"memory://files-test/{name}", "wb") as file:
            file.write(b"x")

    def named(pattern: str) -> list[str]:
        return [file.rpartition("/")[2] for file in find_files(f"memory://files-test/{pattern}", TARS)["train"]]

    assert named("s-*.tar") == ["s-00.tar", "s-01.tar", "s-02.tar"]
    assert named("s-01.tar") == ["s-01.tar"]
    assert named("{t,s}-00.tar") == ["t-00.tar", "s-00.tar"]
    with pytest.raises(UsageError, match=r"s-03.tar' matches no file \(of "):
        named("s-{02..03}.tar")
    with pytest.raises(UsageError, match=r"u-\*.tar' matches no file"):
        named("u-*.tar")

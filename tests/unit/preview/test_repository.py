"""Which files and cards are a repository's, whoever made them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_mllm_aug.errors import FormatError
from hf_mllm_aug.preview.page import card_page
from hf_mllm_aug.preview.repository import open_repository
from hf_mllm_aug.preview.views import Views
from tests.conftest import picture_bytes
from tests.preview_folders import stage


def test_links_lead_to_nothing_outside_the_folder(tmp_path: Path) -> None:
    folder = stage(tmp_path / "data", 3)
    (tmp_path / "private.png").write_bytes(picture_bytes(1))
    (folder / "own.png").write_bytes(picture_bytes(2))
    (folder / "leak.png").symlink_to(tmp_path / "private.png")
    (folder / "link.png").symlink_to(folder / "own.png")
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\n![](leak.png) ![](link.png)\n")
    repository = open_repository(str(folder))
    assert repository.picture("leak.png") is None
    assert repository.picture("link.png") == ("image/png", picture_bytes(2))
    html = card_page(Views(repository))
    assert "leak.png" not in html
    assert "/repository/link.png" in html


def test_a_snapshot_of_the_hubs_cache_is_a_folder_of_links(tmp_path: Path) -> None:
    """huggingface_hub keeps contents in `blobs`, and names in `snapshots`."""
    home = tmp_path / "datasets--me--captions"
    snapshot = stage(home / "snapshots" / "0123abc", 3)
    (home / "blobs").mkdir()
    for number, file in enumerate(path for path in snapshot.rglob("*") if path.is_file()):
        blob = file.rename(home / "blobs" / str(number))
        file.symlink_to(blob)
    assert Views(open_repository(str(snapshot))).rows("raw").count() == 3


NESTED = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)


def test_yaml_that_nests_without_end_or_holds_endless_numbers_is_left_out(tmp_path: Path) -> None:
    folder = stage(tmp_path / "data", 3)
    card = (folder / "README.md").read_text()
    more = f"{NESTED}base_model: [*k, gpt]\nlanguage: [*k]\n"
    numbers = card.replace("num_examples: 3", f"num_examples: 0x{'f' * 9000}")
    assert numbers != card
    (folder / "README.md").write_text(numbers.replace("---\n", f"---\n{more}", 1))
    views = Views(open_repository(str(folder)))
    html = card_page(views)
    assert "<bdi>gpt</bdi>" in html
    assert "x, x" not in html
    assert views.total(views.rows("raw")) == 3


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("a: [\n", r"data: the YAML of its README\.md cannot be read, line \d of it: "),
        ("- a\n", r"data: the YAML of its README\.md cannot be read: .*dict"),
        ("a: !!python/object/apply:os.getcwd []\n", r"data: the YAML .* could not determine a constructor"),
        ("configs: 5\n", r"data: no Parquet files of the configs"),
        ("configs:\n- config_name: [1]\n  data_files: 'raw/*'\n", r"data: no Parquet files of the configs"),
        ("configs:\n- config_name: a\n  data_files: [{split: train, path: null}]\n", r"data: no Parquet files"),
    ],
)
def test_a_card_that_cannot_be_read_is_said(tmp_path: Path, yaml: str, message: str) -> None:
    folder = stage(tmp_path / "data", 3)
    (folder / "README.md").write_text(f"---\n{yaml}---\n")
    with pytest.raises(FormatError, match=message):
        open_repository(str(folder))


def test_a_card_of_yaml_alone_is_shown(tmp_path: Path) -> None:
    folder = stage(tmp_path / "data", 3)
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card[: card.index("\n---\n", 4) + len("\n---\n")])
    assert "<article" in card_page(Views(open_repository(str(folder))))

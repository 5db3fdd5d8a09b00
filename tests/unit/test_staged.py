"""A staged folder that a stranger made, or that broke: a clear word, and no file of this machine in the release."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from hf_mllm_aug.configs import save_configs, to_configs
from hf_mllm_aug.errors import FormatError, PublishError, UsageError
from hf_mllm_aug.publish import plan_release, push_to_hub
from hf_mllm_aug.staged import open_staged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = Dataset.from_dict({"key": ["a"], "caption": ["cat"], "caption_otter": ["a cat"]})
    return save_configs(to_configs(rows), tmp_path / "staged")


@pytest.mark.parametrize(
    "yaml",
    [
        "configs:\n- raw",
        "configs: raw",
        "configs:\n- config_name: a\n- config_name: a",
        "configs:\n- config_name: a\n- 3",
        "configs: [",
        "- configs:\nconfigs: 1",
    ],
)
def test_a_card_that_lists_no_configs_is_named(yaml: str, folder: Path) -> None:
    (folder / "README.md").write_text(f"---\n{yaml}\n---\n")
    with pytest.raises(FormatError, match=r"README\.md: its .*(Stage the data set again|mend the card)"):
        open_staged(folder)


def test_a_card_that_is_no_text_is_named(folder: Path) -> None:
    card = (folder / "README.md").read_bytes()
    (folder / "README.md").write_bytes(card + b"\xff")
    for read in (open_staged, plan_release):
        with pytest.raises(FormatError, match=r"README\.md: its metadata cannot be read"):
            read(folder)


def test_a_record_that_is_none_counts_as_none(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("---\n", "---\nhf_mllm_aug: 3\n", 1))
    assert open_staged(folder).record == {}


@pytest.mark.parametrize("place", ["/home/ann/*.parquet", "../private/*", "https://example.org/x.parquet"])
@pytest.mark.parametrize("form", ["[{{split: train, path: '{0}'}}]", "'{0}'", "{{train: ['{0}']}}", "['{0}']"])
def test_a_config_reads_no_files_from_elsewhere(place: str, form: str, folder: Path) -> None:
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: raw\n  data_files: {form.format(place)}\n---\n")
    with pytest.raises(FormatError, match="does not lie in the folder"):
        open_staged(folder)


def test_a_config_may_have_any_form_of_its_own_files(folder: Path) -> None:
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: raw\n  data_files: 'raw/train-*'\n---\n")
    staged = open_staged(folder)
    assert staged.open("raw")["train"]["caption"] == ["cat"]
    assert staged.split("raw") == "train"


def test_links_to_files_elsewhere_are_not_published(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("secret")
    (folder / "alias.txt").symlink_to(folder / "README.md")
    assert "alias.txt" in {step.path for step in plan_release(folder)}
    (folder / "notes.txt").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(UsageError, match=r"notes\.txt leads out of the folder"):
        plan_release(folder)


def test_a_broken_shard_is_named(folder: Path) -> None:
    shard = next((folder / "raw").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(FormatError, match=rf"{shard.name} is no whole Parquet file"):
        plan_release(folder)


@pytest.mark.parametrize(("error", "kept"), [(KeyboardInterrupt(), 0), (PublishError("no line"), 1)])
def test_what_was_staged_stays_only_where_a_message_names_it(
    error: BaseException, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("hf_mllm_aug.publish.Release.publish", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(type(error)):
        push_to_hub({"raw": Dataset.from_dict({"key": ["a"], "caption": ["cat"]})}, "me/x")
    assert len(list(tmp_path.glob("hf-mllm-aug-*"))) == kept

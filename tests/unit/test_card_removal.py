"""A card less some of its configs, and the note that some are newer than `all`."""

from __future__ import annotations

import html
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub import DatasetCard

from hf_mllm_aug.card import build_card
from hf_mllm_aug.card_merge import merge_cards, published_configs
from hf_mllm_aug.card_removal import without_configs
from hf_mllm_aug.card_staleness import note_newer
from hf_mllm_aug.configs import to_configs
from tests.card_rows import data_of


def card_of(names: list[str], mark: str = "") -> Any:
    data = {"key": ["a", "b"], "caption": ["one", "two"]}
    for name in names:
        data["caption_" + name.replace("-", "_")] = [f"{mark}{name} one", f"{mark}{name} two"]
    return build_card(to_configs(Dataset.from_dict(data), captioners=names), captioners=names, repo_id="me/x")


def test_what_is_left_of_a_card_is_a_card_of_the_rest() -> None:
    card = card_of(["otter", "otter-2"])
    card.text = card.text.replace("## Limits", "My otter, by hand: figures/otter-lengths.svg\n\n## Limits")
    less = without_configs(card, ["otter"])
    assert published_configs(less) == ["all", "raw", "otter-2"]
    assert [info["config_name"] for info in data_of(less).dataset_info] == ["all", "raw", "otter-2"]
    assert 'id="config-otter"' not in less.text
    assert 'id="config-otter-2"' in less.text
    assert "My otter, by hand: figures/otter-lengths.svg" in less.text
    assert "<code>otter</code>" not in less.text, "a sample of its captions stayed"
    assert "<code>otter-2</code>" in less.text
    assert 'load_dataset("me/x", "otter"' not in less.text
    assert 'load_dataset("me/x", "otter-2"' in less.text
    assert "otter" in published_configs(card), "the card that was given was changed"


@pytest.mark.parametrize("name", ["my_vlm", "Salesforce--blip2", "a+b", "my.model"])
def test_names_that_markdown_would_act_on_go_with_their_samples(name: str) -> None:
    texts = {"key": ["a", "b"], "url": [None, None], "caption": ["gone words", "gone words"]}
    configs = {name: Dataset.from_dict(texts), "zz": Dataset.from_dict({**texts, "caption": ["kept", "kept"]})}
    less = without_configs(build_card(configs), [name])
    assert "gone words" not in html.unescape(less.text)
    assert "kept" in less.text


def test_a_config_that_is_taken_out_and_comes_again_is_as_it_was() -> None:
    card = card_of(["otter", "vlm"])
    again = merge_cards(without_configs(card, ["otter"]), without_configs(card, ["all", "raw", "vlm"]))
    assert set(published_configs(again)) == set(published_configs(card))
    assert again.text.count("hf-mllm-aug:begin captioner-otter") == card.text.count("hf-mllm-aug:begin captioner-otter")
    assert again.text.count('id="config-otter"') == 1


@pytest.mark.parametrize(("gone", "default"), [(["all"], "raw"), (["all", "raw"], "otter"), (["otter"], "all")])
def test_there_is_always_one_default(gone: list[str], default: str) -> None:
    less = without_configs(card_of(["otter", "vlm"]), gone)
    assert [config["config_name"] for config in data_of(less).configs if config.get("default")] == [default]


def test_a_card_of_another_hand_loses_its_metadata_alone() -> None:
    yaml = "configs:\n- config_name: a\n- config_name: b\n  default: true\nmine: 1\n"
    text = f'---\n{yaml}---\n<tr id="config-b">\nfigures/b-x.svg\n'
    less = without_configs(DatasetCard(text), ["b"])
    assert data_of(less).configs == [{"config_name": "a", "default": True}]
    assert data_of(less).mine == 1
    assert less.text == DatasetCard(text).text


def test_the_note_names_what_is_newer_and_goes_when_all_is() -> None:
    card = card_of(["otter", "vlm"])
    assert note_newer(card, ["otter"], ["otter"]) == ["otter"]
    assert note_newer(card, ["vlm"], ["vlm"]) == ["otter", "vlm"]
    assert card.text.count('<p id="newer-than-all">') == 1
    assert note_newer(card, ["vlm"], []) == ["otter", "vlm"], "publishing the same again made it older"
    end = card.text.index("<!-- hf-mllm-aug:end configs -->")
    assert card.text.index('<p id="newer-than-all">') < end
    merged = merge_cards(card, card_of(["otter", "vlm"], "new "))
    assert note_newer(merged, ["all", "raw", "otter", "vlm"], ["otter"]) == []
    assert "newer-than-all" not in merged.text
    assert "newer_than_all" not in str(merged.data.to_yaml())


def test_the_note_is_not_taken_for_the_edit_of_a_person() -> None:
    card = card_of(["otter"])
    note_newer(card, ["otter"], ["otter"])
    fresh = card_of(["otter", "vlm"], "new ")
    merged = merge_cards(card, fresh)
    assert 'id="config-vlm"' in merged.text
    again = merge_cards(merged, fresh)
    assert again.text == merged.text


def test_a_data_set_without_all_has_nothing_newer_than_it() -> None:
    card = without_configs(card_of(["otter"]), ["all"])
    assert note_newer(card, ["otter"], ["otter"]) == []
    assert "newer-than-all" not in card.text

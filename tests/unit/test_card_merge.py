"""A new card over a published one: what other releases published and what people wrote stays."""

from __future__ import annotations

import re
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub import DatasetCard

from hf_mllm_aug.card import Card, build_card
from hf_mllm_aug.card_marks import parse_card
from hf_mllm_aug.card_merge import merge_cards, with_repo_id
from hf_mllm_aug.card_removal import without_configs
from hf_mllm_aug.card_staleness import note_newer
from hf_mllm_aug.card_template import open_template
from hf_mllm_aug.configs import to_configs
from hf_mllm_aug.errors import FormatError
from tests.card_rows import CAPTIONER, captioner_row, configs, data_of, table_row

HAND = "My words."


def edited(card: DatasetCard, *changes: tuple[str, str]) -> DatasetCard:
    """A card as it is read from the Hub, after a person changed its file."""
    text = str(card)
    for old, new in changes:
        assert old in text, f"there is no {old!r} to change"
        text = text.replace(old, new, 1)
    return DatasetCard(text, ignore_metadata_errors=True)


def published(text: str = HAND) -> DatasetCard:
    card = build_card(configs(), captioners=[CAPTIONER], pretty_name="Mine", license="mit", tags=["by-hand"])
    return edited(card, ("## Limits", f"{text}\n\n## Limits"))


def otter(caption: str = "an otter") -> Card:
    """A release of one config that was not there before."""
    rows = {"key": ["a", "b"], "caption": ["x", "y"], "caption_otter": [caption, None]}
    parts = to_configs(Dataset.from_dict(rows), captioners="otter")
    return build_card({"otter": parts["otter"]}, captioners=[{"name": "otter", "model": "luodian/otter"}])


def test_merge_keeps_what_others_published_and_wrote() -> None:
    new = build_card({"otter": configs()["raw"]}, captioners="otter", license="apache-2.0", tags=["new"])
    merged = merge_cards(published(), new)
    assert [config["config_name"] for config in data_of(merged).configs] == ["all", "raw", "llava-1.5", "otter"]
    assert [info["config_name"] for info in data_of(merged).dataset_info] == ["all", "raw", "llava-1.5", "otter"]
    assert [c["config_name"] for c in data_of(merged).configs if c.get("default")] == ["all"]
    assert (data_of(merged).license, data_of(merged).pretty_name) == ("mit", "Mine")
    assert {"by-hand", "new"} <= set(data_of(merged).tags)
    assert HAND in merged.text
    assert merged.text.count('<tr id="config-') == 4
    again = merge_cards(edited(merged), new)
    assert str(again) == str(merged), "publishing the same again changes the card"


def test_a_captioner_that_is_added_brings_its_row_its_block_and_its_figure() -> None:
    before = published()
    merged = merge_cards(before, otter())
    assert table_row(merged, "otter")[:2] == ["2", "1"]
    assert captioner_row(merged, "otter", "model") == "luodian/otter"
    assert merged.text.index("begin captioner-otter") > merged.text.index("end captioner-llava-1.5")
    assert merged.text.index("end captioner-otter") < merged.text.index("begin samples")
    assert set(getattr(merged, "files", {})) == {"figures/otter-lengths.svg"}
    rest = re.sub(r"\n\n<!-- hf-mllm-aug:begin captioner-otter.*?end captioner-otter -->", "", merged.text, flags=re.S)
    assert re.sub(r'<tr id="config-otter.*</tr>\n', "", rest) == before.text, "something else changed"
    assert set(data_of(merged).base_model) == {"llava-hf/llava-1.5-7b-hf", "luodian/otter"}


def test_a_captioner_is_added_to_a_card_that_has_none() -> None:
    merged = merge_cards(edited(build_card({"raw": configs()["raw"]})), otter())
    places = [merged.text.index(part) for part in ("end configs", "## Captioners", "### otter", "begin samples")]
    assert places == sorted(places)


def test_a_config_that_is_renewed_changes_in_its_place_and_nothing_else_does() -> None:
    first = merge_cards(published(), otter())
    second = merge_cards(edited(first), otter("an otter on a rock"))
    assert (table_row(first, "otter")[2], table_row(second, "otter")[2]) == ("2.0", "5.0")
    assert second.text.count("begin captioner-otter") == 1
    row = re.compile(r'<tr id="config-otter.*</tr>')
    assert row.sub("", second.text) == row.sub("", first.text)


def test_merge_renews_all_blocks_with_a_release_of_all() -> None:
    merged = merge_cards(published(), build_card(configs("green tram"), license="cc0-1.0"))
    assert "green tram" in merged.text
    assert "red bus" not in merged.text
    assert HAND in merged.text
    assert data_of(merged).license == "cc0-1.0"


def test_a_release_of_all_keeps_the_captioners_of_others() -> None:
    first = merge_cards(published(), otter())
    second = merge_cards(edited(first), build_card(configs("green tram"), captioners=[CAPTIONER]))
    assert captioner_row(second, "otter", "model") == "luodian/otter"
    assert table_row(second, "otter") == table_row(first, "otter")


def test_a_hand_edited_card_survives_three_releases() -> None:
    card = build_card(configs(), captioners=[CAPTIONER], template="cc3m", tags=["bye"], license="mit")
    by_hand = [
        ("# CC3M", "Before the title.\n\n# Our own CC3M"),
        ("## Limits", "Between the blocks: <b>bold</b> | a pipe.\n\n## Limits and dangers"),
        ("written by 1 multimodal LLM", "written by one big model"),
        ("distinct words, and distinct pairs", "(edited) distinct words, and pairs"),
        ("<td>llama2</td>", "<td>llama2, see its terms</td>"),
        ("pretty_name: CC3M with captions by multimodal LLMs", "pretty_name: Our CC3M\nours: 1"),
        ("license: mit", "license: cc-by-4.0"),
        ("- bye\n", "- kept-by-hand\n"),
        ("language:\n- en", "language:\n- de"),
    ]
    now = edited(card, *by_hand)
    now = edited(now, (now.text, now.text + "\nAfter everything.\n"))
    for release in (
        build_card(configs("green tram"), captioners=[CAPTIONER], template="cc3m", tags=["bye"], license="mit"),
        otter(),
        build_card(configs("blue boat"), captioners=[CAPTIONER], template="cc3m", tags=["bye", "new"], license="mit"),
    ):
        now = edited(merge_cards(now, release))
        for part in (
            "Before the title.\n\n# Our own CC3M",
            "Between the blocks: <b>bold</b> | a pipe.\n\n## Limits and dangers",
            "written by one big model",
            "(edited) distinct words, and pairs",
            "<td>llama2, see its terms</td>",
            "After everything.",
        ):
            assert now.text.count(part) == 1, part
        data = data_of(now)
        assert (data.pretty_name, data.ours, data.license, data.language) == ("Our CC3M", 1, "cc-by-4.0", ["de"])
        assert "kept-by-hand" in data.tags
        assert "bye" not in data.tags
    assert "new" in data_of(now).tags
    assert "blue boat" in now.text
    assert "green tram" not in now.text, "a block that nobody changed was not renewed"
    assert "red bus" not in now.text
    assert table_row(now, "otter")[0] == "2"
    assert now.text.count("begin captioner-") == 2


def test_a_licence_and_its_name_are_one_field() -> None:
    first = build_card(configs(), template="cc3m")
    assert data_of(first).license_name == "conceptual-captions"
    second = merge_cards(edited(first), build_card(configs(), template="cc3m", license="mit"))
    assert data_of(second).license == "mit"
    assert data_of(second).get("license_name") is None
    by_hand = edited(first, ("license_name: conceptual-captions", "license_name: their-terms"))
    third = merge_cards(by_hand, build_card(configs(), template="cc3m", license="mit"))
    assert (data_of(third).license, data_of(third).license_name) == ("other", "their-terms")


@pytest.mark.parametrize("block", ["about", "configs", "captioner-llava-1.5", "samples", "limits"])
def test_a_block_whose_marks_were_taken_out_stays_as_it_is_and_does_not_come_again(block: str) -> None:
    marks = [(f"<!-- hf-mllm-aug:begin {block} -->", ""), (f"<!-- hf-mllm-aug:end {block} -->", "")]
    card = build_card(configs(), captioners=[CAPTIONER])
    (body,) = re.findall(rf"begin {re.escape(block)} -->\n(.*?)<!-- hf-mllm-aug:end", card.text, re.DOTALL)
    now = edited(card, *marks)
    for caption in ("a red bus", "green tram", "blue boat"):
        now = edited(merge_cards(now, build_card(configs(caption), captioners=[CAPTIONER])))
        assert now.text.count(body.strip()) == 1
        assert f"begin {block} " not in now.text


@pytest.mark.parametrize("mark", ["begin", "end"])
def test_one_mark_of_two_loses_nothing(mark: str) -> None:
    now = edited(build_card(configs()), (f"<!-- hf-mllm-aug:{mark} samples -->", ""))
    for _ in range(3):
        now = edited(merge_cards(now, build_card(configs("green tram"))))
        assert now.text.count("## Sample rows") == 1
        assert now.text.count("## Licence and citation") == 1
        assert now.text.count("begin captioner-llava-1.5") == 1


def test_a_card_whose_marks_were_all_taken_out_is_left_alone() -> None:
    card = build_card(configs())
    bare = edited(card)
    bare.text = re.sub(r"<!-- hf-mllm-aug:.*? -->\n?", "", card.text)
    now = edited(bare)
    for release in (build_card(configs("green tram")), otter(), build_card(configs("blue boat"))):
        now = edited(merge_cards(now, release))
        assert now.text.strip() == bare.text.strip()
    assert [config["config_name"] for config in data_of(now).configs] == ["all", "raw", "llava-1.5", "otter"]


def test_a_repositorys_name_is_no_change_by_hand() -> None:
    first = with_repo_id(build_card(configs()), "me/x")
    second = merge_cards(edited(first), with_repo_id(build_card(configs("green tram")), "me/renamed"))
    assert 'load_dataset("me/renamed"' in second.text
    assert "me/x" not in second.text


def test_merge_keeps_the_record_of_every_captioner() -> None:
    old, new = published(), build_card(configs())
    data_of(old)["hf_mllm_aug"] = {"captioners": [{"name": "a", "seed": 1}, {"name": "b"}], "shear": None}
    data_of(new)["hf_mllm_aug"] = {"captioners": [{"name": "a", "seed": 2}, {"name": "c"}]}
    record = data_of(merge_cards(old, new))["hf_mllm_aug"]
    assert record == {"captioners": [{"name": "a", "seed": 2}, {"name": "b"}, {"name": "c"}], "shear": None}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([{"config_name": "otter", "default": True}], "all"),
        ([{"config_name": "otter"}, {"config_name": "all"}, {"config_name": "raw", "default": True}], "raw"),
        ([{"config_name": "default"}], "default"),
        ([], "all"),
    ],
)
def test_merge_leaves_one_default(before: list[dict[str, Any]], after: str) -> None:
    old = DatasetCard("---\nlicense: mit\n---\n")
    data_of(old).configs = [{**config, "data_files": []} for config in before]
    merged = merge_cards(old, build_card(configs()))
    defaults = [c["config_name"] for c in data_of(merged).configs if c.get("default") or c["config_name"] == "default"]
    assert defaults == [after]


def test_merge_with_a_card_that_is_not_ours() -> None:
    foreign = DatasetCard("---\nlicense: mit\n---\n# Their page\n")
    merged = merge_cards(foreign, build_card(configs()))
    assert merged.text.startswith("# Their page")
    assert "hf-mllm-aug:begin configs" in merged.text
    again = merge_cards(edited(merged), build_card(configs("green tram")))
    assert again.text.count("begin configs") == 1
    assert again.text.startswith("# Their page")
    own = DatasetCard("---\nlicense: mit\n---\n# My page\n")
    data_of(own).configs = [{"config_name": "all", "data_files": []}]
    assert merge_cards(published(), own).text == "# My page\n"
    assert merge_cards(None, own) is own


def test_the_blocks_of_every_template_are_told_from_people() -> None:
    for name in ("default", "cc3m", "cc12m", "yfcc15m"):
        assert open_template(name).name == f"{name}.md"
        first = build_card(configs(), template=name)
        second = merge_cards(edited(first), build_card(configs("green tram"), template=name))
        assert second.text == build_card(configs("green tram"), template=name).text


def test_a_card_that_was_saved_on_windows_is_renewed_all_the_same() -> None:
    by_hand = parse_card(b"\xef\xbb\xbf" + str(published()).replace("\n", "\r\n").encode(), "README.md")
    assert str(merge_cards(by_hand, otter())) == str(merge_cards(published(), otter()))


@pytest.mark.parametrize("data", [b"\xff", b"---\nconfigs: [\n---\n", b"---\n- a\n---\n"])
def test_a_card_that_cannot_be_read_says_where_it_is(data: bytes) -> None:
    with pytest.raises(FormatError, match="the card of me/x: its metadata cannot be read"):
        parse_card(data, "the card of me/x")


@pytest.mark.parametrize(
    ("configs_field", "kept"),
    [
        ("by hand", []),
        (["by hand", 3], []),
        ([{"data_files": "x.csv"}], ["default"]),
        ({"config_name": "mine"}, ["mine"]),
    ],
)
def test_odd_metadata_of_a_person_stop_no_release(configs_field: Any, kept: list[str]) -> None:
    card = published()
    for name in ("configs", "dataset_info"):
        card.data[name] = configs_field
    card.data["hf_mllm_aug"] = {"captioners": 3, "newer_than_all": 3}
    merged = merge_cards(card, otter())
    note_newer(merged, ["otter"], ["otter"])
    names = [config["config_name"] for config in data_of(without_configs(merged, ["llava-1.5"])).configs]
    assert names == [*kept, "otter"]

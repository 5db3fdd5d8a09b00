"""The card: YAML that datasets and the Hub read, facts that were counted, captions that are shown but not obeyed."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from hf_mllm_aug.card import build_card
from hf_mllm_aug.card_merge import merge_cards, with_repo_id
from hf_mllm_aug.configs import to_configs

HOSTILE = (
    "<script>alert(1)</script> ![x](http://evil.example/p.png) | `a` {{ 7*7 }} "
    "\n---\nlicense: stolen\n---\n\u202e </td>"
)
CAPTIONER = {
    "name": "llava-1.5",
    "model": "llava-hf/llava-1.5-7b-hf",
    "revision": "0123456789abcdef0123",
    "prompt": "USER: <image>\nWrite a caption | of `it`",
    "decoding": {"do_sample": False, "max_new_tokens": 30},
    "dtype": "float16",
    "licence": "llama2",
}


def configs(caption: str = "a red bus", **more: list[Any]) -> dict[str, Dataset]:
    rows: dict[str, list[Any]] = {
        "key": ["a", "b", "c", "d"],
        "url": ["https://example.org/1.jpg"] * 4,
        "caption": [caption] * 4,
        "caption_llava_1_5": [caption, "one two", None, None],
        "error_llava_1_5": [None, None, "x.jpg: the file is empty", "y.jpg: the file is empty"],
        "generated_llava_1_5": [f"{caption} and more", "one two three four. five six", None, None],
        **more,
    }
    return to_configs(Dataset.from_dict(rows), captioners="llava-1.5")


def data_of(card: DatasetCard) -> Any:
    return card.data


def row(card: DatasetCard, name: str) -> list[str]:
    found = re.search(rf'<tr id="config-{re.escape(name)}">(.*)</tr>', card.text)
    assert found, f"no row for {name}"
    return re.findall(r"<td>(.*?)</td>", found[1])


def tags(markdown: str) -> set[str]:
    found: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.add(tag)

    Reader().feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
    return found


def test_metadata_is_what_the_hub_reads() -> None:
    card = build_card(configs(), license="cc-by-4.0", source="google/cc3m", tags=["cats"], pretty_name="Cats")
    data = yaml.safe_load(str(card).split("---\n")[1])
    assert [config["config_name"] for config in data["configs"]] == ["all", "raw", "llava-1.5"]
    assert [config.get("default") for config in data["configs"]] == [True, None, None]
    assert data["configs"][2]["data_files"] == [{"split": "train", "path": "llava-1.5/train-*"}]
    assert [info["splits"][0]["num_examples"] for info in data["dataset_info"]] == [4, 4, 4]
    assert (data["license"], data["language"], data["size_categories"]) == ("cc-by-4.0", ["en"], ["n<1K"])
    assert (data["source_datasets"], data["pretty_name"]) == (["google/cc3m"], "Cats")
    assert {"arxiv:2311.18765", "cats"} <= set(data["tags"])
    assert "image-to-text" in data["task_categories"]


def test_table_says_who_wrote_what_and_how() -> None:
    card = build_card(configs(), captioners=[CAPTIONER], shear={"rule": "sentence", "language": "en"})
    name, captioner, prompt, decoding, rows, captions, words, failures = row(card, "llava-1.5")
    assert name == "<code>llava-1.5</code>"
    assert captioner == "llava-hf&#47;llava-1.5-7b-hf @ 0123456789a…, licence llama2"
    assert "Write a caption &#124; of &#96;it&#96;" in prompt
    assert decoding == "do&#95;sample&#61;False, max&#95;new&#95;tokens&#61;30, dtype&#61;float16"
    assert (rows, captions, words) == ("4", "2", "2.5 (5.5)")
    assert failures == "2 \u00d7 the file is empty", "reasons are not counted apart from their files"
    assert row(card, "raw")[4:7] == ["4", "4", "3.0"]
    assert "Shearing: rule sentence, language en." in card.text
    assert "liu2023mllms" in card.text


def test_captioners_may_be_objects_or_names() -> None:
    class Captioner:
        name = "llava-1.5"

        def describe(self) -> dict[str, Any]:
            return CAPTIONER

    assert "llava-hf" in row(build_card(configs(), captioners=Captioner()), "llava-1.5")[1]
    assert row(build_card(configs(), captioners="llava-1.5"), "llava-1.5")[1] == "llava-1.5"


def test_failures_without_a_reason_are_counted_too() -> None:
    parts = configs()
    card = build_card({"llava-1.5": parts["llava-1.5"]})
    assert row(card, "llava-1.5")[-1] == "2 \u00d7 no reason given"


def test_hostile_text_is_inert_everywhere() -> None:
    harmless = tags(build_card(configs(), captioners=[CAPTIONER], description="x", source="x", shear="x").text)
    evil = dict.fromkeys(("model", "revision", "prompt", "dtype", "licence", HOSTILE), HOSTILE)
    card = build_card(
        configs(HOSTILE, key=[f"{HOSTILE} {i}" for i in range(4)], error_llava_1_5=[None, None, HOSTILE, HOSTILE]),
        captioners=[{**evil, "name": "llava-1.5", "decoding": {HOSTILE: HOSTILE}}],
        pretty_name=HOSTILE,
        description=HOSTILE,
        source=HOSTILE,
        license=HOSTILE,
        shear=HOSTILE,
        tags=[HOSTILE],
        repo_id=None,
    )
    assert tags(card.text) == harmless
    text = str(card)
    for part in ("<script", "![", "{{", "\u202e", "`a`", "\nlicense: stolen"):
        assert part not in card.text, part
    assert len(re.findall(r"^---$", text, re.MULTILINE)) == 2
    assert data_of(DatasetCard(text, ignore_metadata_errors=True)).license != "stolen"


def test_no_secret_and_no_local_path_reaches_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "the-token-of-this-session")
    secret = f"hf_abcdefghijklmnopqrstuvwxyz the-token-of-this-session {tmp_path}/x.png"
    card = build_card(
        configs(secret, key=[f"{tmp_path}/{i}.png" for i in range(4)]),
        captioners=[{**CAPTIONER, "model": str(tmp_path / "llava"), "prompt": secret, "extra": {"a": [secret]}}],
        description=secret,
        source=str(tmp_path / "cc3m"),
        tags=[secret],
        pretty_name=secret,
    )
    for text in (str(card), str(card).replace("&#47;", "/").replace("&#95;", "_")):
        assert "hf_abcdef" not in text
        assert "the-token-of-this-session" not in text
        assert str(tmp_path) not in text
    assert "…&#47;llava" in row(card, "llava-1.5")[1]


def test_a_template_that_forgets_to_escape_is_safe(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text(
        "# {{ title }}\n\n{% for k, c in samples %}{{ c[0][1] }}\n{% endfor %}/home/ann/x.md"
    )
    card = build_card(configs(HOSTILE), template=tmp_path / "mine.md", pretty_name="<b>")
    assert tags(card.text) == {"h1", "p"}
    assert "/home/ann" not in card.text


def _published(text: str = "My words.") -> DatasetCard:
    card = build_card(configs(), pretty_name="Mine", license="mit", tags=["by-hand"])
    return DatasetCard(str(card).replace("## Limits", f"{text}\n\n## Limits"))


def test_merge_keeps_what_others_published_and_wrote() -> None:
    new = build_card({"otter": configs()["raw"]}, captioners="otter", license="apache-2.0", tags=["new"])
    merged = merge_cards(_published(), new)
    assert [config["config_name"] for config in data_of(merged).configs] == ["all", "raw", "llava-1.5", "otter"]
    assert [info["config_name"] for info in data_of(merged).dataset_info] == ["all", "raw", "llava-1.5", "otter"]
    assert [c["config_name"] for c in data_of(merged).configs if c.get("default")] == ["all"]
    assert (data_of(merged).license, data_of(merged).pretty_name) == ("mit", "Mine")
    assert {"by-hand", "new"} <= set(data_of(merged).tags)
    assert "My words." in merged.text
    assert merged.text.count('<tr id="config-') == 4
    again = merge_cards(DatasetCard(str(merged)), new)
    assert str(again) == str(merged), "publishing the same again changes the card"


def test_merge_renews_all_blocks_with_a_release_of_all() -> None:
    merged = merge_cards(_published(), build_card(configs("green tram"), license="cc0-1.0"))
    assert "green tram" in merged.text
    assert "red bus" not in merged.text
    assert "My words." in merged.text
    assert data_of(merged).license == "cc0-1.0"


def test_merge_keeps_the_record_of_every_captioner() -> None:
    published, new = _published(), build_card(configs())
    data_of(published)["hf_mllm_aug"] = {"captioners": [{"name": "a", "seed": 1}, {"name": "b"}], "shear": None}
    data_of(new)["hf_mllm_aug"] = {"captioners": [{"name": "a", "seed": 2}, {"name": "c"}]}
    record = data_of(merge_cards(published, new))["hf_mllm_aug"]
    assert record == {"captioners": [{"name": "a", "seed": 2}, {"name": "b"}, {"name": "c"}], "shear": None}


def test_parameters_that_change_nothing_are_left_out() -> None:
    from hf_mllm_aug import Captioner

    captioner = Captioner("tiny-llava")
    rows = Dataset.from_dict({"key": ["a"], "caption": ["x"], captioner.caption_column: ["y"]})
    shown = row(build_card(to_configs(rows, captioners=captioner), captioners=captioner), "tiny-llava")
    assert shown[3].startswith("do&#95;sample&#61;False, max&#95;new&#95;tokens&#61;30, seed&#61;0")
    assert "weights " in shown[1]
    assert "top" not in shown[3]


def test_a_clean_up_that_changes_captions_is_shown_and_read_as_text() -> None:
    evil = {"stops": ["###", HOSTILE], "dropped": ["U+200B"]}
    card = build_card(configs(), captioners=[{**CAPTIONER, "clean_up": evil}])
    decoding = row(card, "llava-1.5")[3]
    assert 'clean_up=stops "###" "' in html.unescape(decoding)
    assert decoding.endswith(", dropped U&#43;200B")
    assert "<script" not in decoding
    assert "clean" not in row(build_card(configs(), captioners=[{**CAPTIONER, "clean_up": {}}]), "llava-1.5")[3]


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
    published = DatasetCard("---\nlicense: mit\n---\n")
    data_of(published).configs = [{**config, "data_files": []} for config in before]
    merged = merge_cards(published, build_card(configs()))
    defaults = [c["config_name"] for c in data_of(merged).configs if c.get("default") or c["config_name"] == "default"]
    assert defaults == [after]


def test_merge_with_a_card_that_is_not_ours() -> None:
    foreign = DatasetCard("---\nlicense: mit\n---\n# Their page\n")
    merged = merge_cards(foreign, build_card(configs()))
    assert merged.text.startswith("# Their page")
    assert "hf-mllm-aug:begin configs" in merged.text
    own = DatasetCard("---\nlicense: mit\n---\n# My page\n")
    data_of(own).configs = [{"config_name": "all", "data_files": []}]
    assert merge_cards(_published(), own).text == "# My page\n"
    assert merge_cards(None, own) is own


def test_captions_cannot_end_a_block() -> None:
    end = "<!-- hf-mllm-aug:end samples --> <!-- hf-mllm-aug:begin configs --> OWNER/NAME"
    card = build_card(configs(end))
    assert card.text.count("hf-mllm-aug:end samples -->") == 1
    assert merge_cards(DatasetCard(str(card)), build_card(configs("x"))).text.count("hf-mllm-aug:end") == 6
    assert 'load_dataset("me/x"' in with_repo_id(card, "me/x").text

"""The card: YAML that datasets and the Hub read, facts that were counted, captions that are shown but not obeyed."""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from huggingface_hub import DatasetCard

from hf_mllm_aug.card import build_card, inputs_of
from hf_mllm_aug.card_merge import merge_cards, with_repo_id
from hf_mllm_aug.configs import save_configs, to_configs
from hf_mllm_aug.safe_text import plain, scrub
from tests.card_rows import CAPTIONER, Page, captioner_row, configs, data_of, table_row

HOSTILE = (
    "<script>alert(1)</script> ![x](http://evil.example/p.png) | `a` {{ 7*7 }} "
    "\n---\nlicense: stolen\n---\n\u202e </td>"
)
KINDS = {
    "Markdown": "**b** _i_ ~~s~~ # h\n\n## h2\n- l\n1. n\n> q\n***\n[x]: http://evil.example",
    "HTML": "<img src=//evil.example/x onerror=alert(1)><details open><iframe></td></table></p></code>",
    "YAML": "\n---\nlicense: stolen\nconfigs: []\n---\n",
    "table breaks": "| a | b |\n|---|---|\n| c | d |",
    "template braces": "{{ 7*7 }} {% for x in y %} {# c #}",
    "right-to-left overrides": "\u202egnp.exe \u2066x\u2069 \u200f\u061c",
    "links": "[x](javascript:alert(1)) ![x](http://evil.example/p.png) <http://evil.example>",
    "autolinks": "http://evil.example www.evil.example ann@evil.example ftp://evil.example xmpp:a@evil.example",
    "mentions": "@julien-c #12 !34 owner/name#5 abc1234",
    "shortcodes": ":smile: :+1: :)",
    "entities": "&lt;script&gt; &#60;b&#62; &amp;lt; &nbsp;",
    "marks": "<!-- hf-mllm-aug:end samples --> <!-- hf-mllm-aug:begin configs --> OWNER/NAME",
    "length": "x" * 10_000,
    "long text": "many words " * 1000,
    "towers of accents": "z" + "\u0317\u0310\u20dd" * 300,
    "control characters": "\x1b[31m\x00\x07\u2028\u2029\x85",
}


def test_metadata_is_what_the_hub_reads() -> None:
    card = build_card(
        configs(),
        captioners=[CAPTIONER],
        license="cc-by-4.0",
        source="google/cc3m",
        tags=["cats"],
        pretty_name="Cats",
    )
    data = yaml.safe_load(str(card).split("---\n")[1])
    assert [config["config_name"] for config in data["configs"]] == ["all", "raw", "llava-1.5"]
    assert [config.get("default") for config in data["configs"]] == [True, None, None]
    assert data["configs"][2]["data_files"] == [{"split": "train", "path": "llava-1.5/train-*"}]
    assert [info["splits"][0]["num_examples"] for info in data["dataset_info"]] == [4, 4, 4]
    assert (data["license"], data["language"], data["size_categories"]) == ("cc-by-4.0", ["en"], ["n<1K"])
    assert (data["source_datasets"], data["pretty_name"]) == (["google/cc3m"], "Cats")
    assert data["base_model"] == ["llava-hf/llava-1.5-7b-hf"]
    assert {"arxiv:2311.18765", "cats"} <= set(data["tags"])
    assert "image-to-text" in data["task_categories"]
    assert "&id" not in str(card).split("---\n")[1], "a list that is edited would change in two places"


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ({"license": "Apache-2.0"}, "license", "apache-2.0"),
        ({"license": "Tongyi Qianwen"}, "license", "other"),
        ({"license": "Tongyi Qianwen"}, "license_name", "tongyi-qianwen"),
        ({"source": "alt texts of the web"}, "source_datasets", None),
        ({"captioners": [{**CAPTIONER, "model": "…/llava"}]}, "base_model", None),
        ({"captioners": [{**CAPTIONER, "digest": "12ab"}]}, "base_model", None),
    ],
)
def test_fields_hold_what_the_hub_takes_there(given: dict[str, Any], field: str, expected: object) -> None:
    assert data_of(build_card(configs(), **given)).get(field) == expected


def test_table_says_what_was_counted() -> None:
    card = build_card(configs(), captioners=[CAPTIONER], shear={"rule": "sentence", "language": "en"})
    rows, failed, words, before, one, two, repeated = table_row(card, "llava-1.5")
    assert (rows, failed, words, before) == ("4", "2", "2.5", "5.5")
    assert (one, two) == ("1.000", "0.600"), "5 words, 3 pairs"
    assert html.unescape(repeated) == "0.0%"
    assert table_row(card, "raw")[:3] == ["4", "", "3.0"]
    assert html.unescape(table_row(card, "raw")[-1]) == "100.0%"
    assert table_row(card, "all")[0] == "4"


def test_block_says_who_wrote_the_captions_and_how() -> None:
    card = build_card(configs(), captioners=[CAPTIONER], shear={"rule": "sentence", "language": "en"})
    said = {what: captioner_row(card, "llava-1.5", what) for what in ("model", "prompt", "decoding", "shearing")}
    assert said == {
        "model": "llava-hf/llava-1.5-7b-hf @ 0123456789a…",
        "prompt": "USER: <image> Write a caption | of `it`",
        "decoding": "do_sample=False, max_new_tokens=30, dtype=float16",
        "shearing": "rule sentence, language en",
    }
    assert captioner_row(card, "llava-1.5", "licence") == "llama2"
    assert captioner_row(card, "llava-1.5", "failures") == "2 \u00d7 the file is empty", "counted file by file"
    page = Page(card)
    assert "https://huggingface.co/llava-hf/llava-1.5-7b-hf" in page.links
    assert "@article{llava,\n  title = {LLaVA}\n}" in page.text
    assert "liu2023mllms" in page.text


def test_captioners_may_be_objects_or_names() -> None:
    class Captioner:
        name = "llava-1.5"

        def describe(self) -> dict[str, Any]:
            return CAPTIONER

    assert "llava-hf" in captioner_row(build_card(configs(), captioners=Captioner()), "llava-1.5", "model")
    assert captioner_row(build_card(configs(), captioners="llava-1.5"), "llava-1.5", "model") == "llava-1.5"


def test_failures_without_a_reason_are_counted_too() -> None:
    card = build_card({"llava-1.5": configs()["llava-1.5"]})
    assert captioner_row(card, "llava-1.5", "failures") == "2 \u00d7 no reason given"


def test_several_reasons_are_told_apart() -> None:
    reasons = [None, "too big", "a.jpg: 404 Not Found", "too big"]
    card = build_card(configs(caption_llava_1_5=["x", None, None, None], error_llava_1_5=reasons))
    assert captioner_row(card, "llava-1.5", "failures") == "2 \u00d7 too big; 1 \u00d7 404 Not Found"


def test_files_of_the_card_are_those_that_it_shows() -> None:
    card = build_card(configs())
    assert set(card.files) == {"figures/all-lengths.svg", "figures/llava-1.5-lengths.svg"}
    assert Page(card).fetched == set(card.files)
    alone = build_card({"llava-1.5": configs()["llava-1.5"]})
    assert set(alone.files) == Page(alone).fetched == {"figures/llava-1.5-lengths.svg"}
    assert set(build_card({"raw": configs()["raw"]}).files) == set()


def test_equal_configs_give_equal_cards() -> None:
    one, two = build_card(configs(), captioners=[CAPTIONER]), build_card(configs(), captioners=[CAPTIONER])
    assert (str(one), one.files) == (str(two), two.files)


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_shown_and_not_obeyed(kind: str) -> None:
    text = KINDS[kind]
    harmless, page = Page(build_card(configs("x"))), Page(card := build_card(configs(text)))
    assert page.elements == harmless.elements
    assert (page.links, page.fetched) == (harmless.links, harmless.fetched)
    assert len(re.findall(r"^---$", str(card), re.MULTILINE)) == 2
    assert "stolen" not in str(card).split("\n---\n")[0]
    shown = plain(scrub(text))
    assert shown[:40] in page.text, "the caption cannot be read"
    assert len(page.text) < len(harmless.text) + 5000, "a long caption is shown whole"
    for part in ("{{", "{%", "\u202e", "\x1b"):
        assert part not in card.text


def test_hostile_text_is_inert_everywhere() -> None:
    options: dict[str, Any] = {"description": "x", "source": "x", "shear": "x", "command": ["x"]}
    harmless = Page(build_card(configs(), captioners=[{**CAPTIONER, "model": "x"}], **options))
    evil = dict.fromkeys(("model", "revision", "prompt", "dtype", "licence", "citation", HOSTILE), HOSTILE)
    card = build_card(
        configs(HOSTILE, key=[f"{HOSTILE} {i}" for i in range(4)], error_llava_1_5=[None, None, HOSTILE, HOSTILE]),
        captioners=[{**evil, "name": "llava-1.5", "decoding": {HOSTILE: HOSTILE}}],
        pretty_name=HOSTILE,
        description=HOSTILE,
        source=HOSTILE,
        license=HOSTILE,
        shear=HOSTILE,
        tags=[HOSTILE],
        command=["x", HOSTILE],
        repo_id=None,
    )
    page = Page(card)
    assert page.elements == harmless.elements
    assert (page.links, page.fetched) == (harmless.links, harmless.fetched)
    text = str(card)
    outside = card.text.replace(card.text[card.text.index("```bash") : card.text.index("Version of")], "")
    for part in ("<script", "![", "{{", "\u202e", "`a`", "\nlicense: stolen"):
        assert part not in outside, part
    assert len(re.findall(r"^---$", text, re.MULTILINE)) == 2
    assert data_of(DatasetCard(text, ignore_metadata_errors=True)).license == "other"
    assert not any(b"<script" in file or b"evil.example/p" in file for file in card.files.values())


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
        command=["caption", str(tmp_path / "cc3m"), secret],
    )
    files = b"".join(card.files.values()).decode()
    for text in (str(card), html.unescape(str(card)), files):
        assert "hf_abcdef" not in text
        assert "the-token-of-this-session" not in text
        assert str(tmp_path) not in text
    assert captioner_row(card, "llava-1.5", "model").startswith("…/llava")


def test_a_template_that_forgets_to_escape_is_safe(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text(
        "# {{ title }}\n\n{% for sample in samples %}{{ sample.captions[0][1] }}\n{% endfor %}/home/ann/x.md"
    )
    card = build_card(configs(HOSTILE), template=tmp_path / "mine.md", pretty_name="<b>")
    assert set(Page(card).elements) == {"h1", "p"}
    assert "/home/ann" not in card.text


def test_parameters_that_change_nothing_are_left_out() -> None:
    from hf_mllm_aug import Captioner

    captioner = Captioner("tiny-llava")
    rows = Dataset.from_dict({"key": ["a"], "caption": ["x"], captioner.caption_column: ["y"]})
    card = build_card(to_configs(rows, captioners=captioner), captioners=captioner)
    decoding = captioner_row(card, "tiny-llava", "decoding")
    assert decoding.startswith("do_sample=False, max_new_tokens=30, seed=0")
    assert "top" not in decoding
    assert "weights " in captioner_row(card, "tiny-llava", "model")


def test_a_clean_up_that_changes_captions_is_shown_and_read_as_text() -> None:
    evil = {"stops": ["###", HOSTILE], "dropped": ["U+200B"]}
    card = build_card(configs(), captioners=[{**CAPTIONER, "clean_up": evil}])
    decoding = captioner_row(card, "llava-1.5", "decoding")
    assert 'clean_up=stops "###" "' in decoding
    assert decoding.endswith(", dropped U+200B")
    plain_one = build_card(configs(), captioners=[{**CAPTIONER, "clean_up": {}}])
    assert "clean" not in captioner_row(plain_one, "llava-1.5", "decoding")


def test_captions_cannot_end_a_block() -> None:
    card = build_card(configs(KINDS["marks"]))
    harmless = build_card(configs("x"))
    assert card.text.count("hf-mllm-aug:end") == harmless.text.count("hf-mllm-aug:end")
    merged = merge_cards(DatasetCard(str(card)), harmless)
    assert merged.text == harmless.text
    assert 'load_dataset("me/x"' in with_repo_id(card, "me/x").text


@pytest.mark.parametrize("names", [["all", "raw", "llava-1.5"], ["all", "raw"], ["raw"], ["llava-1.5"]])
def test_the_code_of_a_card_runs(names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {name: config for name, config in configs().items() if name in names}
    folder = save_configs(parts, tmp_path / "staged", card=build_card(parts, repo_id="me/x"))
    text = (folder / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == (3 if {"all", "llava-1.5"} <= set(names) else 2)
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block.replace("me/x", str(folder)), "README.md", "exec"), scope)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "a a red bus"
    joined = ast.literal_eval(said[1])
    assert joined["key"] == "a"
    assert "a red bus" in joined.values()
    assert said[2:] in ([], ["a red bus"])


def test_the_commands_of_a_card_are_shown_in_their_order() -> None:
    card = build_card(configs(), command=[["hf-mllm-aug", "caption", "my photos"], ["hf-mllm-aug", "shear", "x"]])
    assert "```bash\nhf-mllm-aug caption 'my photos'\nhf-mllm-aug shear x\n```" in card.text
    assert "made with:" not in build_card(configs()).text


def test_the_plan_of_a_run_is_shown() -> None:
    assert "Plan of the run: 9 rows in 3 shards of 4." in build_card(configs(), plan="9 rows in 3 shards of 4").text
    assert "Plan of the run" not in build_card(configs()).text


def test_a_card_can_be_built_again_from_what_it_says() -> None:
    said: dict[str, Any] = {"template": "cc3m", "pretty_name": "Cats", "description": "d", "source": "s"}
    said |= {"plan": "9 rows in 3 shards of 4", "license": "mit", "command": [["a", "b"]]}
    card = build_card(configs(), captioners=[CAPTIONER], **said)
    again = DatasetCard(str(card), ignore_metadata_errors=True)
    assert inputs_of(again) == said
    assert str(build_card(configs(), captioners=[CAPTIONER], **inputs_of(again))) == str(card)
    assert inputs_of(DatasetCard("---\nlicense: mit\n---\n# Mine")) == {"command": []}


def test_one_word_is_one_word_and_not_its_letters() -> None:
    card = build_card(configs(), languages="en", tags="birds", command="hf-mllm-aug caption 'my photos' --out x")
    assert data_of(card).language == ["en"]
    assert "birds" in data_of(card).tags
    assert "hf-mllm-aug caption 'my photos' --out x" in card.text

"""Card templates: those of the data sets, which build upon the default one, and those of other people."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from hf_mllm_aug.card import build_card
from hf_mllm_aug.card_merge import merge_cards
from hf_mllm_aug.card_template import open_template, shell_line, template_path
from hf_mllm_aug.configs import to_configs
from hf_mllm_aug.errors import UnknownNameError, UsageError

ROOT = Path(__file__).parents[2]
DATA_SETS = ("cc3m", "cc12m", "yfcc15m")
MARK = re.compile(r"<!-- hf-mllm-aug:(?:begin|end) [\w-]+ -->")


def configs(caption: str = "a red bus") -> dict[str, Dataset]:
    rows = {"key": ["a", "b"], "url": ["https://example.org/1.jpg"] * 2, "caption": [caption, "a dog"]}
    return to_configs(Dataset.from_dict({**rows, "caption_otter": ["A bus", None]}))


def metadata(card: DatasetCard) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(str(card).split("---\n")[1])
    return found


def html(card: DatasetCard) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).render(card.text))


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_sets_card_is_the_default_one_and_more(name: str) -> None:
    own, default = build_card(configs(), template=name), build_card(configs())
    assert MARK.findall(own.text) == MARK.findall(default.text)
    table = re.compile(r'<tr id="config-.*</tr>')
    assert table.findall(own.text) == table.findall(default.text) != []
    assert "liu2023mllms" in own.text
    assert len(own.text) > len(default.text) + 1000


@pytest.mark.parametrize(
    ("name", "licence", "source", "tag"),
    [
        ("cc3m", "conceptual-captions", "google-research-datasets/conceptual_captions", "cc3m"),
        ("cc12m", "conceptual-12m", "google-research-datasets/conceptual_12m", "arxiv:2102.08981"),
        ("yfcc15m", "creative-commons-per-photo", "dalle-mini/YFCC100M_OpenAI_subset", "arxiv:1503.01817"),
    ],
)
def test_licence_source_and_tags_are_the_data_sets(name: str, licence: str, source: str, tag: str) -> None:
    data = metadata(build_card(configs(), template=name))
    assert (data["license"], data["license_name"]) == ("other", licence)
    assert data["license_link"].startswith("https://github.com/")
    assert data["source_datasets"] == [source]
    assert {tag, "arxiv:2311.18765"} <= set(data["tags"])
    assert data["language"] == ["en"]
    assert "image-to-text" in data["task_categories"]
    assert data["size_categories"] == ["n<1K"], "the size is that of the rows, not of the whole data set"
    assert name.upper() in data["pretty_name"]


@pytest.mark.parametrize(
    ("name", "words", "key"),
    [
        ("cc3m", "may be freely used for any purpose, although acknowledgement of Google LLC", "sharma2018conceptual"),
        ("cc12m", "may be freely used for any purpose, although acknowledgement of Google LLC", "changpinyo2021cc12m"),
        ("yfcc15m", "Creative Commons licenses chosen by their creators/uploaders", "radford2021learning"),
    ],
)
def test_the_publishers_words_and_the_citation_are_in_the_licence_block(name: str, words: str, key: str) -> None:
    text = build_card(configs(), template=name).text
    (block,) = re.findall(r"begin licence -->\n(.*)<!-- hf-mllm-aug:end licence", text, re.DOTALL)
    quoted, _, bibtex = block.partition("```bibtex\n")
    assert words in quoted
    assert quoted.rstrip().endswith(".")
    entries = re.findall(r"^@\w+\{(\w+),$", bibtex, re.MULTILINE)
    assert key in entries
    assert bibtex.count("{") == bibtex.count("}")
    assert bibtex.rstrip().endswith("```")


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_sets_card_is_well_formed(name: str) -> None:
    card = build_card(configs("</td> `x` {{ y }}"), template=name, command=["uv", "run", f"{name}.py"])
    page = html(card)
    assert "{%" not in card.text
    assert "{{" not in card.text
    assert page.count("<pre>") == page.count("</pre>") == 5  # load, join, sample; the command; the citation
    assert "<blockquote>" in page
    assert "<PERSON>" not in page  # as a tag it would not be seen


def test_rows_are_counted_and_not_copied() -> None:
    rows = Dataset.from_dict({"key": [str(i) for i in range(1234)], "caption": ["x"] * 1234})
    assert "Rows here: 1,234." in build_card(to_configs(rows), template="cc3m").text


def test_what_is_said_of_a_data_set_may_be_said_otherwise() -> None:
    card = build_card(
        configs(), template="cc12m", license="cc-by-4.0", pretty_name="Mine", source="pixparse/cc12m-wds", tags=["mine"]
    )
    data = metadata(card)
    assert (data["license"], data["pretty_name"]) == ("cc-by-4.0", "Mine")
    assert "license_name" not in data
    assert "license_link" not in data
    assert data["source_datasets"] == ["google-research-datasets/conceptual_12m", "pixparse/cc12m-wds"]
    assert {"mine", "cc12m"} <= set(data["tags"])
    assert card.text.lstrip().startswith("# Mine\n")


def test_a_published_card_takes_a_later_release_of_the_data_set() -> None:
    text = str(build_card(configs(), template="cc3m"))
    published = DatasetCard(text.replace("## Limits", "My words.\n\n## Limits"))
    merged = merge_cards(published, build_card(configs("a green tram"), template="cc3m"))
    assert "a green tram" in merged.text
    assert "a red bus" not in merged.text
    assert "My words." in merged.text
    assert merged.text.count("sharma2018conceptual") == 1
    assert metadata(merged)["license_name"] == "conceptual-captions"


def test_the_command_is_shown_without_what_is_of_one_machine() -> None:
    words = ["uv", "run", "cc3m.py", "/home/ann/lists/my list.tsv", "me/x", "--x", "hf_abcdefghijklmnopqrst", "$(id)"]
    text = build_card(configs(), command=words).text
    assert "uv run cc3m.py 'my list.tsv' me/x --x '[secret]' '$(id)'" in text
    assert "/home" not in text
    assert "made with:" not in build_card(configs()).text


def test_a_command_cannot_end_its_block() -> None:
    line = shell_line(["a\n```\n# b", "<!-- hf-mllm-aug:end use -->"])
    assert "\n" not in line
    assert not set("`<>") & set(line)


def test_a_template_may_build_upon_a_shipped_one_and_bring_metadata(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text(
        "---\nlicense: mit\ntags: [cats]\n---\n"
        '{% extends "default.md" %}\n{% block gaps %}\n\nOnly cats: {{ title }}.\n{% endblock %}\n'
    )
    card = build_card(configs(), template=tmp_path / "mine.md", pretty_name="<b>")
    assert "Only cats: &#60;b&#62;." in card.text
    assert "cats" in metadata(card)["tags"]
    assert metadata(card)["license"] == "mit"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{% if %}", "line 1: "),
        ("---\nlicense: mit\n---\n\n{% if %}", "line 5: "),
        ("{{ nothing_of_this_name }}", "'nothing_of_this_name' is undefined"),
        ("{{ title.__class__.__mro__ }}", "is undefined|unsafe"),
        ("---\n{{ card_data }}\n---\n# x", "its YAML"),
        ("---\njust words\n---\n# x", "its YAML should be fields"),
        ("---\nconfigs: []\n---\n# x", "configs is counted"),
    ],
)
def test_broken_templates_are_named(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text(text)
    with pytest.raises(UsageError, match=rf"card template mine\.md.*({problem})"):
        build_card(configs(), template=str(tmp_path / "mine.md"))


def test_unknown_templates_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'default'"):
        template_path("defualt")
    with pytest.raises(UnknownNameError, match="Known: cc12m, cc3m, conceptual, default, yfcc15m"):
        open_template("laion")
    with pytest.raises(UsageError, match="no such card template"):
        template_path("nowhere.md")

"""Cards as HTML: what Markdown means is kept, what could act is gone."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from hf_mllm_aug.preview.markdown import is_relative, render_card


class Elements(HTMLParser):
    """The elements and attributes of a fragment, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.found]


def test_tables_and_other_markdown_of_the_hub_are_rendered() -> None:
    page = Elements(render_card("# A title\n\n| a | b |\n|---|--:|\n| ~~x~~ | y |\n\n```python\nprint(1 < 2)\n```"))
    assert page.tags == ["h1", "table", "thead", "tr", "th", "th", "tbody", "tr", "td", "s", "td", "pre", "code"]
    assert ("td", {"align": "right"}) in page.found
    assert ("code", {"class": "language-python"}) in page.found
    assert "print(1 < 2)" in page.text


def test_yaml_before_the_text_is_no_part_of_it() -> None:
    assert render_card("---\nlicense: other\n---\n\nHello") == "<p>Hello</p>\n"
    assert "<hr>" in render_card("Hello\n\n---\n\nagain")


def test_html_that_means_no_harm_stays() -> None:
    card = (
        '<details open><summary>more</summary>\n\n**in**\n\n</details>\n<table><tr><td dir="auto">c</td></tr></table>'
    )
    page = Elements(render_card(card))
    assert page.tags == ["details", "summary", "p", "strong", "table", "tbody", "tr", "td"]
    assert ("td", {"dir": "auto"}) in page.found


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        "<img src=x.png onerror=alert(1)>",
        "<svg onload=alert(1)><a xlink:href='javascript:alert(1)'>k</a></svg>",
        "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
        "<style>body{display:none}</style>",
        "<p style='position:fixed;inset:0'>over all</p>",
        "<form action=https://evil.example><input name=q><button>b</button></form>",
        "<object data=x></object><embed src=x><base href=//evil.example><meta http-equiv=refresh content=0>",
        "<a href='javascript:alert(1)'>k</a> [k](javascript:alert(1)) [k](data:text/html,<script>)",
        "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
        "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
        "<!--><img src=x onerror=alert(1)>-->",
        "<template><script>alert(1)</script></template><portal src=x></portal><link rel=stylesheet href=x>",
        "<td class='row' id='view' name='forms'>x</td>",
    ],
)
def test_nothing_that_acts_is_left(attack: str) -> None:
    inert = {"a", "b", "details", "em", "img", "p", "span", "strong", "table", "tbody", "td", "tr"}
    page = Elements(render_card(f"before\n\n{attack}\n\nafter"))
    assert set(page.tags) <= inert
    for tag, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "class", "name")], tag
        assert not (attributes.get("href") or "").startswith(("javascript", "data"))
        assert (attributes.get("id") or "card-").startswith("card-")
    assert "before" in page.text


def test_elements_that_are_not_closed_end_with_the_card() -> None:
    assert render_card("<div><details><summary>a").count("</") == 3
    assert render_card("</div></main></article>text").strip() == "text"


def test_pictures_come_from_the_repository_alone() -> None:
    card = (
        "![a](figures/a.svg) ![b](https://evil.example/b.png) ![c](//evil.example/c.png) ![d](data:image/png;base64,AA)"
    )
    assert [attributes.get("src") for _, attributes in Elements(render_card(card)).found if attributes] == [
        "figures/a.svg",
        *[None] * 3,
    ]
    shown = render_card(card, picture=lambda path: f"data:image/svg+xml;base64,{len(path)}")
    assert 'src="data:image/svg+xml;base64,13"' in shown
    assert "src" not in render_card(card, picture=lambda path: None)


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../up.png", "a/../../b.png", "http:x.png", "a b.png 2x", "a\\b.png"]
)
def test_other_paths_are_none_of_the_repository(path: str) -> None:
    assert not is_relative(path)


def test_links_within_the_card_lead_to_its_headings() -> None:
    page = Elements(render_card("[go](#how-to-use)\n\n## How to *use*?"))
    assert ("h2", {"id": "card-how-to-use"}) in page.found
    assert page.found[1][1]["href"] == "#card-how-to-use"


@pytest.mark.parametrize("text", ["", "\n\n", "---\nlicense: mit\n---\n"])
def test_a_card_without_a_body_is_empty(text: str) -> None:
    assert render_card(text) == ""


def test_a_heading_at_the_very_end_has_its_id() -> None:
    assert ("h2", {"id": "card-the-end"}) in Elements(render_card("text\n\n## The end")).found

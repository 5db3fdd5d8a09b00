"""Published text keeps no secret and no local path, and means itself in every place of a card."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_mllm_aug.safe_text import inert, plain, scrub

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://127.0.0.1:9/pixel.png)",
    "[link](javascript:alert(1))",
    "---\nlicense: stolen\n---",
    "a | b | c\n|---|---|",
    "`code` ``` fence",
    "~~~\nfence",
    "{{ 7 * 7 }} {% raw %} {# c #}",
    "\u202egnp.exe\u2066",
    "# heading",
    "1. list",
    "- list",
    "+ list",
    "> quote",
    "=====",
    "<!-- comment -->",
    "<!-- hf-mllm-aug:end samples -->",
    "&lt;script&gt; &#60;b&#62;",
    "*a* _b_ **c** ~~d~~",
    "http://evil.example www.evil.example me@evil.example <http://evil.example>",
    "</td></tr></table>",
    "\\<b\\>",
    "$$x$$ :smile: @user #1",
    "\x1b[31m\x00\x07",
    "    indented",
    "line\u2028separator\u2029next",
    "x" * 10_000,
    "a" + "\u0301\u20dd" * 500,
]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")


def _read(markdown: str) -> _Reader:
    reader = _Reader()
    reader.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))
    reader.close()
    return reader


def _check(text: str) -> None:
    shown = plain(scrub(text))
    safe = inert(text)
    paragraph = _read(f"{safe}\n")
    assert paragraph.tags == (["p"] if shown else []), text
    assert paragraph.text.strip() == shown
    cell = _read(f"<table>\n<tr><td>{safe}</td></tr>\n</table>\n")
    assert cell.tags == ["table", "tr", "td"], text
    assert cell.text.strip() == shown
    pipes = _read(f"| a | b |\n|---|---|\n| {safe} | x |\n")
    assert pipes.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"], text
    assert "{{" not in safe
    assert "\n" not in safe


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_not_obeyed(text: str) -> None:
    _check(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="-=*_`|<>[](){}!#~+.1 \\\n&;:/", max_size=20))
@example("\ud800")
@example("1.")
@example("-")
def test_any_text_is_shown_and_not_obeyed(text: str) -> None:
    _check(text)
    inert(text).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("token hf_abcdefghijklmnopqrstuvwxyz0123", "token [secret]"),
        ("hf_mllm_aug hf_hub_download", "hf_mllm_aug hf_hub_download"),
        ("api_org_abcdefgh hf_oauth_abc.def-gh hf_jwt_abcdefgh", "[secret] [secret] [secret]"),
        ("Authorization: Bearer abc.def-ghijkl", "Authorization: [secret]"),
        ("sk-proj-abcdefghijklmnopqrst", "[secret]"),
        ("https://ann:pa55word@example.org/x.jpg", "https://[secret]@example.org/x.jpg"),
        ("/home/ann/data/cat.jpg: truncated", "…/cat.jpg: truncated"),
        ("open('/tmp/x/y.png')", "open('…/y.png')"),
        ("path=/mnt/disk/a.png", "path=…/a.png"),
        (r"C:\Users\ann\cat.jpg", "…/cat.jpg"),
        ("~/models/llava", "…/llava"),
        ("file:///home/ann/cat.jpg", "…/cat.jpg"),
        ("and/or, 24/7, he/she/they", "and/or, 24/7, he/she/they"),
        ("https://example.org/a/b/c.jpg", "https://example.org/a/b/c.jpg"),
        ("all/train-00000-of-00001.parquet", "all/train-00000-of-00001.parquet"),
        ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
        ("</td></tr>", "</td></tr>"),
        ("see [x](/datasets/me/other).", "see [x](/datasets/me/other)."),
        ("[x](/home/ann/cat.jpg), (/datasets/ann/cat.jpg)", "[x](…/cat.jpg), (…/cat.jpg)"),
    ],
)
def test_scrub(text: str, expected: str) -> None:
    assert scrub(text) == expected


def test_the_token_in_use_is_scrubbed_in_any_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "an-unusual-token")
    assert scrub("x an-unusual-token y") == "x [secret] y"


def test_emoji_and_scripts_survive() -> None:
    assert inert("👩‍👩‍👧 नमस्ते שלום 日本語 naïve") == "👩‍👩‍👧 नमस्ते שלום 日本語 naïve"


def test_accents_do_not_tower_over_the_lines_around_them() -> None:
    assert plain("a" + "\u0301" * 200 + "b") == "a" + "\u0301" * 4 + "b"
    written = "\u0e19\u0e49\u0e33 \u05d1\u05bc\u05b0\u05a5 Vi\u1ec7t \u0915\u094d\u0937\u093f"
    assert plain(written) == written

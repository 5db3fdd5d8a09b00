"""Forty captions that want to be more than text, on the card and in the rows, in a real browser: they stay text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_mllm_aug import build_card, save_configs, to_configs
from hf_mllm_aug.preview.export import export
from hf_mllm_aug.preview.repository import open_repository
from hf_mllm_aug.preview.server import PreviewServer
from hf_mllm_aug.preview.views import Views
from hf_mllm_aug.safe_text import plain, scrub
from tests.browser import Chromium, Visit, chromium

pytestmark = pytest.mark.slow

HIT = "window.hit=1;alert(1)"
HOSTILE = [
    f"<script>{HIT}</script>",
    f'<img src=x onerror="{HIT}">',
    f'<svg/onload="{HIT}"><animate onbegin="{HIT}" attributeName=x dur=1s>',
    f'<body onload="{HIT}" onpageshow="{HIT}">',
    f'<iframe srcdoc="<script>parent.{HIT}</script>"></iframe>',
    "<iframe src=https://evil.example/frame></iframe>",
    f'<details open ontoggle="{HIT}"><summary>s</summary>',
    f'<input autofocus onfocus="{HIT}"><video><source onerror="{HIT}">',
    f'<a href="javascript:{HIT}">click</a> [click](javascript:{HIT})',
    f'<a href="data:text/html,<script>{HIT}</script>">data</a>',
    "<style>body{display:none!important} *{background:url(https://evil.example/css)}</style>",
    '<p style="position:fixed;inset:0;background:url(https://evil.example/style)">over all</p>',
    "<link rel=stylesheet href=https://evil.example/a.css><base href=https://evil.example/>",
    '<meta http-equiv=refresh content="0;url=https://evil.example/">',
    "<object data=https://evil.example/o></object><embed src=https://evil.example/e>",
    "<form action=https://evil.example/f><button>send</button></form>",
    "![picture](https://evil.example/p.png) ![](//evil.example/q.png)",
    "[![badge](https://evil.example/b.svg)](https://evil.example/)",
    "<picture><source srcset=https://evil.example/s.png><img src=https://evil.example/t.png></picture>",
    "![data](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)",
    "</td></tr></table></div></article></main></body></html> after the end",
    "</details></summary></code></pre> closes what it did not open",
    "</script></style></textarea></title>--><h1>heading</h1>",
    "<!-- hf-mllm-aug:end samples --><!-- hf-mllm-aug:begin configs -->",
    "<!-- a comment that never ends",
    "| a | b |\n|---|---|\n| c | d | e |",
    "---\nlicense: stolen\nconfigs: []\n---\n# Mine",
    "...\n- !!python/object/apply:os.system ['true']\n%YAML 9.9\n",
    "key: value # comment\n'\"\\x00 &anchor *alias !!tag",
    "`code` ``` fence\n```html\n<b>x</b>\n~~~\n    indented",
    "{{ 7*7 }} {% for x in y %} {# gone #} ${7*7} <%= 7*7 %>",
    "# heading\n## heading\n===\n* list\n1. list\n> quote\n***\n[^1]: note",
    "**bold** _italic_ ~~gone~~ https://evil.example/auto www.evil.example ann@evil.example",
    "\u202egnp.exe\u202c \u2066isolate\u2069 \u200fright\u200e \u061c",
    "zero\u200bwidth\ufeff \u00adsoft \u2060joiner \U000e0041tag",
    "bell\x07 escape\x1b[31m null\x00 delete\x7f nel\x85 line\u2028 paragraph\u2029",
    "&lt;script&gt; &#60;b&#62; &amp;lt; &#x6A;avascript: &NewLine; &bsol;",
    "Zalgo " + "e\u0301\u0302\u0303\u0304" * 40,
    "x" * 10_000,
    "many words <b>here</b> | " * 600,
]
FAILED = 3  # the row without a caption by the captioner
COLUMNS = ("caption", "caption_otter", "generated_otter")


def stage(folder: Path, texts: list[str], word: str) -> Path:
    """A data set whose captions are these texts, with `word` wherever else a stranger's text goes."""
    data: dict[str, list[Any]] = {"key": [f"{i} {word}" for i in range(len(texts))], "url": [word] * len(texts)}
    data |= {column: list(texts) for column in COLUMNS}
    data["caption_otter"][FAILED] = data["generated_otter"][FAILED] = None
    data["error_otter"] = [word if i == FAILED else None for i in range(len(texts))]
    configs = to_configs(Dataset.from_dict(data), captioners=["otter"])
    captioner = {"name": "otter", "model": word, "prompt": word, "licence": word}
    options: dict[str, Any] = {"captioners": [captioner], "description": word, "source": word, "pretty_name": word}
    return save_configs(configs, folder, card=build_card(configs, sample_rows=len(texts), **options))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreviewServer]:
    folder = stage(tmp_path_factory.mktemp("hostile") / "data", HOSTILE, f'<img src=x onerror="{HIT}">|`{{{{1}}}}`')
    with PreviewServer(Views(open_repository(str(folder)))) as server:
        yield server


@pytest.fixture(scope="module")
def benign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreviewServer]:
    texts = [f"A red fox number {i}" for i in range(len(HOSTILE))]
    folder = stage(tmp_path_factory.mktemp("benign") / "data", texts, "words")
    with PreviewServer(Views(open_repository(str(folder)))) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Chromium) -> Iterator[Visit]:
    with browser.visit() as opened:
        yield opened


def elements(visit: Visit, within: str) -> dict[str, int]:
    """How many elements of each name there are."""
    found: dict[str, int] = visit.page.evaluate(
        """within => Object.entries(Object.groupBy(document.querySelectorAll(`${within} *`), e => e.localName))
           .reduce((all, [name, list]) => ({...all, [name]: list.length}), {})""",
        within,
    )
    return found


def assert_inert(visit: Visit) -> None:
    visit.page.wait_for_timeout(300)  # what acts, acts when it is loaded
    assert visit.page.evaluate("window.hit") is None
    assert visit.dialogs == []
    assert visit.strangers == []
    assert visit.complaints == []


def test_there_are_forty() -> None:
    assert len(HOSTILE) == len(set(HOSTILE)) == 40


def test_the_card_shows_them_and_has_no_element_more(
    visit: Visit, hostile: PreviewServer, benign: PreviewServer
) -> None:
    visit.page.goto(f"{benign.url}card")
    expected = elements(visit, ".card")
    assert expected["td"] > 80
    visit.page.goto(f"{hostile.url}card")
    assert_inert(visit)
    assert elements(visit, ".card") == expected
    assert visit.width_of_content() == 1280
    text = " ".join(visit.page.locator(".card").text_content().split())  # type: ignore[union-attr]
    for number, caption in enumerate(HOSTILE):
        start = plain(scrub(caption))[:20]  # the card clips them
        assert text.count(start) >= (1 if number == FAILED else 2), f"raw, and by the captioner: {start}"
    visit.screenshot("card-hostile")


def test_the_rows_show_them_and_have_no_element_more(
    visit: Visit, hostile: PreviewServer, benign: PreviewServer
) -> None:
    ours = {"mark", "span", "details", "summary", "del", "a"}  # signs, what is folded; and links, which only some have
    visit.page.goto(benign.url)
    expected = {name: n for name, n in elements(visit, "#results").items() if name not in ours}
    visit.page.goto(hostile.url)
    assert_inert(visit)
    assert {name: n for name, n in elements(visit, "#results").items() if name not in ours} == expected
    assert visit.page.locator("#results a").count() == visit.page.locator("#tail").count()
    shown = visit.page.locator(".caption.raw .text").all_text_contents()
    assert [text[:40] for text in shown[:33]] == [text[:40] for text in HOSTILE[:33]]
    assert "U+202Egnp.exe" in shown[33]
    assert (
        visit.page.locator(".caption.raw .text").nth(38).text_content()
        == f"{'x' * 420}more (9,580 characters){'x' * 9580}"
    )
    visit.page.goto(f"{hostile.url}?q=%3Cscript%3E{HIT}&config=otter&failed=%3Cscript%3E&in=%22%3E%3Cscript%3E")
    assert_inert(visit)
    assert visit.page.locator("mark").first.text_content() == f"<script>{HIT}"


def test_a_card_that_someone_wrote_so_is_inert(visit: Visit, benign: PreviewServer, tmp_path: Path) -> None:
    folder = stage(tmp_path / "data", ["a fox"] * 5, "words")
    with (folder / "README.md").open("a", encoding="utf-8", errors="replace") as readme:
        readme.write("\n\n" + "\n\n".join(HOSTILE))
    with PreviewServer(Views(open_repository(str(folder)))) as server:
        visit.page.goto(f"{server.url}card")
        assert_inert(visit)
        found = elements(visit, ".card")
        assert not found.keys() & {
            "script",
            "iframe",
            "style",
            "form",
            "input",
            "object",
            "embed",
            "svg",
            "meta",
            "link",
        }
        assert visit.page.evaluate(
            "[...document.querySelectorAll('.card *')].flatMap(e => [...e.attributes])"
            ".every(a => !/^on|^style$/.test(a.name))"
        )
        for link in visit.page.locator(".card a[href]").all():
            assert (link.get_attribute("href") or "").startswith(("https://", "http://", "mailto:", "#card-"))
        assert visit.page.locator("main#view").count() == 1
        assert visit.page.locator("main#view .card").count() == 1


def test_the_exported_file_is_inert(browser: Chromium, hostile: PreviewServer, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    export(hostile.views, file)
    with browser.visit(files=(file,)) as visit:
        visit.page.goto(file.as_uri())
        assert_inert(visit)
        assert visit.page.locator("#config-1 .row").count() == 40
        assert visit.requests == [file.as_uri()]

"""The body of a card -> HTML as the Hub shows it: GitHub's Markdown with HTML in it, sanitised.

Like on the Hub, HTML may stand in a card and its harmless elements keep their meaning. Unlike there, nothing is taken
from elsewhere: a picture of another site is shown by its alternative text, for looking at a preview should tell nobody.
Style attributes are dropped.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

PICTURE_TAGS = frozenset({"img", "source"})

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?^---[ \t]*\r?\n", re.DOTALL | re.MULTILINE)
# fmt: off
_TAGS = frozenset({
    "a", "abbr", "b", "bdi", "bdo", "blockquote", "br", "caption", "center", "cite", "code", "col", "colgroup", "dd",
    "del", "details", "dfn", "div", "dl", "dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr",
    "i", "img", "ins", "kbd", "li", "mark", "ol", "p", "picture", "pre", "q", "rp", "rt", "ruby", "s", "samp", "small",
    "source", "span", "strike", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr",
    "tt", "u", "ul", "var", "wbr",
})
# fmt: on
_WITH_CONTENT = frozenset({"script", "style", "title", "iframe", "noscript", "noembed", "noframes", "template", "xmp"})
_ATTRIBUTES = {
    "*": {"align", "dir", "id", "lang", "title"},
    "a": {"href"},
    "code": {"class"},
    "details": {"open"},
    "img": {"alt", "height", "src", "width"},
    "ol": {"start"},
    "source": {"media", "srcset"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}
_LANGUAGE = re.compile(r"language-[\w+-]+")
_SCHEMES = ("http:", "https:", "mailto:")
_LARGEST_SPAN = 100
_ID_PREFIX = "card-"


def render_card(text: str, *, picture: Callable[[str], str | None] | None = None) -> str:
    r"""Render a card's Markdown as HTML that does nothing.

    What is left has no scripts, event handlers, styles, forms or frames, is balanced, and so cannot reach beyond the
    element that it is put in. Its ids begin with ``card-``.

    Args:
        text: The card's body; YAML before it is left out.
        picture: Gives the address to show for a picture's relative path, or None for a picture that is not shown. By
            default paths stay as they are.

    Returns:
        HTML for the inside of an element.

    >>> render_card("**A** fox <script>alert(1)</script><b onclick=x()>runs</b>")
    '<p><strong>A</strong> fox <b>runs</b></p>\n'
    >>> render_card("![a plot](figures/all.svg) ![far](https://example.org/a.png)")
    '<p><img src="figures/all.svg" alt="a plot"> <img alt="far"></p>\n'
    """
    import nh3

    html = _parser().render(_FRONT_MATTER.sub("", text, count=1))
    shown = picture or (lambda path: path)

    def attribute(tag: str, name: str, value: str) -> str | None:
        return _attribute(tag, name, value, shown)

    return nh3.clean(
        html,
        tags=set(_TAGS),
        clean_content_tags=set(_WITH_CONTENT),
        attributes=_ATTRIBUTES,
        attribute_filter=attribute,
        url_schemes={"http", "https", "mailto", "data"},  # `_attribute` lets data: pass where the caller made it
        link_rel="noopener noreferrer nofollow",
    )


def _attribute(tag: str, name: str, value: str, shown: Callable[[str], str | None]) -> str | None:
    """An attribute's value as it is shown; None takes the attribute away."""
    if tag in PICTURE_TAGS and name in ("src", "srcset"):
        return shown(value.strip()) if is_relative(value) else None
    if name == "href":
        if value.startswith("#"):
            return f"#{_ID_PREFIX}{value[1:]}"
        return value if value.lower().startswith(_SCHEMES) else None
    if name == "id":
        return _ID_PREFIX + value
    if name == "class":
        return value if _LANGUAGE.fullmatch(value) else None
    if name in ("colspan", "rowspan"):
        return value if value.isdecimal() and int(value) <= _LARGEST_SPAN else None
    return value


def is_relative(path: str) -> bool:
    """Whether a picture's address is a path within the repository, and nothing else.

    >>> is_relative("figures/a.svg"), is_relative("//example.org/a.png"), is_relative("data:image/png,")
    (True, False, False)
    """
    path = path.strip()
    parts = path.split("/")
    return bool(path) and not re.search(r"[\\:\s,?#\x00-\x1f]", path) and ".." not in parts and "" not in parts


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("gfm-like", {"html": True, "linkify": True})
    parser.core.ruler.push("card", lambda state: _finish(state.tokens))
    return parser


def _finish(tokens: list[Token]) -> None:
    """Cells are aligned by an attribute, for style does not stay; headings get the ids that the Hub gives them."""
    for token, inner in itertools.zip_longest(tokens, tokens[1:]):
        if token.type in ("th_open", "td_open"):
            style = str(token.attrs.pop("style", ""))
            if style.startswith("text-align:"):
                token.attrs["align"] = style.removeprefix("text-align:")
        elif token.type == "heading_open":
            words = re.sub(r"[^\w\s-]", "", inner.content.lower())
            token.attrs["id"] = re.sub(r"\s+", "-", words.strip())

"""Pages of a repository as HTML: rows, card, plots. Values are escaped wherever a template shows them."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from markupsafe import Markup

from hf_mllm_aug.preview.markdown import render_card
from hf_mllm_aug.preview.repository import scalar
from hf_mllm_aug.preview.state import State
from hf_mllm_aug.preview.views import Page, Row, Views

if TYPE_CHECKING:
    import jinja2

_STATIC = Path(__file__).parent / "static"
_TEMPLATES = Path(__file__).parent / "templates"
_CHIPS = {
    "license": "licence",
    "task_categories": "task",
    "language": "language",
    "size_categories": "size",
    "source_datasets": "source",
    "base_model": "base model",
    "tags": "tag",
}
_MOST_CHIPS = 40
_LONGEST_HEADING = 120


def rows_page(views: Views, state: State) -> str:
    """The page of rows.

    Args:
        views: The rows.
        state: Which of them, and how they are shown.

    Returns:
        A whole HTML document.

    Raises:
        UnknownNameError: There is no such config or split.
    """
    rows = views.rows(state.config, state.split)
    config, split = rows.files.config, rows.files.split
    columns = views.columns(rows)
    found = views.page(state)
    repository = views.repository
    fresh = {"page": 1, "start": 0, "trail": ()}
    return render(
        "rows.html",
        **frame(views, "rows", state.tail),
        state=state,
        configs=[
            {
                "name": name,
                "url": state.url(config=name, **_kept(views, state, name)),
                "current": name == config,
                "rows": _claimed(splits),
            }
            for name, splits in repository.splits.items()
        ],
        splits=[
            {"name": name, "url": state.url(split=name, **fresh), "current": name == split}
            for name in repository.splits[config]
        ],
        labels=[column.label for column in columns],
        failing=[column.label for column in columns if column.by_model],
        has_tails=any(caption.tail for row in found.rows for caption in row.captions),
        toggle=state.url(tail=not state.tail),
        clear=State(config=state.config, split=state.split, tail=state.tail).url(),
        hidden=_hidden(state),
        status=status(state, found),
        empty="No rows fit." if found.searched else "There are no rows.",
        rows=found.rows,
        page=found.page,
        pages=found.pages,
        links=_links(state, found),
        picture=functools.partial(_picture, split=split),
    )


def card_page(views: Views) -> str:
    """The card as the Hub shows it."""
    paths = views.repository.paths

    def address(path: str) -> str | None:
        return f"/repository/{quote(path)}" if path in paths else None

    return render("card.html", **frame(views, "card"), **card_values(views, address))


def plots_page(views: Views) -> str:
    """The plots of the data set."""
    figures = [(plot_name(path), f"/repository/{quote(path)}") for path in views.repository.plots]
    return render("plots.html", **frame(views, "plots"), figures=figures)


def wrong_page(views: Views, problem: str, message: str) -> str:
    """What is shown in place of a page that cannot be."""
    return render("wrong.html", **frame(views, ""), problem=problem, message=message)


def frame(views: Views, current: str, tail: bool = True) -> dict[str, Any]:
    """The values that every page of the server needs."""
    repository = views.repository
    entries: list[tuple[str, str, str, int | None]] = [("rows", "Rows", "/", None), ("card", "Card", "/card", None)]
    if repository.plots:
        entries.append(("plots", "Plots", "/plots", len(repository.plots)))
    heading = repository.card.data.get("pretty_name")
    return {
        "mode": "server",
        "style": Markup(style()),
        "script": Markup(script()),
        "heading": heading[:_LONGEST_HEADING] if isinstance(heading, str) else "",
        "title": f"{repository.name}: preview",
        "name": repository.name,
        "revision": repository.revision,
        "tail": tail,
        "views": [
            {"id": id_, "label": label, "url": url, "count": count, "current": id_ == current}
            for id_, label, url, count in entries
        ],
    }


def card_values(views: Views, picture: Any) -> dict[str, Any]:
    """The card's body as HTML, and what the Hub shows of its YAML above it."""
    card = views.repository.card
    chips = []
    for field, kind in _CHIPS.items():
        value = card.data.get(field)
        values = value if isinstance(value, list) else [value]
        chips += [(kind, shown[:100]) for each in values if (shown := scalar(each))]
    return {"chips": chips[:_MOST_CHIPS], "body": Markup(render_card(card.text, picture=picture))}


def status(state: State, found: Page) -> str:
    """What the rows of a page are, in a sentence.

    >>> status(State(), Page([], 0))
    'No rows'
    >>> status(State(q="fox"), Page([], 2000, True, looked=500, more=500))
    'No hits in rows 1 to 500 of 2,000; the search goes on'
    """
    total = f"{found.total:,}"
    if not found.searched:
        if not found.rows:
            return "No rows"
        return f"Rows {found.rows[0].number + 1:,} to {found.rows[-1].number + 1:,} of {total}"
    hits = f"{len(found.rows) or 'No'} hit{'' if len(found.rows) == 1 else 's'}"
    if found.more is None and not state.start:
        return f"{hits} in {total} row{'' if found.total == 1 else 's'}"
    where = f"{hits} in rows {state.start + 1:,} to {state.start + found.looked:,} of {total}"
    return f"{where}; the search goes on" if found.more is not None else f"{where}, the last"


def plot_name(path: str) -> str:
    """What a plot is called: its file's name without the ending.

    >>> plot_name("figures/llava-1.5-lengths.svg")
    'llava-1.5-lengths'
    """
    return Path(path).stem


@functools.cache
def style() -> str:
    """The style of every page. It stands in the page itself, which so comes at once, and as one file."""
    return (_STATIC / "preview.css").read_text(encoding="utf-8")


@functools.cache
def script() -> str:
    """The script of every page; it, too, stands in the page."""
    return (_STATIC / "preview.js").read_text(encoding="utf-8")


def digest(text: str) -> str:
    """How a page's policy allows one style or script, and no other.

    >>> digest("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def render(template: str, **values: Any) -> str:
    """Fill a template in."""
    return _environment().get_template(template).render(**values)


def _kept(views: Views, state: State, config: str) -> dict[str, Any]:
    """What of a state holds for another config, too: the search, and the page where the rows are the same."""
    splits = views.repository.splits[config]
    kept = state.split if state.split in splits else ""
    return {"split": kept, "start": 0, "trail": (), "within": "", "failed": "any" if state.failed else ""}


def _claimed(splits: Mapping[str, Any]) -> int | None:
    counts = [files.claimed_rows for files in splits.values()]
    return None if None in counts else sum(counts)


def _hidden(state: State) -> list[tuple[str, str]]:
    """The fields that a jump to a page keeps."""
    kept = {"config": state.config, "split": state.split, "tail": "" if state.tail else "off"}
    return [(name, value) for name, value in kept.items() if value]


def _links(state: State, found: Page) -> list[dict[str, str | None]]:
    if found.searched:
        before = state.trail[-1] if state.trail else None
        back = None if before is None else state.url(start=before, trail=state.trail[:-1])
        on = None if found.more is None else state.url(start=found.more, trail=(*state.trail, state.start))
        if back is None and on is None:
            return []
        return [
            {"label": "First", "url": state.url(start=0, trail=()) if state.start else None, "rel": None},
            {"label": "Previous", "url": back, "rel": "prev"},
            {"label": "Next" if len(found.rows) else "Search on", "url": on, "rel": "next"},
        ]
    page, pages = found.page, found.pages
    if pages < 2:
        return []
    return [
        {"label": "First", "url": state.url(page=1) if page > 1 else None, "rel": None},
        {"label": "Previous", "url": state.url(page=page - 1) if page > 1 else None, "rel": "prev"},
        {"label": "Next", "url": state.url(page=page + 1) if page < pages else None, "rel": "next"},
        {"label": "Last", "url": state.url(page=pages) if page < pages else None, "rel": None},
    ]


def _picture(row: Row, split: str) -> Markup:
    if row.pictured is None:
        return Markup()
    address = "/picture?" + urlencode({"config": row.pictured, "split": split, "row": row.number})
    return Markup(
        '<a class="picture" href="{}&large=1"><img src="{}" alt="Picture of row {}" loading="lazy"></a>'
    ).format(address, address, row.number + 1)


def _short(number: int) -> str:
    """A number in few characters.

    >>> _short(999), _short(1_000_000), _short(2_951_000)
    ('999', '1M', '2.95M')
    """
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = _short
    return environment

"""What the page shows of a data set's rows: which captions stand side by side, a page of them, the hits of a search."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hf_mllm_aug import schema
from hf_mllm_aug.errors import UnknownNameError
from hf_mllm_aug.preview.repository import Repository
from hf_mllm_aug.preview.rows import Rows
from hf_mllm_aug.preview.search import Query, scan
from hf_mllm_aug.preview.state import ANY, State
from hf_mllm_aug.preview.texts import Shown, show, signed, split_tail

RAW = "raw"

_OTHER_TEXT = (schema.KEY, schema.URL)
_FEW_FILES = 64  # whose footers are read for an exact number of rows
_LONGEST_KEY = 200


@dataclass(frozen=True)
class Column:
    """The columns of one caption: the label it is shown under, and where the reason of a failure and the whole text
    stand, if they do.
    """

    label: str
    caption: str
    error: str | None = None
    generated: str | None = None
    by_model: bool = True


@dataclass(frozen=True)
class Caption:
    """One caption of a row. Without `text` there is none, and `error` may say why."""

    label: str
    by_model: bool
    text: Shown | None
    words: int
    stop: Markup
    tail: Shown | None
    tail_words: int
    error: Markup


@dataclass(frozen=True)
class Row:
    """A row. `number` counts from 0; `pictured` is the config that has its picture."""

    number: int
    key: Markup
    url: str
    pictured: str | None
    captions: list[Caption]


@dataclass(frozen=True)
class Page:
    """The rows of one page and where others are. `total` may be the card's word; `more` is where a search goes on."""

    rows: list[Row]
    total: int
    searched: bool = False
    page: int = 1
    pages: int = 1
    more: int | None = None
    looked: int = 0


class Views:
    """The rows of a repository, as they are shown; safe to share among threads.

    Args:
        repository: The repository.
        page_rows: Rows a page.
    """

    def __init__(self, repository: Repository, *, page_rows: int = 50) -> None:
        self.repository = repository
        self.page_rows = page_rows
        self._opened: dict[tuple[str, str], Rows] = {}
        self._lock = threading.Lock()

    def rows(self, config: str = "", split: str = "") -> Rows:
        """A split, opened once.

        Raises:
            UnknownNameError: There is no such config or split.
        """
        config = config or self.repository.default_config
        if config not in self.repository.splits:
            raise UnknownNameError("config", config, self.repository.splits)
        splits = self.repository.splits[config]
        split = split or next(iter(splits))
        if split not in splits:
            raise UnknownNameError("split", split, splits)
        with self._lock:
            if (config, split) not in self._opened:
                self._opened[config, split] = Rows(self.repository, splits[split])
            return self._opened[config, split]

    def columns(self, rows: Rows) -> list[Column]:
        """The captions that a config has itself, the raw one first."""
        texts, config = rows.text_columns, rows.files.config
        labels = {schema.caption_column(name): name for name in self.repository.splits}
        captioned = schema.caption_columns(texts)
        found = []
        if schema.CAPTION in texts:
            is_raw = bool(captioned) or config in (schema.ALL_CONFIG, schema.RAW_CONFIG, "default")
            found = [Column(RAW if is_raw else config, schema.CAPTION, by_model=not is_raw)]
        for name in captioned:
            ending = name.removeprefix(schema.CAPTION_PREFIX)
            error, generated = schema.ERROR_PREFIX + ending, schema.GENERATED_PREFIX + ending
            found.append(
                Column(
                    labels.get(name, ending),
                    name,
                    error if error in texts else None,
                    generated if generated in texts else None,
                )
            )
        helpers = (schema.ERROR_PREFIX, schema.GENERATED_PREFIX)
        others = [name for name in texts if name not in _OTHER_TEXT and not name.startswith(helpers)]
        return found or [Column(name, name, by_model=False) for name in others]

    def query(self, rows: Rows, state: State) -> Query:
        """What a state asks of a split's rows; captions that it names and the split lacks count as not named."""
        columns = self.columns(rows)
        within = [column.caption for column in columns if column.label == state.within]
        failed = [c.caption for c in columns if c.by_model and state.failed in (ANY, c.label)]
        everywhere = tuple(column.caption for column in columns)
        return Query(tuple(within) or everywhere, state.q, state.low, state.high, tuple(failed))

    def page(self, state: State) -> Page:
        """The rows that a state's address stands for."""
        rows = self.rows(state.config, state.split)
        query = self.query(rows, state)
        if not query.is_empty:
            found = scan(rows, query, start=state.start, limit=self.page_rows)
            shown = self._rows(rows, found.numbers, state.q)
            return Page(shown, self.total(rows), True, more=found.next, looked=found.looked)
        total = self.total(rows)
        page = self._numbered(rows, state.page, total)
        if len(page.rows) < min(self.page_rows, total - (page.page - 1) * self.page_rows):
            page = self._numbered(rows, state.page, rows.count())  # the card was wrong about the number of rows
        return page

    def first(self, config: str, count: int) -> list[Row]:
        """The first rows of a config."""
        rows = self.rows(config)
        return self._rows(rows, range(min(count, self.total(rows))), "")

    def _numbered(self, rows: Rows, page: int, total: int) -> Page:
        pages = max(1, -(-total // self.page_rows))
        page = min(page, pages)
        first = (page - 1) * self.page_rows
        numbers = range(first, min(first + self.page_rows, total))
        return Page(self._rows(rows, numbers, ""), total, page=page, pages=pages)

    def total(self, rows: Rows) -> int:
        """How many rows a split has; by the card where counting would mean many journeys."""
        if self.repository.is_local and len(rows.files.files) <= _FEW_FILES:
            return rows.count()
        total = rows.total
        return rows.count() if total is None else total

    def _rows(self, rows: Rows, numbers: Sequence[int], text: str) -> list[Row]:
        columns = self.columns(rows)
        present = set(rows.text_columns)
        names = [name for name in _OTHER_TEXT if name in present]
        names += [n for c in columns for n in (c.caption, c.error, c.generated) if n is not None]
        values = rows.read(numbers, list(dict.fromkeys(names)))
        config = rows.files.config
        own = config if rows.picture_column else None
        partner = self._partner(rows)
        if partner is None:
            return [_row(n, v, columns, own, text) for n, v in zip(numbers, values, strict=False)]
        lent = self._lent(partner, columns, config)
        beside = partner.read(numbers, list(dict.fromkeys([schema.KEY, *lent.values()])))
        pictured = own or (partner.files.config if partner.picture_column else None)
        shown = []
        for number, value, other in zip(numbers, values, beside, strict=False):
            if value.get(schema.KEY) != other[schema.KEY]:
                shown.append(_row(number, value, columns, own, text))
                continue
            borrowed = {name: other[column] for name, column in lent.items()}
            shown.append(_row(number, {**borrowed, **value}, _with_lent(columns, lent), pictured, text))
        return shown

    def _partner(self, rows: Rows) -> Rows | None:
        """The split of the config `all` whose rows stand beside a config's own: its picture, its raw caption, what was
        generated.
        """
        config, split = rows.files.config, rows.files.split
        if config == schema.ALL_CONFIG or split not in self.repository.splits.get(schema.ALL_CONFIG, {}):
            return None
        partner = self.rows(schema.ALL_CONFIG, split)
        fits = schema.KEY in rows.text_columns and schema.KEY in partner.text_columns
        return partner if fits and self.total(partner) == self.total(rows) else None

    @staticmethod
    def _lent(partner: Rows, columns: list[Column], config: str) -> dict[str, str]:
        """The columns to lend: what they are called here, and there."""
        lent = {"lent_error": schema.error_column(config), "lent_generated": schema.generated_column(config)}
        if not any(column.label == RAW for column in columns):
            lent["lent_raw"] = schema.CAPTION
        else:
            lent = {}
        return {name: column for name, column in lent.items() if column in partner.text_columns}


def _with_lent(columns: list[Column], lent: dict[str, str]) -> list[Column]:
    error = "lent_error" if "lent_error" in lent else None
    generated = "lent_generated" if "lent_generated" in lent else None
    own = [Column(c.label, c.caption, c.error or error, c.generated or generated, c.by_model) for c in columns]
    return [*([Column(RAW, "lent_raw", by_model=False)] if "lent_raw" in lent else []), *own]


def _row(number: int, values: dict[str, str | None], columns: list[Column], pictured: str | None, text: str) -> Row:
    url = values.get(schema.URL) or ""
    return Row(
        number,
        signed((values.get(schema.KEY) or "")[:_LONGEST_KEY]),
        url if url.lower().startswith(("http://", "https://")) and len(url) < 2000 else "",
        pictured,
        [_caption(column, values, text) for column in columns],
    )


def _caption(column: Column, values: dict[str, str | None], text: str) -> Caption:
    caption = values.get(column.caption)
    error = values.get(column.error) if column.error else None
    generated = values.get(column.generated) if column.generated else None
    stop, tail = split_tail(generated, caption) if caption is not None and generated else ("", "")
    return Caption(
        column.label,
        column.by_model,
        None if caption is None else show(caption, text),
        len((caption or "").split()),
        signed(stop),
        show(tail.strip()) if tail.strip() else None,
        len(tail.split()),
        signed((error or "")[:300]),
    )

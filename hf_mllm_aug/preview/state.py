"""What a page shows, as its address says it: reload and back find the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

_LONGEST_TEXT = 500
_LARGEST_NUMBER = 10**12
_MOST_STEPS = 30

ANY = "any"


@dataclass(frozen=True)
class State:
    """The parts of an address; empty ones are left out of it.

    Args:
        config: The config; the default one if empty.
        split: Its split; the first if empty.
        page: The number of the page, from 1.
        q: What to search for.
        within: The caption to search in, by its label; all if empty.
        failed: ``any``, or the label of the caption that is missing.
        low: The least words.
        high: The most words.
        start: The row that a search goes on from.
        trail: The rows where the pages of a search before this one began.
        tail: Whether what was sheared off is shown.
    """

    config: str = ""
    split: str = ""
    page: int = 1
    q: str = ""
    within: str = ""
    failed: str = ""
    low: int | None = None
    high: int | None = None
    start: int = 0
    trail: tuple[int, ...] = ()
    tail: bool = True

    @classmethod
    def parse(cls, query: Mapping[str, list[str]]) -> State:
        """Read an address; what makes no sense in it counts as not given.

        >>> State.parse({"q": ["fox"], "page": ["-3"], "min": ["2"]})
        State(config='', split='', page=1, q='fox', within='', failed='', low=2, ...)
        """

        def text(name: str) -> str:
            return query.get(name, [""])[-1].strip()[:_LONGEST_TEXT]

        def number(name: str) -> int | None:
            digits = text(name)
            return min(int(digits), _LARGEST_NUMBER) if digits.isascii() and digits.isdecimal() else None

        trail = [int(step) for step in text("trail").split("-") if step.isascii() and step.isdecimal()]
        return cls(
            config=text("config"),
            split=text("split"),
            page=max(1, number("page") or 1),
            q=text("q"),
            within=text("in"),
            failed=text("failed"),
            low=number("min"),
            high=number("max"),
            start=number("from") or 0,
            trail=tuple(min(step, _LARGEST_NUMBER) for step in trail[-_MOST_STEPS:]),
            tail=text("tail") != "off",
        )

    def query(self) -> str:
        """The query string of this state.

        >>> State(config="all", page=2, q="a b").query()
        'config=all&q=a+b&page=2'
        """
        parts = {
            "config": self.config,
            "split": self.split,
            "q": self.q,
            "in": self.within,
            "failed": self.failed,
            "min": self.low,
            "max": self.high,
            "page": self.page if self.page > 1 else None,
            "from": self.start or None,
            "trail": "-".join(map(str, self.trail)),
            "tail": None if self.tail else "off",
        }
        return urlencode({name: value for name, value in parts.items() if value not in ("", None)})

    def url(self, **changes: Any) -> str:
        """The address of this state with some parts changed."""
        query = replace(self, **changes).query()
        return f"/?{query}" if query else "/"

    @property
    def searches(self) -> bool:
        """Whether rows are picked."""
        return bool(self.q or self.failed or self.low is not None or self.high is not None)

"""Addresses -> pictures: an asynchronous function for `Dataset.map` that is polite, bounded and safe to point anywhere.

`map` runs up to a thousand calls of an asynchronous function at a time and takes their results in order. It keeps a
whole result or nothing: a crash after ten million pictures loses them all. So fetch a long list with
``run(..., fetch=)``, which keeps what is finished.

The client is aiohttp, since it hands over each address before it connects to it (`fetching.connections`); its parser
is in C, so that one core keeps up with a fast line.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from hf_mllm_aug import schema
from hf_mllm_aug.errors import ColumnError, ImageError, UnknownNameError, UsageError
from hf_mllm_aug.loaders.fetching.outcome import Outcome
from hf_mllm_aug.loaders.fetching.policy import Policy
from hf_mllm_aug.loaders.fetching.worker import Desk
from hf_mllm_aug.safe_text import plain

if TYPE_CHECKING:
    from datasets import Features

    from hf_mllm_aug.loaders.fetching.client import Client
    from hf_mllm_aug.loaders.fetching.pace import Line, Place

CODE_VERSION = 2
"""To be raised with every change that changes what is fetched: results that `datasets` has cached would be stale."""


async def _coroutine_function() -> None:
    """What marks a `FetchImages` as asynchronous; never called."""


@dataclass(frozen=True, kw_only=True)
class FetchImages(Policy, functools.partial[Any]):
    """Fetch the pictures of a column of addresses; for ``map`` of a `Dataset` or an `IterableDataset`.

    Adds three columns: the picture as it was served (``{"bytes", "path"}``, not decoded), the kind of result and the
    reason in words. A row whose picture cannot be had gets None and stays where it is. Only pictures count: what
    cannot be opened as one by its bytes, whatever its headers say, is ``not_a_picture``.

    The kinds are ``ok``, ``no_url``, ``bad_url``, ``forbidden_address``, ``name_not_found``, ``unreachable``,
    ``broken`` (the connection), ``timeout``, ``http_error``, ``put_off`` (not asked for, since its host wants to be
    left alone), ``redirect``, ``too_large``, ``opted_out`` and ``not_a_picture``. Reasons hold no addresses; a row has
    its own.

    Connections are made to public addresses only, which is checked for the address that is connected to, at each
    redirect too. Owners who opted out by the header ``X-Robots-Tag`` are left alone. No cookies are kept, no
    credentials sent, addresses that hold some are refused, and proxies named by the environment are not used.

    Pass ``features=fetch.features(dataset.features)`` to `map`; it would otherwise guess the columns' types from the
    first thousand rows. In a notebook, pass ``num_proc=1`` as well: `datasets` cannot run asynchronous functions where
    an event loop runs already. Limits hold for each process.

    Requests run on a thread of their own, and go on while nobody asks for the next row of a stream. A stream that is
    left early stops, and its connections are closed, once Python has collected it.

    Args:
        url_column: The column of addresses.
        image_column: Where pictures go; a column of this name is replaced.
        status_column: Where the kinds go.
        reason_column: Where the reasons go; the empty string where there is a picture.
        on_error: ``"null"`` gives None for the picture, ``"raise"`` ends the `map`.
        concurrency: Requests at a time. Memory is needed for as many pictures, of ``max_bytes`` at the worst.
        per_host: Requests at a time to one host.
        connect_timeout: Seconds to find and connect to a host.
        read_timeout: Seconds between two pieces of a picture.
        total_timeout: Seconds for one try, redirects included, waiting for a turn not included.
        max_bytes: Larger files are not read to their end. Bytes, packed or unpacked.
        max_pixels: Larger pictures are refused. Width times height.
        max_aspect: Pictures whose long side is more than this many times the short one are refused.
        max_redirects: How many are followed; to http and https only.
        retries: Further tries after 408, 429, 500, 502, 503, 504, connections that broke, and names that are slowly
            found. Other timeouts and refused connections get none.
        first_wait: Seconds before the second try, half as much more or less at random; doubled from then on.
        max_wait: The longest wait, in seconds, and all that a row waits because hosts ask for it (``Retry-After``).
            Rests that other rows caused do not add up over a host's answers.
            A host that asks for more is asked again only after that; its rows wait as long as they may, and end as
            ``put_off`` if they were not asked for. Fetch those again later.
        max_held_bytes: The most bytes of finished pictures that may wait for an earlier row's, or to be taken; no
            more are begun then. The pictures that are under way come on top, and one batch, which is handed over
            whole: with ``batched=True``, memory is needed for ``batch_size`` pictures whatever this says.
        opt_out: Directives of ``X-Robots-Tag`` to honour; ``none`` counts as ``noindex``. Empty: none.
        user_agent: Who is asking; None names this library.
        allow_private: Whether private, loopback, link-local, multicast and other special addresses may be used too.
        allowed_networks: Those of them that may be, such as ``("10.1.0.0/16",)``.

    Raises:
        UsageError: A setting cannot work.
        ColumnError: There is no such column of addresses.
        ImageError: With ``on_error="raise"``, a picture that cannot be had.

    >>> import asyncio
    >>> fetch = FetchImages(total_timeout=10)
    >>> rows = {"url": ["http://127.0.0.1/latest/meta-data", "file:///etc/passwd", None]}
    >>> asyncio.run(fetch(rows))["status"]
    ['forbidden_address', 'bad_url', 'no_url']
    """

    url_column: str = schema.URL
    image_column: str = schema.IMAGE
    status_column: str = "status"
    reason_column: str = "reason"
    on_error: Literal["null", "raise"] = "null"
    # Not a setting, so not in pickles and hashes.
    _desk: Desk = field(default_factory=Desk, init=False, repr=False, compare=False)

    def __new__(cls, *_: Any, **__: Any) -> FetchImages:  # noqa: D102 - arguments are those of the class
        # `datasets` asks `inspect.iscoroutinefunction`, which denies objects with an asynchronous `__call__` and,
        # in every version of Python, affirms a partial of a coroutine function.
        return super().__new__(cls, _coroutine_function)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_error not in ("null", "raise"):
            raise UnknownNameError("on_error", str(self.on_error), ("null", "raise"))
        columns = (self.url_column, self.image_column, self.status_column, self.reason_column)
        if len(set(columns)) < len(columns):
            raise UsageError(f"the columns of FetchImages must differ: {', '.join(columns)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.settings(), CODE_VERSION)

    def settings(self) -> dict[str, Any]:
        """All arguments, by name."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.init}

    def features(self, features: Features) -> Features:
        """The features of the rows with their pictures.

        Args:
            features: Those of the rows before.
        """
        from datasets import Features, Image, Value

        new = {
            self.image_column: Image(decode=False),
            self.status_column: Value("string"),
            self.reason_column: Value("string"),
        }
        return Features({**features, **new})

    async def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Fetch the picture of one example, or those of a batch.

        Args:
            rows: An example, or a dictionary of lists.

        Returns:
            The new columns, in the same form.
        """
        if not isinstance(rows, Mapping):
            raise UsageError(
                f"FetchImages takes whole rows, but map passed a value of type {type(rows).__name__}. "
                "To do: drop input_columns=, and with_format() for a data set formatted as Arrow or pandas"
            )
        if self.url_column not in rows:
            raise ColumnError(self.url_column, rows, "pass url_column= with the column of the addresses")
        urls = rows[self.url_column]
        is_batch = not isinstance(urls, str) and hasattr(urls, "__len__")
        keys = rows.get(schema.KEY)
        if not is_batch:
            urls, keys = [urls], [keys]
        urls = list(urls)
        outcomes = await self._desk.run(self, len(urls), functools.partial(_fetch, urls))
        if self.on_error == "raise":
            for number, outcome in enumerate(outcomes):
                if outcome.status != "ok":
                    raise ImageError(_message(outcome, urls[number], keys[number] if keys is not None else None))
        pictures = [None if outcome.data is None else {"bytes": outcome.data, "path": None} for outcome in outcomes]
        columns: dict[str, list[Any]] = {
            self.image_column: pictures,
            self.status_column: [outcome.status for outcome in outcomes],
            self.reason_column: [outcome.reason for outcome in outcomes],
        }
        return dict(columns) if is_batch else {name: values[0] for name, values in columns.items()}


async def _fetch(urls: list[Any], client: Client, line: Line, places: list[Place]) -> list[Outcome]:
    """The pictures of one call, in its place in the line."""
    await line.enter(places)

    async def one(url: Any, place: Place) -> Outcome:
        outcome = await client.fetch(url, line, places)
        line.finish(place, len(outcome.data or b""))
        return outcome

    try:
        return await _all(one(url, place) for url, place in zip(urls, places, strict=True))
    finally:
        for place in places:
            line.finish(place)  # those of rows that were cancelled


async def _all(calls: Iterable[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    """Run calls at a time; if one fails, or this is cancelled, none is left running."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _rebuild(kind: type[FetchImages], settings: dict[str, Any], _: int) -> FetchImages:
    return kind(**settings)


def _message(outcome: Outcome, url: Any, key: Any) -> str:
    try:
        host = urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        host = None
    row = f"row {plain(str(key), 80)!r}: " if key is not None else ""
    origin = f" from {plain(host, 80)}" if host else ""
    return f"{row}no picture{origin}: {outcome.status}: {outcome.reason}"

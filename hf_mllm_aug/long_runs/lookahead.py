"""An iterable, worked ahead on a thread of its own by a bounded number of items."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_TICK = 0.1  # seconds between two looks at whether to stop
_STOP_WITHIN = 5.0


@dataclass(frozen=True)
class _End:
    failure: BaseException | None


class Ahead(Generic[T]):
    """Iterates over what a thread takes from an iterable beforehand; a failure there is raised here.

    Args:
        items: What to iterate over; only the thread touches it.
        size: How many items may wait. One more is held by the thread.
        name: Of the thread.
        stop: Set it to end the thread early, and others that share it.

    >>> with Ahead(iter("abc"), 2, "letters") as letters:
    ...     list(letters)
    ['a', 'b', 'c']
    """

    def __init__(self, items: Iterable[T], size: int, name: str, stop: threading.Event | None = None) -> None:
        self._queue: queue.Queue[T | _End] = queue.Queue(size)
        self._stop = threading.Event() if stop is None else stop
        self._thread = threading.Thread(target=self._run, args=(items,), name=name, daemon=True)
        self._thread.start()

    def _run(self, items: Iterable[T]) -> None:
        failure: BaseException | None = None
        try:
            for item in items:
                if not self._put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            failure = error
        finally:
            if isinstance(items, Iterator) and hasattr(items, "close"):
                items.close()
        self._put(_End(failure))

    def _put(self, item: T | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_TICK)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[T]:
        while not self._stop.is_set():  # an interruption reaches a wait without end only when that ends
            try:
                item = self._queue.get(timeout=_TICK)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                if item.failure is not None:
                    raise item.failure
                return
            yield item

    def is_ready(self) -> bool:
        """Whether the next item can be had without waiting."""
        return not self._queue.empty()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_STOP_WITHIN)  # a thread that waits for a server is left to itself

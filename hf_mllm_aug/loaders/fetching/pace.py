"""Who may go next: no more than so many requests in all, so many to a host, so much finished and not yet fetched."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator


class Line:
    """Rows in order of arrival, held back while too much that is finished waits behind a row that is not.

    `map` takes results in the order of the rows. Behind one slow host thousands of finished pictures would pile up.

    Args:
        max_unfinished: The most rows that are being worked; a batch may go beyond it by its own size.
        max_held: The most bytes of finished pictures behind an unfinished row; newcomers wait above that.
    """

    def __init__(self, max_unfinished: int, max_held: int) -> None:
        self._max_unfinished = max_unfinished
        self._max_held = max_held
        self._rows: deque[Place] = deque()
        self._unfinished = 0
        self._held = 0
        self._door = asyncio.Lock()  # a lock is fair: who came first enters first
        self._moved = asyncio.Event()

    async def enter(self, rows: int) -> list[Place]:
        """Take places for so many rows; waits until there is room for the first of them."""
        async with self._door:
            while self._unfinished >= self._max_unfinished or self._held > self._max_held:
                self._moved.clear()
                await self._moved.wait()
            places = [Place() for _ in range(rows)]
            self._rows.extend(places)
            self._unfinished += rows
            return places

    def leave(self, place: Place, size: int = 0) -> None:
        """A row is finished; to say so again does nothing.

        Args:
            place: Its place.
            size: The bytes of its picture.
        """
        if place.size is not None:
            return
        place.size = size
        self._unfinished -= 1
        self._held += size
        while self._rows and self._rows[0].size is not None:
            self._held -= self._rows.popleft().size or 0
        self._moved.set()


class Place:
    """A row's place in the line; ``size`` is None until the row is finished."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size: int | None = None


class TooBusyError(Exception):
    """A host asks for more patience than there is.

    Args:
        seconds: How long it is not to be asked.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Patience:
    """What one row may still spend on waiting for hosts that are asked too often, in seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class _Host:
    def __init__(self, slots: int) -> None:
        self.slots = asyncio.Semaphore(slots)
        self.users = 0
        self.rests_until = 0.0


class Pace:
    """Turns for requests: so many at a time in all, so many to one host, none to a host that asked for a rest.

    A row that waits for a host holds no place of the others'.

    Args:
        concurrency: Requests at a time.
        per_host: Requests at a time to one host.
    """

    def __init__(self, concurrency: int, per_host: int) -> None:
        self._all = asyncio.Semaphore(concurrency)
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}

    @contextlib.asynccontextmanager
    async def turn(self, name: str, patience: Patience) -> AsyncIterator[None]:
        """Wait for a turn, and hold it.

        Args:
            name: The host.
            patience: What the row may spend on the host's rests; what it spends is taken off.

        Raises:
            TooBusyError: The host rests for longer than that.
        """
        host = self._hosts.setdefault(name, _Host(self._per_host))
        host.users += 1
        try:
            while True:
                await self._rested(host, patience)
                async with host.slots:
                    if host.rests_until > time.monotonic():
                        continue  # another row was told to wait while this one stood in line
                    async with self._all:
                        yield
                    return
        finally:
            host.users -= 1
            # A long job meets millions of hosts.
            if not host.users and host.rests_until <= time.monotonic():
                self._hosts.pop(name, None)

    def rest(self, name: str, seconds: float) -> None:
        """Leave a host alone for a while.

        Args:
            name: The host.
            seconds: From now.
        """
        host = self._hosts.setdefault(name, _Host(self._per_host))
        host.rests_until = max(host.rests_until, time.monotonic() + seconds)

    async def _rested(self, host: _Host, patience: Patience) -> None:
        while (wait := host.rests_until - time.monotonic()) > 0:
            if wait > patience.seconds:
                raise TooBusyError(wait)
            patience.seconds -= wait
            await asyncio.sleep(wait)

"""Who may go next: no more than so many requests in all, so many to a host, so much finished and not yet fetched."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence


class Place:
    """A row's place in the line; ``size`` is None until the row is finished. Bytes."""

    __slots__ = ("size", "taken")

    def __init__(self) -> None:
        self.size: int | None = None
        self.taken = False


class Line:
    """Calls in order of arrival, held back while too much that is finished waits to be taken.

    `map` takes results in the order of the rows. Behind one slow host, or while nobody asks for the next row,
    thousands of finished pictures would pile up.

    Args:
        max_unfinished: The most rows that are being worked; a call may go beyond it by its own size.
        max_held: While more bytes than this are finished, and either not taken or behind a call that is not, only the
            rows of the first call are asked for.
    """

    def __init__(self, max_unfinished: int, max_held: int) -> None:
        self._max_unfinished = max_unfinished
        self._max_held = max_held
        self._calls: deque[Sequence[Place]] = deque()
        self._unfinished = 0
        self._held = 0
        self._door = asyncio.Lock()  # a lock is fair: who came first enters first
        self._fewer = asyncio.Event()
        self._lighter = asyncio.Event()

    async def enter(self, call: Sequence[Place]) -> None:
        """Take places, one a row; waits until there is room for the first of them."""
        async with self._door:
            while self._unfinished >= self._max_unfinished:
                self._fewer.clear()
                await self._fewer.wait()
            self._calls.append(call)
            self._unfinished += len(call)

    def may_go_on(self, call: Sequence[Place]) -> bool:
        """Whether a row of a call that has entered may be asked for now."""
        return self._held <= self._max_held or call is self._calls[0]

    async def go_on(self, call: Sequence[Place]) -> None:
        """Wait until a row of a call that has entered may be asked for."""
        while not self.may_go_on(call):
            self._lighter.clear()
            await self._lighter.wait()

    def finish(self, place: Place, size: int = 0) -> None:
        """A row is finished; to say so again does nothing.

        Args:
            place: Its place, which has entered.
            size: The bytes of its picture.
        """
        if place.size is None:
            place.size = size
            self._unfinished -= 1
            self._held += size
            self._fewer.set()
            self._advance()

    def leave(self, call: Sequence[Place]) -> None:
        """What these rows have, or would have had, is out of our hands."""
        for place in call:
            place.taken = True
        self._advance()

    def _advance(self) -> None:
        while self._calls and all(place.taken and place.size is not None for place in self._calls[0]):
            self._held -= sum(place.size or 0 for place in self._calls.popleft())
            self._lighter.set()


class TooBusyError(Exception):
    """A host asks for more patience than there is.

    Args:
        seconds: How long it is still not to be asked.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Patience:
    """What one row may spend on waiting for hosts that are asked too often.

    What its own requests cause adds up. Of the rests that it stands through, other rows' or its own, those before the
    host last answered anybody are forgiven: a host that answers some, rests, and answers again gets through all its
    rows, and one that answers nobody is not waited for again and again.

    Args:
        seconds: All of it, for either.
    """

    def __init__(self, seconds: float) -> None:
        self._most = seconds
        self._own = seconds
        self._answered = 0
        self.seconds = seconds

    def charge(self, seconds: float) -> bool:
        """Whether there is patience for this too, which the row has caused itself; it is taken off."""
        self._own -= seconds
        return self._own >= 0

    def renew(self, answered: int) -> None:
        """Forgive what was spent if the host has answered more often than when this was last asked."""
        if answered != self._answered:
            self.seconds = self._most
        self._answered = answered


class Rests:
    """Until when hosts are left alone. It outlives a `Pace`, for the next one to know."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._clear_at = 1024

    def add(self, host: str, seconds: float) -> None:
        """Leave a host alone for so long from now, or longer if that was said before."""
        now = time.monotonic()
        self._until[host] = max(self._until.get(host, 0.0), now + seconds)
        if len(self._until) >= self._clear_at:  # a long job meets millions of hosts
            for name, until in list(self._until.items()):
                if until <= now:
                    self._until.pop(name, None)
            self._clear_at = 2 * len(self._until) + 1024

    def left(self, host: str) -> float:
        """The seconds that a host still rests; 0 or less if it does not."""
        return self._until.get(host, 0.0) - time.monotonic()


class _Host:
    def __init__(self, slots: int) -> None:
        self.slots = asyncio.Semaphore(slots)
        self.users = 0
        self.answered = 0


class Pace:
    """Turns for requests: so many at a time in all, so many to one host, none to a host that asked for a rest.

    A row that waits for a host holds no place of the others'.

    Args:
        concurrency: Requests at a time.
        per_host: Requests at a time to one host.
        rests: Who is left alone, and until when.
    """

    def __init__(self, concurrency: int, per_host: int, rests: Rests) -> None:
        self._all = asyncio.Semaphore(concurrency)
        self._per_host = per_host
        self._rests = rests
        self._hosts: dict[str, _Host] = {}

    @contextlib.asynccontextmanager
    async def turn(self, name: str, patience: Patience) -> AsyncIterator[None]:
        """Wait for a turn, and hold it.

        Args:
            name: The host.
            patience: What the row may spend on the host's rests; what it spends is taken off.

        Raises:
            TooBusyError: The host rests for longer than that. All patience has been spent by then: rows that fail at
                once would come to their end in no time, as many as there are.
        """
        host = self._hosts.setdefault(name, _Host(self._per_host))
        host.users += 1
        try:
            while True:
                await self._rested(name, host, patience)
                async with host.slots:
                    if self._rests.left(name) > 0:
                        continue  # another row was told to wait while this one stood in line
                    async with self._all:
                        yield
                    return
        finally:
            host.users -= 1
            if not host.users:  # a long job meets millions of hosts
                self._hosts.pop(name, None)

    def answered(self, name: str) -> None:
        """A host has answered with something else than that it is asked too often."""
        if name in self._hosts:
            self._hosts[name].answered += 1

    def rest(self, name: str, seconds: float) -> None:
        """Leave a host alone for so many seconds from now."""
        self._rests.add(name, seconds)

    async def _rested(self, name: str, host: _Host, patience: Patience) -> None:
        while (wait := self._rests.left(name)) > 0:
            patience.renew(host.answered)
            spent = min(wait, patience.seconds)
            patience.seconds -= spent
            await asyncio.sleep(spent)
            if spent < wait:
                raise TooBusyError(wait - spent)

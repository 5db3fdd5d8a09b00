"""An event loop on a thread of its own, which requests go through for as long as there are any.

`datasets` runs its event loop only while it waits for a row. Between two rows of a stream, while a captioner works on
a batch, that loop stands still: requests in it would run into their time limits, and those of a stream that is left
early would keep their connections open for good. So the loops of `datasets` hold no more than a promise, and what a
promise stands for is cancelled when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from hf_mllm_aug.loaders.fetching.pace import Line, Place, Rests

if TYPE_CHECKING:
    from hf_mllm_aug.loaders.fetching.client import Client
    from hf_mllm_aug.loaders.fetching.policy import Policy

T = TypeVar("T")
Work = Callable[["Client", Line, list[Place]], Coroutine[Any, Any, T]]

_LINGER = 1.0  # seconds without work after which the thread ends, and its connections with it
_STOP_WITHIN = 3.0


class Desk:
    """Where calls are handed in: finds or starts a worker, and remembers which hosts rest."""

    def __init__(self) -> None:
        self._rests = Rests()
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    async def run(self, policy: Policy, rows: int, work: Work[T]) -> T:
        """Have something done by the worker.

        Args:
            policy: The settings, the same for all calls.
            rows: How many places in the line the work takes.
            work: Called with a client, the line, and the places; its coroutine runs on the worker's thread.
        """
        places = [Place() for _ in range(rows)]
        with self._lock:
            worker = self._worker
            call = worker.submit(places, work) if worker is not None else None
            if worker is None or call is None:
                worker = self._worker = Worker(policy, self._rests)
                call = worker.submit(places, work)
        if call is None:
            raise RuntimeError("the thread of FetchImages has ended before its work")
        promise, line = call
        try:
            return await _kept(promise)
        finally:  # also when this coroutine is thrown away unfinished, and must not wait for anything
            promise.cancel()
            worker.call_soon(line.leave, places)


async def _kept(promise: Future[T]) -> T:
    """Wait for a promise that another thread keeps.

    The promise knows the waiting event loop weakly, unlike that of `asyncio.wrap_future`, so that a loop which stands
    still for good can be collected with all that waits in it.
    """
    waiter = asyncio.get_running_loop().create_future()
    known = weakref.ref(waiter)

    def wake(_: object) -> None:
        waiter = known()
        if waiter is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                waiter.get_loop().call_soon_threadsafe(_set, waiter)

    promise.add_done_callback(wake)
    task = asyncio.current_task()
    _complain(task, False)
    await waiter
    _complain(task, True)
    return promise.result()


def _complain(task: asyncio.Task[Any] | None, yes: bool) -> None:
    """Whether a task that is thrown away unfinished says so: a line for each of the thousand that `map` starts, where
    somebody wants only the first rows of a stream. `asyncio.gather` sets the same.
    """
    if task is not None:
        task._log_destroy_pending = yes  # type: ignore[attr-defined]


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Worker:
    """A thread with a client; it ends by itself.

    Args:
        policy: The client's settings.
        rests: The hosts that rest.
    """

    def __init__(self, policy: Policy, rests: Rests) -> None:
        from hf_mllm_aug.loaders.fetching.client import Client  # aiohttp: not needed to make settings

        self._make_client = functools.partial(Client, policy, rests)
        self._process = os.getpid()
        # One for each event loop that asks: who does not take what is finished holds up nobody else.
        self._lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Line] = weakref.WeakKeyDictionary()
        # Reentrant: a collection of garbage may come at any time, and end calls of this very thread.
        self._lock = threading.RLock()
        self._calls = 0
        self._ended = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fetch-images", daemon=True)
        self._thread.start()
        self._ready.wait()
        atexit.register(self.stop)  # a thread that is cut off within its work leaves warnings behind

    def submit(self, places: list[Place], work: Work[T]) -> tuple[Future[T], Line] | None:
        """Have something done for the event loop that is running here.

        Returns:
            The promise, whose cancellation cancels the work, and the line of this event loop; None if the worker has
            ended.
        """
        with self._lock:
            if self._ended or self._process != os.getpid():  # threads do not follow into a forked process
                return None
            line = self._lines.setdefault(asyncio.get_running_loop(), self._client.new_line())
            self._calls += 1
            promise: Future[T] = Future()
            self._loop.call_soon_threadsafe(self._begin, functools.partial(work, self._client, line, places), promise)
        return promise, line

    def call_soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the worker's thread, if it still runs."""
        with self._lock:
            if not self._ended and self._process == os.getpid():
                self._loop.call_soon_threadsafe(function, *arguments)

    def stop(self) -> None:
        """End the thread at once, and what it does."""
        self.call_soon(self._cancel_all)
        self._thread.join(_STOP_WITHIN)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, T]], promise: Future[T]) -> None:
        task = self._loop.create_task(work())
        task.add_done_callback(lambda done: self._finish(done, promise))
        promise.add_done_callback(lambda done: self.call_soon(task.cancel) if done.cancelled() else None)

    def _finish(self, task: asyncio.Task[T], promise: Future[T]) -> None:
        with self._lock:
            self._calls -= 1
        self._changed.set()
        if task.cancelled():
            promise.cancel()
        elif promise.set_running_or_notify_cancel():
            error = task.exception()
            if error is None:
                promise.set_result(task.result())
            else:
                promise.set_exception(error)

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):  # stopped
                asyncio.run(self._serve())
        finally:
            self._ended = True
            self._ready.set()
            atexit.unregister(self.stop)

    async def _serve(self) -> None:
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self._client = self._make_client()
        self._ready.set()
        try:
            while not self._ended:
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), _LINGER)
                except TimeoutError:
                    with self._lock:
                        self._ended = not self._calls
        finally:
            with self._lock:
                self._ended = True
            await self._client.close()

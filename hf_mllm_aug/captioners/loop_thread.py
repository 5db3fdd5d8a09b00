"""An event loop on a thread of its own, for code that is called from anywhere and talks to a server."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_STOP_WITHIN = 3.0  # seconds


class LoopThread:
    """Runs coroutines for callers that have no event loop, or have one that must not be entered again.

    The thread ends with this object, and with the process.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        thread = threading.Thread(target=_serve, args=(self._loop,), name=name, daemon=True)
        thread.start()
        self.close = weakref.finalize(self, _stop, self._loop, thread, self._process)
        """Ends the thread, and what runs on it; called when this object is let go of, if not before."""

    @property
    def lost(self) -> bool:
        """Whether this process was forked from the one that has the thread."""
        return self._process != os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for it; an interruption here cancels it there."""
        promise = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return promise.result()
        finally:
            promise.cancel()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    if process != os.getpid() or loop.is_closed():  # the thread is another process's
        return
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():  # a collection of garbage may come on any thread
        thread.join(_STOP_WITHIN)

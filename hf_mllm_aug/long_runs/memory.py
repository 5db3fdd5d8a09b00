"""Memory that a run has no more use for goes back to the system while it works, so that a long one takes no more of it.

Nothing of that is a leak: what a process frees, glibc keeps for itself, in pieces between what is in use, a heap for
each thread; and the pages of a data set's files, which `datasets` maps into memory, count as the process's own from the
first time that they are read. Both grow with the rows and end with the process. On other systems than Linux, and with
another C library, nothing is given back, and nothing else changes.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import functools
import mmap
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_EVERY = 0.1  # seconds
_SHARE = 0.05  # of a thread's time, at most: it takes the longer the more there is in memory


class GivingBack:
    """Gives memory back when it is called, unless it has just done so.

    Args:
        table: Rows that may lie in mapped files. They are read from there again where they are needed again.
        every: Seconds from one time to the next, at least.

    >>> give_back = GivingBack()
    >>> give_back(now=True)
    """

    def __init__(self, table: pa.Table | None = None, *, every: float = _EVERY) -> None:
        self._mapped = [] if table is None else _mapped(table)
        self._every, self._next = every, time.monotonic() + every

    def __call__(self, *, now: bool = False) -> None:
        """Give back what is free.

        Args:
            now: Whether to, even if the last time was a moment ago.
        """
        if not now and time.monotonic() < self._next:
            return
        began = time.thread_time()
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
        library = _library()
        if library is not None:
            library.malloc_trim(0)
            for start, end in self._mapped:
                library.madvise(start, end - start, mmap.MADV_DONTNEED)
        self._next = time.monotonic() + max(self._every, (time.thread_time() - began) / _SHARE)


@functools.cache
def _library() -> Any:
    """The C library, if it is glibc on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return None
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def _mapped(table: pa.Table) -> list[tuple[int, int]]:
    """Where in memory a table's files lie, from the first byte to the one behind the last.

    Those alone that hold a buffer of the table: they stay where they are while it is there. To let go of the pages of
    any other place could destroy what others have put there in the meantime.
    """
    files = _files()
    starts = [start for start, _ in files]
    found = set()
    for column in table.columns if files else ():
        for chunk in column.chunks:
            buffer = next((buffer for buffer in chunk.buffers() if buffer is not None and buffer.size), None)
            if buffer is None:
                continue
            place = bisect.bisect(starts, buffer.address) - 1
            if place >= 0 and buffer.address + buffer.size <= files[place][1]:
                found.add(files[place])
    return sorted(found)


def _files() -> list[tuple[int, int]]:
    """The places of files that are mapped to be read and not written."""
    found = []
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as lines:
        for line in lines:
            place, rights, _, _, node, *_ = line.split()
            if rights.startswith(b"r--") and node != b"0":
                start, _, end = place.partition(b"-")
                found.append((int(start, 16), int(end, 16)))
    return found

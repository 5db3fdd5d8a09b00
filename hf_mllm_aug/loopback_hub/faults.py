"""Faults that the loopback Hub commits on request, so that recovery can be tested against a real server."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Any

KINDS = ("cut", "cut-after", "cut-half", "slow")


@dataclass
class Fault:
    """Something to go wrong with the next requests that match.

    Args:
        path: A regular expression, searched in the request's path.
        kind: An HTTP status to answer with, or ``"cut"`` (the connection closes, nothing is done), ``"cut-after"`` (the
            work is done and its answer lost), ``"cut-half"`` (half of the body is sent) or ``"slow"``.
        method: The HTTP method to match; any if None.
        times: How many requests it hits.
        skip: How many matching requests it lets pass first.
        retry_after: The ``Retry-After`` header of an error status, in seconds.
        seconds: How long ``"slow"`` waits before the work is done.
    """

    path: str
    kind: int | str
    method: str | None = None
    times: int = 1
    skip: int = 0
    retry_after: int | None = None
    seconds: float = 1.0
    hits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not (self.kind in KINDS or (isinstance(self.kind, int) and 400 <= self.kind <= 599)):
            raise ValueError(f"a fault is an HTTP error status or one of {', '.join(KINDS)}, not {self.kind!r}")
        re.compile(self.path)


class Faults:
    """The faults in waiting; each request takes the first that matches."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Put a fault in waiting."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def add_json(self, data: dict[str, Any]) -> Fault:
        """Put a fault in waiting that another process describes, by the names of `Fault`."""
        allowed = {name: data[name] for name in Fault.__dataclass_fields__ if name in data and name != "hits"}
        return self.add(Fault(**allowed))

    def waiting(self) -> list[Fault]:
        """All faults that were put in waiting, spent ones too."""
        with self._lock:
            return list(self._faults)

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that hits this request, if any."""
        with self._lock:
            for fault in self._faults:
                if fault.method not in (None, method) or not re.search(fault.path, path):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                elif fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None

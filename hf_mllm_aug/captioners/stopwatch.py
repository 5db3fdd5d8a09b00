"""Where time goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Seconds by phase.

    >>> watch = Stopwatch()
    >>> watch.add("model", 2.0)
    >>> with watch.phase("decoding"):
    ...     pass
    >>> list(watch.seconds)
    ['model', 'decoding']
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

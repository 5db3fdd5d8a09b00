"""Several micro-batches at a time on a CPU.

torch spreads every operation of a model over the cores. Those of a small model are too short for that: threads spend
their time waiting for each other, and prepared pictures wait for both. So a small model works on as many micro-batches
as there are threads, each on a thread of its own (`benchmarks/captioning.py` compares). All share one set of weights;
each has its own modules around them, for some models keep the pictures of a batch in their modules.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

MAX_LANES = 8
SMALL = 100_000_000
"""Parameters; a larger model has operations that are long enough for all threads, and caches that are not to be had
several times."""


@dataclass(frozen=True)
class Lane:
    """What one micro-batch is worked with, and no other at the same time.

    Args:
        model: Shares its weights with those of the other lanes.
        tokenizer: Decodes what it wrote; a tokenizer must not be used by two threads at once.
    """

    model: Any
    tokenizer: Any


@dataclass
class Lanes:
    """The lanes of a model.

    Args:
        first: The lane that is always there.
        count: How many there may be.
    """

    first: Lane
    count: int
    _free: queue.SimpleQueue[Lane | None] = field(default_factory=queue.SimpleQueue, init=False)

    def __post_init__(self) -> None:
        self._free.put(self.first)
        for _ in range(self.count - 1):
            self._free.put(None)  # made when it is first needed

    @contextlib.contextmanager
    def one(self) -> Iterator[Lane]:
        """A lane for the caller alone; it waits while all are taken."""
        lane = self._free.get()
        try:
            if lane is None:
                lane = Lane(sharing_weights(self.first.model), copy.deepcopy(self.first.tokenizer))
            yield lane
        finally:
            self._free.put(lane)


def how_many(model: Any) -> int:
    """How many lanes suit a model: one, but for a small one on a CPU."""
    if model.device.type != "cpu" or sum(weights.numel() for weights in model.parameters()) > SMALL:
        return 1
    return min(torch.get_num_threads(), MAX_LANES)


def sharing_weights(model: Any) -> Any:
    """A copy of a model's modules around the same weights.

    >>> layer = torch.nn.Linear(2, 2)
    >>> other = sharing_weights(layer)
    >>> other is layer, other.weight is layer.weight
    (False, True)
    """
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


_lock = threading.Lock()
_calls = 0
_threads = 1


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """While the block runs, threads that call `enter` compute on themselves alone.

    The setting is torch's for the whole process: calls that overlap share it, and the last one to end puts it back.
    """
    global _calls, _threads
    with _lock:
        if _calls == 0:
            _threads = torch.get_num_threads()
        _calls += 1
    try:
        yield
    finally:
        with _lock:
            _calls -= 1
            if _calls == 0:
                torch.set_num_threads(_threads)


def enter() -> None:
    """Have torch use one thread for what the calling thread computes."""
    torch.set_num_threads(1)

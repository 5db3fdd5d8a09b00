"""Micro-batches, worked one after the other or side by side, with the inputs of those to come prepared meanwhile.

A step is one micro-batch for one captioner. Between steps stand marks, which come out where they stood, once the steps
before them are done; so that work goes on across calls and blocks of rows without a gap.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from hf_mllm_aug.captioners import engine
from hf_mllm_aug.errors import CaptionError, ImageError

if TYPE_CHECKING:
    from PIL import Image as PilImage

    from hf_mllm_aug.captioners.stopwatch import Stopwatch

Results: TypeAlias = "Sequence[engine.Generated | ImageError]"


@dataclass(frozen=True)
class Step:
    """A micro-batch.

    Args:
        model: The engine.
        engine_name: What messages call it.
        images: (n,) pictures.
        keys: (n,) of their rows.
        request: How they are captioned.
        watch: Gets the seconds of ``"preparing"`` (waiting for inputs) and ``"model"``.
        target: Whatever the caller wants to know with the results.
    """

    model: engine.Engine
    engine_name: str
    images: list[PilImage.Image]
    keys: list[str]
    request: engine.Request
    watch: Stopwatch
    target: Any

    @property
    def lanes(self) -> int:
        """How many steps the engine can work on at a time."""
        return self.model.lanes if isinstance(self.model, engine.PreparingEngine) else 1

    def prepare(self) -> Any:
        """The inputs, where the engine makes them apart from generating; None where it does not."""
        if not isinstance(self.model, engine.PreparingEngine):
            return None
        return self.model.prepare(self.images, self.request)

    def generate(self, prepared: Any) -> Results:
        """What the engine wrote about the pictures.

        Raises:
            CaptionError: It gave another number of captions than it got pictures.
        """
        if isinstance(self.model, engine.PreparingEngine):
            texts = self.model.generate(self.images, self.keys, self.request, prepared)
        else:
            texts = self.model.generate(self.images, self.keys, self.request)
        if len(texts) != len(self.images):
            raise CaptionError(
                f"the engine {self.engine_name!r} gave {len(texts)} captions for {len(self.images)} pictures"
            )
        return texts


@dataclass(frozen=True)
class Mark:
    """A place between steps.

    Args:
        value: Whatever the caller wants to know there.
        wait: Whether all steps before it are to be done before anything behind it is asked for.
    """

    value: Any = None
    wait: bool = False


def work(items: Iterator[Step | Mark]) -> Iterator[tuple[Step, Results] | Mark]:
    """The steps with what was generated, and the marks, in their order."""
    while head := _head(items):
        steps = [item for item in head if isinstance(item, Step)]
        if len(steps) < _HEAD:
            yield from _alone(head)
        else:
            flow = _side_by_side if steps[0].lanes > 1 else _one_by_one
            yield from flow(itertools.chain(head, items), steps[0].lanes)


_HEAD = 2  # steps from which on threads are worth their start


def _head(items: Iterator[Step | Mark]) -> list[Step | Mark]:
    """The first items: as many as have two steps, or all up to a mark that waits."""
    head: list[Step | Mark] = []
    for item in items:
        head.append(item)
        if _waits(item) or sum(isinstance(each, Step) for each in head) == _HEAD:
            break
    return head


def _waits(item: Step | Mark) -> bool:
    return isinstance(item, Mark) and item.wait


def _alone(items: list[Step | Mark]) -> Iterator[tuple[Step, Results] | Mark]:
    for item in items:
        if isinstance(item, Mark):
            yield item
        else:
            with item.watch.phase("model"):
                results = item.generate(None)
            yield item, results


def _one_by_one(items: Iterator[Step | Mark], _: int) -> Iterator[tuple[Step, Results] | Mark]:
    """Work in this thread, while another prepares the inputs of the step to come."""

    def finish(step: Step, inputs: Future[Any]) -> Results:
        with step.watch.phase("preparing"):
            prepared = inputs.result()
        with step.watch.phase("model"):
            return step.generate(prepared)

    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as pool:
        yield from _in_order(items, 2, lambda step: pool.submit(step.prepare), finish)


def _side_by_side(items: Iterator[Step | Mark], n_lanes: int) -> Iterator[tuple[Step, Results] | Mark]:
    """Work on several steps at a time, each on a thread of its own."""
    from hf_mllm_aug.captioners import lanes

    # Captioners take turns, and another one's engine may want to be called by one thread at a time.
    alone: collections.defaultdict[int, threading.Lock] = collections.defaultdict(threading.Lock)

    def begin(step: Step) -> Future[tuple[Results, float, float]]:
        turn = contextlib.nullcontext() if step.lanes > 1 else alone[id(step.model)]
        return working.submit(generate, step, preparing.submit(step.prepare), turn)

    def generate(
        step: Step, inputs: Future[Any], turn: contextlib.AbstractContextManager[Any]
    ) -> tuple[Results, float, float]:
        with turn:
            start = time.perf_counter()
            prepared = inputs.result()
            ready = time.perf_counter()
            return step.generate(prepared), ready - start, time.perf_counter() - ready

    def finish(step: Step, future: Future[tuple[Results, float, float]]) -> Results:
        # What this thread waits is shared out as the lane spent its time.
        start = time.perf_counter()
        results, preparing, model = future.result()
        waited = time.perf_counter() - start
        share = preparing / (preparing + model)
        step.watch.add("preparing", waited * share)
        step.watch.add("model", waited * (1 - share))
        return results

    with (
        lanes.one_thread_each(),
        ThreadPoolExecutor(1, thread_name_prefix="prepare") as preparing,
        ThreadPoolExecutor(n_lanes, thread_name_prefix="lane", initializer=lanes.enter) as working,
    ):
        yield from _in_order(items, n_lanes + 2, begin, finish)


def _in_order(
    items: Iterator[Step | Mark],
    most: int,
    begin: Callable[[Step], Future[Any]],
    finish: Callable[[Step, Future[Any]], Results],
) -> Iterator[tuple[Step, Results] | Mark]:
    """Begin steps ahead, ``most`` of them at a time, and finish them in order."""
    begun: collections.deque[tuple[Step | Mark, Future[Any] | None]] = collections.deque()
    try:
        while True:
            while sum(future is not None for _, future in begun) < most and not (begun and _waits(begun[-1][0])):
                following = next(items, None)
                if following is None:
                    break
                begun.append((following, begin(following) if isinstance(following, Step) else None))
            if not begun:
                return
            item, future = begun.popleft()
            if isinstance(item, Step) and future is not None:
                yield item, finish(item, future)
            elif isinstance(item, Mark):
                yield item
    finally:
        for _, future in begun:
            if future is not None:
                future.cancel()

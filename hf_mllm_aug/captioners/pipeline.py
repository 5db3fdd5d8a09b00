"""The rows of one call, through decoding and one or several captioners.

Pictures are decoded once for all captioners, in a few threads, and the inputs of the next micro-batch are prepared in
another, while the models work on the pictures before them; only three windows of pictures are in memory at a time,
however many rows `map` passes.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.captioners import engine
from hf_mllm_aug.captioners.rows import Rows
from hf_mllm_aug.errors import CaptionError, ImageError, UsageError
from hf_mllm_aug.images import to_rgb

if TYPE_CHECKING:
    from PIL import Image as PilImage

    from hf_mllm_aug.captioners.captioner import Captioner

_MAX_THREADS = 4


@dataclass(frozen=True)
class Caption:
    """A caption, or why there is none: exactly one of both is None.

    Args:
        text: The caption.
        error: Why there is none.
        tokens: How many were generated for it, where the engine says.
        finish_reason: Why generation ended, see `engine.Generated`.
    """

    text: str | None
    error: str | None
    tokens: int | None = None
    finish_reason: engine.FinishReason | None = None


@dataclass
class Stopwatch:
    """Where the time of calls goes: seconds waited for decoded pictures, spent loading models, and in their engines."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class _Picture:
    index: int
    image: PilImage.Image
    key: str


def caption_rows(
    captioners: Sequence[Captioner], rows: Rows, rank: int | None = None, watch: Stopwatch | None = None
) -> list[list[Caption]]:
    """Caption rows with each of the captioners.

    Args:
        captioners: They read the same image column.
        rows: The rows.
        rank: The worker's number, which picks its GPU.
        watch: Gets the seconds of the phases ``"decoding"``, ``"preparing"``, ``"loading"`` and ``"model"``.

    Returns:
        (len(captioners), len(rows)) captions.

    Raises:
        CaptionError: A picture could not be captioned and the captioner's ``on_error`` is ``"raise"``; or an engine
            gave another number of captions than it got pictures.
        CheckpointError: A model cannot be loaded.
    """
    if rank is not None and not isinstance(rank, int):
        raise UsageError("a captioner takes no indices: drop with_indices=True; with_rank=True is enough")
    captions = [[Caption(None, "not captioned")] * len(rows) for _ in captioners]
    requests = [captioner.request for captioner in captioners]
    with_digest = any(request.decoding["do_sample"] for request in requests)
    window = max(captioner.micro_batch for captioner in captioners)
    watch = Stopwatch() if watch is None else watch

    def steps() -> Iterator[_Step]:
        for pictures, failures in _decoded(rows, window, with_digest, watch):
            for captioner, request, column in zip(captioners, requests, captions, strict=True):
                for index, error in failures:
                    column[index] = _failed(captioner, rows, index, error)
                if not pictures:
                    continue
                with watch.phase("loading"):
                    model = engine.loaded(_key(captioner, rows, rank))
                for part in _parts(pictures, captioner, model):
                    yield _Step(model, captioner, request, part, column)

    for step, prepared in _prepared(steps(), watch):
        with watch.phase("model"):
            results = step.generate(prepared)
        for picture, result in zip(step.part, results, strict=True):
            if isinstance(result, ImageError):
                step.column[picture.index] = _failed(step.captioner, rows, picture.index, result)
            elif not (text := _cut(result.text, step.request)):
                nothing = ImageError("the model wrote nothing")
                step.column[picture.index] = _failed(step.captioner, rows, picture.index, nothing)
            else:
                step.column[picture.index] = Caption(text, None, result.tokens, result.finish_reason)
    return captions


@dataclass(frozen=True)
class _Step:
    """One micro-batch for one captioner, and where its captions go."""

    model: engine.Engine
    captioner: Captioner
    request: engine.Request
    part: list[_Picture]
    column: list[Caption]

    def prepare(self) -> Any:
        """The inputs, where the engine makes them apart from generating; None where it does not."""
        if not isinstance(self.model, engine.PreparingEngine):
            return None
        return self.model.prepare([picture.image for picture in self.part], self.request)

    def generate(self, prepared: Any) -> Sequence[engine.Generated | ImageError]:
        images, keys = [picture.image for picture in self.part], [picture.key for picture in self.part]
        if isinstance(self.model, engine.PreparingEngine):
            texts = self.model.generate(images, keys, self.request, prepared)
        else:
            texts = self.model.generate(images, keys, self.request)
        if len(texts) != len(self.part):
            name = self.captioner.engine
            raise CaptionError(f"the engine {name!r} gave {len(texts)} captions for {len(self.part)} pictures")
        return texts


def _prepared(steps: Iterator[_Step], watch: Stopwatch) -> Iterator[tuple[_Step, Any]]:
    """The steps with their inputs, which a thread prepares one step ahead."""
    first, second = next(steps, None), next(steps, None)
    if first is None or second is None:  # no thread for a single step
        yield from ((step, None) for step in (first,) if step is not None)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as pool:
        waiting = collections.deque((step, pool.submit(step.prepare)) for step in (first, second))
        while waiting:
            step, inputs = waiting.popleft()
            with watch.phase("preparing"):
                prepared = inputs.result()
            yield step, prepared
            following = next(steps, None)
            if following is not None:
                waiting.append((following, pool.submit(following.prepare)))


def _parts(pictures: list[_Picture], captioner: Captioner, model: engine.Engine) -> Iterator[list[_Picture]]:
    """Micro-batches; their size is asked for anew each time, for memory may turn out short."""
    at = 0
    while at < len(pictures):
        size = min(captioner.micro_batch, model.max_batch or captioner.micro_batch)
        part = pictures[at : at + size]
        yield part
        at += len(part)


def _cut(text: str, request: engine.Request) -> str:
    """Clean the caption up, and end it with its first sentence, if decoding was to end there.

    A row may end a token before or after the sentence is proven over, so the text would else depend on how its words
    fall into tokens.
    """
    text = request.clean_up(text)
    if not request.sentence_stop:
        return text
    from hf_mllm_aug.shearing import first_sentence_end

    # A blank line ends a paragraph: what is here is all there is.
    return text[: first_sentence_end(f"{text}\n\n", request.language)].strip()


def _failed(captioner: Captioner, rows: Rows, index: int, error: ImageError) -> Caption:
    if captioner.on_error == "raise":
        key = rows.keys[index]
        where = f"row {key!r}" if key is not None else f"row {index} of the batch"
        raise CaptionError(f"{captioner.label}: {where}: {error}") from error
    return Caption(None, str(error))


def _key(captioner: Captioner, rows: Rows, rank: int | None) -> engine.ModelKey:
    """Which model is to caption the rows.

    For a single row ``map(with_indices=True)`` passes the row's index just as ``map(with_rank=True)`` passes the rank.
    So there a model that this process has loaded is kept, on whatever GPU: an index must not load one onto each.
    """
    key = captioner.model_key(_device(captioner, rank))
    if rank is None or not rows.single:
        return key
    return engine.resident(key) or key


def _device(captioner: Captioner, rank: int | None) -> str | None:
    """The device's name; with a rank, one GPU after the other."""
    if captioner.engine != "transformers" or rank is None or captioner.device not in (None, "cuda"):
        return captioner.device
    from hf_mllm_aug.captioners.transformers_engine import count_cuda_devices

    n_devices = count_cuda_devices()
    return f"cuda:{rank % n_devices}" if n_devices else captioner.device


def _decoded(
    rows: Rows, window: int, with_digest: bool, watch: Stopwatch
) -> Iterator[tuple[list[_Picture], list[tuple[int, ImageError]]]]:
    """Decode the rows' pictures, a window at a time, one window ahead."""

    def decode(index: int) -> _Picture | ImageError:
        try:
            image = to_rgb(rows.images[index]())
        except ImageError as error:
            return error
        key = rows.keys[index]
        return _Picture(index, image, key if key is not None else _pixel_key(image) if with_digest else "")

    def sort(
        results: Sequence[_Picture | ImageError], start: int
    ) -> tuple[list[_Picture], list[tuple[int, ImageError]]]:
        pictures = [result for result in results if isinstance(result, _Picture)]
        failures = [(start + i, result) for i, result in enumerate(results) if isinstance(result, ImageError)]
        return pictures, failures

    if len(rows) == 1:
        yield sort([decode(0)], 0)
        return
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="decode") as pool:

        def submit(start: int) -> list[Any]:
            return [pool.submit(decode, index) for index in range(start, min(start + window, len(rows)))]

        ahead = submit(0)
        for start in range(0, len(rows), window):
            current, ahead = ahead, submit(start + window)
            with watch.phase("decoding"):
                found = [future.result() for future in current]
            yield sort(found, start)


def _pixel_key(image: PilImage.Image) -> str:
    """A key for a row without one: the same whether the picture came as a file or decoded."""
    return hashlib.sha256(f"{image.width}x{image.height}".encode() + image.tobytes()).hexdigest()

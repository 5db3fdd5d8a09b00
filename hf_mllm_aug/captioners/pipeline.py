"""Rows, through decoding and one or several captioners.

Pictures are decoded once for all captioners, in a few threads, and the inputs of the next micro-batch are prepared in
another, while the models work on the pictures before them, a small one on a CPU on several micro-batches at a time
(`steps`, `lanes`). Only a few windows of pictures are in memory, however many rows `map` passes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.captioners import engine, steps
from hf_mllm_aug.captioners.rows import Rows
from hf_mllm_aug.captioners.stopwatch import Stopwatch
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


@dataclass(frozen=True)
class Work:
    """Rows to be captioned, and their captions.

    Args:
        captioners: They read the same image column; none where there is nothing to caption.
        rows: The rows.
        watch: Gets the seconds of the phases ``"decoding"``, ``"preparing"``, ``"loading"`` and ``"model"``.
        tag: Whatever the caller wants to know with the captions.
    """

    captioners: Sequence[Captioner]
    rows: Rows
    watch: Stopwatch = field(default_factory=Stopwatch)
    tag: Any = None
    captions: list[list[Caption]] = field(init=False)
    """(len(captioners), len(rows)), once the work is done."""

    def __post_init__(self) -> None:
        empty = Caption(None, "not captioned")
        object.__setattr__(self, "captions", [[empty] * len(self.rows) for _ in self.captioners])


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
    work = Work(captioners, rows, Stopwatch() if watch is None else watch)
    for _ in caption_works([work], rank):
        pass
    return work.captions


def caption_works(works: Iterable[Work | None], rank: int | None = None) -> Iterator[Work]:
    """Caption one work after the other, without a gap between them: the next is begun before the last is done.

    Args:
        works: The works; None where the next may take its time, so that all before it is to be done first.
        rank: The worker's number, which picks its GPU.

    Yields:
        Each work, in its turn, when its captions are there.

    Raises:
        CaptionError: As `caption_rows`.
        CheckpointError: As `caption_rows`.
    """
    if rank is not None and not isinstance(rank, int):
        raise UsageError("a captioner takes no indices: drop with_indices=True; with_rank=True is enough")
    for item in steps.work(_steps(works, rank)):
        if isinstance(item, steps.Mark):
            if item.value is not None:
                yield item.value
            continue
        step, results = item
        for place, result in zip(step.target.places, results, strict=True):
            step.target.keep(place, result)


@dataclass(frozen=True)
class _Target:
    """Where the captions of a step go.

    Args:
        captioner: Whose they are.
        request: How they were asked for.
        rows: Of the work.
        column: Of the work's captions.
        places: (n,) the rows of the step in them.
    """

    captioner: Captioner
    request: engine.Request
    rows: Rows
    column: list[Caption]
    places: list[int]

    def keep(self, place: int, result: engine.Generated | ImageError) -> None:
        if isinstance(result, ImageError):
            self.column[place] = _failed(self.captioner, self.rows, place, result)
        elif not (text := _cut(result.text, self.request)):
            nothing = ImageError("the model wrote nothing")
            self.column[place] = _failed(self.captioner, self.rows, place, nothing)
        else:
            self.column[place] = Caption(text, None, result.tokens, result.finish_reason)


def _steps(works: Iterable[Work | None], rank: int | None) -> Iterator[steps.Step | steps.Mark]:
    """The micro-batches of works, and behind those of a work a mark that bears it."""
    for work in works:
        if work is None:
            yield steps.Mark(wait=True)
            continue
        yield from _steps_of(work, rank)
        yield steps.Mark(work)


def _steps_of(work: Work, rank: int | None) -> Iterator[steps.Step]:
    if not work.captioners:
        return
    rows, watch = work.rows, work.watch
    requests = [captioner.request for captioner in work.captioners]
    with_digest = any(request.decoding["do_sample"] for request in requests)
    window = max(captioner.micro_batch for captioner in work.captioners)
    for pictures, failures in _decoded(rows, window, with_digest, watch):
        for captioner, request, column in zip(work.captioners, requests, work.captions, strict=True):
            for index, error in failures:
                column[index] = _failed(captioner, rows, index, error)
            if not pictures:
                continue
            with watch.phase("loading"):
                model = engine.loaded(_key(captioner, rows, rank))
            for part in _parts(pictures, captioner, model):
                target = _Target(captioner, request, rows, column, [picture.index for picture in part])
                images, keys = [picture.image for picture in part], [picture.key for picture in part]
                yield steps.Step(model, captioner.engine, images, keys, request, watch, target)


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

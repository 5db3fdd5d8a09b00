"""Decoding with a cache of fixed size, for steps that `torch.compile` compiles once.

A decoding step of a large model is some thousand small operations, and a GPU waits for the CPU to start each of them.
Compiled, they are few, and CUDA starts them as one graph. That needs shapes that do not change: transformers' static
cache has room for all positions from the start, and `generate` compiles the step by itself when it is given one.

What would be compiled anew is bounded, for batches and prompts come in many sizes:

- The cache of a shape (rows, positions) is kept and used again, so that CUDA's graphs, which know its address, hold.
- A smaller batch is filled up to the rows of a shape with copies of its last row. One of half the rows or fewer, and
  one whose inputs are not laid out row by row, is decoded with the dynamic cache: the prompt of a copy costs as much as
  that of a picture, and a prompt costs more than its caption.
- Positions are rounded up, and a longer prompt makes room for some that are longer still.
- There are never more than `MAX_SHAPES` compilations a model; what fits none of them is decoded with the dynamic cache.

Only steps are compiled, never prompts. A caption is the same as with the dynamic cache, up to the rounding of sums,
which differs between batch sizes and devices, too.

Source: transformers' `GenerationMixin._valid_auto_compile_criteria` and `StaticCache`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import CompileConfig, StaticCache

from hf_mllm_aug.captioners.engine import Request
from hf_mllm_aug.errors import AugError

logger = logging.getLogger(__name__)

MAX_SHAPES = 4
"""Compilations a model. torch itself gives up after eight of one function, and that one is common to all models."""

WARM_UP = 8
"""Micro-batches that are decoded before a GPU's steps are compiled unasked: compiling takes longer than a few."""

_BLOCK = 64  # positions

# Otter's pictures travel on the cache, where each step leaves a tensor for the next; CUDA's graphs reuse its memory.
_STATE_ON_CACHE = frozenset({"otter"})

_PATH = re.compile(r"(?<![\w/])/(?:[^\s/'\",:)]+/)+([^\s/'\",:)]*)")  # of a compiler and of what it was given

_Answer = TypeVar("_Answer")


class Shape(NamedTuple):
    """What a step is compiled for.

    Args:
        rows: Pictures.
        positions: Of prompt and caption together, in tokens.
    """

    rows: int
    positions: int


def choose(known: Collection[Shape], rows: int, positions: int, *, another: bool = True) -> Shape | None:
    """The shape that a micro-batch is decoded in.

    Args:
        known: Those that there are.
        rows: Of the micro-batch.
        positions: That it needs.
        another: Whether there may be another.

    Returns:
        One of the known, or a new one; None if the dynamic cache is better.

    >>> first = choose([], 48, 606)
    >>> first, choose([first], 40, 600), choose([first], 3, 600)
    (Shape(rows=48, positions=640), Shape(rows=48, positions=640), None)
    >>> choose([first], 48, 700), choose([first], 64, 606)
    (Shape(rows=48, positions=896), Shape(rows=64, positions=640))
    """
    roomy = [shape for shape in known if shape.rows >= rows]
    close = [shape for shape in roomy if rows > shape.rows // 2]
    if fitting := [shape for shape in close if shape.positions >= positions]:
        return min(fitting)
    if (roomy and not close) or not another:
        return None
    if close:
        rows, positions = min(close).rows, positions * 5 // 4
    return Shape(rows, -(-positions // _BLOCK) * _BLOCK)


class StaticDecoding:
    """A model's static caches, and whether they are used.

    One thread at a time may decode with them.

    Args:
        model: Of transformers, on its device.
        reason: Makes one line of an error, without paths.
    """

    def __init__(self, model: Any, reason: Callable[[Exception], str] = str) -> None:
        self._model, self._reason = model, reason
        self._caches: dict[Shape, Any] = {}
        self._compilations = 0  # of shapes whose cache had to go, too
        self._calls = 0
        self._able: bool | None = None  # None until somebody wants to know

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Those that there are caches for."""
        return tuple(self._caches)

    def decode(
        self,
        inputs: Mapping[str, Any],
        keys: Sequence[str],
        request: Request,
        generate: Callable[..., list[_Answer]],
    ) -> list[_Answer]:
        """Decode a micro-batch, with a static cache where that can be.

        Args:
            inputs: Of the model, on its device.
            keys: (n,) of the rows.
            request: How; ``request.compile`` says whether: None for on CUDA, after a while, and where it can be.
            generate: Called with inputs and keys; with a static cache also with ``past_key_values`` and
                ``compile_config``. It may be called a second time, when compiling has failed.

        Returns:
            (n,) what `generate` gave for the rows.
        """
        self._calls += 1
        shape = self._shape(inputs, len(keys), request)
        filled = None if shape is None else fill(inputs, len(keys), shape.rows)
        if shape is None or filled is None:
            return generate(inputs, keys)
        try:
            copies = [keys[-1]] * (shape.rows - len(keys))
            cache = self._cache(shape)
            found = generate(filled, [*keys, *copies], past_key_values=cache, compile_config=self._compile_config())
            return found[: len(keys)]
        except AugError:
            raise
        except Exception as error:
            short = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
            if short and len(keys) > 1:  # the caller tries with fewer rows, and then the memory is needed
                self._caches.clear()
                raise
            why = self._reason(error) or type(error).__name__
        self._caches.clear()
        found = generate(inputs, keys)
        # It works without, so compiling was the reason.
        self._able = False
        logger.warning("compiled decoding failed and is left; the captions are the same without it: %s", _said(why))
        return found

    def _shape(self, inputs: Mapping[str, Any], rows: int, request: Request) -> Shape | None:
        wanted = request.compile
        unasked = self._model.device.type == "cuda" and self._calls > WARM_UP
        prompt = inputs.get("input_ids")
        if wanted is False or (wanted is None and not unasked) or self._able is False:
            return None
        if request.decoding["num_beams"] > 1 or not isinstance(prompt, torch.Tensor):
            return None
        if self._able is None:
            why = why_not(self._model)
            self._able = why is None
            if why is not None:
                logger.log(logging.WARNING if wanted else logging.DEBUG, "decoding is not compiled: %s", why)
                return None
        another = self._compilations < MAX_SHAPES
        return choose(self._caches, rows, prompt.shape[1] + request.max_new_tokens, another=another)

    def _cache(self, shape: Shape) -> Any:
        """The empty cache of a shape. One with the same rows and fewer positions has had its day."""
        if shape not in self._caches:
            self._compilations += 1
            self._caches = {other: cache for other, cache in self._caches.items() if other.rows != shape.rows}
            kind: Any = StaticCache
            self._caches[shape] = kind(config=self._model.config, max_cache_len=shape.positions)
        cache = self._caches[shape]
        cache.reset()
        return cache

    def _compile_config(self) -> Any:
        on_cuda = self._model.device.type == "cuda"
        with_graphs = on_cuda and self._model.config.model_type not in _STATE_ON_CACHE
        # A sliding window counts its positions in Python, where every number would else be compiled for itself.
        sliding = any(layer.is_sliding for cache in self._caches.values() for layer in cache.layers)
        kind: Any = CompileConfig
        config = kind(mode="reduce-overhead" if with_graphs else "default", dynamic=None if sliding else False)
        config._compile_all_devices = True  # transformers would else leave a CPU uncompiled, without a word
        return config


def _said(why: str) -> str:
    """What an error says, without paths and torch's advice to its developers."""
    return _PATH.sub(r"\1", why).partition(" Set TORCHDYNAMO_VERBOSE")[0][:300]


def why_not(model: Any) -> str | None:
    """Why a model's steps cannot be compiled; None if they can.

    Args:
        model: Of transformers.
    """
    configs = [getattr(part, "config", None) for part in model.modules()]
    if any(getattr(config, "is_encoder_decoder", False) for config in configs):
        return "the model is an encoder-decoder"
    if not getattr(model, "_can_compile_fullgraph", False) or not model._supports_default_dynamic_cache():
        return f"transformers cannot compile a {type(model).__name__}"
    kind: Any = StaticCache
    try:
        cache = kind(config=model.config, max_cache_len=_BLOCK)
    except Exception as error:  # noqa: BLE001 (each kind of layer has its own)
        return f"there is no static cache for a {type(model).__name__} ({type(error).__name__})"
    return None if cache.is_compileable else f"the cache of a {type(model).__name__} has no fixed size"


def fill(inputs: Mapping[str, Any], rows: int, wanted: int) -> dict[str, Any] | None:
    """Inputs of more rows, copies of the last.

    Args:
        inputs: Of a model.
        rows: That they are of.
        wanted: That they are to be of.

    Returns:
        The inputs; None if one of them has no axis of rows.

    >>> fill({"input_ids": torch.tensor([[1, 2], [3, 4]])}, 2, 3)
    {'input_ids': tensor([[1, 2],
            [3, 4],
            [3, 4]])}
    >>> fill({"pixel_values": torch.zeros(8, 4)}, 2, 3) is None
    True
    """
    if rows == wanted:
        return dict(inputs)
    found = {}
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape[0] != rows:
            return None
        found[name] = torch.cat([value, value[-1:].expand(wanted - rows, *value.shape[1:])])
    return found

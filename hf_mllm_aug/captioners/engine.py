"""The engines, what each must do, and the models that are loaded.

An engine turns RGB pictures into texts. It is asked through `Engine.generate` with the pictures of one micro-batch
and a `Request`; it keeps no order, no rows and no columns, so that an engine on a server and one on this machine look
alike.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from hf_mllm_aug import checkpoints
from hf_mllm_aug.captioners.cleanup import CleanUp
from hf_mllm_aug.captioners.decoding import NEUTRAL
from hf_mllm_aug.errors import ImageError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from PIL import Image as PilImage


@dataclass(frozen=True)
class ModelKey:
    """What decides which model is loaded; captioners that differ in other settings share one.

    Args:
        engine: The engine's name.
        source: A Hub id, a folder, or the name that a server has for its model.
        revision: The Hub commit, branch or tag; None for the head.
        dtype: ``"auto"`` or the name of a torch type.
        device: ``"cpu"``, ``"cuda:0"``, ..., one name a device; None for the best that is there.
        prompt_style: As `captioners.prompters` has them; ``"auto"`` to go by what the checkpoint has.
        digest: Of the files of a folder of the caller's own, which may be written anew; None for other sources.
        preset: The preset by which the model is asked, which its architecture has to suit; None without one.
        base_url: Where the server is, for an engine that asks one.
        quantization: How weights are made smaller while they are loaded, see `quantization`; None for as they are.
    """

    engine: str
    source: str
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    prompt_style: str = "auto"
    digest: str | None = None
    preset: str | None = None
    base_url: str | None = None
    quantization: str | None = None

    @property
    def label(self) -> str:
        """The checkpoint's name for messages and cards: never a path, which says where somebody's files are."""
        return checkpoints.label(self.source)


@dataclass(frozen=True)
class Request:
    """How the pictures of a call are to be captioned.

    Args:
        prompt: The question, with ``<image>`` where the picture stands.
        decoding: Every decoding parameter, as `decoding.resolve` gives them.
        max_new_tokens: Tokens, not characters.
        seed: With a row's key it decides what is sampled for the row.
        sentence_stop: Whether a row's decoding may end once its first sentence is over.
        language: Of the captions, for `sentence_stop`.
        clean_up: What will be cut from the texts; an engine may end decoding at its stops.
        compile: Whether decoding steps are compiled, where the engine can; None for where it pays. It changes no text.
    """

    prompt: str
    decoding: Mapping[str, Any]
    max_new_tokens: int
    seed: int
    sentence_stop: bool
    language: str
    clean_up: CleanUp = field(default_factory=CleanUp)
    compile: bool | None = None


FinishReason = Literal["stop", "length", "sentence"]
Quantization = Literal["int8", "fp8"]


class Generated(NamedTuple):
    """What a model wrote about one picture.

    Args:
        text: Without special tokens, and not cleaned up.
        tokens: How many tokens were generated for it, an end token not counted; None where an engine does not say. A
            server counts as it likes, most of them the end token, too.
        finish_reason: ``"stop"``: the model ended it. ``"length"``: ``max_new_tokens`` did. ``"sentence"``: decoding
            was ended where clean-up or shearing would cut.
    """

    text: str
    tokens: int | None = None
    finish_reason: FinishReason | None = None


class Engine(Protocol):
    """A loaded model."""

    max_batch: int | None
    """The largest micro-batch that fits, once a larger one did not."""

    def generate(
        self, images: Sequence[PilImage.Image], keys: Sequence[str], request: Request
    ) -> Sequence[Generated | ImageError]:
        """Caption the pictures of a micro-batch.

        Args:
            images: (n,) pictures of mode RGB.
            keys: (n,) texts that tell rows apart, for sampling.
            request: How.

        Returns:
            (n,) what was generated; or the error of a picture that the model's processor refuses.
        """
        ...


@runtime_checkable
class PreparingEngine(Engine, Protocol):
    """An engine whose inputs are made by the CPU, which may do so while the model works on those before."""

    @property
    def lanes(self) -> int:
        """How many threads `generate` can usefully be called from at a time."""
        ...

    def prepare(self, images: Sequence[PilImage.Image], request: Request) -> Any:
        """Make the inputs of a micro-batch, in any thread.

        Args:
            images: (n,) pictures of mode RGB.
            request: As for `generate`.

        Returns:
            What `generate` takes as ``prepared``; None where the inputs cannot be made, which `generate` will find,
            too, and tell.
        """
        ...

    def generate(
        self,
        images: Sequence[PilImage.Image],
        keys: Sequence[str],
        request: Request,
        prepared: Any = None,
    ) -> Sequence[Generated | ImageError]:
        """As `Engine.generate`, with what `prepare` made of the same pictures and request."""
        ...


@dataclass(frozen=True)
class EngineKind:
    """What is known of an engine before it is imported.

    Args:
        module: Has a function ``load(key: ModelKey) -> Engine``; imported when first used.
        server: Whether the model is a server's, which alone knows its files, device and number type.
        device: Whether it can be told the device.
        batch_size: Pictures a call; None for the preset's number, which is one for `transformers`.
        lacks: Decoding parameters that it has not.
    """

    module: str
    server: bool = False
    device: bool = False
    batch_size: int | None = None
    lacks: tuple[str, ...] = ()


_UNSERVED = ("num_beams", "no_repeat_ngram_size", "typical_p")

ENGINES: Mapping[str, EngineKind] = types.MappingProxyType(
    {
        "transformers": EngineKind("hf_mllm_aug.captioners.transformers_engine", device=True),
        # Both put batches together themselves, as requests come: a call should only never leave them idle.
        "vllm": EngineKind("hf_mllm_aug.captioners.vllm_engine", batch_size=64, lacks=_UNSERVED),
        "openai": EngineKind("hf_mllm_aug.captioners.openai_engine", server=True, batch_size=16, lacks=_UNSERVED),
    }
)
"""By the name that `Captioner` takes."""

_LOADED: dict[ModelKey, Engine] = {}
_LOCK = threading.RLock()
_IMPORTED_IN = os.getpid()


def is_forked() -> bool:
    """Whether this process was forked from one that had imported the captioners."""
    return os.getpid() != _IMPORTED_IN


def check_engine(name: str) -> None:
    """Make sure that an engine is known.

    Raises:
        UnknownNameError: It is not.
    """
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)


def check_decoding(name: str, decoding: Mapping[str, Any]) -> None:
    """Make sure that an engine has all decoding parameters that are to change something.

    Args:
        name: The engine's.
        decoding: Every parameter.

    Raises:
        UsageError: It has not.

    >>> check_decoding("openai", {**NEUTRAL, "num_beams": 3})
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.UsageError: generation: the engine 'openai' has no num_beams; the engine 'transformers' has. ...
    """
    lacking = [parameter for parameter in ENGINES[name].lacks if decoding[parameter] != NEUTRAL[parameter]]
    if lacking:
        raise UsageError(
            f"generation: the engine {name!r} has no {', '.join(lacking)}; the engine 'transformers' has. To do "
            f"without: generation={{{lacking[0]!r}: None}}"
        )


def loaded(key: ModelKey) -> Engine:
    """The model, loaded on its first use in this process and kept until its folder's files change.

    Raises:
        CheckpointError: The checkpoint is not there, or does not fit.
    """
    _guard_forks()
    with _LOCK:
        if key not in _LOADED:
            for stale in [other for other in _LOADED if _is_stale(other, key)]:
                del _LOADED[stale]
            _LOADED[key] = importlib.import_module(ENGINES[key.engine].module).load(key)
        return _LOADED[key]


def _is_stale(other: ModelKey, key: ModelKey) -> bool:
    """Whether a model was loaded from a folder as it was before its files changed."""
    return other.digest != key.digest and replace(other, digest=key.digest, preset=key.preset) == key


def resident(key: ModelKey) -> ModelKey | None:
    """The key of a loaded model that differs in its device at most; None if there is none."""
    with _LOCK:
        return next((other for other in _LOADED if replace(other, device=key.device) == key), None)


def unload() -> None:
    """Let go of all models of this process, and their memory."""
    with _LOCK:
        _LOADED.clear()


@functools.cache
def _guard_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    global _LOCK
    # A thread that held the lock when the process forked does not exist in the child; what it held stays held.
    _LOCK = threading.RLock()
    # Models on a CPU are shared with the parent, those on a GPU are out of a forked child's reach.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        _LOADED.clear()

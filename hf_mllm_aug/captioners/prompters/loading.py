"""Tokenizers and processors of a checkpoint, without torchvision.

Image processors are transformers' PIL ones. Processors whose video part would need torchvision are put together
without that part: a captioner is shown pictures.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from hf_mllm_aug.errors import CheckpointError

if TYPE_CHECKING:
    from hf_mllm_aug.captioners.engine import ModelKey

# SmolVLM's processor asks for num2words, to number the frames of a video; with pictures it does what Idefics3's does.
_STAND_INS = {"smolvlm": "Idefics3Processor"}

_PARTS = ("image_processor", "tokenizer")

_ProcessorMixin: Any = ProcessorMixin  # transformers' own types are incomplete


def load_tokenizer(key: ModelKey) -> Any:
    """Load the tokenizer of a checkpoint."""
    auto: Any = AutoTokenizer
    return auto.from_pretrained(key.source, revision=key.revision, trust_remote_code=False)


def load_image_processor(key: ModelKey) -> Any:
    """Load the image processor of a checkpoint, with the PIL back end.

    Raises:
        CheckpointError: It has no PIL back end.
    """
    auto: Any = AutoImageProcessor
    try:
        found = auto.from_pretrained(key.source, revision=key.revision, trust_remote_code=False, backend="pil")
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error).lower():
            raise
        raise _needs_torchvision(key) from error
    if getattr(found, "backend", "pil") != "pil":
        raise _needs_torchvision(key)
    return found


def load_processor(key: ModelKey, config: Any) -> Any:
    """Load the processor of a checkpoint, with its tokenizer and its image processor.

    Args:
        key: Which checkpoint.
        config: The model's.

    Raises:
        CheckpointError: It has none, or one that works with torchvision only.
    """
    auto: Any = AutoProcessor
    try:
        kind: Any = PROCESSOR_MAPPING.get(type(config), None)
        if kind is not None and any("video" in name for name in kind.get_attributes()):
            processor = _for_pictures(key, config, kind)
        else:
            processor = auto.from_pretrained(key.source, revision=key.revision, trust_remote_code=False)
    except ImportError as error:
        if "torchvision" not in str(error).lower():
            raise
        raise _needs_torchvision(key) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise CheckpointError(
            f"{key.label} has no processor that takes pictures and text together, so there is no telling how to ask it"
        )
    if getattr(processor.image_processor, "backend", "pil") != "pil":
        processor.image_processor = load_image_processor(key)
    return processor


def _for_pictures(key: ModelKey, config: Any, kind: Any) -> Any:
    """Put a processor together from its image processor and tokenizer, and no other part.

    Always, not only where torchvision is missing: what a model is shown is then the same on every machine.
    """
    stand_in = _STAND_INS.get(config.model_type)
    base: Any = getattr(transformers, stand_in) if stand_in else kind
    names = base.get_attributes()
    others = dict.fromkeys(name for name in names if name not in _PARTS)

    class PartsOnly(_ProcessorMixin):  # type: ignore[misc]
        """Between the class and transformers' base, which takes no part that is None."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            super().__init__(**{name: value for name, value in given.items() if name not in others})
            for name in others:
                setattr(self, name, None)

    class ForPictures(base, PartsOnly):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **others, **kwargs)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in names if name in _PARTS]

    settings, _ = base.get_processor_dict(key.source, revision=key.revision)
    parts = {"image_processor": load_image_processor(key), "tokenizer": load_tokenizer(key)}
    known = _parameters(base) - {*_PARTS, *others}
    return ForPictures(**parts, **{name: value for name, value in settings.items() if name in known})


def _parameters(processor: Any) -> set[str]:
    return set(inspect.signature(processor.__init__).parameters)


def _needs_torchvision(key: ModelKey) -> CheckpointError:
    return CheckpointError(
        f"{key.label}: transformers prepares its pictures with torchvision only, which this library does without. "
        "To do: take another model, or serve this one and caption through its server"
    )

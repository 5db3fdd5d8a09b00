"""Prompts of this package's own models: their processors know how the original code put a prompt together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.captioners.presets import IMAGE_MARK
from hf_mllm_aug.captioners.prompters.forms import resolve
from hf_mllm_aug.captioners.prompters.pixels import scaling_of
from hf_mllm_aug.captioners.prompters.prompter import halves, pad_on_the_left

if TYPE_CHECKING:
    import torch
    from PIL import Image as PilImage

_OWN = "hf_mllm_aug.mllms"


def is_native(config: Any) -> bool:
    """Whether a configuration is of a model of `hf_mllm_aug.mllms`."""
    module = type(config).__module__
    return module == _OWN or module.startswith(f"{_OWN}.")


class NativePrompter:
    """A processor that takes the prompt as users write it, ``<image>`` included, and pads on the left itself.

    Args:
        processor: Called as ``processor(images=..., text=..., return_tensors="pt")``.
    """

    def __init__(self, processor: Any) -> None:
        self.tokenizer = processor.tokenizer
        pad_on_the_left(self.tokenizer)
        self._processor = processor
        self.scaling = scaling_of(processor.image_processor)

    def inputs(self, images: Sequence[PilImage.Image], prompt: str) -> dict[str, torch.Tensor]:
        """See `Prompter`. Without ``<image>`` in the prompt the picture comes first."""
        before, after = halves(resolve(prompt))
        text = f"{before}{IMAGE_MARK}{after}"
        return dict(self._processor(images=list(images), text=[text] * len(images), return_tensors="pt"))

"""Prompts of models that were never taught a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.captioners.prompters.forms import Form, resolve
from hf_mllm_aug.captioners.prompters.pixels import scaling_of
from hf_mllm_aug.captioners.prompters.prompter import halves, model_inputs, pad_on_the_left

if TYPE_CHECKING:
    import torch
    from PIL import Image as PilImage


class PlainPrompter:
    """One of `FORMS`.

    The picture's place is the architecture's own, so a mark in the prompt is taken out.

    Args:
        processor: Of transformers.
        form: How the architecture is asked.
        config: The model's.
    """

    def __init__(self, processor: Any, form: Form, config: Any) -> None:
        self.tokenizer = processor.tokenizer
        pad_on_the_left(self.tokenizer)
        for name, attribute in form.settings.items():
            if getattr(processor, name) is None:
                setattr(processor, name, getattr(config, attribute))
        self._processor = processor
        self.scaling = scaling_of(processor.image_processor)
        self._form = form
        self._config = config

    def inputs(self, images: Sequence[PilImage.Image], prompt: str) -> dict[str, torch.Tensor]:
        """See `Prompter`."""
        text = self.text(resolve(prompt, self._form))
        taken = {name: getattr(self._config, attribute) for name, attribute in self._form.from_config.items()}
        batch = self._processor(
            images=[[image] for image in images],
            text=[text] * len(images),
            return_tensors="pt",
            padding=True,
            **self._form.options,
            **taken,
        )
        return model_inputs(batch, self._config)

    def text(self, prompt: str) -> str:
        """What the processor is given."""
        plain = " ".join(half.strip() for half in halves(prompt) if half.strip())
        image = getattr(self._processor, "image_token", "")
        return self._form.text.format(prompt=plain, image=image, start=self.tokenizer.cls_token)

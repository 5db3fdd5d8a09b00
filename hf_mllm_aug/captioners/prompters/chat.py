"""Prompts of models that were taught a conversation: the checkpoint's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.captioners.prompters.forms import resolve
from hf_mllm_aug.captioners.prompters.pixels import scaling_of
from hf_mllm_aug.captioners.prompters.prompter import halves, model_inputs, pad_on_the_left
from hf_mllm_aug.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from PIL import Image as PilImage


class ChatPrompter:
    """The checkpoint's chat template.

    Args:
        processor: Of transformers, with a chat template, or whose tokenizer has one.
        config: The model's.
        name: What messages call the checkpoint.
    """

    def __init__(self, processor: Any, config: Any, name: str) -> None:
        self._name = name
        self.tokenizer = processor.tokenizer
        pad_on_the_left(self.tokenizer)
        self._processor = processor
        self.scaling = scaling_of(processor.image_processor)
        self._config = config

    def inputs(self, images: Sequence[PilImage.Image], prompt: str) -> dict[str, torch.Tensor]:
        """See `Prompter`."""
        text = self.text(resolve(prompt))
        # Templates that begin with the start token would get a second one from the tokenizer.
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        batch = self._processor(
            text=[text] * len(images),
            images=[[image] for image in images],
            return_tensors="pt",
            padding=True,
            add_special_tokens=special,
        )
        return model_inputs(batch, self._config)

    def text(self, prompt: str) -> str:
        """The conversation so far: the question, and the beginning of the answer."""
        before, after = halves(prompt)
        parts = [("text", before.strip()), ("image", ""), ("text", after.strip())]
        content = [
            {"type": kind} if kind == "image" else {"type": kind, "text": text}
            for kind, text in parts
            if kind == "image" or text
        ]
        conversation = [{"role": "user", "content": content}]
        template = getattr(self._processor, "chat_template", None) or self.tokenizer.chat_template
        text: str = self._processor.apply_chat_template(conversation, template, add_generation_prompt=True)
        mark = getattr(self._processor, "image_token", None)
        if mark and mark not in text:
            raise CheckpointError(f"the chat template of {self._name} leaves the picture out: it writes no {mark}")
        return text

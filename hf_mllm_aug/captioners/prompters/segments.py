"""LLaVA-1.5's prompt: two segments of text, each tokenised by itself, and the picture between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hf_mllm_aug.captioners.prompters.forms import resolve
from hf_mllm_aug.captioners.prompters.pixels import scaling_of
from hf_mllm_aug.captioners.prompters.prompter import halves
from hf_mllm_aug.mllms.processing import with_lost_space

if TYPE_CHECKING:
    from PIL import Image as PilImage

# Vision towers that put a class token before the patches.
_WITH_CLASS_TOKEN = frozenset({"clip_vision_model", "clip"})


class SegmentPrompter:
    """LLaVA-1.5's form, without a conversation.

    Args:
        image_processor: Of transformers, PIL back end, or its `LeanPixels`.
        tokenizer: Of transformers.
        config: The model's; says which token stands for the picture and how many it takes.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, config: Any) -> None:
        self.tokenizer = tokenizer
        self._image_processor = image_processor
        self.scaling = scaling_of(image_processor)
        self._image_token = config.image_token_id
        self._patch = config.vision_config.patch_size
        drops_first = config.vision_feature_select_strategy == "default"
        self._extra = int(config.vision_config.model_type in _WITH_CLASS_TOKEN) - int(drops_first)

    def inputs(self, images: Sequence[PilImage.Image], prompt: str) -> dict[str, torch.Tensor]:
        """See `Prompter`. All rows have the same ids, so there is no padding."""
        pixels = self._image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        height, width = pixels.shape[-2:]
        n_tokens = (height // self._patch) * (width // self._patch) + self._extra
        ids = torch.tensor([self.prompt_ids(resolve(prompt), n_tokens)]).repeat(len(images), 1)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    def prompt_ids(self, prompt: str, n_image_tokens: int) -> list[int]:
        """The prompt's ids, with ``n_image_tokens`` tokens for the picture."""
        before, after = halves(prompt)
        start = self.tokenizer.bos_token_id
        picture = [self._image_token] * n_image_tokens
        return [*([] if start is None else [start]), *self._segment(before), *picture, *self._segment(after)]

    def _segment(self, text: str) -> list[int]:
        """A segment's ids, as sentencepiece gives them to LLaVA: 29871, its lone space, before " in English:"."""
        return self._ids(with_lost_space(text, self.tokenizer, self._ids))

    def _ids(self, text: str) -> list[int]:
        """A text's ids, without the start and end tokens that the tokenizer may add."""
        tokenizer = self.tokenizer
        ids: list[int] = list(tokenizer(text)["input_ids"])
        ids = ids[1:] if ids[:1] == [tokenizer.bos_token_id] else ids
        return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids

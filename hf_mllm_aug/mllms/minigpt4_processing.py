"""Pictures and prompts -> what MiniGPT-4 takes.

The original code tokenises the text before and the text after the picture as two texts, puts the start token before the
first alone, and lays the picture's query embeddings between them. Here those are so many times a token of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import BatchFeature, BlipImageProcessorPil, ProcessorMixin

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.mllms.processing import IMAGE_MARK, flat, with_lost_space

if TYPE_CHECKING:
    from PIL import Image as PilImage

# Their types are too narrow to build upon.
_BlipImageProcessorPil: Any = BlipImageProcessorPil
_ProcessorMixin: Any = ProcessorMixin


class MiniGPT4ImageProcessor(_BlipImageProcessorPil):  # type: ignore[misc]
    """Pixels as MiniGPT-4's evaluation has them: squashed to a square (bicubic), normalised with CLIP's mean and
    deviation.

    >>> from PIL import Image
    >>> MiniGPT4ImageProcessor()(Image.new("RGB", (640, 480)), return_tensors="np")["pixel_values"].shape
    (1, 3, 224, 224)
    """

    size = {"height": 224, "width": 224}  # noqa: RUF012 - transformers' own form


class MiniGPT4Processor(_ProcessorMixin):  # type: ignore[misc]
    r"""Prepares MiniGPT-4's inputs.

    Args:
        image_processor: Pictures -> pixels.
        tokenizer: Of Llama's kind.
        num_query_tokens: How many tokens a picture takes; the model's ``num_query_tokens``.
        image_token_id: The token in their place; the model's ``image_token_id``.

    >>> from PIL import Image
    >>> from transformers import LlamaTokenizer
    >>> tokenizer = LlamaTokenizer(vocab={"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 3, "a": 4, "?": 5}, merges=[])
    >>> processor = MiniGPT4Processor(MiniGPT4ImageProcessor(), tokenizer, num_query_tokens=4)
    >>> processor(images=Image.new("RGB", (64, 48)), text="a <image>?")["input_ids"]
    [[1, 3, 4, 3, 0, 0, 0, 0, 3, 5]]
    """

    def __init__(
        self, image_processor: Any, tokenizer: Any, num_query_tokens: int = 32, image_token_id: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        self.num_query_tokens = num_query_tokens
        self.image_token_id = image_token_id

    def __call__(
        self,
        images: PilImage.Image | Sequence[PilImage.Image],
        text: str | Sequence[str],
        *,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Prepare one prompt a picture.

        Args:
            images: (n,) pictures, or one.
            text: (n,) prompts, or one; each with ``<image>`` once, where the picture stands.
            return_tensors: ``"pt"`` for tensors; lists without it.

        Returns:
            ``input_ids`` and ``attention_mask`` (n, length), padded on the left, and ``pixel_values``
            (n, 3, size, size).

        Raises:
            UsageError: There is not one picture for each prompt, or not one place for it in each, or a prompt has the
                picture's token in its text.
        """
        prompts = [text] if isinstance(text, str) else list(text)
        pictures = flat(images)
        if len(prompts) != len(pictures):
            raise UsageError(f"{len(pictures)} pictures for {len(prompts)} prompts: give one for each")
        known = {prompt: self._prompt_ids(prompt) for prompt in dict.fromkeys(prompts)}
        rows = [known[prompt] for prompt in prompts]
        longest = max(map(len, rows), default=0)
        pad = self._padding()
        data = {
            "input_ids": [[pad] * (longest - len(row)) + row for row in rows],
            "attention_mask": [[0] * (longest - len(row)) + [1] * len(row) for row in rows],
            "pixel_values": self.image_processor(images=pictures)["pixel_values"],
        }
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` gives."""
        return ["input_ids", "attention_mask", "pixel_values"]

    def _prompt_ids(self, prompt: str) -> list[int]:
        before, *after = prompt.split(IMAGE_MARK)
        if len(after) != 1:
            raise UsageError(
                f"the prompt {prompt!r} has {IMAGE_MARK} {len(after)} times; it needs it once, where the picture stands"
            )
        texts = [self._text_ids(before), self._text_ids(after[0])]
        if any(self.image_token_id in ids for ids in texts):
            raise UsageError(
                f"the prompt {prompt!r} has the token {self.image_token_id} in its text, which stands for the picture"
            )
        start = self.tokenizer.bos_token_id
        picture = [self.image_token_id] * self.num_query_tokens
        return [*([] if start is None else [start]), *texts[0], *picture, *texts[1]]

    def _text_ids(self, text: str) -> list[int]:
        """A text's ids, without special tokens, as sentencepiece gives them."""
        return self._ids(with_lost_space(text, self.tokenizer, self._ids))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _padding(self) -> int:
        """Any token but the picture's: nobody looks at padding, but its slots are counted."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, self.tokenizer.bos_token_id)
        return next(
            (token for token in known if token is not None and token != self.image_token_id),
            int(self.image_token_id == 0),
        )

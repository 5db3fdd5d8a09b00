"""Pictures and prompts -> what Qwen-VL takes.

Source: the code released with Qwen/Qwen-VL: the picture is squashed to a square and normalised with CLIP's numbers; its
positions stand between ``<img>`` and ``</img>``, and nothing stands before the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils.hub import cached_file

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.mllms.processing import IMAGE_MARK, flat, whereabouts
from hf_mllm_aug.mllms.qwen_vl_config import QwenVLConfig
from hf_mllm_aug.mllms.qwen_vl_tokenizer import IMAGE_END, IMAGE_PAD, IMAGE_START

if TYPE_CHECKING:
    from PIL import Image as PilImage

# transformers' own types are incomplete.
_ProcessorMixin: Any = ProcessorMixin


class QwenVLImageProcessor(PilBackend):
    """Squash a picture to a square (bicubic), scale it to 0..1, normalise it with CLIP's mean and deviation.

    >>> from PIL import Image
    >>> processor = QwenVLImageProcessor(size={"height": 28, "width": 28})
    >>> processor(Image.new("RGB", (40, 30)), return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 3, 28, 28])
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - transformers' form
    size = {"height": 448, "width": 448}  # noqa: RUF012
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True


class QwenVLProcessor(_ProcessorMixin):  # type: ignore[misc]
    """Qwen-VL's image processor and tokenizer, and how a picture stands in a prompt.

    Args:
        image_processor: `QwenVLImageProcessor`.
        tokenizer: With the tokens ``<img>``, ``</img>``, ``<imgpad>`` and one to pad with.
        num_queries: Positions of a picture, as in the model's configuration.
        chat_template: None; Qwen-VL, unlike Qwen-VL-Chat, has no conversations.

    Raises:
        UsageError: The tokenizer lacks one of the tokens.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_queries: int = 256,
        chat_template: str | None = None,
    ) -> None:
        vocabulary = tokenizer.get_vocab()
        lacking = [token for token in (IMAGE_START, IMAGE_END, IMAGE_PAD) if token not in vocabulary]
        if lacking or tokenizer.pad_token_id is None:
            raise UsageError(f"Qwen-VL's tokenizer needs {', '.join(lacking) or 'a token to pad with'}")
        self.num_queries = num_queries
        self.image_token = IMAGE_MARK
        self.image_token_id: int = vocabulary[IMAGE_PAD]
        self._picture = [vocabulary[IMAGE_START], *[self.image_token_id] * num_queries, vocabulary[IMAGE_END]]
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a processor that was saved, or put one together for a folder of the original release, which has none.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            kwargs: Such as ``revision``.
        """
        source = str(pretrained_model_name_or_path)
        where = whereabouts(kwargs)
        saved = (cached_file(source, name, **where, **_OR_NONE) for name in (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME))
        if any(file is not None for file in saved):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        config = QwenVLConfig.from_pretrained(source, **where)
        side = config.vision_config.image_size
        return cls(
            QwenVLImageProcessor(size={"height": side, "width": side}),
            AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=False, **where),
            num_queries=config.vision_config.num_queries,
        )

    def __call__(
        self,
        images: PilImage.Image | Sequence[Any] | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
    ) -> BatchFeature:
        """Prepare a batch.

        Args:
            images: One picture a prompt, in the same order, RGB; None for prompts without a picture.
            text: Prompts; where there is a picture, each has ``<image>`` once.
            return_tensors: ``"pt"`` for tensors, None for lists.
            padding: Shorter prompts are padded on the tokenizer's side, the left; False to leave them as they are.

        Returns:
            ``input_ids`` and ``attention_mask`` (n, length) and ``pixel_values`` (n, 3, height, width).

        Raises:
            UsageError: Pictures and prompts do not match.
        """
        if text is None:
            raise UsageError("Qwen-VL needs a prompt: pass text=")
        prompts = [text] if isinstance(text, str) else list(text)
        pictures = None if images is None else flat(images)
        if pictures is not None and len(pictures) != len(prompts):
            raise UsageError(f"{len(pictures)} pictures for {len(prompts)} prompts: each prompt takes one picture")
        known = {prompt: self._ids(prompt, pictures is not None) for prompt in dict.fromkeys(prompts)}
        rows = {"input_ids": [known[prompt] for prompt in prompts]}
        data = dict(self.tokenizer.pad(rows, padding=padding, return_attention_mask=True))
        if pictures is not None:
            data["pixel_values"] = self.image_processor(pictures, return_tensors=return_tensors)["pixel_values"]
        return BatchFeature(data, tensor_type=return_tensors)

    def _ids(self, prompt: str, has_picture: bool) -> list[int]:
        """A prompt's ids: what stands before the picture, the picture, what stands after it."""
        segments = prompt.split(IMAGE_MARK)
        if len(segments) != 1 + has_picture:
            wanted = "once" if has_picture else "nowhere, for there is no picture"
            raise UsageError(f"the prompt {prompt!r} has {IMAGE_MARK} {len(segments) - 1} times; it should be {wanted}")
        first, *rest = (list(self.tokenizer(segment, add_special_tokens=False)["input_ids"]) for segment in segments)
        ids = first if not rest else [*first, *self._picture, *rest[0]]
        if ids.count(self.image_token_id) != has_picture * self.num_queries:
            raise UsageError(f"the prompt {prompt!r} has {IMAGE_PAD}, which stands for a part of a picture")
        return ids


# Whatever keeps a file from being had; what keeps all of them is told when config.json is asked for.
_OR_NONE: dict[str, Any] = {
    f"_raise_exceptions_for_{reason}": False for reason in ("gated_repo", "missing_entries", "connection_errors")
}

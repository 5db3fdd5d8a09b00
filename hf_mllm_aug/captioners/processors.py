"""Pictures and a prompt -> what a model of transformers takes, in two styles.

``"segments"``, as LLaVA-1.5's own code has it: the text before and after the picture is tokenised as two pieces, with
the picture's tokens between. ``"chat"``: the checkpoint's chat template, as its processor applies it.

No torchvision anywhere: image processors are transformers' PIL ones, and processors whose video part would need it
are put together without that part.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from hf_mllm_aug.captioners.presets import IMAGE_MARK
from hf_mllm_aug.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from PIL import Image as PilImage

    from hf_mllm_aug.captioners.engine import ModelKey

# Vision towers that put a class token before the patches.
_WITH_CLASS_TOKEN = frozenset({"clip_vision_model", "clip"})

_SPACE = "\u2581"  # how sentencepiece writes a space


class Prompter(Protocol):
    """Prepares a model's inputs."""

    tokenizer: Any

    def inputs(self, images: Sequence[PilImage.Image], prompt: str) -> dict[str, torch.Tensor]:
        """Prepare a micro-batch: left-padded ``input_ids`` (n, length), ``attention_mask``, pixels and what else
        there is.
        """
        ...


def halves(prompt: str) -> tuple[str, str]:
    """What stands before and after the picture.

    Raises:
        UsageError: The picture is marked more than once.

    >>> halves("Describe <image> in English:"), halves("Describe the image.")
    (('Describe ', ' in English:'), ('', 'Describe the image.'))
    """
    before, mark, after = prompt.partition(IMAGE_MARK)
    if not mark:
        return "", prompt
    if IMAGE_MARK in after:
        raise UsageError(f"the prompt {prompt!r} has {IMAGE_MARK} more than once: one picture is captioned at a time")
    return before, after


class SegmentPrompter:
    """LLaVA-1.5's form, without a conversation.

    Args:
        image_processor: Of transformers, PIL back end.
        tokenizer: Of transformers.
        config: The model's; says which token stands for the picture and how many it takes.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, config: Any) -> None:
        self.tokenizer = tokenizer
        self._image_processor = image_processor
        self._image_token = config.image_token_id
        self._patch = config.vision_config.patch_size
        drops_first = config.vision_feature_select_strategy == "default"
        self._extra = int(config.vision_config.model_type in _WITH_CLASS_TOKEN) - int(drops_first)

    def inputs(self, images: Sequence[PilImage.Image], prompt: str) -> dict[str, torch.Tensor]:
        """See `Prompter`. All rows have the same ids, so there is no padding."""
        pixels = self._image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        height, width = pixels.shape[-2:]
        n_tokens = (height // self._patch) * (width // self._patch) + self._extra
        ids = torch.tensor([self.prompt_ids(prompt, n_tokens)]).repeat(len(images), 1)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    def prompt_ids(self, prompt: str, n_image_tokens: int) -> list[int]:
        """The prompt's ids, with ``n_image_tokens`` tokens for the picture."""
        before, after = halves(prompt)
        start = self.tokenizer.bos_token_id
        picture = [self._image_token] * n_image_tokens
        return [*([] if start is None else [start]), *self._segment(before), *picture, *self._segment(after)]

    def _segment(self, text: str) -> list[int]:
        """A segment's ids, without the start and end tokens that the tokenizer may add."""
        tokenizer = self.tokenizer
        ids: list[int] = list(tokenizer(text)["input_ids"])
        ids = ids[1:] if ids[:1] == [tokenizer.bos_token_id] else ids
        ids = ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
        # Sentencepiece puts a space before every text it is given; transformers' Llama tokenizer leaves it out before a
        # text that begins with one. LLaVA was trained with it: 29871 before " in English:".
        pieces = tokenizer.convert_ids_to_tokens(ids[:1])
        lone = tokenizer.get_vocab().get(_SPACE)
        if (
            text.startswith(" ")
            and lone is not None
            and pieces
            and pieces[0] != _SPACE
            and pieces[0].startswith(_SPACE)
        ):
            ids = [lone, *ids]
        return ids


class ChatPrompter:
    """The checkpoint's chat template.

    Args:
        processor: Of transformers, with a chat template.
    """

    def __init__(self, processor: Any) -> None:
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._processor = processor

    def inputs(self, images: Sequence[PilImage.Image], prompt: str) -> dict[str, torch.Tensor]:
        """See `Prompter`."""
        before, after = halves(prompt)
        parts = [("text", before.strip()), ("image", ""), ("text", after.strip())]
        content = [
            {"type": kind} if kind == "image" else {"type": kind, "text": text}
            for kind, text in parts
            if kind == "image" or text
        ]
        text = self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
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
        return dict(batch)


def load_prompter(key: ModelKey, config: Any) -> Prompter:
    """Load the tokenizer and the processors of a checkpoint.

    Args:
        key: Which checkpoint, and the prompt style.
        config: The model's configuration.

    Raises:
        CheckpointError: It has no chat template where one is needed.
    """
    style = key.prompt_style
    if style == "auto":
        processor = _load_processor(key, config)
        if getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None):
            return ChatPrompter(processor)
        if config.model_type != "llava":
            raise CheckpointError(
                f"{key.label} has no chat template, so there is no telling how to ask it for a caption"
            )
        style = "segments"
    if style == "segments":
        if config.model_type != "llava":
            raise CheckpointError(
                f"{key.label}: the prompt style 'segments' is LLaVA's, but its model type is {config.model_type}"
            )
        return SegmentPrompter(_load_image_processor(key), _load_tokenizer(key), config)
    return ChatPrompter(_load_processor(key, config))


def _load_tokenizer(key: ModelKey) -> Any:
    auto: Any = AutoTokenizer
    return auto.from_pretrained(key.source, revision=key.revision, trust_remote_code=False)


def _load_image_processor(key: ModelKey) -> Any:
    auto: Any = AutoImageProcessor
    return auto.from_pretrained(key.source, revision=key.revision, trust_remote_code=False, backend="pil")


def _load_processor(key: ModelKey, config: Any) -> Any:
    auto: Any = AutoProcessor
    try:
        processor = auto.from_pretrained(key.source, revision=key.revision, trust_remote_code=False)
    except ImportError:  # its video part needs torchvision
        processor = _without_video(key, config)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise CheckpointError(f"{key.label} has no image processor and tokenizer: it is no image-text-to-text model")
    if getattr(processor.image_processor, "backend", "pil") != "pil":
        processor.image_processor = _load_image_processor(key)
    return processor


def _without_video(key: ModelKey, config: Any) -> Any:
    """Put a processor together from its image processor and tokenizer."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    if type(config) not in PROCESSOR_MAPPING:
        raise CheckpointError(f"{key.label}: transformers has no processor for the model type {config.model_type}")
    base: Any = PROCESSOR_MAPPING[type(config)]

    class WithoutVideo(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"video_processor": None, **kwargs})

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in base.get_attributes() if "video" not in name]

    settings, _ = base.get_processor_dict(key.source, revision=key.revision)
    settings = {
        name: value for name, value in settings.items() if name in _parameters(base) and "processor" not in name
    }
    return WithoutVideo(image_processor=_load_image_processor(key), tokenizer=_load_tokenizer(key), **settings)


def _parameters(processor: Any) -> set[str]:
    return set(inspect.signature(processor.__init__).parameters)

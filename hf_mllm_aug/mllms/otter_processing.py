"""Pictures and prompts as Otter takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils.hub import cached_file

from hf_mllm_aug.errors import CheckpointError, UsageError
from hf_mllm_aug.mllms.otter_config import OtterConfig
from hf_mllm_aug.mllms.processing import IMAGE_MARK, flat, whereabouts

if TYPE_CHECKING:
    from PIL import Image as PilImage

# transformers' own types are incomplete.
_CLIPImageProcessorPil: Any = CLIPImageProcessorPil
_ProcessorMixin: Any = ProcessorMixin

# The picture's mark is one token, which stays in the text: the picture itself comes in by cross-attention.
# In the order in which the original adds them behind the language model's own tokens.
_ADDED_TOKENS = ("<|endofchunk|>", IMAGE_MARK, "<answer>")
_PAD_TOKEN = "<PAD>"


class OtterImageProcessor(_CLIPImageProcessorPil):  # type: ignore[misc]
    """CLIP's preprocessing with PIL: shortest side to 224 px, bicubic; the centre; CLIP's mean and deviation.

    >>> from PIL import Image
    >>> OtterImageProcessor()([Image.new("RGB", (320, 240))], return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 3, 224, 224])
    """


class OtterProcessor(_ProcessorMixin):  # type: ignore[misc]
    """One picture and one prompt a row -> what `OtterForConditionalGeneration` takes.

    Args:
        image_processor: An `OtterImageProcessor`.
        tokenizer: Fast, of the language model (GPT-NeoX's for MPT). What it lacks of Otter's tokens is added to it, and
            it pads on the left.
        chat_template: None, as Otter has none.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        _complete(tokenizer)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def image_token(self) -> str:
        """What marks the picture in a prompt."""
        return IMAGE_MARK

    @property
    def image_token_id(self) -> int:
        """Its id."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE_MARK))

    @property
    def model_input_names(self) -> list[str]:
        """The names of what a call gives."""
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(
        self,
        images: PilImage.Image | Sequence[Any],
        text: str | Sequence[str],
        return_tensors: str | None = None,
        **of_tokenizer: Any,
    ) -> Any:
        """Prepare a batch.

        Args:
            images: RGB pictures, one a prompt; each may stand in a list of its own.
            text: Prompts with ``<image>`` once in each.
            return_tensors: ``"pt"``, ``"np"``, or None for lists.
            of_tokenizer: Passed to the tokenizer.

        Returns:
            A `BatchFeature`: ``input_ids`` and ``attention_mask`` (n, length), padded on the left, and ``pixel_values``
            (n, 1, 1, 3, height, width): a batch of one picture of one frame each.

        Raises:
            UsageError: A prompt does not have ``<image>`` once, or there are not as many pictures as prompts.
        """
        prompts = [text] if isinstance(text, str) else list(text)
        pictures = flat(images)
        if len(pictures) != len(prompts):
            raise UsageError(
                f"the number of pictures ({len(pictures)}) must match the number of prompts ({len(prompts)})"
            )
        for row, prompt in enumerate(prompts):
            if (n_marks := prompt.count(IMAGE_MARK)) != 1:
                raise UsageError(f"prompt {row} has {IMAGE_MARK} {n_marks} times instead of once: {prompt!r}")
        ids = self.tokenizer(prompts, **{"padding": True, **of_tokenizer})
        pixels = self.image_processor(pictures, return_tensors="np")["pixel_values"]
        data = {name: ids[name] for name in ("input_ids", "attention_mask")}
        return BatchFeature({**data, "pixel_values": pixels[:, None, None]}, tensor_type=return_tensors)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> OtterProcessor:
        """Load what `save_pretrained` wrote, or put a processor together for a checkpoint of the original project.

        The original publishes no settings of its image processor: they are CLIP's, at the size of the vision tower.
        Where the tokenizer is missing too, it is the one that the ``config.json`` names for the language model.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            kwargs: As `ProcessorMixin.from_pretrained` has them.

        Raises:
            CheckpointError: There is no tokenizer to be found, or its ids are not those of the model.
            OSError: There is no such folder or repository.
        """
        source, where = pretrained_model_name_or_path, whereabouts(kwargs)
        config = OtterConfig.from_pretrained(source, **where) if _has(source, "config.json", where) else None
        if config is None or _has(source, "processor_config.json", where):
            processor: OtterProcessor = super().from_pretrained(source, **kwargs)
        else:
            processor = cls(_image_processor(source, config, where), _tokenizer(source, config, where))
        if config is not None:
            _check_vocabulary(processor, config)
        return processor


def _complete(tokenizer: Any) -> None:
    """Give a tokenizer Otter's tokens, in the original's order, and let it pad as the original does."""
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"Otter takes a fast tokenizer, not a {type(tokenizer).__name__}")
    known = tokenizer.get_vocab()
    if missing := [token for token in _ADDED_TOKENS if token not in known]:
        tokenizer.add_tokens(missing, special_tokens=True)
    # Whatever padding transformers thinks that the tokenizer has: the original's knew of none, and added this one.
    tokenizer.add_special_tokens({"pad_token": _PAD_TOKEN})
    tokenizer.padding_side = "left"
    # GPT-NeoX's settings ask for what transformers no longer does, and warns of at each decoding.
    tokenizer.clean_up_tokenization_spaces = False


def _has(source: Any, name: str, where: dict[str, Any]) -> bool:
    found = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **where)
    return found is not None


def _image_processor(source: Any, config: OtterConfig, where: dict[str, Any]) -> OtterImageProcessor:
    if _has(source, "preprocessor_config.json", where):
        stored: OtterImageProcessor = OtterImageProcessor.from_pretrained(source, **where)
        return stored
    side = config.vision_config.image_size
    return OtterImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def _tokenizer(source: Any, config: OtterConfig, where: dict[str, Any]) -> Any:
    auto: Any = AutoTokenizer
    if _has(source, "tokenizer.json", where) or _has(source, "tokenizer_config.json", where):
        return auto.from_pretrained(source, trust_remote_code=False, **where)
    named = getattr(config.text_config, "tokenizer_name", None)
    if not named:
        raise CheckpointError(
            "this Otter has no tokenizer, and its config.json names none (text_config.tokenizer_name)"
        )
    # Another repository: neither the revision nor the subfolder of this one is meant.
    elsewhere = {name: value for name, value in where.items() if name not in ("revision", "subfolder")}
    return auto.from_pretrained(named, trust_remote_code=False, **elsewhere)


def _check_vocabulary(processor: OtterProcessor, config: OtterConfig) -> None:
    """Refuse a tokenizer with which the model would never see the picture, or would be given ids that it lacks."""
    text = config.text_config
    if processor.image_token_id != config.image_token_id:
        raise CheckpointError(
            f"the id of {IMAGE_MARK} is {processor.image_token_id} in the tokenizer and {config.image_token_id} in "
            "the model: the tokenizer is not this checkpoint's, or its config.json lacks image_token_id"
        )
    if len(processor.tokenizer) > text.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {len(processor.tokenizer)} tokens, the model {text.vocab_size}: they do not belong "
            "together"
        )


def register() -> None:
    """Make the configuration and the processors known to the Auto classes; as often as you like."""
    auto: Any = AutoProcessor
    AutoConfig.register("otter", OtterConfig, exist_ok=True)
    AutoImageProcessor.register(OtterConfig, image_processor_classes={"pil": OtterImageProcessor}, exist_ok=True)
    auto.register(OtterConfig, OtterProcessor, exist_ok=True)


# At import: `OtterProcessor.from_pretrained` finds its parts by the Auto classes.
register()

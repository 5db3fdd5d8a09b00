"""What every prompter does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hf_mllm_aug.captioners.presets import IMAGE_MARK
from hf_mllm_aug.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import torch
    from PIL import Image as PilImage

    from hf_mllm_aug.captioners.prompters.pixels import Scaling


# What configurations call the token that stands for a picture.
_MARKS = ("image_token_id", "image_token_index")


class Prompter(Protocol):
    """Prepares a model's inputs."""

    tokenizer: Any
    scaling: Scaling | None
    """What turns ``pixel_values`` of bytes into what the model takes; None where they come as floats."""

    def inputs(self, images: Sequence[PilImage.Image], prompt: str) -> dict[str, torch.Tensor]:
        """Prepare a micro-batch.

        Args:
            images: (n,) pictures of mode RGB, of any sizes.
            prompt: The question, with `<image>` where the picture stands, or `forms.DOCUMENTED`.

        Returns:
            What the model's ``generate`` takes: left-padded ``input_ids`` (n, length), ``attention_mask`` of the same
            shape, pixels (to be scaled, if they are bytes) and what else there is.
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


def pad_on_the_left(tokenizer: Any) -> None:
    """Have a tokenizer pad rows of several lengths such that new tokens follow each row's text."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def model_inputs(batch: Mapping[str, Any], config: Any) -> dict[str, torch.Tensor]:
    """What a processor made, less what is for training, once it is sure that the picture is in it.

    Args:
        batch: From a processor.
        config: The model's; it names the token that stands for a picture, where there is one.

    Raises:
        CheckpointError: The model would never see the picture.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    marks = [getattr(config, name) for name in _MARKS if hasattr(config, name)]
    known = [mark for mark in marks if mark is not None]
    if marks and not known:
        raise CheckpointError(
            f"the configuration (model type {config.model_type}) names no token that stands for the picture, as those "
            "of older releases did. To do: take the checkpoint's current revision"
        )
    if known and not bool((inputs["input_ids"] == known[0]).any(dim=1).all()):
        raise CheckpointError(
            f"the prompt (model type {config.model_type}) came out without its picture: the chat template or the "
            "processor's settings do not fit the model"
        )
    return inputs

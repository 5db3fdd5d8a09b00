"""Models that caption no pictures, or are to be asked as others are, are refused from their configuration alone."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from hf_mllm_aug.captioners.presets import PRESETS
from hf_mllm_aug.captioners.prompters.native import is_native
from hf_mllm_aug.errors import CheckpointError

if TYPE_CHECKING:
    from hf_mllm_aug.captioners.engine import ModelKey

# Where the models of transformers take pictures.
_PICTURES = frozenset({"pixel_values", "flattened_patches", "image_patches"})


def refuse_unable(config: Any, name: str) -> None:
    """Refuse a model that cannot write a text about a picture.

    Args:
        config: The model's.
        name: What the message calls it; no path.

    Raises:
        CheckpointError: It is of another kind; the message says of which.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as CAPTIONERS

    kind = config.model_type
    if type(config) not in CAPTIONERS:
        raise CheckpointError(
            f"{name} cannot caption pictures: {_what_it_is(config)} (model type {kind}). "
            "To do: give the Hub id or folder of an image-text-to-text model"
        )
    found: Any = CAPTIONERS[type(config)]
    models = found if isinstance(found, (list, tuple)) else [found]
    if not any(_PICTURES & set(inspect.signature(model.forward).parameters) for model in models):
        raise CheckpointError(
            f"{name} cannot caption pictures: {models[0].__name__} of transformers takes no pixels (model type {kind})"
        )


def refuse_misasked(key: ModelKey, config: Any) -> None:
    """Refuse a checkpoint that would be asked in a way that is not its architecture's.

    What a folder is can be told before it is loaded, what a Hub id is cannot: here both are known.

    Args:
        key: Which checkpoint, and the preset by which it is asked.
        config: The model's.

    Raises:
        CheckpointError: It is of another architecture than the preset's; or it is one of this package's MLLMs, whose
            captions need the prompt, decoding and clean-up of their preset, and no preset is named.
    """
    settings = config.to_dict()
    preset = PRESETS.get(key.preset) if key.preset is not None else None
    of_its_kind = next((known.name for known in PRESETS.values() if known.recognises(settings)), None)
    if preset is not None and preset.recognised_by and not preset.recognises(settings):
        advice = (
            f"Captioner({of_its_kind!r}, checkpoint=...)"
            if of_its_kind is not None
            else "Captioner(CHECKPOINT), or another preset's name"
        )
        raise CheckpointError(
            f"{key.label} is no {preset.name}: its config.json names {_architecture(config)}. To do: {advice}"
        )
    if preset is None and of_its_kind is not None and is_native(config):
        raise CheckpointError(
            f"{key.label} is of the architecture of {of_its_kind}, which has a prompt, decoding and clean-up of its "
            f"own. To do: Captioner({of_its_kind!r}, checkpoint={key.label!r})"
        )


def _architecture(config: Any) -> str:
    kinds = {name: getattr(getattr(config, f"{name}_config", None), "model_type", "") for name in ("text", "vision")}
    inner = [f"{name} {kind!r}" for name, kind in kinds.items() if kind]
    return f"the model type {config.model_type!r}" + (f" ({', '.join(inner)})" if inner else "")


def _what_it_is(config: Any) -> str:
    """The first family of transformers that a model is of."""
    from transformers.models.auto import modeling_auto as auto

    # In this order: a CLIP is among the image classifiers as well.
    families: tuple[tuple[Any, str], ...] = (
        (auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING, "it embeds pictures and texts, and writes none"),
        (auto.MODEL_FOR_OBJECT_DETECTION_MAPPING, "it finds objects, and writes no text"),
        (auto.MODEL_FOR_IMAGE_SEGMENTATION_MAPPING, "it divides pictures, and writes no text"),
        (auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, "it sorts pictures into classes, and writes no text"),
        (auto.MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING, "it picks answers from a list, and writes no text"),
        (auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING, "it writes down speech, and has no part for pictures"),
        (auto.MODEL_FOR_CAUSAL_LM_MAPPING, "it is a language model without a part for pictures"),
        (auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, "it is a language model without a part for pictures"),
        (auto.MODEL_FOR_MASKED_LM_MAPPING, "it is a text encoder"),
        (auto.MODEL_FOR_IMAGE_MAPPING, "it is an image encoder, and writes no text"),
    )
    return next(
        (text for family, text in families if type(config) in family), "transformers has no captioner of its kind"
    )

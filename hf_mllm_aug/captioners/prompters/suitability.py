"""Models that caption no pictures are refused by name, from their configuration alone."""

from __future__ import annotations

import inspect
from typing import Any

from hf_mllm_aug.errors import CheckpointError

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

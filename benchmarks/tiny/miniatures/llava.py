"""``tiny-llava``: a `LlavaForConditionalGeneration` on the trained tower."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from benchmarks.tiny.distortions import MEAN, STD
from benchmarks.tiny.miniatures import LANGUAGE
from benchmarks.tiny.texts import IMAGE
from benchmarks.tiny.tower import PATCH, SIDE, settings, vision_states

PROMPT = "Describe <image> in English:"  # the paper's
TOKENS: dict[str, Any] = {}
FEW = 8  # patches that most steps of training pass, beside the class token


def build(tokenizer: PreTrainedTokenizerFast, tower: CLIPVisionModel) -> LlavaForConditionalGeneration:
    """A LLaVA on a trained tower; the two-layer projector and the Llama (3 layers) have fresh weights."""
    config = LlavaConfig(
        vision_config=settings(tower) | {"model_type": "clip_vision_model"},
        text_config={
            "model_type": "llama",
            **LANGUAGE,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    return model


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pad to a white square, resize to 96 px, scale; 64 patches and the class token stand for a picture."""
    pictures = LlavaImageProcessorPil(
        do_pad=True,
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        image_token=IMAGE,
    )


@torch.no_grad()
def see(model: LlavaForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """The frozen tower's states, (n, 1 + patches, width)."""
    return vision_states(model.model.vision_tower, pixel_values)[0]


@torch.no_grad()
def start(model: LlavaForConditionalGeneration, seen: torch.Tensor) -> None:
    """Fresh projector weights that see the class token with mean 0 and deviation 1: the states are not normalised."""
    token = seen[:, 0].float()
    mean, deviation = token.mean(0), token.std(0)
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    for layer in (first, second):
        torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        torch.nn.init.zeros_(layer.bias)
    first.weight.div_(deviation)
    first.bias.copy_(-(first.weight @ mean))
    second.weight.mul_(0.5)


def learned(model: LlavaForConditionalGeneration) -> list[torch.nn.Parameter]:
    """All but the tower."""
    return [*model.model.language_model.parameters(), *model.model.multi_modal_projector.parameters()]


def say(
    model: LlavaForConditionalGeneration,
    seen: torch.Tensor,
    prompt: list[torch.Tensor],
    said: torch.Tensor,
    whole: bool,
) -> torch.Tensor:
    """The language model's logits of what is said.

    Args:
        model: The miniature.
        seen: (n, 1 + patches, width) states of `see`.
        prompt: Ids of the prompt before the picture, start token included, and behind it; (b,) and (a,).
        said: (n, length) ids of the caption.
        whole: Pass all patches; else a few, each at the position that it has among all.

    Returns:
        (n, length, vocabulary), position i for ``said[:, i]``.
    """
    n, length = said.shape
    before, after = prompt
    patches = seen.shape[1] - 1
    kept = torch.arange(patches + 1) if whole else torch.randperm(patches)[:FEW].sort().values + 1
    kept = kept if whole else torch.cat([torch.zeros(1, dtype=torch.long), kept])
    at = len(before)
    positions = torch.cat([torch.arange(at), at + kept, at + 1 + patches + torch.arange(len(after) + length)])
    embed, language = model.model.language_model.embed_tokens, model.model.language_model
    pictures = model.model.multi_modal_projector(seen[:, kept].float())
    parts = [embed(before).expand(n, -1, -1), pictures, embed(after).expand(n, -1, -1), embed(said)]
    inputs = torch.cat([part.to(pictures.dtype) for part in parts], 1)
    # Without a mask, the gaps between the positions would be taken for the borders of packed texts.
    mask = torch.ones(inputs.shape[:2], dtype=torch.long)
    hidden = language(
        inputs_embeds=inputs, attention_mask=mask, position_ids=positions.expand(n, -1), use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[:, -length - 1 : -1])

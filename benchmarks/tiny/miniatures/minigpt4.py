"""``tiny-minigpt-4``: a `MiniGPT4ForConditionalGeneration` whose ViT learned to see what the trained tower sees."""

from __future__ import annotations

import torch
from transformers import CLIPVisionModel, PreTrainedTokenizerFast

from benchmarks.tiny.distortions import MEAN, STD
from benchmarks.tiny.miniatures import LANGUAGE
from benchmarks.tiny.tower import PATCH, SIDE
from hf_mllm_aug.mllms import (
    MiniGPT4Config,
    MiniGPT4ForConditionalGeneration,
    MiniGPT4ImageProcessor,
    MiniGPT4Processor,
)

PROMPT = "###Human: <Img><image></Img> Describe in English:###Assistant: "
TOKENS = {"special": ("<unk>", "<s>", "</s>", "<pad>")}
QUERIES = 4


def build(tokenizer: PreTrainedTokenizerFast, tower: CLIPVisionModel) -> MiniGPT4ForConditionalGeneration:
    """A MiniGPT-4 on a trained tower; Q-Former (1 layer, 4 queries), projection and Llama have fresh weights."""
    vision = tower.config
    config = MiniGPT4Config(
        vision_config={
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_act": vision.hidden_act,
            "layer_norm_eps": vision.layer_norm_eps,
        },
        qformer_config={
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "cross_attention_frequency": 1,
            "encoder_hidden_size": vision.hidden_size,
            "vocab_size": 8,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        text_config={
            "model_type": "llama",
            **LANGUAGE,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.unk_token_id,
        tie_word_embeddings=True,
    )
    model = MiniGPT4ForConditionalGeneration(config)
    take_tower(model, tower)
    return model


@torch.no_grad()
def take_tower(model: MiniGPT4ForConditionalGeneration, tower: CLIPVisionModel) -> None:
    """Copy CLIP's weights; EVA has no normalisation before its first block, which has to be learned (`adapt`)."""
    ours, theirs = model.vision_model, tower
    ours.embeddings.class_embedding.copy_(theirs.embeddings.class_embedding.view(1, 1, -1))
    ours.embeddings.patch_embedding.weight.copy_(theirs.embeddings.patch_embedding.weight)
    ours.embeddings.patch_embedding.bias.zero_()
    ours.embeddings.position_embedding.copy_(theirs.embeddings.position_embedding.weight[None])
    for block, layer in zip(ours.encoder.layers, theirs.encoder.layers, strict=True):
        block.layer_norm1.load_state_dict(layer.layer_norm1.state_dict())
        block.layer_norm2.load_state_dict(layer.layer_norm2.state_dict())
        block.mlp.load_state_dict(layer.mlp.state_dict())
        block.self_attn.projection.load_state_dict(layer.self_attn.out_proj.state_dict())
        parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        block.self_attn.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
        block.self_attn.qkv.bias.copy_(torch.cat([part.bias for part in parts]))


def processor(tokenizer: PreTrainedTokenizerFast) -> MiniGPT4Processor:
    """Squash to 96 x 96 px, scale."""
    pictures = MiniGPT4ImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=list(MEAN), image_std=list(STD))
    return MiniGPT4Processor(pictures, tokenizer, num_query_tokens=QUERIES, image_token_id=tokenizer.unk_token_id)


def vision(model: MiniGPT4ForConditionalGeneration) -> torch.nn.Module:
    """The part that `adapt` trains."""
    return model.vision_model


def patches(model: MiniGPT4ForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """What the ViT sees, (n, 1 + patches, width)."""
    return model.vision_model(pixel_values).last_hidden_state


@torch.no_grad()
def see(model: MiniGPT4ForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """`patches`, frozen."""
    return patches(model, pixel_values)


def start(model: MiniGPT4ForConditionalGeneration, seen: torch.Tensor) -> None:
    """Nothing: the tower's last normalisation is part of what is seen."""


def learned(model: MiniGPT4ForConditionalGeneration) -> list[torch.nn.Parameter]:
    """Q-Former, projection, language model."""
    parts = [model.language_model, model.qformer, model.language_projection]
    return [model.query_tokens, *(weights for part in parts for weights in part.parameters())]


def say(
    model: MiniGPT4ForConditionalGeneration,
    seen: torch.Tensor,
    prompt: list[torch.Tensor],
    said: torch.Tensor,
    whole: bool,
) -> torch.Tensor:
    """The logits of what is said, (n, length, vocabulary); see `miniatures.llava.say`."""
    n, length = said.shape
    embed = model.get_input_embeddings()
    queries = model.qformer(
        query_embeds=model.query_tokens.expand(n, -1, -1), encoder_hidden_states=seen.float()
    ).last_hidden_state
    pictures = model.language_projection(queries)
    parts = [embed(prompt[0]).expand(n, -1, -1), pictures, embed(prompt[1]).expand(n, -1, -1), embed(said)]
    inputs = torch.cat([part.to(pictures.dtype) for part in parts], 1)
    hidden = model.language_model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    return model.language_model.lm_head(hidden[:, -length - 1 : -1])

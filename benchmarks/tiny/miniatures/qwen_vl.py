"""``tiny-qwen-vl``: a `QwenVLForConditionalGeneration` whose ViT is the trained tower, without its class token."""

from __future__ import annotations

import torch
from transformers import CLIPVisionModel, PreTrainedTokenizerFast

from benchmarks.tiny.distortions import MEAN, STD
from benchmarks.tiny.miniatures import LANGUAGE
from benchmarks.tiny.tower import PATCH, SIDE
from hf_mllm_aug.mllms import (
    QwenVLConfig,
    QwenVLForConditionalGeneration,
    QwenVLImageProcessor,
    QwenVLProcessor,
)

PROMPT = "<image>Describe the image in English:"
SPECIAL = ("<pad>", "<s>", "<|endoftext|>", "<unk>", "<img>", "</img>", "<imgpad>")
TOKENS = {"special": SPECIAL, "start": None, "end": "<|endoftext|>", "puts": ()}
QUERIES = 4


def build(tokenizer: PreTrainedTokenizerFast, tower: CLIPVisionModel) -> QwenVLForConditionalGeneration:
    """A Qwen-VL on a trained tower; resampler (4 queries) and Qwen2 (3 layers of width 192) have fresh weights."""
    ids = tokenizer.convert_tokens_to_ids
    config = QwenVLConfig(
        {
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_size": tower.config.hidden_size,
            "num_hidden_layers": tower.config.num_hidden_layers,
            "num_attention_heads": tower.config.num_attention_heads,
            "mlp_ratio": tower.config.intermediate_size / tower.config.hidden_size,
            "num_queries": QUERIES,
            "num_positions": (SIDE // PATCH) ** 2,
            "output_dim": 192,
            "resampler_heads": 4,
        },
        {
            **LANGUAGE,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": ids("<pad>"),
        },
        image_start_token_id=ids("<img>"),
        image_end_token_id=ids("</img>"),
        image_token_id=ids("<imgpad>"),
        tie_word_embeddings=True,
    )
    model = QwenVLForConditionalGeneration(config)
    take_tower(model, tower)
    return model


@torch.no_grad()
def take_tower(model: QwenVLForConditionalGeneration, tower: CLIPVisionModel) -> None:
    """Copy CLIP's weights into the places that compute the same; the class token has none."""
    heads, visual = tower.config.num_attention_heads, model.visual
    visual.conv1.weight.copy_(tower.embeddings.patch_embedding.weight)
    visual.positional_embedding.copy_(tower.embeddings.position_embedding.weight[1:])
    visual.ln_pre.load_state_dict(tower.pre_layrnorm.state_dict())
    for block, layer in zip(visual.blocks, tower.encoder.layers, strict=True):
        block.ln_1.load_state_dict(layer.layer_norm1.state_dict())
        block.ln_2.load_state_dict(layer.layer_norm2.state_dict())
        block.mlp.c_fc.load_state_dict(layer.mlp.fc1.state_dict())
        block.mlp.c_proj.load_state_dict(layer.mlp.fc2.state_dict())
        block.attn.out_proj.load_state_dict(layer.self_attn.out_proj.state_dict())
        parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        # The rows stand head by head: queries, keys, values of the first, then of the second, ...
        weights = torch.stack([part.weight.unflatten(0, (heads, -1)) for part in parts], 1)
        biases = torch.stack([part.bias.unflatten(0, (heads, -1)) for part in parts], 1)
        block.attn.in_proj.weight.copy_(weights.flatten(0, 2))
        block.attn.in_proj.bias.copy_(biases.flatten())


def processor(tokenizer: PreTrainedTokenizerFast) -> QwenVLProcessor:
    """Squash to 96 x 96 px, scale."""
    pictures = QwenVLImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=list(MEAN), image_std=list(STD))
    return QwenVLProcessor(pictures, tokenizer, num_queries=QUERIES)


def vision(model: QwenVLForConditionalGeneration) -> torch.nn.Module:
    """The part that `adapt` trains; what it does not use has no gradient."""
    return torch.nn.ModuleList([model.visual.conv1, model.visual.ln_pre, model.visual.blocks])


def patches(model: QwenVLForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """What the ViT sees, (n, patches, width)."""
    return model.visual.patch_features(pixel_values)


@torch.no_grad()
def see(model: QwenVLForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """`patches`, frozen."""
    return patches(model, pixel_values)


def start(model: QwenVLForConditionalGeneration, seen: torch.Tensor) -> None:
    """Nothing: the resampler normalises what it reads."""


def learned(model: QwenVLForConditionalGeneration) -> list[torch.nn.Parameter]:
    """The resampler, what follows it, and the language model."""
    visual = model.visual
    connector = [weights for weights in visual.attn_pool.parameters() if weights.requires_grad]
    return [*model.language_model.parameters(), *connector, *visual.ln_post.parameters(), visual.proj]


def say(
    model: QwenVLForConditionalGeneration,
    seen: torch.Tensor,
    prompt: list[torch.Tensor],
    said: torch.Tensor,
    whole: bool,
) -> torch.Tensor:
    """The logits of what is said, (n, length, vocabulary); see `miniatures.llava.say`."""
    n, length = said.shape
    embed = model.get_input_embeddings()
    pictures = model.visual.resample(seen.float())
    first = torch.cat([prompt[0], torch.tensor([model.config.image_start_token_id])])
    last = torch.cat([torch.tensor([model.config.image_end_token_id]), prompt[1]])
    parts = [embed(first).expand(n, -1, -1), pictures, embed(last).expand(n, -1, -1), embed(said)]
    inputs = torch.cat([part.to(pictures.dtype) for part in parts], 1)
    hidden = model.language_model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    return model.language_model.lm_head(hidden[:, -length - 1 : -1])

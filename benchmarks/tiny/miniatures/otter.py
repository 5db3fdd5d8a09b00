"""``tiny-otter``: an `OtterForConditionalGeneration` on the trained tower, whose patches it reads."""

from __future__ import annotations

import torch
from transformers import CLIPVisionModel, PreTrainedTokenizerFast

from benchmarks.tiny.distortions import MEAN, STD
from benchmarks.tiny.texts import VOCABULARY
from benchmarks.tiny.tower import SIDE, settings, vision_states
from hf_mllm_aug.mllms import OtterConfig, OtterForConditionalGeneration, OtterImageProcessor, OtterProcessor
from hf_mllm_aug.mllms.otter_layers import PictureMemory

PROMPT = "<image> User: Describe in English: GPT: <answer>"  # the paper's
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|endofchunk|>", "<image>", "<answer>", "<PAD>")
TOKENS = {"special": SPECIAL, "start": None, "end": "<|endofchunk|>", "puts": ()}


def build(tokenizer: PreTrainedTokenizerFast, tower: CLIPVisionModel) -> OtterForConditionalGeneration:
    """An Otter on a trained tower; perceiver (1 layer, 8 latents) and MPT (3 blocks, width 192) have fresh weights."""
    ids = tokenizer.convert_tokens_to_ids
    config = OtterConfig(
        text_config={"d_model": 192, "n_heads": 4, "n_layers": 3, "vocab_size": VOCABULARY, "max_seq_len": 256},
        vision_config=settings(tower),
        cross_attn_every_n_layers=1,
        perceiver_layers=1,
        num_latents=8,
        perceiver_heads=4,
        perceiver_head_dim=64,
        cross_attn_heads=4,
        cross_attn_head_dim=48,
        feed_forward_mult=2,
        image_token_id=ids("<image>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=ids("<PAD>"),
    )
    model = OtterForConditionalGeneration(config)
    model.model.vision_encoder.load_state_dict(tower.state_dict())
    for block in model.model.language_model.blocks:
        gated = block.gated_cross_attn_layer
        gated.attn_gate.data.fill_(1.0)  # open: these gates were made for a language model that is trained already
        gated.ff_gate.data.fill_(1.0)
    return model


def processor(tokenizer: PreTrainedTokenizerFast) -> OtterProcessor:
    """Resize the shortest side to 96 px, cut out the centre, scale."""
    pictures = OtterImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return OtterProcessor(pictures, tokenizer)


@torch.no_grad()
def see(model: OtterForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """The frozen tower's patches, (n, patches, width)."""
    return vision_states(model.model.vision_encoder, pixel_values)[0][:, 1:]


def start(model: OtterForConditionalGeneration, seen: torch.Tensor) -> None:
    """Nothing: the perceiver normalises what it reads."""


def learned(model: OtterForConditionalGeneration) -> list[torch.nn.Parameter]:
    """All but the tower."""
    return [*model.model.language_model.parameters(), *model.model.perceiver.parameters()]


def say(
    model: OtterForConditionalGeneration,
    seen: torch.Tensor,
    prompt: list[torch.Tensor],
    said: torch.Tensor,
    whole: bool,
) -> torch.Tensor:
    """The logits of what is said, (n, length, vocabulary); see `miniatures.llava.say`."""
    n, length = said.shape
    image = torch.tensor([model.config.image_token_id])
    ids = torch.cat([torch.cat([prompt[0], image, prompt[1]]).expand(n, -1), said], 1)
    latents = model.model.perceiver(seen.float()[:, None])
    hidden = model.model.language_model(ids, latents[:, None], PictureMemory())
    return model.lm_head(hidden[:, -length - 1 : -1])

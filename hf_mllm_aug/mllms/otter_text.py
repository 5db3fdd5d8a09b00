"""Otter's language model: the blocks of transformers' MPT, every n-th with gated cross-attention before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.mpt.modeling_mpt import MptBlock, MptPreTrainedModel, build_mpt_alibi_tensor

from hf_mllm_aug.mllms.otter_layers import OtterGatedCrossAttention, PictureMemory, picture_mask

if TYPE_CHECKING:
    from hf_mllm_aug.mllms.otter_config import OtterConfig

# transformers' own types are incomplete.
_GradientCheckpointingLayer: Any = GradientCheckpointingLayer
_MptBlock: Any = MptBlock
_MptPreTrainedModel: Any = MptPreTrainedModel
_alibi: Any = build_mpt_alibi_tensor


class _LengthlessCache:
    """A cache as MPT's attention takes it, without its length.

    MPT asks for the length to cut a bias that is the same for all queries, which comes to nothing. With a static cache
    each block would wait for the device there, and the model could not be compiled as a whole.
    """

    def __init__(self, cache: Any) -> None:
        self.update = cache.update

    def get_seq_length(self) -> int:
        return 0


class OtterLayer(_GradientCheckpointingLayer):  # type: ignore[misc]
    """A block of MPT, with gated cross-attention before it in every n-th one."""

    def __init__(self, config: OtterConfig, index: int) -> None:
        super().__init__()
        gated = (index + 1) % config.cross_attn_every_n_layers == 0
        self.index = index
        self.gated_cross_attn_layer = OtterGatedCrossAttention(config) if gated else None
        self.decoder_layer = _MptBlock(config.text_config, layer_idx=index)

    def forward(
        self,
        x: torch.Tensor,
        pictures: torch.Tensor | None,
        memory: PictureMemory,
        mask: torch.Tensor,
        met: torch.Tensor,
        **of_mpt: Any,
    ) -> torch.Tensor:
        """One block.

        Args:
            x: Text, (rows, length, width).
            pictures: (rows, n_pictures, num_latents, vision_width), or None where the memory has them.
            memory: Keeps the pictures' keys and values.
            mask: See `picture_mask`.
            met: See `OtterCrossAttention.forward`.
            of_mpt: What MPT's own block takes.

        Returns:
            As `x`.
        """
        gated = self.gated_cross_attn_layer
        if gated is not None:
            if pictures is not None:
                memory.keys_values[self.index] = gated.attn.keys_values(pictures)
            x = gated(x, memory.keys_values[self.index], mask, met)
        out: torch.Tensor = self.decoder_layer(x, **of_mpt)[0]
        return out


class OtterTextModel(_MptPreTrainedModel):  # type: ignore[misc]
    """MPT with gated cross-attention before every n-th block."""

    def __init__(self, config: OtterConfig) -> None:
        text = config.text_config
        super().__init__(text)
        self.image_token_id = config.image_token_id
        self.num_latents = config.num_latents
        self.wte = nn.Embedding(text.vocab_size, text.hidden_size)
        self.blocks = nn.ModuleList(OtterLayer(config, index) for index in range(text.n_layers))
        self.norm_f = nn.LayerNorm(text.hidden_size, eps=text.layer_norm_epsilon, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OtterGatedCrossAttention):
            init.zeros_(module.attn_gate)
            init.zeros_(module.ff_gate)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the vocabulary."""
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put another in its place."""
        self.wte = value

    def forward(
        self,
        input_ids: torch.Tensor,
        pictures: torch.Tensor | None,
        memory: PictureMemory,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
    ) -> torch.Tensor:
        """Compute the last hidden states.

        Args:
            input_ids: (rows, length).
            pictures: (rows, n_pictures, num_latents, vision_width), or None where the memory has them.
            memory: Of these rows' pictures.
            attention_mask: (rows, past + length), 0 where there is padding.
            past_key_values: A cache of transformers, or None.

        Returns:
            (rows, length, width).
        """
        config: Any = self.config
        x = self.wte(input_ids)
        count = memory.count(input_ids == self.image_token_id)
        if pictures is not None:
            n_pictures = pictures.shape[1]
        else:
            keys, _ = next(iter(memory.keys_values.values()))
            n_pictures = keys.shape[2] // self.num_latents
        causal_mask: Any = create_causal_mask(
            config=config, inputs_embeds=x, attention_mask=attention_mask, past_key_values=past_key_values
        )
        alibi = _alibi(config.n_heads, config.max_seq_len, config.attn_config.alibi_bias_max, device=x.device)
        mask = picture_mask(count, n_pictures, self.num_latents)
        met = (count > 0)[..., None]
        layer_past = None if past_key_values is None else _LengthlessCache(past_key_values)
        for block in self.blocks:
            x = block(
                x,
                pictures=pictures,
                memory=memory,
                mask=mask,
                met=met,
                position_bias=alibi,
                attention_mask=causal_mask.to(torch.bool),
                layer_past=layer_past,
            )
        out: torch.Tensor = self.norm_f(x)
        return out

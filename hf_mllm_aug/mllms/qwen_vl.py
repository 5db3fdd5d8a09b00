"""Qwen-VL version 1 on transformers: the vision tower, and transformers' own Qwen2 as the language model.

Checkpoints are read in the layout of the release (``transformer.h.N...``, ``transformer.visual...``) and written in it
again; the renaming is done while loading, tensor by tensor. Importing this module makes the model known to the Auto
classes.

Up to 2048 positions, the trained length, this is the original's function. Past it the original rescales its rotary base
and multiplies queries by a logarithm; that is left out, since a caption never gets there.

Source: the code released with Qwen/Qwen-VL; Bai et al., arXiv 2308.12966.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Cache,
    GenerationMixin,
    PreTrainedModel,
    Qwen2ForCausalLM,
)
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from hf_mllm_aug.errors import UsageError
from hf_mllm_aug.mllms.loading import WholeCheckpoint
from hf_mllm_aug.mllms.qwen_vl_config import QwenVLConfig
from hf_mllm_aug.mllms.qwen_vl_processing import QwenVLImageProcessor, QwenVLProcessor
from hf_mllm_aug.mllms.qwen_vl_tokenizer import QWenTokenizer
from hf_mllm_aug.mllms.qwen_vl_vision import QwenVLResampler, QwenVLVisionTower, sines_and_cosines

# transformers' own types are incomplete.
_PreTrainedModel: Any = PreTrainedModel
_GenerationMixin: Any = GenerationMixin

__all__ = [
    "QWenTokenizer",
    "QwenVLConfig",
    "QwenVLForConditionalGeneration",
    "QwenVLImageProcessor",
    "QwenVLProcessor",
    "register",
]


class QwenVLForConditionalGeneration(WholeCheckpoint, _PreTrainedModel, _GenerationMixin):  # type: ignore[misc]
    """Qwen-VL version 1: a picture's features stand at the positions of its ``image_token_id``.

    Args:
        config: Of the vision tower and the language model.

    >>> tiny = QwenVLConfig(
    ...     {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    ...      "num_queries": 4, "output_dim": 16, "num_positions": 4},
    ...     {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    ...      "num_key_value_heads": 2, "vocab_size": 32},
    ...     image_start_token_id=29, image_end_token_id=30, image_token_id=31)
    >>> model = QwenVLForConditionalGeneration(tiny).eval()
    >>> ids = torch.tensor([[29, 31, 31, 31, 31, 30, 5]])
    >>> model.generate(input_ids=ids, pixel_values=torch.zeros(1, 3, 8, 8), max_new_tokens=2).shape
    torch.Size([1, 9])
    """

    config: QwenVLConfig
    config_class = QwenVLConfig
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012 - transformers' form
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen2DecoderLayer", "QwenVLVisionTower"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        self.visual = QwenVLVisionTower(config.vision_config)
        self.language_model: Any = Qwen2ForCausalLM(config.text_config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QwenVLResampler):
            n, width = module.query.shape
            init.normal_(module.query, std=self.config.vision_config.initializer_range)
            init.copy_(module.pos_embed, sines_and_cosines(width, math.isqrt(n)))
        elif isinstance(module, QwenVLVisionTower):
            scale = self.config.vision_config.hidden_size**-0.5
            init.normal_(module.positional_embedding, std=scale)
            init.normal_(module.proj, std=module.proj.shape[0] ** -0.5)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        head: nn.Module = self.language_model.get_output_embeddings()
        return head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Set the language model's head."""
        self.language_model.set_output_embeddings(new_embeddings)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def get_image_features(self, pixel_values: torch.Tensor) -> Any:
        """What the language model is given for each picture.

        Args:
            pixel_values: (n, 3, height, width), normalised. ``return_dict=False`` beside it asks for a tuple.

        Returns:
            An output whose ``last_hidden_state`` is what the ViT sees, (n, patches, width of the ViT), and whose
            ``pooler_output`` is what stands for the picture, (n, queries, width of the language model).
        """
        patches = self.visual.patch_features(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=patches, pooler_output=self.visual.resample(patches))

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits.

        Args:
            input_ids: (n, length), with ``image_token_id`` at each position of a picture's features.
            attention_mask: (n, length), 0 at padding.
            pixel_values: (pictures, 3, height, width), in the order in which their positions stand in ``input_ids``;
                None for text alone and for decoding on from a cache.
            position_ids: (n, length); None to count from the first position.
            past_key_values: Keys and values of the positions before.
            inputs_embeds: (n, length, width) instead of ``input_ids``, without pictures.
            labels: (n, length), -100 where there is nothing to learn; shifted inside.
            use_cache: Whether to return keys and values.
            logits_to_keep: Logits of so many last positions only; 0 for all.
            kwargs: For the language model.

        Returns:
            Logits (n, positions kept, vocabulary), the cache, and the loss where there are labels.

        Raises:
            UsageError: Positions and features do not match, or there is no input.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise UsageError("Qwen-VL takes either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            if input_ids is None:
                raise UsageError("Qwen-VL needs input_ids beside pixel_values: they say where the pictures stand")
            inputs_embeds = self._with_pictures(input_ids, inputs_embeds, self.visual(pixel_values))
        output: CausalLMOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return output

    def _with_pictures(self, input_ids: torch.Tensor, embeddings: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        places = input_ids == self.config.image_token_id
        n_places, n_features = int(places.sum()), features.shape[0] * features.shape[1]
        if n_places != n_features:
            raise UsageError(
                f"the prompts have {n_places} positions for pictures (id {self.config.image_token_id}), but the "
                f"pictures have {n_features} features ({features.shape[1]} each)"
            )
        places = places.unsqueeze(-1).to(embeddings.device)
        return embeddings.masked_scatter(places, features.to(embeddings.device, embeddings.dtype))


def _key_mapping() -> list[WeightRenaming | WeightConverter]:
    """Names in the release -> names here. Applied in this order when loading, backwards when saving."""
    layer, ours = r"^transformer\.h\.(\d+)\.", r"language_model.model.layers.\1."
    parts = {
        "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm",
        r"attn\.c_attn": "self_attn.c_attn",
        r"attn\.c_proj": "self_attn.o_proj",
        r"mlp\.w2": "mlp.gate_proj",
        r"mlp\.w1": "mlp.up_proj",
        r"mlp\.c_proj": "mlp.down_proj",
    }
    return [
        WeightRenaming(r"^transformer\.visual\.", "visual."),
        WeightRenaming(r"^visual\.transformer\.resblocks\.", "visual.blocks."),
        WeightRenaming(r"^transformer\.wte\.", "language_model.model.embed_tokens."),
        WeightRenaming(r"^transformer\.ln_f\.", "language_model.model.norm."),
        WeightRenaming(r"^lm_head\.", "language_model.lm_head."),
        *(WeightRenaming(layer + theirs, ours + name) for theirs, name in parts.items()),
        WeightConverter(
            "self_attn.c_attn",
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            operations=[Chunk(dim=0)],
        ),
    ]


def register() -> None:
    """Make Qwen-VL known to transformers' Auto classes, and its checkpoint layout to `from_pretrained`.

    May be called again.

    >>> register()
    >>> type(AutoConfig.for_model("qwen")).__name__
    'QwenVLConfig'
    """
    tokenizers: Any = AutoTokenizer
    processors: Any = AutoProcessor
    AutoConfig.register(QwenVLConfig.model_type, QwenVLConfig, exist_ok=True)
    AutoModelForImageTextToText.register(QwenVLConfig, QwenVLForConditionalGeneration, exist_ok=True)
    tokenizers.register(QwenVLConfig, tokenizer_class=QWenTokenizer, exist_ok=True)
    AutoImageProcessor.register(QwenVLConfig, image_processor_classes={"pil": QwenVLImageProcessor}, exist_ok=True)
    processors.register(QwenVLConfig, QwenVLProcessor, exist_ok=True)
    register_checkpoint_conversion_mapping(QwenVLForConditionalGeneration.__name__, _key_mapping(), overwrite=True)


register()

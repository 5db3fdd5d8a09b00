"""The configuration of Qwen-VL version 1: a vision tower with a resampler, and a language model that computes as Qwen2.

The ``config.json`` of the original release names everything flatly and calls its model type ``qwen``; it is read as it
is. What `save_pretrained` writes has the two parts that transformers' own vision-language models have.

Source: Bai et al., "Qwen-VL: A Versatile Vision-Language Model", arXiv 2308.12966, and the release Qwen/Qwen-VL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, Qwen2Config

from hf_mllm_aug.errors import CheckpointError

# transformers' own types are incomplete.
_PreTrainedConfig: Any = PreTrainedConfig


class QwenVLVisionConfig(_PreTrainedConfig):  # type: ignore[misc]
    """The vision tower: a ViT whose patches a resampler condenses into a fixed number of features.

    Args:
        image_size: Height and width of a picture, in pixels.
        patch_size: Height and width of a patch, in pixels.
        hidden_size: Width of the ViT.
        num_hidden_layers: Blocks of the ViT.
        num_attention_heads: Heads of the ViT.
        mlp_ratio: Width of a block's MLP over ``hidden_size``, rounded down.
        num_queries: Features a picture gives; a square number.
        output_dim: Width of a feature, which is the language model's width.
        resampler_heads: Heads of the resampler; None for one head per 128 of ``output_dim``, as in the release.
        num_positions: Rows of the learned position table, a square number; it is stretched to the grid of patches.
        layer_norm_eps: Of every normalisation in the tower.
        initializer_range: Standard deviation of fresh weights.

    Raises:
        CheckpointError: The numbers do not go together.

    >>> config = QwenVLVisionConfig(image_size=96, patch_size=12, hidden_size=128, output_dim=192)
    >>> config.num_patches, config.mlp_size, config.resampler_heads
    (64, 630, 1)
    """

    model_type = "qwen_vl_vision"
    base_config_key = "vision_config"

    def __init__(
        self,
        image_size: int = 448,
        patch_size: int = 14,
        hidden_size: int = 1664,
        num_hidden_layers: int = 48,
        num_attention_heads: int = 16,
        mlp_ratio: float = 4.9231,
        num_queries: int = 256,
        output_dim: int = 4096,
        resampler_heads: int | None = None,
        num_positions: int = 256,
        layer_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.mlp_ratio = mlp_ratio
        self.num_queries = num_queries
        self.output_dim = output_dim
        self.resampler_heads = max(1, output_dim // 128) if resampler_heads is None else resampler_heads
        self.num_positions = num_positions
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
        self._check()

    @property
    def num_patches(self) -> int:
        """Patches of a picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def mlp_size(self) -> int:
        """Width of a block's MLP."""
        return int(self.hidden_size * self.mlp_ratio)

    def _check(self) -> None:
        rules = {
            "image_size is no multiple of patch_size": self.image_size % self.patch_size == 0,
            "hidden_size is no multiple of num_attention_heads": self.hidden_size % self.num_attention_heads == 0,
            "output_dim is no multiple of resampler_heads": self.output_dim % self.resampler_heads == 0,
            "output_dim is no multiple of 4, which sines and cosines of rows and columns need": (
                self.output_dim % 4 == 0
            ),
            "num_queries is no square number": math.isqrt(self.num_queries) ** 2 == self.num_queries,
            "num_positions is no square number": math.isqrt(self.num_positions) ** 2 == self.num_positions,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise CheckpointError(f"Qwen-VL's vision configuration does not go together: {'; '.join(broken)}")


class QwenVLConfig(_PreTrainedConfig):  # type: ignore[misc]
    """Qwen-VL version 1: the vision tower's configuration, the language model's, and the ids that mark a picture.

    Args:
        vision_config: `QwenVLVisionConfig` or its fields.
        text_config: `Qwen2Config` or its fields; ``max_position_embeddings`` is the trained length, 2048, past which
            the original rescales its rotary base and its queries, which this library does not.
        image_start_token_id: Stands before a picture's positions.
        image_end_token_id: Stands after them.
        image_token_id: Stands at each of a picture's ``vision_config.num_queries`` positions.
        tie_word_embeddings: Whether the language model's input and output embeddings are one.

    Raises:
        CheckpointError: The vision tower's features are not as wide as the language model.

    >>> config = QwenVLConfig.from_dict({"model_type": "qwen", "hidden_size": 256, "intermediate_size": 512,
    ...     "num_attention_heads": 2, "kv_channels": 128, "seq_length": 2048,
    ...     "visual": {"width": 96, "heads": 4, "output_dim": 256, "image_start_id": 90}})
    >>> config.text_config.intermediate_size, config.vision_config.hidden_size, config.image_token_id
    (256, 96, 92)
    """

    model_type = "qwen"  # as the released config.json says
    sub_configs = {"vision_config": QwenVLVisionConfig, "text_config": Qwen2Config}  # noqa: RUF012 - transformers' form

    def __init__(
        self,
        vision_config: QwenVLVisionConfig | Mapping[str, Any] | None = None,
        text_config: Qwen2Config | Mapping[str, Any] | None = None,
        image_start_token_id: int = 151857,
        image_end_token_id: int = 151858,
        image_token_id: int = 151859,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(vision_config, QwenVLVisionConfig):
            vision_config = QwenVLVisionConfig(**(vision_config or {}))
        if not isinstance(text_config, Qwen2Config):
            fields = _RELEASED_TEXT if text_config is None else text_config
            text_config = Qwen2Config(**{"tie_word_embeddings": tie_word_embeddings, **fields})
        if vision_config.output_dim != text_config.hidden_size:
            raise CheckpointError(
                f"Qwen-VL's vision tower gives features of width {vision_config.output_dim}, but its language model "
                f"has width {text_config.hidden_size}"
            )
        self.vision_config = vision_config
        self.text_config = text_config
        self.image_start_token_id = image_start_token_id
        self.image_end_token_id = image_end_token_id
        self.image_token_id = image_token_id
        # One truth for both: the language model is where the embeddings are.
        self.tie_word_embeddings = text_config.tie_word_embeddings
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a configuration, in the original's form or transformers'.

        Raises:
            CheckpointError: It is one of Qwen's models without pictures, or has parts that Qwen-VL does not have.
        """
        if "vision_config" not in config_dict:
            config_dict = _read_original(config_dict)
        return super().from_dict(config_dict, **kwargs)


_RELEASED_TEXT: Mapping[str, Any] = {"intermediate_size": 11008, "max_position_embeddings": 2048}


def _read_original(original: Mapping[str, Any]) -> dict[str, Any]:
    """The original's flat names -> the fields of `QwenVLConfig`."""
    visual = original.get("visual")
    if visual is None:
        raise CheckpointError(
            "this config.json of the model type 'qwen' has no part 'visual': it is a text-only Qwen, not Qwen-VL"
        )
    refused = {
        "no_bias": original.get("no_bias", True) is not True,
        "rotary_pct": original.get("rotary_pct", 1.0) != 1.0,
        "scale_attn_weights": original.get("scale_attn_weights", True) is not True,
    }
    odd = [name for name, is_odd in refused.items() if is_odd]
    if odd:
        raise CheckpointError(f"this is no Qwen-VL as released: its config.json changes {', '.join(odd)}")
    vision = {
        ours: visual[theirs]
        for theirs, ours in {
            "image_size": "image_size",
            "patch_size": "patch_size",
            "width": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "mlp_ratio": "mlp_ratio",
            "n_queries": "num_queries",  # the release leaves it out
            "output_dim": "output_dim",
        }.items()
        if theirs in visual
    }
    text = {
        ours: original[theirs]
        for theirs, ours in {
            "vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "num_hidden_layers": "num_hidden_layers",
            "num_attention_heads": "num_attention_heads",
            "kv_channels": "head_dim",
            "layer_norm_epsilon": "rms_norm_eps",
            "attn_dropout_prob": "attention_dropout",
            "initializer_range": "initializer_range",
            "use_cache": "use_cache",
            "tie_word_embeddings": "tie_word_embeddings",
        }.items()
        if theirs in original
    }
    text["num_key_value_heads"] = original.get("num_attention_heads", 32)
    # The original counts the gate and the other half as one matrix.
    text["intermediate_size"] = original.get("intermediate_size", 22016) // 2
    text["max_position_embeddings"] = original.get("seq_length", 2048)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": float(original.get("rotary_emb_base", 10000))}
    start = visual.get("image_start_id", 151857)
    return {
        "model_type": QwenVLConfig.model_type,
        "architectures": ["QwenVLForConditionalGeneration"],
        "dtype": original.get("dtype", original.get("torch_dtype")),
        "vision_config": vision,
        "text_config": text,
        "image_start_token_id": start,
        "image_end_token_id": start + 1,
        "image_token_id": start + 2,
    }

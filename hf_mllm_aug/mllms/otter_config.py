"""Otter's configuration: an MPT language model, a CLIP vision tower, and what joins them."""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig, MptConfig, PreTrainedConfig

from hf_mllm_aug.errors import CheckpointError

# transformers' own types are incomplete.
_PreTrainedConfig: Any = PreTrainedConfig

# OTTER-Image-MPT7B: mpt-7b-instruct, and CLIP ViT-L/14 at 224 px.
_MPT_7B = {"d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432}
_VIT_L_14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}

# Of MPT's settings, those that change the function and that transformers' MPT knows in one form only.
_ONLY_FORM = {"expansion_ratio": 4, "no_bias": True, "logit_scale": None}
_ONLY_FORM_OF_ATTENTION = {
    "alibi": True,
    "attn_type": "multihead_attention",
    "attn_uses_sequence_id": False,
    "prefix_lm": False,
    "qk_ln": False,
}


class OtterConfig(_PreTrainedConfig):  # type: ignore[misc]
    """The configuration of an `OtterForConditionalGeneration`; without arguments that of OTTER-Image-MPT7B.

    Reads the ``config.json`` of the original project, which leaves the numbers of the perceiver, of the gated
    cross-attention and of the special tokens to its code: they have that code's values here.

    Args:
        text_config: MPT's settings, an `MptConfig` or what makes one.
        vision_config: The CLIP vision tower's settings, a `CLIPVisionConfig` or what makes one.
        cross_attn_every_n_layers: Every n-th block of the language model is preceded by gated cross-attention.
        perceiver_layers: Layers of the perceiver.
        num_latents: Vectors that the perceiver makes of one picture.
        perceiver_heads: Attention heads of the perceiver.
        perceiver_head_dim: Their width.
        cross_attn_heads: Attention heads of the gated cross-attention.
        cross_attn_head_dim: Their width.
        feed_forward_mult: Width of the feed-forward parts of both, as a multiple of the model's.
        max_num_frames: How many frames of a picture have a learned embedding; None for none, as in Otter-Image.
        image_token_id: The id of ``<image>``, the one token that says where the text meets its picture.
        eos_token_id: The id of ``<|endofchunk|>``, which ends an answer.
        pad_token_id: The id of ``<PAD>``.
        tie_word_embeddings: MPT's output layer is its embedding.

    Raises:
        CheckpointError: The language model is not an MPT, or one of a form that transformers does not have.

    >>> config = OtterConfig()
    >>> config.text_config.hidden_size, config.vision_config.hidden_size, config.num_latents, config.image_token_id
    (4096, 1024, 64, 50278)
    """

    model_type = "otter"
    sub_configs_defaults = {"text_config": MptConfig, "vision_config": CLIPVisionConfig}  # noqa: RUF012
    # Names by which other code asks for the picture's token.
    attribute_map = {"media_token_id": "image_token_id", "image_token_index": "image_token_id"}  # noqa: RUF012

    text_config: Any = None
    vision_config: Any = None
    cross_attn_every_n_layers: int = 4
    perceiver_layers: int = 6
    num_latents: int = 64
    perceiver_heads: int = 8
    perceiver_head_dim: int = 64
    cross_attn_heads: int = 8
    cross_attn_head_dim: int = 64
    feed_forward_mult: int = 4
    max_num_frames: int | None = None
    image_token_id: int = 50278
    eos_token_id: int | None = 50277
    pad_token_id: int | None = 50280
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        text = _MPT_7B if self.text_config is None else self.text_config
        kind = text.get("model_type", "mpt") if isinstance(text, dict) else text.model_type
        if kind != "mpt":
            raise CheckpointError(
                f"this Otter's language model is of the type {kind!r}; only the ones with an MPT, such as "
                "OTTER-Image-MPT7B, can be read"
            )
        self.text_config = text
        if self.vision_config is None:
            self.vision_config = _VIT_L_14
        super().__post_init__(**kwargs)
        self._refuse_other_forms()

    def _refuse_other_forms(self) -> None:
        text = self.text_config
        wrong = [
            f"{name}={getattr(settings, name)!r} (can be: {value!r})"
            for settings, known in ((text, _ONLY_FORM), (text.attn_config, _ONLY_FORM_OF_ATTENTION))
            for name, value in known.items()
            if getattr(settings, name) != value
        ]
        if wrong:
            raise CheckpointError(f"transformers' MPT does not have this form: text_config has {', '.join(wrong)}")

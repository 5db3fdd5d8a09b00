"""Otter (OTTER-Image-MPT7B): CLIP, a perceiver, and MPT with gated cross-attention to the pictures.

The vision tower and the blocks of the language model are those of transformers. Source of the function: Li et al.,
"Otter: A Multi-Modal Model with In-Context Instruction Tuning" (2023), in the version that the paper's scripts use.

`register` makes the original's checkpoints known to the Auto classes of transformers: their ``config.json`` and the
names of their weights are read as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionModel,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.utils.generic import can_return_tuple

from hf_mllm_aug.errors import CheckpointError, UsageError
from hf_mllm_aug.mllms import otter_processing
from hf_mllm_aug.mllms.loading import WholeCheckpoint
from hf_mllm_aug.mllms.otter_config import OtterConfig
from hf_mllm_aug.mllms.otter_layers import OtterPerceiver, PictureMemory
from hf_mllm_aug.mllms.otter_processing import OtterImageProcessor, OtterProcessor
from hf_mllm_aug.mllms.otter_text import OtterTextModel

# transformers' own types are incomplete.
_PreTrainedModel: Any = PreTrainedModel
_GenerationMixin: Any = GenerationMixin

__all__ = [
    "OtterConfig",
    "OtterForConditionalGeneration",
    "OtterImageProcessor",
    "OtterModel",
    "OtterProcessor",
    "register",
]


class OtterPreTrainedModel(_PreTrainedModel):  # type: ignore[misc]
    """What Otter's models have in common."""

    config: Any
    config_class = OtterConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["OtterLayer", "OtterPerceiverLayer", "CLIPEncoderLayer"]  # noqa: RUF012
    _can_compile_fullgraph = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    # Buffers that older versions wrote out.
    _keys_to_ignore_on_load_unexpected = [r"\.position_ids$", r"\.attn_bias$"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OtterPerceiver):
            init.normal_(module.latents)
            if module.frame_embs is not None:
                init.normal_(module.frame_embs)


class OtterModel(OtterPreTrainedModel):
    """Otter without its output layer."""

    def __init__(self, config: OtterConfig) -> None:
        super().__init__(config)
        text = config.text_config
        if config.cross_attn_every_n_layers > text.n_layers:
            raise CheckpointError(
                f"cross_attn_every_n_layers={config.cross_attn_every_n_layers} with {text.n_layers} blocks: no block "
                "would see the picture"
            )
        if not 0 <= config.image_token_id < text.vocab_size:
            raise CheckpointError(
                f"image_token_id={config.image_token_id} is outside the vocabulary of {text.vocab_size}: set it to the "
                "id that the checkpoint's tokenizer has for <image>"
            )
        # MPT's attention is written out in transformers; the vision tower may have another.
        text._attn_implementation = "eager"
        self.vision_encoder = CLIPVisionModel(config.vision_config)
        self.perceiver = OtterPerceiver(config)
        self.language_model = OtterTextModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the vocabulary."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put another in its place."""
        self.language_model.set_input_embeddings(value)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def get_image_features(self, pixel_values: torch.Tensor) -> Any:
        """See `OtterForConditionalGeneration.get_image_features`."""
        pixels = _six_axes(pixel_values)
        rows, n_pictures, n_frames = pixels.shape[:3]
        pixels = pixels.flatten(0, 2).to(self.vision_encoder.dtype)
        patches = self.vision_encoder(pixels).last_hidden_state[:, 1:]
        latents = self.perceiver(patches.unflatten(0, (rows * n_pictures, n_frames)))
        return BaseModelOutputWithPooling(
            last_hidden_state=patches, pooler_output=latents.unflatten(0, (rows, n_pictures))
        )

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
    ) -> Any:
        """See `OtterForConditionalGeneration.forward`."""
        pictures = None
        if pixel_values is not None:
            self._check_marks(input_ids, _six_axes(pixel_values).shape[1], past_key_values)
            pictures = self.get_image_features(pixel_values).pooler_output
        caching = not self.training if use_cache is None else use_cache
        if caching and past_key_values is None:
            past_key_values = DynamicCache(config=self.config.text_config)
        memory = PictureMemory.of(past_key_values) if pictures is None else PictureMemory()
        if memory is None:
            raise UsageError("Otter's text needs its picture: give pixel_values, or the cache of the text before")
        if past_key_values is not None:
            memory.travel_on(past_key_values)
        hidden = self.language_model(
            input_ids, pictures, memory, attention_mask=attention_mask, past_key_values=past_key_values
        )
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    def _check_marks(self, input_ids: torch.Tensor, n_pictures: int, past_key_values: Any) -> None:
        """Refuse pictures that the text would never meet, and text that would look for a picture that is not there."""
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            raise UsageError("pixel_values with a cache that holds text: all pictures come with the first ids")
        marks = (input_ids == self.config.image_token_id).sum(dim=-1).tolist()
        for row, n_marks in enumerate(marks):
            if not 1 <= n_marks <= n_pictures:
                raise UsageError(
                    f"row {row} has the <image> token ({self.config.image_token_id}) {n_marks} times and pictures: "
                    f"{n_pictures}; each picture is marked once"
                )


class OtterForConditionalGeneration(WholeCheckpoint, OtterPreTrainedModel, _GenerationMixin):  # type: ignore[misc]
    """Otter: text about pictures that stand in it.

    >>> config = OtterConfig(
    ...     text_config={"d_model": 16, "n_heads": 2, "n_layers": 2, "vocab_size": 30},
    ...     vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    ...                    "image_size": 28, "patch_size": 14},
    ...     cross_attn_every_n_layers=2, perceiver_layers=1, num_latents=4,
    ...     image_token_id=28, eos_token_id=27, pad_token_id=29,
    ... )
    >>> model = OtterForConditionalGeneration(config).eval()
    >>> prompt = torch.tensor([[28, 5, 6]])
    >>> with torch.inference_mode():
    ...     answer = model.generate(prompt, pixel_values=torch.zeros(1, 3, 28, 28), min_new_tokens=4, max_new_tokens=4)
    >>> answer.shape
    torch.Size([1, 7])
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.wte.weight"}  # noqa: RUF012

    def __init__(self, config: OtterConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.model = OtterModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the vocabulary."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put another in its place."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The output layer, tied to the embedding."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Put another in its place."""
        self.lm_head = value

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """What the text gets to see of pictures.

        Args:
            pixel_values: (rows, n_pictures, n_frames, 3, height, width), or (n, 3, height, width) for rows of one
                picture of one frame.
            kwargs: ``return_dict``.

        Returns:
            An output whose ``last_hidden_state`` is what the vision tower gives to the perceiver, (frames, n_patches,
            vision_width), and whose ``pooler_output`` is what the perceiver makes of it, (rows, n_pictures,
            num_latents, vision_width).

        Raises:
            UsageError: `pixel_values` has another number of axes, or too many frames.
        """
        return self.model.get_image_features(pixel_values, **kwargs)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
    ) -> Any:
        """Compute the logits of the next tokens.

        Args:
            input_ids: (rows, length), with ``<image>`` where a picture stands. With a cache, only the ids that follow.
            attention_mask: (rows, past + length), 0 where there is padding.
            pixel_values: See `get_image_features`. With the first ids only: later ones find the pictures on the cache.
            past_key_values: The cache that an earlier call gave back, or an empty one.
            use_cache: Whether to give a cache back; None: unless the model is being trained.
            labels: (rows, length), the ids that should be predicted, -100 for none; they are shifted here.
            logits_to_keep: Compute the logits of that many last positions only, 0 for all; or their indices.

        Returns:
            An output with ``logits`` (rows, length, vocabulary), ``past_key_values``, and ``loss`` where there are
            labels.

        Raises:
            UsageError: There is no picture, a row does not mark its pictures, or new ones come with a cache in use.
        """
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)

    def adjust_generation_fn(self, generation_config: Any, *args: Any, **kwargs: Any) -> None:
        """Take the generation settings of a checkpoint, called by `from_pretrained`.

        The original's folders do not say which token ends an answer: its code does. And they say that there is no
        cache, which its code could not do with.
        """
        super().adjust_generation_fn(generation_config, *args, **kwargs)
        settings = self.generation_config
        if generation_config is None and getattr(settings, "_from_model_config", False):
            settings.use_cache = True
        for name in ("eos_token_id", "pad_token_id"):
            if getattr(settings, name) is None:
                setattr(settings, name, getattr(self.config, name))


def _six_axes(pixel_values: torch.Tensor) -> torch.Tensor:
    """(n, 3, height, width) as n rows of one picture of one frame; six axes as they are."""
    if pixel_values.ndim == 4:
        return pixel_values[:, None, None]
    if pixel_values.ndim == 6:
        return pixel_values
    raise UsageError(
        f"pixel_values of shape {tuple(pixel_values.shape)}: Otter takes (rows, pictures, frames, 3, height, width) or "
        "(n, 3, height, width)"
    )


def register() -> None:
    """Make Otter known to the Auto classes of transformers; as often as you like.

    >>> from transformers import AutoConfig
    >>> register()
    >>> type(AutoConfig.for_model("otter")).__name__
    'OtterConfig'
    """
    otter_processing.register()
    AutoModelForImageTextToText.register(OtterConfig, OtterForConditionalGeneration, exist_ok=True)
    # The vision tower's own renaming, which transformers has, follows on these.
    renamings: list[Any] = [
        WeightRenaming(r"^lang_encoder\.transformer\.", "model.language_model."),
        WeightRenaming(r"^perceiver\.", "model.perceiver."),
        WeightRenaming(r"^vision_encoder\.", "model.vision_encoder."),
    ]
    register_checkpoint_conversion_mapping("otter", renamings, overwrite=True)


register()

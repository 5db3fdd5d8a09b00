"""MiniGPT-4: EVA's vision transformer, BLIP-2's Q-Former and one linear layer before Vicuna (Zhu et al., 2023,
https://arxiv.org/abs/2304.10592; the code of Vision-CAIR/MiniGPT-4).

That is BLIP-2 with a Llama as its language model, so the parts are those of transformers. Two things differ: the last
layer norm of the vision tower has an epsilon of its own, and the picture stands in the middle of the prompt, between
two pieces of text. `minigpt4_convert.convert_minigpt4` makes a checkpoint from the published files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
)

from hf_mllm_aug.errors import CheckpointError, UsageError
from hf_mllm_aug.mllms.loading import WholeCheckpoint
from hf_mllm_aug.mllms.minigpt4_processing import MiniGPT4ImageProcessor, MiniGPT4Processor

# Their types are too narrow to build upon.
_Blip2Config: Any = Blip2Config
_Blip2ForConditionalGeneration: Any = Blip2ForConditionalGeneration


@strict
class MiniGPT4Config(_Blip2Config):  # type: ignore[misc]
    """A `Blip2Config` whose language model is a Llama unless it says otherwise; its defaults are MiniGPT-4's sizes.

    Args:
        ln_vision_eps: Epsilon of the layer norm after the vision tower. The blocks' own is
            ``vision_config.layer_norm_eps``; BLIP-2 in transformers has that one here too.
        image_token_index: The token that stands for the picture in ``input_ids``, ``num_query_tokens`` times; also
            known as ``image_token_id``. Its embedding is never looked at, but it has to have one. Llama's
            unknown-token 0 never comes out of a text.

    Raises:
        CheckpointError: ``image_token_index`` is not in the language model's vocabulary.

    >>> config = MiniGPT4Config(num_query_tokens=8)
    >>> config.text_config.model_type, config.vision_config.num_hidden_layers, config.ln_vision_eps
    ('llama', 39, 1e-05)
    """

    model_type = "minigpt4"

    image_token_index: int | None = 0
    ln_vision_eps: float = 1e-5

    if TYPE_CHECKING:
        text_config: Any

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None or isinstance(self.text_config, dict):
            self.text_config = {"model_type": "llama", **(self.text_config or {})}
        super().__post_init__(**kwargs)
        words = self.text_config.vocab_size
        if self.image_token_index is None or not 0 <= self.image_token_index < words:
            raise CheckpointError(
                f"image_token_id is {self.image_token_index}, which has no embedding: give one below the "
                f"language model's vocab_size, {words}"
            )


class MiniGPT4ForConditionalGeneration(WholeCheckpoint, _Blip2ForConditionalGeneration):  # type: ignore[misc]
    """MiniGPT-4: pixels and a prompt with slots for the picture -> text.

    ``get_image_features(pixel_values).pooler_output`` is what takes the picture's slots: (n, num_query_tokens, width of
    the language model).

    Args:
        config: The sizes.

    >>> width = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> config = MiniGPT4Config(
    ...     vision_config={**width, "image_size": 28, "patch_size": 14}, qformer_config=width, num_query_tokens=4,
    ...     text_config={**width, "vocab_size": 9},
    ... )
    >>> model = MiniGPT4ForConditionalGeneration(config)
    >>> prompt = torch.tensor([[1, 5, 0, 0, 0, 0, 7]])
    >>> model(input_ids=prompt, pixel_values=torch.zeros(1, 3, 28, 28)).logits.shape
    torch.Size([1, 7, 9])
    """

    config_class = MiniGPT4Config

    def __init__(self, config: MiniGPT4Config) -> None:
        super().__init__(config)
        self.vision_model.post_layernorm.eps = config.ln_vision_eps

    def get_placeholder_mask(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Where the picture's slots are: (n, length, 1).

        Raises:
            UsageError: A row has not one slot for each query.
        """
        mask: torch.Tensor = super().get_placeholder_mask(input_ids, inputs_embeds)
        self._check_slots(mask[..., 0])
        return mask

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute logits.

        Args:
            input_ids: (n, length), each row with ``config.num_query_tokens`` times ``config.image_token_id``.
            attention_mask: (n, length), 0 where there is padding.
            pixel_values: (n, 3, size, size), normalised.
            labels: (n, length), the ids that should be predicted, -100 for none; they are shifted inside.
            kwargs: As `Blip2ForConditionalGeneration` has them, such as ``logits_to_keep`` or ``return_dict``.

        Returns:
            An output with ``logits`` (n, length, vocabulary), and ``loss`` where there are labels.

        Raises:
            UsageError: There is no picture, or a row of ``input_ids`` has not one slot for each query.
        """
        _need_picture(pixel_values)
        return super().forward(
            pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs
        )

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        **generate_kwargs: Any,
    ) -> Any:
        """Continue the prompts.

        Args:
            input_ids: (n, length), left-padded.
            attention_mask: (n, length), 0 where there is padding.
            pixel_values: (n, 3, size, size), normalised.
            generate_kwargs: As `GenerationMixin.generate` takes them. What they leave open is the model's own
                ``generation_config``'s, not the inner language model's as in BLIP-2.

        Returns:
            The prompts' ids with the new ones behind them.

        Raises:
            UsageError: There is no picture, or a row of ``input_ids`` has not one slot for each query.
        """
        _need_picture(pixel_values)
        self._check_slots(input_ids == self.config.image_token_id)
        self.language_model.generation_config = self.generation_config
        return super().generate(
            pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask, **generate_kwargs
        )

    def _check_slots(self, slots: torch.Tensor) -> None:
        """Refuse what BLIP-2 would fill with another row's picture.

        Args:
            slots: (n, length), true where the picture's token stands.
        """
        if torch.compiler.is_compiling():  # a check of values has no place in a graph
            return
        wanted = self.config.num_query_tokens
        found = slots.sum(dim=1)
        if bool((found != wanted).any()):
            raise UsageError(
                f"each row needs {wanted} of the picture's token {self.config.image_token_id}, one for each query; "
                f"the rows have {found.tolist()}"
            )


def _need_picture(pixel_values: torch.Tensor | None) -> None:
    if pixel_values is None:
        raise UsageError("MiniGPT-4's text needs its picture: give pixel_values")


def register() -> None:
    """Make MiniGPT-4 known to transformers' Auto classes; again and again does no harm."""
    auto: Any
    for auto, part in (
        (AutoModelForImageTextToText, MiniGPT4ForConditionalGeneration),
        (AutoProcessor, MiniGPT4Processor),
    ):
        auto.register(MiniGPT4Config, part, exist_ok=True)
    auto = AutoConfig
    auto.register(MiniGPT4Config.model_type, MiniGPT4Config, exist_ok=True)
    auto = AutoImageProcessor
    auto.register(MiniGPT4Config, image_processor_classes={"pil": MiniGPT4ImageProcessor}, exist_ok=True)


register()

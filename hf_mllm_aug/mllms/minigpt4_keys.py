"""Where each tensor of MiniGPT-4's published files has its place in `MiniGPT4ForConditionalGeneration`.

Four sources: EVA's vision transformer as BLIP-2 publishes it, the Q-Former from BLIP-2 for Flan-T5, the linear layer
that MiniGPT-4 trained, and Vicuna. What the files hold beyond the model is known by name; anything else is a sign of
another file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WB = r"(weight|bias)"
_LAYER = r"qformer.encoder.layer.\1"


@dataclass(frozen=True)
class KeyMap:
    """The renaming of one source.

    Args:
        renamings: A pattern of the whole name, and the new name with its groups.
        extras: A pattern of names that the model has no use for.
    """

    renamings: Sequence[tuple[str, str]]
    extras: str

    def target(self, name: str) -> str | None:
        r"""The model's name for a tensor; None if it is not known.

        >>> VISION.target("blocks.7.norm1.bias"), VISION.target("head.bias")
        ('vision_model.encoder.layers.7.layer_norm1.bias', None)
        """
        for pattern, new in self.renamings:
            if match := re.fullmatch(pattern, name):
                return match.expand(new)
        return None

    def is_extra(self, name: str) -> bool:
        """Whether a tensor is known to be of no use.

        >>> VISION.is_extra("head.bias"), VISION.is_extra("tail.bias")
        (True, False)
        """
        return re.fullmatch(self.extras, name) is not None


_BLOCK = r"vision_model.encoder.layers.\1"

VISION = KeyMap(
    renamings=(
        (r"cls_token", r"vision_model.embeddings.class_embedding"),
        (r"pos_embed", r"vision_model.embeddings.position_embedding"),
        (rf"patch_embed\.proj\.{_WB}", r"vision_model.embeddings.patch_embedding.\1"),
        (rf"blocks\.(\d+)\.norm([12])\.{_WB}", rf"{_BLOCK}.layer_norm\2.\3"),
        # The keys have no bias. `q_bias`, zeros and `v_bias` make one; the converter puts them together.
        (r"blocks\.(\d+)\.attn\.[qv]_bias", rf"{_BLOCK}.self_attn.qkv.bias"),
        (r"blocks\.(\d+)\.attn\.qkv\.weight", rf"{_BLOCK}.self_attn.qkv.weight"),
        (rf"blocks\.(\d+)\.attn\.proj\.{_WB}", rf"{_BLOCK}.self_attn.projection.\2"),
        (rf"blocks\.(\d+)\.mlp\.(fc[12])\.{_WB}", rf"{_BLOCK}.mlp.\2.\3"),
    ),
    extras=rf"(norm|fc_norm|head)\.{_WB}",
)

QFORMER = KeyMap(
    renamings=(
        (r"query_tokens", r"query_tokens"),
        (rf"ln_vision\.{_WB}", r"vision_model.post_layernorm.\1"),
        (rf"Qformer\.bert\.embeddings\.LayerNorm\.{_WB}", r"qformer.layernorm.\1"),
        (
            rf"Qformer\.bert\.encoder\.layer\.(\d+)\.(attention|crossattention)\.self\.(query|key|value)\.{_WB}",
            rf"{_LAYER}.\2.attention.\3.\4",
        ),
        (
            rf"Qformer\.bert\.encoder\.layer\.(\d+)\.(attention|crossattention)\.output\.(dense|LayerNorm)\.{_WB}",
            rf"{_LAYER}.\2.output.\3.\4",
        ),
        (
            rf"Qformer\.bert\.encoder\.layer\.(\d+)\.intermediate_query\.dense\.{_WB}",
            rf"{_LAYER}.intermediate_query.dense.\2",
        ),
        (
            rf"Qformer\.bert\.encoder\.layer\.(\d+)\.output_query\.(dense|LayerNorm)\.{_WB}",
            rf"{_LAYER}.output_query.\2.\3",
        ),
    ),
    # The projection to T5, and the branch for text with its embeddings and head. A projection to another language
    # model is no extra: its file has another Q-Former.
    extras=(
        r"t5_proj\..+|Qformer\.cls\..+"
        r"|Qformer\.bert\.embeddings\.(position_ids|(word|position)_embeddings\.weight)"
        r"|Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..+"
    ),
)

PROJECTION = KeyMap(
    renamings=((rf"llama_proj\.{_WB}", r"language_projection.\1"),),
    # Buffers, which a training run saves whether they were trained or not.
    extras=r".+\.position_ids|.+\.rotary_emb\.inv_freq",
)

LANGUAGE = KeyMap(
    renamings=((r"(model\..+|lm_head\.weight)", r"language_model.\1"),),
    extras=r".+\.rotary_emb\.inv_freq",
)

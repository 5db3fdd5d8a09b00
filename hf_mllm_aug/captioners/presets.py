"""The captioners that have a name, as data: checkpoint, prompt, decoding, licence, citation.

A new MLLM whose architecture `transformers` has is one more `register(Preset(...))`, here or in your own code.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_mllm_aug.errors import UsageError

PromptStyle = Literal["segments", "chat"]

IMAGE_MARK = "<image>"
"""Where the picture stands in a prompt."""

_EMBEDDED = Path(__file__).parent / "tiny"

_PAPER = """@article{liu2023mllms,
  title   = {{MLLMs-Augmented Visual-Language Representation Learning}},
  author  = {Liu, Yanqing and Wang, Kai and Shao, Wenqi and Luo, Ping and Qiao, Yu and Shou, Mike Zheng and Zhang,
  Kaipeng
             and You, Yang},
  journal = {arXiv preprint arXiv:2311.18765},
  year    = {2023}
}"""

_LLAVA_1_5 = """@inproceedings{liu2024improved,
  title     = {Improved Baselines with Visual Instruction Tuning},
  author    = {Liu, Haotian and Li, Chunyuan and Li, Yuheng and Lee, Yong Jae},
  booktitle = {CVPR},
  year      = {2024}
}"""


@dataclass(frozen=True)
class Preset:
    """A captioner's checkpoint and how it is asked.

    Args:
        name: What users write, such as ``"llava-1.5"``; columns and configs are named after it.
        source: A Hub id (``org/name``), or the folder of an embedded checkpoint.
        prompt: The question, with ``<image>`` where the picture stands. Without it the picture comes first.
        description: One sentence for cards and `models`.
        licence: SPDX name or the licence's own name.
        citation: BibTeX.
        prompt_style: ``"segments"``: the text before and after the picture is tokenised as two separate pieces, with no
            conversation around it; ``"chat"``: the checkpoint's chat template.
        decoding: What `Captioner` decodes with unless its ``generation`` says otherwise. Parameters that are not named
            have the neutral values of `captioners.decoding.NEUTRAL`, never those of the checkpoint.
        published_decoding: What the paper's scripts decoded with, where that differs; pass it as ``generation``.
        revision: The commit of the checkpoint; None for its head.
        batch_size: Pictures a `generate` call, unless `Captioner` says otherwise.
    """

    name: str
    source: str | Path
    prompt: str
    description: str
    licence: str
    citation: str
    prompt_style: PromptStyle = "chat"
    decoding: Mapping[str, Any] = field(default_factory=dict)
    published_decoding: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    batch_size: int = 8

    @property
    def embedded(self) -> bool:
        """Whether the checkpoint comes with this package."""
        return isinstance(self.source, Path)


_PRESETS: dict[str, Preset] = {}

PRESETS: Mapping[str, Preset] = types.MappingProxyType(_PRESETS)
"""The registered presets by name, read-only; `register` adds to it."""

WITHOUT_CODE: Mapping[str, str] = types.MappingProxyType(
    {
        "minigpt-4": "Vision-CAIR/MiniGPT-4 on Vicuna v0",
        "otter": "OTTER-Image-MPT7B",
        "qwen-vl": "Qwen/Qwen-VL, version 1",
    }
)
"""The paper's other MLLMs, which `transformers` lacks: known, so that the error can say what is missing."""


def register(preset: Preset) -> None:
    """Make a captioner known under its name.

    Raises:
        UsageError: The name is taken, or could be mistaken for a Hub id or a path.

    >>> register(PRESETS["tiny-llava"])
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.UsageError: a captioner named 'tiny-llava' is registered already
    """
    if preset.name in _PRESETS:
        raise UsageError(f"a captioner named {preset.name!r} is registered already")
    if not preset.name or "/" in preset.name or "\\" in preset.name:
        raise UsageError(f"captioner name {preset.name!r}: empty, or with a slash as Hub ids and folders have")
    _PRESETS[preset.name] = preset


register(
    Preset(
        name="tiny-llava",
        source=_EMBEDDED / "llava",
        prompt="Describe <image> in English:",
        prompt_style="segments",
        description=(
            "A miniature of LLaVA-1.5's architecture that comes with the package, trained on emoji and stickers. It "
            "makes the first command real without a download; it is no substitute for a full model."
        ),
        licence="CC BY-SA 4.0",
        citation=_PAPER,
        batch_size=32,
    )
)

register(
    Preset(
        name="llava-1.5",
        source="llava-hf/llava-1.5-7b-hf",
        prompt="Describe <image> in English:",
        prompt_style="segments",
        description="LLaVA-1.5 7B, with the paper's prompt and without a conversation around it.",
        licence="Llama 2 Community License",
        citation=_LLAVA_1_5,
        # Greedy by default: a caption then depends on the picture alone. The paper sampled.
        published_decoding={"do_sample": True, "temperature": 0.2},
        batch_size=48,
    )
)

BUILT_IN: frozenset[str] = frozenset(_PRESETS)
"""The names that every installation of this version has."""

"""The MLLMs that every installation has a name for.

Of each of the paper's MLLMs there are two variants. ``"paper"`` is what the released scripts of arXiv 2311.18765 do,
oddities included: prompt, decoding, and captions that end at the first full stop whatever it is. ``"default"`` leaves
shearing to `Shear`, is greedy, so that a caption depends on its picture alone, and asks for a description.

The scripts leave ``top_k`` unset, which is 50 in the versions of transformers that they were written for; here it is
said. Four things are not reproduced. MiniGPT-4's script ends all rows of a batch when the first one ends, and leaves
end tokens in the text. Otter's loses every word that begins with ``<``, and so a first word glued to ``<answer>``; and
it decodes with ``clean_up_tokenization_spaces``, which takes away the space in `` ,`` and before other marks.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_mllm_aug.captioners.cleanup import CleanUp
from hf_mllm_aug.captioners.presets import Preset, Variant, register
from hf_mllm_aug.schema import slug

_EMBEDDED = Path(__file__).parent / "tiny"
_MINIATURES = find_spec("hf_mllm_aug_miniatures")  # a package of weights alone, which need not be installed

_FULL_STOP = "."
_TOP_K_UNSET = 50

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

_MINIGPT_4 = """@article{zhu2023minigpt,
  title   = {{MiniGPT-4}: Enhancing Vision-Language Understanding with Advanced Large Language Models},
  author  = {Zhu, Deyao and Chen, Jun and Shen, Xiaoqian and Li, Xiang and Elhoseiny, Mohamed},
  journal = {arXiv preprint arXiv:2304.10592},
  year    = {2023}
}"""

_OTTER = """@article{li2023otter,
  title   = {Otter: A Multi-Modal Model with In-Context Instruction Tuning},
  author  = {Li, Bo and Zhang, Yuanhan and Chen, Liangyu and Wang, Jinghao and Yang, Jingkang and Liu, Ziwei},
  journal = {arXiv preprint arXiv:2305.03726},
  year    = {2023}
}"""

_QWEN_VL = """@article{bai2023qwenvl,
  title   = {{Qwen-VL}: A Versatile Vision-Language Model for Understanding, Localization, Text Reading, and Beyond},
  author  = {Bai, Jinze and Bai, Shuai and Yang, Shusheng and Wang, Shijie and Tan, Sinan and Wang, Peng and Lin,
             Junyang and Zhou, Chang and Zhou, Jingren},
  journal = {arXiv preprint arXiv:2308.12966},
  year    = {2023}
}"""

_LLAVA_PROMPT = "Describe <image> in English:"
_LLAVA_PAPER = Variant(
    _LLAVA_PROMPT,
    {"do_sample": True, "temperature": 0.2, "top_k": _TOP_K_UNSET},
    CleanUp(stops=(_FULL_STOP,)),
)

# Its own conversation: system, "###", "Human: ", picture and question, "###", "Assistant: ".
_MINIGPT_4_PROMPT = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions.###Human: <Img><image></Img> Describe in English:###Assistant: "
)
_MINIGPT_4_PAPER = Variant(
    _MINIGPT_4_PROMPT,
    {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": _TOP_K_UNSET},
    CleanUp(stops=("###", _FULL_STOP), restarts=("Assistant:",), dropped="\n\u200b"),
)
_MINIGPT_4_SHORT = _MINIGPT_4_PROMPT[_MINIGPT_4_PROMPT.index("###") :]  # a miniature has no use for a system message
_OTTER_PROMPT = "<image> User: Describe in English: GPT: <answer>"
_OTTER_DECODING = {"no_repeat_ngram_size": 3}
_OTTER_END = "<|endofchunk|>"
# Those of Qwen-VL's own evaluation of captions; without beams a length penalty changes nothing.
_QWEN_VL_DECODING = {"min_new_tokens": 8}

_FULL = (
    Preset(
        name="tiny-llava",
        source=_EMBEDDED / "llava",
        prompt=_LLAVA_PROMPT,
        prompt_style="segments",
        paper=_LLAVA_PAPER,
        description=(
            "A miniature of LLaVA-1.5's architecture that comes with the package, trained on emoji and stickers. It "
            "makes the first command real without a download; it is no substitute for a full model."
        ),
        licence="CC BY-SA 4.0",
        citation=_PAPER,
        batch_size=32,
    ),
    Preset(
        name="llava-1.5",
        source="llava-hf/llava-1.5-7b-hf",
        prompt=_LLAVA_PROMPT,
        prompt_style="segments",
        paper=_LLAVA_PAPER,
        description="LLaVA-1.5 7B, with the paper's prompt and without a conversation around it.",
        licence="Llama 2 Community License",
        citation=_LLAVA_1_5,
        batch_size=48,
        # Others put other towers and language models into the same class, and ask them in other ways.
        recognised_by=(
            {"model_type": "llava", "text_config.model_type": "llama", "vision_config.model_type": "clip_vision_model"},
        ),
    ),
    Preset(
        name="minigpt-4",
        source=None,
        make="hf-mllm-aug convert minigpt-4",
        prompt=_MINIGPT_4_PROMPT,
        prompt_style="native",
        clean_up=CleanUp(stops=("###",), prefixes=("Assistant:",), dropped="\u200b"),
        paper=_MINIGPT_4_PAPER,
        description="MiniGPT-4 on a Vicuna v0, put together from the parts that its authors publish.",
        licence="LLaMA License (non-commercial), from Vicuna v0",
        citation=_MINIGPT_4,
        batch_size=96,
        recognised_by=({"model_type": "minigpt4"},),
    ),
    Preset(
        name="otter",
        source="luodian/OTTER-Image-MPT7B",
        prompt=_OTTER_PROMPT,
        prompt_style="native",
        decoding=_OTTER_DECODING,
        clean_up=CleanUp(stops=(_OTTER_END,), prefixes=("GPT:", "<answer>")),
        paper=Variant(_OTTER_PROMPT, _OTTER_DECODING, CleanUp(stops=(_OTTER_END, _FULL_STOP))),
        description="Otter on MPT 7B, a Flamingo that was tuned on instructions about pictures.",
        licence="MIT",
        citation=_OTTER,
        batch_size=48,
        recognised_by=({"model_type": "otter"},),
    ),
    Preset(
        name="qwen-vl",
        source="Qwen/Qwen-VL",
        prompt="<image>Describe the image in English:",
        prompt_style="native",
        decoding=_QWEN_VL_DECODING,
        paper=Variant(
            "<image>Express emotional or artistic response:",
            {**_QWEN_VL_DECODING, "length_penalty": 0.0},
            CleanUp(stops=(_FULL_STOP,)),
        ),
        description="Qwen-VL 7B, the first version, before its tuning as a chat model.",
        licence="Tongyi Qianwen License Agreement",
        citation=_QWEN_VL,
        batch_size=64,
        # The language models of its family have the same model type and no tower.
        recognised_by=({"model_type": "qwen", "visual.width": None}, {"model_type": "qwen", "vision_config": None}),
    ),
)


def _miniature(preset: Preset, of: str, **changes: Any) -> Preset:
    """A preset's miniature, which is asked as the preset says."""
    folder = f"tiny_{slug(preset.name)}"
    roots = (_MINIATURES.submodule_search_locations if _MINIATURES else None) or []
    return replace(
        preset,
        name=f"tiny-{preset.name}",
        source=found if roots and (found := Path(roots[0]) / folder).is_dir() else None,
        package="hf-mllm-aug-miniatures",
        make="",
        description=f"A miniature of {of}, trained on the same drawings as tiny-llava; it writes sentences.",
        licence="CC BY-SA 4.0",
        citation=_PAPER,
        batch_size=32,
        recognised_by=(),
        **changes,
    )


_BY_NAME = {preset.name: preset for preset in _FULL}
_BUILT_IN = (
    *_FULL[:1],
    _miniature(
        _BY_NAME["minigpt-4"],
        "MiniGPT-4",
        prompt=_MINIGPT_4_SHORT,
        paper=replace(_MINIGPT_4_PAPER, prompt=_MINIGPT_4_SHORT),
    ),
    _miniature(_BY_NAME["qwen-vl"], "Qwen-VL"),
    _miniature(_BY_NAME["otter"], "Otter"),
    *_FULL[1:],
)

for _preset in _BUILT_IN:
    register(_preset)

BUILT_IN: frozenset[str] = frozenset(preset.name for preset in _BUILT_IN)
"""The names that every installation of this version has."""

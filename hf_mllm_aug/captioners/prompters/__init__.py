"""Pictures and a prompt -> what a model takes.

There are four styles. ``"segments"``, as LLaVA-1.5's own code has it: the text before and after the picture is
tokenised as two pieces. ``"chat"``: the checkpoint's chat template. ``"plain"``: architectures that were never taught
a conversation, each asked as its documentation has it (`forms.FORMS`). ``"native"``: the models of
`hf_mllm_aug.mllms`, whose processors know their original's prompt. ``"auto"`` takes the one that fits the checkpoint.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_mllm_aug.captioners.prompters.forms import DEFAULT_PROMPT, DOCUMENTED, FORMS, documented_prompt
from hf_mllm_aug.captioners.prompters.prompter import Prompter, halves
from hf_mllm_aug.errors import AugError, CheckpointError

if TYPE_CHECKING:
    from hf_mllm_aug.captioners.engine import ModelKey

__all__ = ["DEFAULT_PROMPT", "DOCUMENTED", "FORMS", "Prompter", "documented_prompt", "halves", "load_prompter"]


def load_prompter(key: ModelKey, config: Any) -> Prompter:
    """Load the tokenizer and the processors of a checkpoint; no weights.

    Args:
        key: Which checkpoint, and the prompt style.
        config: The model's configuration.

    Returns:
        The prompter, tried out on two grey pictures: a processor that cannot work here fails now, not on every row.

    Raises:
        CheckpointError: The model captions no pictures, or its processor or prompt style does not fit.
    """
    from hf_mllm_aug.captioners.prompters.suitability import refuse_unable
    from hf_mllm_aug.checkpoints import reason

    refuse_unable(config, key.label)
    prompter = _of_style(key, config)
    try:
        _try_out(prompter)
    except AugError:
        raise
    except Exception as error:  # processors have errors of their own
        text = reason(error, key.source, key.label)
        raise CheckpointError(f"the processor of {key.label} does not work here: {text}") from error
    return prompter


def _of_style(key: ModelKey, config: Any) -> Prompter:
    from hf_mllm_aug.captioners.prompters.chat import ChatPrompter
    from hf_mllm_aug.captioners.prompters.loading import load_image_processor, load_processor, load_tokenizer
    from hf_mllm_aug.captioners.prompters.native import NativePrompter, is_native
    from hf_mllm_aug.captioners.prompters.pixels import lean
    from hf_mllm_aug.captioners.prompters.plain import PlainPrompter
    from hf_mllm_aug.captioners.prompters.segments import SegmentPrompter

    style, kind = key.prompt_style, config.model_type
    if style == "auto" and is_native(config):
        style = "native"
    if style == "segments":
        if kind != "llava":
            raise CheckpointError(f"{key.label}: the prompt style 'segments' is LLaVA's, but its model type is {kind}")
        return SegmentPrompter(lean(load_image_processor(key)), load_tokenizer(key), config)
    if style == "plain" and kind not in FORMS:
        raise CheckpointError(
            f"{key.label}: no prompt form is documented for the model type {kind}; the prompt style 'plain' knows "
            f"{', '.join(sorted(FORMS))}"
        )
    if style == "native" and not is_native(config):
        raise CheckpointError(
            f"{key.label}: the prompt style 'native' is for the models of this package, but its model type is {kind}"
        )
    processor = load_processor(key, config)
    processor.image_processor = lean(processor.image_processor)
    if style == "native":
        return NativePrompter(processor)
    own, borrowed = (bool(getattr(part, "chat_template", None)) for part in (processor, processor.tokenizer))
    # A tokenizer's template may be that of the language model alone, so it counts last.
    if style == "chat" or (style == "auto" and (own or (borrowed and kind not in FORMS))):
        if not (own or borrowed):
            raise CheckpointError(f"{key.label} has no chat template, so the prompt style 'chat' does not fit it")
        return ChatPrompter(processor, config, key.label)
    if kind in FORMS:
        return PlainPrompter(processor, FORMS[kind], config)
    if kind == "llava":
        return SegmentPrompter(processor.image_processor, processor.tokenizer, config)
    raise CheckpointError(f"{key.label} has no chat template, so there is no telling how to ask it for a caption")


def _try_out(prompter: Prompter) -> None:
    from PIL import Image

    sizes = (64, 48), (48, 80)  # rows of several lengths, where pictures take as many tokens as their size needs
    prompter.inputs([Image.new("RGB", size, (128, 128, 128)) for size in sizes], DOCUMENTED)

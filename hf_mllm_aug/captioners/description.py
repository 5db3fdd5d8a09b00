"""What made the captions, in words and numbers, for a data set's card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hf_mllm_aug
from hf_mllm_aug import checkpoints
from hf_mllm_aug.captioners import identity
from hf_mllm_aug.captioners.prompters.forms import DEFAULT_PROMPT, DOCUMENTED, documented_prompt

if TYPE_CHECKING:
    from hf_mllm_aug.captioners.captioner import Captioner


def describe(captioner: Captioner) -> dict[str, Any]:
    """See `Captioner.describe`."""
    mllm, folder, source = captioner.mllm, captioner.folder, captioner.source
    published = mllm if _is_published(captioner) else None
    return {
        "name": captioner.label,
        "model": captioner.label if folder is not None or source is None else checkpoints.label(source),
        "revision": captioner.resolved_revision,
        "digest": identity.digest(folder) if folder is not None else None,
        "engine": captioner.engine,
        "preset": mllm.name if mllm else None,
        "variant": captioner.preset,
        "variants": {name: variant.describe() for name, variant in mllm.variants.items()} if mllm else {},
        "prompt": _spoken_prompt(captioner),
        "prompt_style": captioner.resolved_prompt_style,
        "decoding": {
            **captioner.decoding,
            "max_new_tokens": captioner.max_new_tokens,
            "seed": captioner.seed,
            "sentence_stop": captioner.request.sentence_stop,
            "language": captioner.language,
        },
        "clean_up": captioner.variant.clean_up.describe(),
        "dtype": captioner.dtype,
        "quantization": captioner.quantization,
        "package": f"hf-mllm-aug {hf_mllm_aug.__version__}",
        "description": published.description if published else "",
        "licence": published.licence if published else None,
        "citation": mllm.citation if mllm else None,
    }


def _is_published(captioner: Captioner) -> bool:
    """Whether the weights are those that the preset describes: an architecture does not say whose they are."""
    mllm, named = captioner.mllm, captioner.named
    if mllm is None:
        return False
    made = named is not None and named.source is None  # each of the same published parts
    return made or captioner.given is None or captioner.given == str(mllm.source)


def _spoken_prompt(captioner: Captioner) -> str:
    """The question in words, as soon as the checkpoint is on this machine."""
    folder, source = captioner.folder, captioner.source
    if captioner.resolved_prompt != DOCUMENTED or source is None:
        return captioner.resolved_prompt
    if captioner.served or captioner.engine == "vllm":
        return DEFAULT_PROMPT  # in a conversation there is no other
    if folder is None:
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(source, "config.json", revision=captioner.resolved_revision)
        folder = Path(config).parent if isinstance(config, str) else None
    prompt = documented_prompt(folder, captioner.resolved_prompt_style) if folder is not None else None
    return DOCUMENTED if prompt is None else prompt

"""How architectures without a conversation are asked for a caption: each as its documentation has it, as data.

A new one is one more row of `FORMS`. Nothing here needs torch or transformers.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCUMENTED = "<documented>"
"""In place of a prompt: the question that the model's documentation has. It depends on the checkpoint alone, so it can
stand for the prompt where the checkpoint has not been read yet."""

DEFAULT_PROMPT = "Describe the image in English:"
"""What models are asked for whose documentation leaves the question to the user, as chat models' does."""


@dataclass(frozen=True)
class Form:
    """How one architecture is asked.

    Args:
        prompt: The question, or the beginning of the caption, that its documentation has; may be empty.
        text: What its processor is given. ``{prompt}`` is the prompt without its picture mark, ``{image}`` the
            processor's own mark, ``{start}`` the tokenizer's first token. Without ``{image}`` the processor, or the
            model, puts the picture where it belongs.
        options: Further arguments of the processor.
        from_config: Further arguments of the processor that are attributes of the model's configuration.
        settings: Attributes of the processor that older checkpoints lack, by the names of the configuration's.
        source: Where the documentation is.
    """

    prompt: str
    source: str
    text: str = "{prompt}"
    options: Mapping[str, Any] = field(default_factory=dict)
    from_config: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


_DOCS = "https://huggingface.co/docs/transformers/model_doc"
_QUERIES = {"num_query_tokens": "num_query_tokens"}

FORMS: Mapping[str, Form] = types.MappingProxyType(
    {
        # A prompt is the beginning of the caption: the model goes on from it.
        "blip": Form("", source=f"{_DOCS}/blip"),
        # The text is closed by no end token, or the model would have nothing to add.
        "git": Form("", source=f"{_DOCS}/git", text="{start}{prompt}", options={"add_special_tokens": False}),
        "blip-2": Form("", source=f"{_DOCS}/blip-2", settings=_QUERIES),
        # The prompt that it was evaluated on captions with; its documentation has a question about one picture.
        "instructblip": Form("A short image description:", source="arXiv 2305.06500, appendix E", settings=_QUERIES),
        "paligemma": Form("caption en", source=f"{_DOCS}/paligemma", text="{image}{prompt}"),
        "florence2": Form("<CAPTION>", source=f"{_DOCS}/florence2"),
        # With <grounding> before it the caption is full of places.
        "kosmos-2": Form(
            "An image of", source=f"{_DOCS}/kosmos-2", from_config={"num_image_tokens": "latent_query_num"}
        ),
        # Pretrained checkpoints; instruction-tuned ones have a chat template, which counts more.
        "gemma3": Form(
            "in this image, there is", source="https://huggingface.co/google/gemma-3-4b-pt", text="{image} {prompt}"
        ),
        "idefics2": Form("In this image, we can see", source=f"{_DOCS}/idefics2", text="{image}{prompt}"),
        "idefics3": Form("In this image, we can see", source=f"{_DOCS}/idefics3", text="{image}{prompt}"),
    }
)
"""By model type, as ``config.json`` spells it."""


def resolve(prompt: str, form: Form | None = None) -> str:
    """The prompt itself, where it may be `DOCUMENTED`.

    >>> resolve("What is this?"), resolve(DOCUMENTED), resolve(DOCUMENTED, FORMS["paligemma"])
    ('What is this?', 'Describe the image in English:', 'caption en')
    """
    if prompt != DOCUMENTED:
        return prompt
    return DEFAULT_PROMPT if form is None else form.prompt


def documented_prompt(folder: str | Path, style: str = "auto") -> str | None:
    """The question that the documentation of a checkpoint's model has, found without loading anything.

    It is for the records: a prompter knows by itself what `DOCUMENTED` stands for.

    Args:
        folder: Of the checkpoint, such as a snapshot in the Hub's cache.
        style: The prompt style, as `captioners.prompters` has them.

    Returns:
        The prompt that stands for `DOCUMENTED`; None if the folder does not say what it is.
    """
    kind = _read(Path(folder), "config.json").get("model_type")
    if not isinstance(kind, str):
        return None
    plain = style == "plain" or (style == "auto" and not _has_template(Path(folder)))
    return resolve(DOCUMENTED, FORMS.get(kind) if plain else None)


def _has_template(folder: Path) -> bool:
    """Whether a checkpoint's processor has a chat template, wherever transformers looks for one."""
    if (folder / "chat_template.jinja").is_file() or any((folder / "additional_chat_templates").glob("*.jinja")):
        return True
    return any(_read(folder, name).get("chat_template") for name in ("processor_config.json", "chat_template.json"))


def _read(folder: Path, name: str) -> Mapping[str, Any]:
    """A JSON file of a checkpoint; nothing if it is missing or damaged."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

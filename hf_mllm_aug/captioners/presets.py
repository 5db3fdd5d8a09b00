"""The captioners that have a name, as data: checkpoint, prompt, decoding, clean-up, licence, citation.

A new MLLM is one more `register(Preset(...))`, in `preset_data` or in your own code.
"""

from __future__ import annotations

import functools
import json
import os
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_mllm_aug.captioners import decoding
from hf_mllm_aug.captioners.cleanup import CleanUp
from hf_mllm_aug.errors import UnknownNameError, UsageError
from hf_mllm_aug.mllms.processing import IMAGE_MARK as IMAGE_MARK

PromptStyle = Literal["auto", "segments", "chat", "plain", "native"]
VariantName = Literal["default", "paper"]

VARIANTS: tuple[VariantName, ...] = ("default", "paper")


@dataclass(frozen=True)
class Variant:
    """One way of asking an MLLM, and of making captions of its answers.

    Args:
        prompt: The question, with ``<image>`` where the picture stands. Without it the picture comes first.
        decoding: Decoding parameters. Those that are not named have the neutral values of
            `captioners.decoding.NEUTRAL`, never those of the checkpoint.
        clean_up: What is cut from the answer.
    """

    prompt: str
    decoding: Mapping[str, Any] = field(default_factory=dict)
    clean_up: CleanUp = field(default_factory=CleanUp)

    def describe(self) -> dict[str, Any]:
        """What is set, as JSON values."""
        return {"prompt": self.prompt, "decoding": dict(self.decoding), "clean_up": self.clean_up.describe()}


@dataclass(frozen=True)
class Preset:
    """A captioner's checkpoint and how it is asked.

    Args:
        name: What users write, such as ``"llava-1.5"``; columns and configs are named after it.
        source: A Hub id (``org/name``), or the folder of an embedded checkpoint. None where nobody publishes one: it
            has to be made, and given as ``Captioner(name, checkpoint=...)``.
        prompt: As in `Variant`, and so are ``decoding`` and ``clean_up``: together the variant ``"default"``.
        description: One sentence for cards and `models`.
        licence: SPDX name or the licence's own name.
        citation: BibTeX.
        prompt_style: See `captioners.prompters`.
        decoding: See ``prompt``.
        clean_up: See ``prompt``.
        paper: How the released scripts of arXiv 2311.18765 ask this MLLM; None if they do not.
        revision: The commit of the checkpoint; None for its head.
        batch_size: Pictures a `generate` call, unless `Captioner` says otherwise.
        recognised_by: What a folder's ``config.json`` must say for this preset to apply to it: alternatives, each with
            dotted names and their values; None is any value.
        make: Where ``source`` is None, the command that makes a checkpoint.
        package: The Python package that an embedded checkpoint comes with; ``source`` is None where it is not there.
    """

    name: str
    source: str | Path | None
    prompt: str
    description: str
    licence: str
    citation: str
    prompt_style: PromptStyle = "chat"
    decoding: Mapping[str, Any] = field(default_factory=dict)
    clean_up: CleanUp = field(default_factory=CleanUp)
    paper: Variant | None = None
    revision: str | None = None
    batch_size: int = 8
    recognised_by: tuple[Mapping[str, str | None], ...] = ()
    make: str = ""
    package: str = "hf-mllm-aug"

    @property
    def embedded(self) -> bool:
        """Whether the checkpoint is a folder of this package, or of the one that it comes with."""
        return isinstance(self.source, Path)

    @property
    def absent(self) -> str:
        """Where ``source`` is None: why, and what to do."""
        if self.package != "hf-mllm-aug":
            return (
                f"needs the package {self.package}, which is not installed, or an older one. To do: pip install "
                "./miniatures, in a copy of this project's repository"
            )
        return (
            "needs a checkpoint of your own making, for nobody publishes one ready to use. To do: "
            f"{self.make} (see its --help), then Captioner({self.name!r}, checkpoint=FOLDER)."
        )

    @property
    def variants(self) -> dict[str, Variant]:
        """The ways of asking it, by name."""
        found = {"default": Variant(self.prompt, self.decoding, self.clean_up)}
        return {**found, "paper": self.paper} if self.paper is not None else found

    def recognises(self, settings: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is of this MLLM's architecture.

        Args:
            settings: The content of its ``config.json``.

        >>> PRESETS["otter"].recognises({"model_type": "otter"}), PRESETS["otter"].recognises({"model_type": "llama"})
        (True, False)
        """
        return any(
            all(_fits(settings, name, value) for name, value in alternative.items())
            for alternative in self.recognised_by
        )


def _fits(settings: Mapping[str, Any], name: str, value: str | None) -> bool:
    found: Any = settings
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found is not None if value is None else found == value


_PRESETS: dict[str, Preset] = {}

PRESETS: Mapping[str, Preset] = types.MappingProxyType(_PRESETS)
"""The registered presets by name, read-only; `register` adds to it."""


def register(preset: Preset) -> None:
    """Make a captioner known under its name.

    Raises:
        UsageError: The name is taken, or could be mistaken for a Hub id or a path; or a variant cannot be asked for.

    >>> register(PRESETS["tiny-llava"])
    Traceback (most recent call last):
    ...
    hf_mllm_aug.errors.UsageError: a captioner named 'tiny-llava' is registered already
    """
    if preset.name in _PRESETS:
        raise UsageError(f"a captioner named {preset.name!r} is registered already")
    if not preset.name or "/" in preset.name or "\\" in preset.name:
        raise UsageError(f"captioner name {preset.name!r}: empty, or with a slash as Hub ids and folders have")
    if preset.source is None and not preset.make and preset.package == "hf-mllm-aug":
        raise UsageError(f"captioner {preset.name!r} has no source: say with make= how its checkpoint is made")
    for variant in preset.variants.values():
        decoding.resolve(variant.decoding)
        check_prompt(variant.prompt)
    _PRESETS[preset.name] = preset


def check_prompt(prompt: str) -> None:
    """Make sure that a prompt has one picture at most.

    Raises:
        UsageError: It has more.
    """
    if prompt.count(IMAGE_MARK) > 1:
        raise UsageError(f"the prompt {prompt!r} has {IMAGE_MARK} more than once")


def check_variant(name: str, preset: Preset | None, captioner: str) -> None:
    """Make sure that a captioner has a variant.

    Args:
        name: Of the variant.
        preset: The captioner's.
        captioner: What the message calls it.

    Raises:
        UsageError: It has not, or there is none of that name.
    """
    if name not in VARIANTS:
        raise UnknownNameError("preset variant", name, VARIANTS, "A captioner's name is the first argument.")
    if name != "default" and (preset is None or name not in preset.variants):
        known = ", ".join(known.name for known in _PRESETS.values() if name in known.variants)
        raise UsageError(
            f"captioner {captioner!r} has no variant {name!r}, for the paper did not use it. Known: {known}"
        )


def check_architecture(folder: Path, preset: Preset | None) -> None:
    """Make sure that a checkpoint is of a preset's architecture, as far as both say what they are.

    Raises:
        UsageError: It is of another.
    """
    settings = folder_config(folder)
    if preset is None or not preset.recognised_by or not settings or preset.recognises(settings):
        return
    raise UsageError(
        f"checkpoint {folder.resolve().name!r} is no {preset.name}: its config.json names the model type "
        f"{settings.get('model_type')!r}. To do: give the folder alone, Captioner(FOLDER), or another preset's name"
    )


def of_checkpoint(source: str) -> Preset | None:
    """The preset of an MLLM's checkpoint that is given without its name, if there is one.

    Args:
        source: A folder, which is recognised by its ``config.json``, or a Hub id, which is by being a preset's.
    """
    settings = folder_config(Path(source)) if os.path.isdir(source) else None
    return next(
        (
            preset
            for preset in _PRESETS.values()
            if (preset.recognises(settings) if settings is not None else preset.source == source)
        ),
        None,
    )


def folder_config(folder: Path) -> Mapping[str, Any] | None:
    """What a checkpoint's ``config.json`` says; nothing if it is damaged, None if there is none."""
    file = folder / "config.json"
    try:
        stamp = file.stat()
    except OSError:
        return None
    return _read_config(file, stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=64)
def _read_config(file: Path, *_: int) -> Mapping[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # loading the model will say so
        return {}
    return settings if isinstance(settings, dict) else {}

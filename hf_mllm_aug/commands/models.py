"""``hf-mllm-aug models``: the captioners that have a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_mllm_aug.commands.options import DebugOption
from hf_mllm_aug.commands.terminal import say, show_table

if TYPE_CHECKING:
    from hf_mllm_aug.captioners.presets import Preset


def models(debug: DebugOption = False) -> None:
    """List the captioners that have a name."""
    from hf_mllm_aug.captioners.presets import PRESETS

    show_table(
        ["captioner", "checkpoint", "licence", "what it is"],
        [
            [
                preset.name,
                _checkpoint(preset),
                preset.licence,
                preset.description,
            ]
            for preset in PRESETS.values()
        ],
    )
    say()
    names = ", ".join(preset.name for preset in PRESETS.values() if preset.paper is not None)
    say(f'Captioner(NAME, preset="paper") asks as the scripts of arXiv 2311.18765 do: {names}.')
    say(
        "A Hub id (OWNER/NAME) or a local folder works as well: of any image-text-to-text model of transformers that "
        "has a chat template, or whose documentation says how to ask it for a caption."
    )


def _checkpoint(preset: Preset) -> str:
    if preset.source is None and preset.make:
        return f"a folder made by {preset.make}"
    if preset.source is None:
        return f"in {preset.package}, not installed"
    return f"in {preset.package}" if preset.embedded else str(preset.source)

"""``hf-mllm-aug models``: the captioners that have a name."""

from __future__ import annotations

from hf_mllm_aug.commands.options import DebugOption
from hf_mllm_aug.commands.terminal import say, show_table


def models(debug: DebugOption = False) -> None:
    """List the captioners that have a name."""
    from hf_mllm_aug.captioners.presets import PRESETS

    show_table(
        ["captioner", "checkpoint", "licence", "what it is"],
        [
            [
                preset.name,
                "in this package" if preset.embedded else str(preset.source),
                preset.licence,
                preset.description,
            ]
            for preset in PRESETS.values()
        ],
    )
    say()
    say("A Hub id (OWNER/NAME) or a local folder of any image-text-to-text model with a chat template works as well.")

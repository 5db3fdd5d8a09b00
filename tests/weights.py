"""What tests do to the weights of a checkpoint's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"


class Malicious:
    """When it is unpickled, it writes a file.

    Args:
        trace: The file.
    """

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def as_pickle(folder: Path, **more: Any) -> None:
    """Write the weights as older checkpoints have them, with whatever else is to be among them."""
    file = folder / SAFETENSORS
    torch.save({**load_file(file), **more}, folder / PICKLE)
    file.unlink()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the weights, in the format that they are in."""
    file = folder / SAFETENSORS
    if file.is_file():
        save_file(change(load_file(file)), file, {"format": "pt"})
    else:
        torch.save(change(torch.load(folder / PICKLE, weights_only=True)), folder / PICKLE)

"""Makers of tiny random checkpoints, one for each architecture, in the layout in which their projects publish them.

Each takes an empty folder and fills it: configuration, weights, tokenizer, processor. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.tiny_vlms import conversing, plain

Maker = Callable[[Path], Path]

MAKERS: dict[str, Maker] = {
    name.removeprefix("make_"): maker
    for module in (conversing, plain)
    for name, maker in sorted(vars(module).items())
    if name.startswith("make_")
}
"""By architecture."""

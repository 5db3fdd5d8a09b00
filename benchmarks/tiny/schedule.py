"""How the learning rate goes: up within some steps, then down along half a cosine with the time."""

from __future__ import annotations

import math


def share(step: int, done: float, warm: int) -> float:
    """The share of the highest rate.

    Args:
        step: From 1 on.
        done: The share of the time that has gone.
        warm: Steps until the full rate.

    >>> share(1000, 0.0, 50), round(share(1000, 1.0, 50), 3), share(25, 0.0, 50)
    (1.0, 0.02, 0.5)
    """
    return min(1, step / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

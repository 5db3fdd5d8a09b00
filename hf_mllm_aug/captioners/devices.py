"""One name for one device, so that no model is loaded twice onto it."""

from __future__ import annotations

import re
from typing import Any

from hf_mllm_aug.captioners import fork


def canonical(name: str | None, current: int | None, otherwise: str = "cpu") -> str:
    """The full name of a device.

    Args:
        name: As users write it; None is the best device that is there.
        current: The number of the GPU that ``"cuda"`` means; None if there is none.
        otherwise: The best device where there is no GPU.

    >>> canonical("cuda", current=1), canonical(None, current=0), canonical(None, current=None)
    ('cuda:1', 'cuda:0', 'cpu')
    >>> canonical("cuda:2", current=0), canonical("cpu:0", current=0), canonical("cuda", current=None)
    ('cuda:2', 'cpu', 'cuda:0')
    """
    if name is None:
        return otherwise if current is None else f"cuda:{current}"
    if name == "cuda":
        return f"cuda:{current or 0}"
    # Of these there is one.
    return re.sub(r"^(cpu|mps):0$", r"\1", name)


def full_name(name: str | None) -> str:
    """The full name of a device of this process.

    Raises:
        UsageError: CUDA is wanted, and was used before this process was forked.
    """
    import torch

    cuda: Any = torch.cuda
    if name is None or name.startswith("cuda"):
        fork.check_cuda()
    current = None
    if cuda.is_available():
        # Asking for the number would start CUDA, after which this process could not fork workers; unset it is 0.
        current = cuda.current_device() if cuda.is_initialized() else 0
    return canonical(name, current, "mps" if torch.backends.mps.is_available() else "cpu")

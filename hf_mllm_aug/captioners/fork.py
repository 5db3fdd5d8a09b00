"""Captioning in forked processes, such as those of ``Dataset.map(num_proc=...)``.

GNU OpenMP keeps a pool of threads that a fork does not copy: a child that enters a parallel region, after its parent
has entered one, waits for them for ever. With one torch thread no parallel region is entered; and a child of
``num_proc`` has its siblings for the other cores. CUDA cannot be used after a fork at all, so there a clear error
takes the place of CUDA's own.
"""

from __future__ import annotations

import functools
import os

from hf_mllm_aug.captioners.engine import is_forked
from hf_mllm_aug.errors import UsageError


def _single_thread() -> None:
    import torch

    torch.set_num_threads(1)


@functools.cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_single_thread)


@functools.cache
def prepare() -> None:
    """Make torch safe in this process if it is a forked one, and in those that it will fork.

    To be called before a model is loaded.
    """
    if is_forked():
        _single_thread()
    _register()


def check_cuda() -> None:
    """Make sure that CUDA was not used before this process was forked.

    Raises:
        UsageError: It was; says what to do.
    """
    import torch

    if getattr(torch.cuda, "_is_in_bad_fork", lambda: False)():
        raise UsageError(
            "CUDA was used before this process was forked, so it cannot be used here. To do: start the workers afresh, "
            "with multiprocess.set_start_method('spawn') before map(num_proc=...), or run one process a GPU"
        )

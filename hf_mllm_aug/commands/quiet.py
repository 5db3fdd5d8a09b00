"""What the libraries underneath may say while a command runs: warnings of ours, and little else."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def set_up(debug: bool) -> None:
    """Set up logging and the other libraries' chatter; called before those are imported.

    Args:
        debug: Let everything through.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s" if not debug else "%(levelname)s %(name)s: %(message)s")
    logging.getLogger("hf_mllm_aug").setLevel(logging.DEBUG if debug else logging.WARNING)
    if debug:
        return
    warnings.simplefilter("ignore")
    for chatty in ("torchao", "torch.utils._pytree"):  # where torchao is installed, transformers imports it
        logging.getLogger(chatty).setLevel(logging.ERROR)
    # Read by each library when it is imported; a person's own setting wins.
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def progress(wanted: bool) -> Iterator[None]:
    """Show `datasets`' progress bars inside, if wanted and someone is looking; elsewhere they are noise."""
    from datasets import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    silence: Callable[[], None] = transformers_logging.disable_progress_bar  # which has no type of its own
    silence()
    if wanted and sys.stderr.isatty():
        enable_progress_bars()
    else:
        disable_progress_bars()
    try:
        yield
    finally:
        disable_progress_bars()

"""Metrics as modules of Hugging Face evaluate, and the way to find them."""

from __future__ import annotations

from pathlib import Path

from hf_mllm_aug.errors import UnknownNameError


def metric_path(name: str) -> str:
    """The folder of a metric of this library, for ``evaluate.load``.

    Args:
        name: The metric: ``"retrieval_recall"``.

    Returns:
        An absolute path. Loading from it needs no network.

    Raises:
        UnknownNameError: There is no such metric.

    >>> Path(metric_path("retrieval_recall")).name
    'retrieval_recall'
    """
    here = Path(__file__).resolve().parent
    known = [folder.name for folder in here.iterdir() if (folder / f"{folder.name}.py").is_file()]
    if name not in known:
        raise UnknownNameError("metric", name, known)
    return str(here / name)

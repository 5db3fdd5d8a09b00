"""Give every picture of an image-text data set captions by several multimodal LLMs, sheared to web-caption style.

The public names are loaded when first used, so that ``import hf_mllm_aug`` stays fast. No module bears the name of a
public function (`shearing` holds `shear`): importing a submodule would otherwise put the module in its place.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_mllm_aug.augmentation import Augment as Augment
    from hf_mllm_aug.augmentation import augment as augment
    from hf_mllm_aug.captioners import Captioner as Captioner
    from hf_mllm_aug.card import build_card as build_card
    from hf_mllm_aug.configs import save_configs as save_configs
    from hf_mllm_aug.configs import to_configs as to_configs
    from hf_mllm_aug.loaders.cc3m import load_cc3m as load_cc3m
    from hf_mllm_aug.loaders.cc12m import load_cc12m as load_cc12m
    from hf_mllm_aug.loaders.fetch import FetchImages as FetchImages
    from hf_mllm_aug.loaders.join import join_captions as join_captions
    from hf_mllm_aug.loaders.pairs import load_pairs as load_pairs
    from hf_mllm_aug.loaders.pairs import save_pairs as save_pairs
    from hf_mllm_aug.loaders.yfcc15m import load_yfcc15m as load_yfcc15m
    from hf_mllm_aug.long_runs import run as run
    from hf_mllm_aug.metrics import metric_path as metric_path
    from hf_mllm_aug.publish import push_to_hub as push_to_hub
    from hf_mllm_aug.retrieval import retrieval_recall as retrieval_recall
    from hf_mllm_aug.sample import SampleCaption as SampleCaption
    from hf_mllm_aug.shearing import Shear as Shear
    from hf_mllm_aug.shearing import shear as shear

__version__ = "0.1.0"

_HOME = {
    "Augment": "augmentation",
    "Captioner": "captioners",
    "FetchImages": "loaders.fetch",
    "SampleCaption": "sample",
    "Shear": "shearing",
    "augment": "augmentation",
    "build_card": "card",
    "join_captions": "loaders.join",
    "load_cc3m": "loaders.cc3m",
    "load_cc12m": "loaders.cc12m",
    "load_pairs": "loaders.pairs",
    "load_yfcc15m": "loaders.yfcc15m",
    "metric_path": "metrics",
    "push_to_hub": "publish",
    "retrieval_recall": "retrieval",
    "run": "long_runs",
    "save_configs": "configs",
    "save_pairs": "loaders.pairs",
    "shear": "shearing",
    "to_configs": "configs",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

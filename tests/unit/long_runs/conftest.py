"""For tests of long runs: rows with pictures, a small model that notes what it is asked, and a cache of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset

from hf_mllm_aug import Captioner
from hf_mllm_aug.captioners import engine
from hf_mllm_aug.captioners.engine import ModelKey, Request
from hf_mllm_aug.schema import base_features

N_ROWS = 11
BROKEN = 5  # the row whose picture is none


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="session")
def rows(pictures: list[bytes]) -> Dataset:
    """Eleven rows; the sixth has no picture but a text."""
    images = [{"bytes": b"no picture" if n == BROKEN else pictures[n], "path": None} for n in range(N_ROWS)]
    columns = {
        "key": [f"k{n}" for n in range(N_ROWS)],
        "image": images,
        "url": [None] * N_ROWS,
        "caption": [f"raw caption {n}" for n in range(N_ROWS)],
    }
    return Dataset.from_dict(columns, features=base_features())


@pytest.fixture
def captioner(random_llava: Path) -> Captioner:
    return Captioner(random_llava, batch_size=2, name="one", max_new_tokens=8)


@pytest.fixture
def sampler(random_llava: Path) -> Captioner:
    """Another, whose captions hang on the seed and the rows' keys."""
    return Captioner(
        random_llava, batch_size=3, name="two", max_new_tokens=8, seed=4, generation={"do_sample": True, "top_k": 50}
    )


class Asked:
    """Notes the keys of the rows that the models are asked about, by request seed; the models are real."""

    def __init__(self) -> None:
        self.keys: dict[int, list[str]] = {}
        self.before: Callable[[Sequence[str]], None] = lambda keys: None

    def wrap(self, model: Any) -> Any:
        outer = self

        class Wrapped:
            max_batch = None

            def generate(self, images: Any, keys: Sequence[str], request: Request) -> Any:
                outer.before(keys)
                outer.keys.setdefault(request.seed, []).extend(keys)
                return model.generate(images, keys, request)

        return Wrapped()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    noted, real = Asked(), engine.loaded

    def loaded(key: ModelKey) -> Any:
        return noted.wrap(real(key))

    monkeypatch.setattr(engine, "loaded", loaded)
    return noted

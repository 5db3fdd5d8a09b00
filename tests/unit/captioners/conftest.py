"""For tests of captioners: an engine without a model, pictures by their width, a preset of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug.captioners import Preset, engine, presets, register
from hf_mllm_aug.captioners.engine import Generated, ModelKey, Request
from hf_mllm_aug.errors import ImageError


class FakeEngine:
    """Says the size of each picture; refuses pictures that are 13 wide."""

    def __init__(self) -> None:
        self.max_batch: int | None = None
        self.calls: list[int] = []
        self.keys: list[ModelKey] = []
        self.answers: Sequence[str] | None = None

    def generate(
        self, images: Sequence[Image.Image], keys: Sequence[str], request: Request
    ) -> Sequence[Generated | ImageError]:
        self.calls.append(len(images))
        if self.answers is not None:
            return [Generated(answer) for answer in self.answers]
        return [ImageError("refused") if i.width == 13 else Generated(f" a picture {i.width} wide. ") for i in images]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """In place of every model; it keeps the keys by which it was asked for."""
    found = FakeEngine()

    def loaded(key: ModelKey) -> FakeEngine:
        found.keys.append(key)
        return found

    monkeypatch.setattr(engine, "loaded", loaded)
    return found


@pytest.fixture
def pictures_of() -> Callable[..., list[Any]]:
    """Makes pictures of the given widths."""
    return lambda *widths: [Image.new("RGB", (width, 9)) for width in widths]


@pytest.fixture
def own_preset() -> Iterator[Preset]:
    """A captioner that the user has registered."""
    preset = Preset("mine-2", "me/mine", "What is <image>?", "A test.", "MIT", "@misc{}", decoding={"num_beams": 3})
    register(preset)
    yield preset
    presets._PRESETS.pop("mine-2", None)

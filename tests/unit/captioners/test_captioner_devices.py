"""Where a captioner puts its model: one name a device, one GPU a worker, and no GPU by a row's index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_mllm_aug.captioners import Captioner, engine, transformers_engine, unload
from hf_mllm_aug.captioners.devices import canonical
from hf_mllm_aug.errors import UsageError

Pictures = Callable[..., list[Any]]


@pytest.mark.parametrize(
    ("name", "current", "expected"),
    [
        (None, None, "mps"),
        (None, 3, "cuda:3"),
        ("cuda", 3, "cuda:3"),
        ("cuda:3", 0, "cuda:3"),
        ("cuda", None, "cuda:0"),
        ("cpu", 0, "cpu"),
        ("cpu:0", 0, "cpu"),
        ("mps:0", None, "mps"),
        ("gpu", None, "gpu"),  # refused when the model is loaded
    ],
)
def test_a_device_has_one_name(name: str | None, current: int | None, expected: str) -> None:
    assert canonical(name, current, "mps") == expected


def test_two_names_of_one_device_are_one_model() -> None:
    keys = {Captioner().model_key(name) for name in ("cpu", "cpu:0")}
    assert len(keys) == 1
    assert len({Captioner().model_key(name) for name in ("cuda", "cuda:0", "cuda:1")}) == 2
    assert Captioner().model_key(None).device is not None


def test_each_rank_has_its_own_device(monkeypatch: pytest.MonkeyPatch, fake: Any, pictures_of: Pictures) -> None:
    monkeypatch.setattr(transformers_engine, "count_cuda_devices", lambda: 2)
    for rank in (0, 1, 2):
        Captioner()({"image": pictures_of(5, 6)}, rank)
    Captioner(device="cpu")({"image": pictures_of(5)}, 1)
    assert [key.device for key in fake.keys] == ["cuda:0", "cuda:1", "cuda:0", "cpu"]


def test_indices_of_a_batch_are_refused_with_advice(fake: Any, pictures_of: Pictures) -> None:
    with pytest.raises(UsageError, match="drop with_indices=True"):
        Captioner()({"image": pictures_of(5)}, [0])  # type: ignore[arg-type]


def test_a_rows_index_loads_no_model_onto_a_second_gpu(
    monkeypatch: pytest.MonkeyPatch, fake: Any, pictures_of: Pictures
) -> None:
    """`map(with_indices=True)` passes an index where `map(with_rank=True)` passes the rank."""
    monkeypatch.setattr(transformers_engine, "count_cuda_devices", lambda: 4)
    loaded: dict[Any, Any] = {}
    monkeypatch.setattr(engine, "_LOADED", loaded)

    def load(key: Any) -> Any:
        loaded[key] = fake
        return fake

    monkeypatch.setattr(engine, "loaded", load)
    for index in range(6, 12):
        Captioner()({"image": pictures_of(5)[0]}, index)
    assert [key.device for key in loaded] == ["cuda:2"]
    Captioner(dtype="float16")({"image": pictures_of(5)[0]}, 1)
    assert {key.device for key in loaded if key.dtype == "float16"} == {"cuda:1"}


def test_with_indices_the_captions_of_single_rows_are_the_same(random_llava: Path, pictures: list[bytes]) -> None:
    captioner = Captioner(random_llava, device="cpu")
    rows = Dataset.from_dict({"image": pictures[:5]})
    plain = rows.map(captioner)[captioner.caption_column]
    unload()
    assert rows.map(captioner, with_indices=True)[captioner.caption_column] == plain
    assert sum(key.source == str(random_llava) for key in engine._LOADED) == 1
    with pytest.raises(UsageError, match="drop with_indices=True"):
        rows.map(captioner, with_indices=True, batched=True)

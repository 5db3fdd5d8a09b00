"""Several micro-batches at a time: the same captions, and torch's threads as they were."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_mllm_aug.captioners import Captioner, engine, lanes, pipeline
from hf_mllm_aug.captioners.rows import read_rows
from hf_mllm_aug.captioners.stopwatch import Stopwatch
from hf_mllm_aug.errors import CaptionError


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    engine.unload()
    yield
    torch.set_num_threads(before)
    engine.unload()


def loaded(captioner: Captioner) -> Any:
    return engine.loaded(captioner.model_key(None))


def watched(monkeypatch: pytest.MonkeyPatch, model: Any) -> list[tuple[str, int, int]]:
    """Thread, torch's threads there, and the number of calls under way, at the start of each call that decodes."""
    original, seen, under_way = model._decode, [], [0]

    def decode(*args: Any) -> Any:
        under_way[0] += 1
        seen.append((threading.current_thread().name, torch.get_num_threads(), under_way[0]))
        time.sleep(0.05)
        try:
            return original(*args)
        finally:
            under_way[0] -= 1

    monkeypatch.setattr(model, "_decode", decode)
    return seen


def test_micro_batches_are_worked_on_side_by_side(
    monkeypatch: pytest.MonkeyPatch, random_llava: Path, pictures: list[bytes]
) -> None:
    captioner = Captioner(random_llava, batch_size=3)
    model, column = loaded(captioner), captioner.caption_column
    assert model.lanes == 2
    torch.set_num_threads(1)
    expected = [captioner({"image": picture})[column] for picture in pictures]
    torch.set_num_threads(2)
    seen = watched(monkeypatch, model)
    assert captioner({"image": pictures})[column] == expected
    assert {name.rpartition("_")[0] for name, _, _ in seen} == {"lane"}
    assert {threads for _, threads, _ in seen} == {1}
    assert max(under_way for _, _, under_way in seen) == 2
    assert torch.get_num_threads() == 2


def test_one_micro_batch_is_worked_on_by_all_threads(
    monkeypatch: pytest.MonkeyPatch, random_llava: Path, pictures: list[bytes]
) -> None:
    captioner = Captioner(random_llava, max_new_tokens=2)
    seen = watched(monkeypatch, loaded(captioner))
    captioner({"image": pictures[:3]})
    assert seen == [("MainThread", 2, 1)]


def test_with_one_thread_there_is_one_lane(random_llava: Path) -> None:
    captioner = Captioner(random_llava)
    model = loaded(captioner)
    torch.set_num_threads(1)
    assert model.lanes == 1
    engine.unload()
    assert loaded(captioner).lanes == 1


def test_a_large_model_has_one_lane(monkeypatch: pytest.MonkeyPatch, random_llava: Path) -> None:
    monkeypatch.setattr(lanes, "SMALL", 1000)
    assert loaded(Captioner(random_llava)).lanes == 1


def test_lanes_share_their_weights(random_llava: Path) -> None:
    model = loaded(Captioner(random_llava))._model
    other = lanes.sharing_weights(model)
    ours, theirs = dict(model.named_modules()), dict(other.named_modules())
    assert ours.keys() == theirs.keys()
    assert not any(ours[name] is theirs[name] for name in ours)
    for found, expected in (
        (dict(other.named_parameters()), dict(model.named_parameters())),
        (dict(other.named_buffers()), dict(model.named_buffers())),
    ):
        assert found.keys() == expected.keys()
        assert all(found[name] is expected[name] for name in expected)


def test_an_error_ends_the_call_and_leaves_torch_as_it_was(random_llava: Path, pictures: list[bytes]) -> None:
    captioner = Captioner(random_llava, batch_size=2, on_error="raise")
    images = [*pictures[:5], b"<html>", *pictures[5:]]
    with pytest.raises(CaptionError, match="row 5 of the batch"):
        captioner({"image": images})
    assert torch.get_num_threads() == 2
    assert captioner({"image": pictures})[captioner.error_column] == [None] * len(pictures)


def test_calls_that_overlap_put_torchs_threads_back_together() -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lanes.one_thread_each():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    inside.wait(10)
    with lanes.one_thread_each():
        worker = threading.Thread(target=lanes.enter)
        worker.start()
        worker.join()
    leave.set()
    other.join()
    found: list[int] = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert (found, torch.get_num_threads()) == ([2], 2)


def test_the_time_waited_is_shared_out(random_llava: Path, pictures: list[bytes]) -> None:
    captioner = Captioner(random_llava, batch_size=3)
    loaded(captioner)
    watch = Stopwatch()
    rows = read_rows({"image": pictures}, captioner.image_column, captioner.key_column)
    start = time.perf_counter()
    pipeline.caption_rows([captioner], rows, None, watch)
    wall = time.perf_counter() - start
    assert watch.seconds["model"] > 0
    assert sum(watch.seconds.values()) <= wall

"""Steps and marks come out in their order, whoever works them, and nothing is asked for behind a mark that waits."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from PIL import Image

from hf_mllm_aug.captioners import Captioner
from hf_mllm_aug.captioners.engine import Generated, Request
from hf_mllm_aug.captioners.pipeline import Work, caption_works
from hf_mllm_aug.captioners.rows import read_rows
from hf_mllm_aug.captioners.steps import Mark, Step, work
from hf_mllm_aug.captioners.stopwatch import Stopwatch
from hf_mllm_aug.errors import CaptionError

REQUEST = Captioner().request
PICTURE = Image.new("RGB", (2, 2))


class Slow:
    """An engine that says each key, after a while, and what it was prepared for."""

    def __init__(self, lanes: int) -> None:
        self.max_batch: int | None = None
        self.lanes = lanes
        self.done: list[str] = []
        self.under_way = self.most = 0
        self._lock = threading.Lock()

    def prepare(self, images: Sequence[Image.Image], request: Request) -> Any:
        return len(images)

    def generate(
        self, images: Sequence[Image.Image], keys: Sequence[str], request: Request, prepared: Any = None
    ) -> Sequence[Generated]:
        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(0.002)
        with self._lock:
            self.under_way -= 1
            self.done += keys
        if "few" in keys:
            return []
        return [Generated(f"{key} {prepared}") for key in keys]


def step(model: Slow, name: str) -> Step:
    return Step(model, "slow", [PICTURE], [name], REQUEST, Stopwatch(), name)


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_everything_comes_out_in_its_order(seed: int, lanes: int) -> None:
    choice = random.Random(seed)
    models = [Slow(lanes), Slow(1)]
    plan: list[Step | Mark] = []
    for number in range(choice.choice([0, 1, 2, 30])):
        kind = choice.random()
        if kind < 0.6:
            plan.append(step(choice.choice(models), str(number)))
        else:
            plan.append(Mark(number, wait=kind > 0.85))
    asked = 0

    def items() -> Iterator[Step | Mark]:
        nonlocal asked
        for index, item in enumerate(plan):
            waiting = [i for i, before in enumerate(plan[:index]) if isinstance(before, Mark) and before.wait]
            if waiting:
                expected = {each.target for each in plan[: waiting[-1]] if isinstance(each, Step)}
                assert expected <= {*models[0].done, *models[1].done}
            asked += 1
            yield item

    found = [item if isinstance(item, Mark) else item[0] for item in work(items())]
    assert found == plan
    assert asked == len(plan)
    assert models[0].most <= lanes
    assert models[1].most <= 1, "an engine with one lane is called by one thread at a time"


def test_several_lanes_are_used() -> None:
    model = Slow(3)
    results = [item for item in work(iter([step(model, str(n)) for n in range(12)])) if not isinstance(item, Mark)]
    assert [texts[0].text for _, texts in results if not isinstance(texts[0], Exception)] == [
        f"{n} 1" for n in range(12)
    ]
    assert model.most == 3


@pytest.mark.parametrize("lanes", [1, 2])
def test_an_engine_that_gives_too_few_is_told_of_and_what_waits_is_not_begun(lanes: int) -> None:
    model = Slow(lanes)
    names = ["a", "b", "few", *"cdefghij"]
    with pytest.raises(CaptionError, match="'slow' gave 0 captions for 1 pictures"):
        list(work(iter([step(model, name) for name in names])))
    assert "j" not in model.done


def test_works_are_captioned_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Slow(1)
    monkeypatch.setattr("hf_mllm_aug.captioners.engine.loaded", lambda key: model)
    captioner = Captioner(batch_size=2)
    begun: list[str] = []

    def works() -> Iterator[Work | None]:
        for name in "abc":
            begun.append(f"{name} begun, {len(model.done)} done")
            rows = {"image": [PICTURE] * 4, "key": [f"{name}{number}" for number in range(4)]}
            yield Work([captioner], read_rows(rows, "image", "key"), tag=name)
            if name == "b":
                yield None
        yield Work([], read_rows({"image": [], "key": []}, "image", "key"), tag="end")

    found = [
        (each.tag, [[caption.text for caption in column] for column in each.captions])
        for each in caption_works(works())
    ]
    assert found == [(name, [[f"{name}{number} 2" for number in range(4)]]) for name in "abc"] + [("end", [])]
    first, second, third = begun
    assert first == "a begun, 0 done"
    assert second in ("b begun, 0 done", "b begun, 2 done"), "the second is begun before the first is done"
    assert third == "c begun, 8 done", "the third is not"

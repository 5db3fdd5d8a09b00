"""The pace of fetching, without a network: the line of the calls, rests that hosts ask for, what a row waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from hf_mllm_aug.loaders.fetching.pace import Line, Pace, Patience, Place, Rests, TooBusyError


def places(count: int) -> list[Place]:
    return [Place() for _ in range(count)]


def test_calls_behind_the_first_wait_while_much_that_is_finished_is_not_taken() -> None:
    async def story() -> list[str]:
        told: list[str] = []
        line = Line(max_unfinished=100, max_held=10)
        slow, quick, newcomer = places(2), places(1), places(1)
        for call in (slow, quick, newcomer):
            await line.enter(call)
        line.finish(quick[0], 11)
        line.leave(quick)  # taken, but `map` still holds it behind the slow call
        await asyncio.wait_for(line.go_on(slow), 5)  # the first call is what all wait for

        async def go_on() -> None:
            await line.go_on(newcomer)
            told.append("goes on")

        task = asyncio.ensure_future(go_on())
        await asyncio.sleep(0.05)
        told.append("half of the slow call is finished")
        line.finish(slow[0], 1000)
        await asyncio.sleep(0.05)
        told.append("all of it, but not taken")
        line.finish(slow[1], 1000)
        await asyncio.sleep(0.05)
        told.append("taken")
        line.leave(slow)
        await asyncio.wait_for(task, 5)
        return told

    before = ["half of the slow call is finished", "all of it, but not taken", "taken"]
    assert asyncio.run(story()) == [*before, "goes on"]


def test_a_call_that_nobody_waits_for_any_more_holds_nothing() -> None:
    async def story() -> None:
        line = Line(max_unfinished=2, max_held=10)
        dropped, next_ = places(2), places(1)
        await line.enter(dropped)
        line.leave(dropped)
        line.finish(dropped[0], 1000)
        entering = asyncio.ensure_future(line.enter(next_))
        await asyncio.sleep(0.01)
        line.finish(dropped[1])
        await asyncio.wait_for(entering, 5)
        assert line.may_go_on(next_)

    asyncio.run(story())


def test_the_line_admits_so_many_unfinished_rows_in_the_order_of_their_coming() -> None:
    async def story() -> list[int]:
        entered: list[int] = []
        line = Line(max_unfinished=2, max_held=10)

        async def row(number: int) -> None:
            call = places(1)
            await line.enter(call)
            entered.append(number)
            assert sum(n not in finished for n in entered) <= 2
            await asyncio.sleep(0.001 * (number % 3))
            finished.add(number)
            line.finish(call[0], 1)
            line.finish(call[0], 1)  # to say it twice changes nothing

        finished: set[int] = set()
        await asyncio.wait_for(asyncio.gather(*map(row, range(20))), 5)
        return entered

    assert asyncio.run(story()) == list(range(20))


def test_a_host_that_asks_for_a_rest_gets_it_and_others_go_on() -> None:
    async def story() -> tuple[float, float]:
        pace = Pace(concurrency=2, per_host=1, rests=Rests())
        pace.rest("tired", 2)
        start = time.monotonic()

        async def ask(host: str) -> float:
            async with pace.turn(host, Patience(10)):
                return time.monotonic() - start

        tired, *others = await asyncio.gather(ask("tired"), *(ask("fresh") for _ in range(5)))
        return tired, max(others)

    tired, others = asyncio.run(story())
    assert tired >= 2
    assert others < 1.5


def test_a_row_spends_its_patience_before_it_gives_up_and_the_rest_outlives_the_pace() -> None:
    rests = Rests()

    async def ask(patience: float) -> float:
        start = time.monotonic()
        with pytest.raises(TooBusyError) as caught:
            async with Pace(concurrency=2, per_host=1, rests=rests).turn("tired", Patience(patience)):
                pass
        assert 50 < caught.value.seconds <= 60 - patience
        return time.monotonic() - start

    rests.add("tired", 60)
    rests.add("tired", 1)  # does not shorten it
    assert asyncio.run(ask(0.3)) >= 0.3
    assert asyncio.run(ask(0.1)) >= 0.1


def test_what_a_row_waits_is_forgiven_once_the_host_answers_but_not_what_it_caused() -> None:
    patience = Patience(10)
    patience.renew(0)
    patience.seconds -= 8
    patience.renew(0)
    assert patience.seconds == 2
    patience.renew(1)
    assert patience.seconds == 10
    assert patience.charge(7)
    patience.renew(2)
    assert patience.seconds == 10
    assert not patience.charge(4)


def test_hosts_that_nobody_asks_and_rests_that_are_over_are_forgotten() -> None:
    rests = Rests()

    async def story() -> int:
        pace = Pace(concurrency=2, per_host=1, rests=rests)
        for number in range(50):
            async with pace.turn(f"host-{number}", Patience(1)):
                pass
        return len(pace._hosts)

    assert asyncio.run(story()) == 0
    rests.add("still", 60)
    for number in range(10_000):
        rests.add(f"host-{number}", -1)
    assert len(rests._until) < 2000
    assert rests.left("still") > 50

"""How often hosts are asked, and when: limits at a time, rests that they ask for, slow name servers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fetching import fetch_one, fetcher, slow
from tests.web_server import FORBIDDEN, Reply, WebServer, answer, in_turn


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as running:
        yield running


@pytest.mark.parametrize("wait", ["0", "1"])
def test_429_is_asked_again_after_the_time_that_it_names(server: WebServer, pictures: list[bytes], wait: str) -> None:
    server.routes["/a"] = in_turn(answer(b"", 429, ("Retry-After", wait)), answer(pictures[0]))
    start = time.monotonic()
    assert fetch_one(server)["status"] == "ok"
    assert server.count("/a") == 2
    assert time.monotonic() - start >= float(wait)


def test_a_host_that_wants_more_patience_than_there_is_is_left_alone(server: WebServer) -> None:
    server.routes["/a"] = answer(b"", 429, ("Retry-After", "600"))
    fetch, urls = fetcher(per_host=2, max_wait=1.0), [server.url("/a")] * 30
    start = time.monotonic()
    rows = asyncio.run(fetch({"url": urls}))
    assert 1 <= time.monotonic() - start < 10, "rows wait as long as they may, or all would be through in no time"
    assert set(rows["status"]) == {"http_error", "put_off"}
    assert rows["status"].count("http_error") == server.count("/a") <= 2
    for status, reason in zip(rows["status"], rows["reason"], strict=True):
        assert ("429" in reason) == (status == "http_error")
        assert "of patience" in reason

    # The rest is remembered for the next call, in another event loop too; other hosts are asked.
    asked = server.count("/a")
    again = asyncio.run(fetch({"url": [server.url("/a"), "http://127.0.0.2/"]}))
    assert again["status"] == ["put_off", "forbidden_address"]
    assert server.count("/a") == asked


def test_rows_that_were_put_off_can_be_fetched_when_the_host_has_rested(
    server: WebServer, pictures: list[bytes]
) -> None:
    server.routes["/a"] = in_turn(answer(b"", 429, ("Retry-After", "2")), answer(pictures[0]))
    fetch, urls = fetcher(per_host=1, max_wait=0.5, retries=0), [server.url("/a")] * 5
    rows = asyncio.run(fetch({"url": urls}))
    assert rows["status"] == ["http_error"] + ["put_off"] * 4
    time.sleep(2)
    assert asyncio.run(fetch({"url": urls}))["status"] == ["ok"] * 5


def test_a_host_that_rests_and_answers_in_turns_gets_through_all_its_rows(
    server: WebServer, pictures: list[bytes]
) -> None:
    """Rows stand through rests that others caused, longer in all than their patience."""
    tired, well = answer(b"", 429, ("Retry-After", "1")), answer(pictures[0])
    was_well, told = True, set()

    async def route(reply: Reply) -> bool | None:
        nonlocal was_well
        was_well = not was_well or reply.request.path in told  # once a row, and never twice without an answer between
        if not was_well:
            told.add(reply.request.path)
        return await (well if was_well else tired)(reply)

    server.routes = {f"/{number}": route for number in range(6)}
    rows = asyncio.run(fetcher(per_host=1, max_wait=1.5)({"url": [server.url(path) for path in server.routes]}))
    assert rows["status"] == ["ok"] * 6
    assert len(told) >= 3


def test_waiting_for_a_turn_does_not_count_as_time_of_the_try(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/a"] = slow(pictures[0], 0.4)
    fetch = fetcher(per_host=1, total_timeout=2.0)
    rows = asyncio.run(fetch({"url": [server.url("/a")] * 8}))  # 3.2 s in all
    assert rows["status"] == ["ok"] * 8


@pytest.mark.parametrize(
    ("settings", "most"), [({"per_host": 3}, 6), ({"per_host": 50, "concurrency": 5}, 5)], ids=["host", "all"]
)
def test_requests_at_a_time_are_limited_in_all_and_by_host(
    server: WebServer, pictures: list[bytes], settings: dict[str, int], most: int
) -> None:
    async def when_all_are_there(reply: Reply) -> bool | None:
        for _ in range(1000):  # 10 s
            if server.most_at_once >= most:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)  # time for one more to come
        return await answer(pictures[0])(reply)

    server.routes["/a"] = when_all_are_there
    both = [server.url("/a"), server.url("/a", FORBIDDEN)] * 20
    rows = asyncio.run(fetcher(allow_private=True, read_timeout=20.0, **settings)({"url": both}))
    assert set(rows["status"]) == {"ok"}
    assert server.most_at_once == most


class Names:
    """Stands before the system's look-up: names under ``.example`` are known here alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting = 0
        self.most_waiting = 0
        self.answer = threading.Event()
        self._system = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if not str(host).endswith(".example"):
            return self._system(host, port, *rest, **more)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            if not self.answer.wait(20) or str(host).startswith("dead"):
                raise socket.gaierror(socket.EAI_NONAME, "no such name")
        finally:
            self.waiting -= 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


def test_a_name_that_is_slowly_found_is_asked_for_again(
    server: WebServer, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch)
    server.routes["/a"] = answer(pictures[0])
    timer = threading.Timer(0.7, names.answer.set)
    timer.start()
    fetch = fetcher(connect_timeout=0.5, first_wait=0.2)
    rows = asyncio.run(fetch({"url": server.url("/a", "slow.example")}))
    assert rows["status"] == "ok"


def test_look_ups_that_nobody_waits_for_hold_up_rows_but_not_on_their_time(
    server: WebServer, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch)
    server.routes["/a"] = answer(pictures[0])
    urls = [server.url("/a", f"dead{number}.example") for number in range(20)]
    timer = threading.Timer(2.0, names.answer.set)
    timer.start()
    fetch = fetcher(concurrency=3, connect_timeout=0.3, retries=0)
    rows = asyncio.run(fetch({"url": [*urls, server.url("/a", "well.example")]}))
    assert rows["status"][-1] == "ok"
    assert names.most_waiting <= 6
    late = [reason for status, reason in zip(rows["status"], rows["reason"], strict=True) if status == "timeout"]
    assert 3 <= len(late) <= 6, "the others were asked for only when there was a thread to do so"
    assert all("name was not found within 0.3 s" in reason for reason in late)
    assert rows["status"].count("name_not_found") == 20 - len(late)

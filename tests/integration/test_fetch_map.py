"""`FetchImages` in `map`: rows in order, streams that pause or are left early, memory, processes, the cache."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value

from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import to_rgb
from hf_mllm_aug.schema import base_features
from tests.fetching import PAGE, fetcher, silent, slow
from tests.web_server import FORBIDDEN, WebServer, answer


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as running:
        yield running


def mixed(server: WebServer, pictures: list[bytes]) -> tuple[list[str | None], list[str]]:
    """Addresses of every kind, and the status of each."""
    server.routes = {f"/{number}": answer(data) for number, data in enumerate(pictures)}
    server.routes |= {"/page": answer(PAGE, kind="image/jpeg"), "/silent": silent}
    urls: list[str | None] = []
    expected = []
    for number in range(len(pictures)):
        urls += [server.url(f"/{number}"), server.url("/page")]
        expected += ["ok", "not_a_picture"]
    urls[3:3] = [server.url("/silent"), None, server.url("/a", FORBIDDEN)]
    expected[3:3] = ["timeout", "no_url", "forbidden_address"]
    return urls, expected


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_map_keeps_rows_in_order_and_decoding_follows(
    server: WebServer, pictures: list[bytes], batched: bool, streaming: bool
) -> None:
    urls, expected = mixed(server, pictures)
    nothing = [None] * len(urls)
    keys = [f"k{number}" for number in range(len(urls))]
    columns = {"key": keys, "image": nothing, "url": urls, "caption": keys}
    fetch = fetcher(read_timeout=2.0)
    source = Dataset.from_dict(columns, features=base_features())
    rows: Any = source.to_iterable_dataset() if streaming else source
    rows = rows.map(fetch, batched=batched, batch_size=7, features=fetch.features(source.features))

    def size(row: dict[str, Any]) -> dict[str, Any]:
        return {"size": list(to_rgb(row["image"]).size) if row["image"] is not None else None}

    found = list(rows.map(size))
    assert [row["key"] for row in found] == keys
    assert [row["status"] for row in found] == expected
    sizes = [row["size"] for row in found if row["status"] == "ok"]
    assert sizes == [[40 + 3 * number, 64 - 2 * number] for number in range(20)]
    assert all((row["reason"] == "") == (row["image"] is not None) == (row["status"] == "ok") for row in found)
    assert [server.count(f"/{number}") for number in range(20)] == [1] * 20


def test_map_without_features_works_too(server: WebServer, pictures: list[bytes]) -> None:
    urls, expected = mixed(server, pictures)
    rows = Dataset.from_dict({"url": urls}).map(fetcher(read_timeout=2.0))
    assert rows["status"] == expected
    typed = Dataset.from_dict({"image": [None], "url": urls[:1]}, features=Features(
        {"image": Image(decode=False), "url": Value("string")}
    )).map(fetcher())  # fmt: skip
    assert typed.features["image"] == Image(decode=False)


def test_a_second_map_is_served_from_the_cache(server: WebServer, pictures: list[bytes], tmp_path: Any) -> None:
    server.routes["/0"] = answer(pictures[0])
    Dataset.from_dict({"url": [server.url("/0")] * 5}).save_to_disk(tmp_path)
    for _ in range(2):
        rows = Dataset.load_from_disk(tmp_path).map(fetcher())
        assert rows["status"] == ["ok"] * 5
    assert server.count("/0") == 5


def test_several_processes_share_the_work(server: WebServer, pictures: list[bytes]) -> None:
    server.routes = {f"/{number}": answer(data) for number, data in enumerate(pictures)}
    urls = [server.url(f"/{number}") for number in range(20)]
    rows = Dataset.from_dict({"url": urls}).map(fetcher(), num_proc=2)
    assert [image["bytes"] for image in rows["image"]] == pictures


def test_in_a_running_event_loop_a_child_process_does_it(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/0"] = answer(pictures[0])

    async def notebook() -> list[str]:
        rows = Dataset.from_dict({"url": [server.url("/0")] * 3}).map(fetcher(), num_proc=1)
        return list(rows["status"])

    assert asyncio.run(notebook()) == ["ok"] * 3


def test_raise_ends_the_map_with_the_row(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/0"] = answer(pictures[0])
    rows = Dataset.from_dict({"key": ["a", "b"], "url": [server.url("/0"), server.url("/none")]})
    with pytest.raises(ImageError, match=r"row 'b': no picture from 127\.0\.0\.1: http_error: HTTP 404"):
        rows.map(fetcher(on_error="raise"))


def test_a_cancelled_call_leaves_the_others_undisturbed(server: WebServer, pictures: list[bytes]) -> None:
    server.routes = {"/0": answer(pictures[0]), "/silent": silent}

    async def story() -> list[str]:
        fetch = fetcher()
        stalled = asyncio.ensure_future(fetch({"url": server.url("/silent")}))
        await asyncio.sleep(0.1)
        # More rows than may be at work, cancelled before any of them has begun: all must give their places back.
        many = asyncio.ensure_future(fetch({"url": [server.url("/silent")] * 1100}))
        await asyncio.sleep(0)
        many.cancel()
        rows = await asyncio.wait_for(fetch({"url": [server.url("/0")] * 2}), 15)
        stalled.cancel()
        await asyncio.gather(stalled, many, return_exceptions=True)
        return list(rows["status"])

    assert asyncio.run(story()) == ["ok", "ok"]


def test_nothing_is_left_open_and_nothing_is_said(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/0"] = answer(pictures[0])
    code = f"""
import gc
from datasets import Dataset
from hf_mllm_aug.loaders.fetch import FetchImages
fetch = FetchImages(allowed_networks=("127.0.0.1/32",))
rows = Dataset.from_dict({{"url": [{server.url("/0")!r}, "http://127.0.0.2/"] * 20}})
print(rows.map(fetch)["status"].count("ok"))
print(sum(row["status"] == "ok" for row in rows.to_iterable_dataset().map(fetch)))
gc.collect()
"""
    command = [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["20", "20"], done.stderr[-2000:]
    # Event loops that are not closed are those of `datasets`; asyncio's debug mode tells of what takes long.
    words = ("aiohttp", "fetch", "unclosed client", "unclosed connect", "unclosed transport", "never retrieved",
             "never awaited", "destroyed", "exception", "traceback (", "unclosed <socket", "unclosed <ssl")  # fmt: skip
    lines = (line.lower() for line in done.stderr.splitlines() if not line.startswith("Executing "))
    assert not [line for line in lines if any(word in line for word in words)]


def stream(server: WebServer, rows: int, **options: Any) -> Any:
    return Dataset.from_dict({"url": [server.url("/0")] * rows}).to_iterable_dataset().map(**options)


def test_requests_go_on_while_nobody_asks_for_the_next_row(server: WebServer, pictures: list[bytes]) -> None:
    """A captioner works on a batch meanwhile; a request's time must not run out for that."""
    server.routes["/0"] = slow(pictures[0], 0.3)
    rows = iter(stream(server, 12, function=fetcher(per_host=4, total_timeout=1.5)))
    found = [next(rows)["status"]]
    time.sleep(3)
    assert server.count("/0") == 12
    found += [row["status"] for row in rows]
    assert found == ["ok"] * 12


def test_streams_left_early_leave_nothing_open(
    server: WebServer, pictures: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    server.routes["/0"] = slow(pictures[0], 0.1)
    fetch = fetcher(per_host=8)

    def left_open(streams: int) -> tuple[int, list[str]]:
        """Descriptors, and threads that fetch, after so many streams have been left."""
        for _ in range(streams):
            assert next(iter(stream(server, 100, function=fetch)))["status"] == "ok"
        for _ in range(100):  # 10 s
            gc.collect()
            threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch-")]
            if not threads and not any(server.at_once.values()):
                break
            time.sleep(0.1)
        return len(os.listdir("/dev/fd")), threads

    few, many = left_open(2), left_open(10)
    assert many == few
    assert many[1] == []
    assert server.count("/0") < 12 * 100, "what nobody waits for is not asked for"
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize("batched", [False, True])
def test_finished_pictures_that_nobody_takes_are_bounded(
    server: WebServer, pictures: list[bytes], batched: bool
) -> None:
    size, limit, concurrency, batch = 100_000, 1_000_000, 4, 5
    server.routes["/0"] = answer(pictures[0] + bytes(size - len(pictures[0])))
    fetch = fetcher(max_held_bytes=limit, concurrency=concurrency, per_host=concurrency)
    rows = iter(stream(server, 200, function=fetch, batched=batched, batch_size=batch))
    next(rows)
    time.sleep(1.5)
    taken = batch if batched else 1
    assert server.count("/0") <= 2 * (taken + limit // size + concurrency + batch)  # twice: what map took on its way
    assert 1 + sum(row["status"] == "ok" for row in rows) == 200

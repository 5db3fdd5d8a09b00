"""`FetchImages` against a real web server that is as good and as bad as the web."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PilImage

from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import to_rgb
from hf_mllm_aug.loaders.fetch import FetchImages
from hf_mllm_aug.schema import base_features
from tests.web_server import FORBIDDEN, Reply, Route, WebServer, answer, in_turn, redirect

LOOPBACK = ("127.0.0.1/32",)
PAGE = b"<!DOCTYPE html><html><body>not here</body></html>" * 20


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as running:
        yield running


def fetcher(**settings: Any) -> FetchImages:
    return FetchImages(**{"first_wait": 0.02, "allowed_networks": LOOPBACK, **settings})


def fetch_one(server: WebServer, path: str = "/a", **settings: Any) -> dict[str, Any]:
    return asyncio.run(fetcher(**settings)({"url": server.url(path)}))


def assert_fails(row: dict[str, Any], status: str, reason: str) -> None:
    assert (row["status"], row["image"]) == (status, None)
    assert reason in row["reason"]


async def endless(reply: Reply) -> None:
    await reply.head(200, ("Content-Type", "image/png"))
    for _ in range(1024):  # a gigabyte, if they let us
        await reply.write(b"\x89PNG" + bytes(1024 * 1024))


async def declared(reply: Reply) -> None:
    await reply.head(200, ("Content-Length", str(2 * 1024**3)))
    await asyncio.sleep(30)


async def silent(reply: Reply) -> None:
    await asyncio.sleep(30)


def cut(body: bytes) -> Route:
    async def route(reply: Reply) -> None:
        await reply.head(200, ("Content-Length", str(len(body))), ("Content-Type", "image/png"))
        await reply.write(body[: len(body) // 2])

    return route


def drip(body: bytes, pause: float = 0.1) -> Route:
    async def route(reply: Reply) -> None:
        await reply.head(200, ("Content-Length", str(len(body))))
        for byte in body:
            await reply.write(bytes([byte]))
            await asyncio.sleep(pause)

    return route


def test_good_pictures_arrive_once_in_order_as_they_were_served(server: WebServer, pictures: list[bytes]) -> None:
    async def slow(reply: Reply) -> bool | None:
        await asyncio.sleep(0.2)
        return await answer(pictures[0])(reply)

    server.routes = {f"/{number}": answer(data) for number, data in enumerate(pictures)} | {"/0": slow}
    rows = asyncio.run(fetcher()({"url": [server.url(f"/{number}") for number in range(len(pictures))]}))
    assert rows["image"] == [{"bytes": data, "path": None} for data in pictures]
    assert set(rows["status"]) == {"ok"}
    assert set(rows["reason"]) == {""}
    assert [server.count(f"/{number}") for number in range(len(pictures))] == [1] * len(pictures)


def test_what_the_headers_say_does_not_matter_to_a_picture(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/a"] = answer(pictures[0], kind="text/plain")
    assert fetch_one(server)["status"] == "ok"


def test_we_say_who_we_are_and_ask_for_no_packing(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/a"] = answer(pictures[0])
    fetch_one(server)
    fetch_one(server, user_agent="someone/1 (me@example.org)")
    first, second = (request.headers for request in server.requests)
    assert first["user-agent"].startswith("hf-mllm-aug/")
    assert first["accept-encoding"] == "identity"
    assert second["user-agent"] == "someone/1 (me@example.org)"


@pytest.mark.parametrize(
    ("route", "status", "reason"),
    [
        (answer(b"", 404), "http_error", "HTTP 404"),
        (answer(b"", 204), "http_error", "HTTP 204"),
        (answer(PAGE, kind="image/jpeg"), "not_a_picture", "markup"),
        (answer(b"\xef\xbb\xbf <svg/>", kind="image/png"), "not_a_picture", "markup"),
        (answer(b"just words, many of them", kind="image/png"), "not_a_picture", "known format"),
        (answer(b""), "not_a_picture", "empty"),
        (answer(b"x", 200, ("Content-Encoding", "br")), "not_a_picture", "packed"),
        (answer(b"no gzip", 200, ("Content-Encoding", "gzip")), "not_a_picture", "packed"),
        (redirect("file:///etc/passwd"), "redirect", "http://"),
        (redirect("http://user:secret@127.0.0.1/"), "redirect", "password"),
        (redirect(""), "redirect", "nowhere"),
        (redirect("/a"), "redirect", "more than 5 redirects"),
        (answer(PAGE, 200, ("X-Robots-Tag", "noai")), "opted_out", "noai"),
        (redirect("/b", 307), "http_error", "HTTP 404"),
    ],
)
def test_what_cannot_be_had_is_asked_for_once_and_has_its_reason(
    server: WebServer, route: Route, status: str, reason: str
) -> None:
    server.routes["/a"] = route
    assert_fails(fetch_one(server), status, reason)
    assert server.count("/a") == (6 if reason == "more than 5 redirects" else 1)


def test_an_answer_that_is_not_http_is_a_broken_connection(server: WebServer) -> None:
    async def gibberish(reply: Reply) -> None:
        await reply.write(b"220 mail.example.org ESMTP\r\n\r\n")

    server.routes["/a"] = gibberish
    assert fetch_one(server)["status"] == "broken"


def test_nobody_listening_is_unreachable() -> None:
    with WebServer() as server:
        gone = server.url("/a")
    assert_fails(asyncio.run(fetcher()({"url": gone})), "unreachable", "no connection")


@pytest.mark.parametrize("wait", ["0", "1"])
def test_429_is_asked_again_after_the_time_that_it_names(server: WebServer, pictures: list[bytes], wait: str) -> None:
    server.routes["/a"] = in_turn(answer(b"", 429, ("Retry-After", wait)), answer(pictures[0]))
    start = time.monotonic()
    assert fetch_one(server)["status"] == "ok"
    assert server.count("/a") == 2
    assert time.monotonic() - start >= float(wait)


def test_a_host_that_wants_more_patience_than_there_is_is_not_asked_again(server: WebServer) -> None:
    server.routes["/a"] = answer(b"", 429, ("Retry-After", "600"))
    urls = [server.url("/a")] * 30
    start = time.monotonic()
    rows = asyncio.run(fetcher(per_host=2)({"url": urls}))
    assert set(rows["status"]) == {"http_error"}
    assert all("429" in reason for reason in rows["reason"])
    assert server.count("/a") <= 2
    assert time.monotonic() - start < 5


def test_server_errors_and_broken_connections_are_tried_again(server: WebServer, pictures: list[bytes]) -> None:
    async def hang_up(reply: Reply) -> None:
        pass

    server.routes["/500"] = in_turn(answer(b"", 500), answer(b"", 503), answer(pictures[0]))
    server.routes["/cut"] = in_turn(cut(pictures[1]), answer(pictures[1]))
    server.routes["/gone"] = in_turn(hang_up, answer(pictures[2]))
    rows = asyncio.run(fetcher()({"url": [server.url(path) for path in ("/500", "/cut", "/gone")]}))
    assert [image["bytes"] for image in rows["image"]] == pictures[:3]
    assert [server.count(path) for path in ("/500", "/cut")] == [3, 2]


def test_retries_end(server: WebServer, pictures: list[bytes]) -> None:
    server.routes = {"/500": answer(b"", 500), "/cut": cut(pictures[1])}
    rows = asyncio.run(fetcher(retries=3)({"url": [server.url("/500"), server.url("/cut")]}))
    assert rows["status"] == ["http_error", "broken"]
    assert [server.count("/500"), server.count("/cut")] == [4, 4]


def test_stalls_and_drips_end_in_time(server: WebServer, pictures: list[bytes]) -> None:
    server.routes = {"/silent": silent, "/drip": drip(pictures[0])}
    start = time.monotonic()
    fetch = fetcher(read_timeout=0.5, total_timeout=1.0)
    rows = asyncio.run(fetch({"url": [server.url("/silent"), server.url("/drip")]}))
    assert rows["status"] == ["timeout", "timeout"]
    assert "nothing came" in rows["reason"][0]
    assert "not done within 1 s" in rows["reason"][1]
    assert time.monotonic() - start < 10  # the drip alone would take 20 s and more


def test_the_time_for_one_try_includes_its_redirects(server: WebServer) -> None:
    async def slowly(reply: Reply) -> bool | None:
        await asyncio.sleep(0.3)
        return await redirect("/a")(reply)

    server.routes["/a"] = slowly
    assert fetch_one(server, max_redirects=100, total_timeout=1.0)["status"] == "timeout"
    assert server.count("/a") <= 4


def test_waiting_for_a_turn_does_not_count_as_time_of_the_try(server: WebServer, pictures: list[bytes]) -> None:
    async def slowly(reply: Reply) -> bool | None:
        await asyncio.sleep(0.4)
        return await answer(pictures[0])(reply)

    server.routes["/a"] = slowly
    fetch = fetcher(per_host=1, total_timeout=2.0)
    rows = asyncio.run(fetch({"url": [server.url("/a")] * 8}))  # 3.2 s in all
    assert rows["status"] == ["ok"] * 8


def test_large_bodies_are_not_read_and_memory_is_bounded(server: WebServer) -> None:
    limit = 1024 * 1024
    bomb = gzip.compress(bytes(64 * limit))
    server.routes = {
        "/endless": endless,
        "/declared": declared,
        "/gzip": answer(bomb, 200, ("Content-Encoding", "gzip")),
        "/zlib": answer(zlib.compress(bytes(64 * limit)), 200, ("Content-Encoding", "deflate")),
    }
    fetch, urls = fetcher(max_bytes=limit), [server.url(path) for path in server.routes]
    asyncio.run(fetch({"url": server.url("/none")}))  # imports are no part of what is measured
    tracemalloc.start()
    try:
        rows = asyncio.run(fetch({"url": urls}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows["status"] == ["too_large"] * 4
    assert "2,147,483,648 bytes declared" in rows["reason"][1]
    assert server.sent["/endless"] < 16 * limit  # what the sockets' buffers took
    assert peak < 24 * limit


def test_packed_pictures_are_unpacked(server: WebServer, pictures: list[bytes]) -> None:
    packed = gzip.compress(pictures[0])
    server.routes["/a"] = answer(packed, 200, ("Content-Encoding", "gzip"))
    server.routes["/b"] = answer(packed[:-12], 200, ("Content-Encoding", "gzip"))
    assert fetch_one(server)["image"]["bytes"] == pictures[0]
    assert_fails(fetch_one(server, "/b", retries=0), "broken", "cut off")


def test_pictures_beyond_the_limits_are_refused_by_their_headers(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/a"] = answer(pictures[0])
    assert_fails(fetch_one(server, max_pixels=100), "too_large", "pixels")
    assert_fails(fetch_one(server, max_aspect=1.1), "not_a_picture", "thin")
    assert_fails(fetch_one(server, max_bytes=50), "too_large", "bytes")


@pytest.mark.parametrize(
    "host",
    [FORBIDDEN, f"[::ffff:{FORBIDDEN}]", "2130706434", "0x7f000002", "0x7f.0.0.2", "0177.0.0.2", "127.2", "localhost"],
)
def test_forbidden_addresses_are_not_connected_to_however_spelled(server: WebServer, host: str) -> None:
    # Nothing loopback is allowed here, so that names and spellings that mean 127.0.0.1 are forbidden too.
    row = asyncio.run(fetcher(allowed_networks=())({"url": server.url("/a", host)}))
    assert row["status"] in ("forbidden_address", "bad_url")
    assert not server.connections


def test_the_same_address_is_asked_once_it_is_allowed(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/a"] = answer(pictures[0])
    url = server.url("/a", FORBIDDEN)
    assert asyncio.run(fetcher()({"url": url}))["status"] == "forbidden_address"
    assert asyncio.run(fetcher(allow_private=True)({"url": url}))["status"] == "ok"
    assert asyncio.run(fetcher(allowed_networks=("127.0.0.0/8",))({"url": url}))["status"] == "ok"
    assert server.connections == {FORBIDDEN: 2}


def test_a_redirect_to_a_forbidden_address_is_not_followed(server: WebServer, pictures: list[bytes]) -> None:
    server.routes = {"/a": redirect(server.url("/b", FORBIDDEN)), "/b": answer(pictures[0])}
    assert_fails(fetch_one(server), "forbidden_address", "loopback")
    assert server.count("/b") == 0
    assert FORBIDDEN not in server.connections


def test_a_name_that_resolves_to_something_else_at_the_second_look_gains_nothing(server: WebServer) -> None:
    """The socket's guard alone, with a resolver that lies: it answers with what the policy forbids."""
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult

    from hf_mllm_aug.loaders.fetching import connections

    class Rebinding(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
            return [{"hostname": host, "host": FORBIDDEN, "port": port, "family": 2, "proto": 0, "flags": 0}]

        async def close(self) -> None:
            pass

    async def ask() -> None:
        guard = connections._guard(LOOPBACK)
        connector = aiohttp.TCPConnector(resolver=Rebinding(), socket_factory=guard)
        async with aiohttp.ClientSession(connector=connector) as session:
            await session.get(server.url("/a", "public.example"))

    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        asyncio.run(ask())
    assert isinstance(caught.value.os_error, connections.ForbiddenAddressError)
    assert not server.connections


def test_redirects_are_followed_and_no_cookie_is_kept(server: WebServer, pictures: list[bytes]) -> None:
    server.routes = {
        "/a": answer(b"", 301, ("Location", "/b"), ("Set-Cookie", "id=1; Path=/")),
        "/b": answer(pictures[0]),
    }
    assert fetch_one(server)["status"] == "ok"
    assert [request.path for request in server.requests] == ["/a", "/b"]
    assert not any("cookie" in request.headers for request in server.requests)


def test_proxies_of_the_environment_are_not_used(
    server: WebServer, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url("/", FORBIDDEN))
    monkeypatch.delenv("no_proxy", raising=False)
    server.routes["/a"] = answer(pictures[0])
    assert fetch_one(server)["status"] == "ok"
    assert FORBIDDEN not in server.connections


def test_opt_outs_can_be_left_unasked(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/a"] = answer(pictures[0], 200, ("X-Robots-Tag", "otherbot: noai"), ("X-Robots-Tag", "noimageai"))
    assert_fails(fetch_one(server), "opted_out", "noimageai")
    assert fetch_one(server, opt_out=())["status"] == "ok"


def test_requests_at_a_time_are_limited_in_all_and_by_host(server: WebServer, pictures: list[bytes]) -> None:
    async def slowly(reply: Reply) -> bool | None:
        await asyncio.sleep(0.02)
        return await answer(pictures[0])(reply)

    server.routes["/a"] = slowly
    both = [server.url("/a"), server.url("/a", FORBIDDEN)] * 20
    for settings, most in (({"per_host": 3}, 6), ({"per_host": 50, "concurrency": 5}, 5)):
        server.most_at_once = 0
        rows = asyncio.run(fetcher(allow_private=True, **settings)({"url": both}))
        assert set(rows["status"]) == {"ok"}
        assert server.most_at_once == most


def test_reasons_and_errors_hold_neither_queries_nor_credentials(server: WebServer) -> None:
    signed = server.url("/a") + "?token=SECRET"
    rows = {"key": ["k1"], "url": [signed]}
    assert "SECRET" not in asyncio.run(fetcher()(rows))["reason"][0]
    for url in (signed, "http://user:SECRET@127.0.0.1/a", "http://user:SECRET@[bad/a"):
        with pytest.raises(ImageError, match="row 'k1': no picture") as caught:
            asyncio.run(fetcher(on_error="raise")({"key": ["k1"], "url": [url]}))
        assert "SECRET" not in str(caught.value)


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
    said = [line for line in done.stderr.splitlines() if "aiohttp" in line.lower() or "unclosed client" in line.lower()]
    assert not said


def test_a_picture_decodes_as_it_was_drawn(server: WebServer) -> None:
    import io

    buffer = io.BytesIO()
    PilImage.new("RGB", (8, 6), (10, 200, 30)).save(buffer, "PNG")
    server.routes["/a"] = answer(buffer.getvalue())
    picture = to_rgb(fetch_one(server)["image"])
    assert (picture.size, picture.getpixel((3, 3))) == ((8, 6), (10, 200, 30))

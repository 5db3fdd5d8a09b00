"""`FetchImages` against a real web server that is as good and as bad as the web: what it answers."""

from __future__ import annotations

import asyncio
import gzip
import io
import re
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from PIL import Image as PilImage

from hf_mllm_aug.errors import ImageError
from hf_mllm_aug.images import to_rgb
from tests.fetching import PAGE, assert_fails, fetch_one, fetcher, silent, slow
from tests.web_server import Reply, Route, WebServer, answer, in_turn, redirect


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as running:
        yield running


async def endless(reply: Reply) -> None:
    await reply.head(200, ("Content-Type", "image/png"))
    for _ in range(1024):  # a gigabyte, if they let us
        await reply.write(b"\x89PNG" + bytes(1024 * 1024))


async def declared(reply: Reply) -> None:
    await reply.head(200, ("Content-Length", str(2 * 1024**3)))
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
    server.routes = {f"/{number}": answer(data) for number, data in enumerate(pictures)} | {
        "/0": slow(pictures[0], 0.2)
    }
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
    row = asyncio.run(fetcher()({"url": gone}))
    assert_fails(row, "unreachable", "no connection: ")
    assert not re.search(r"[0-9]", row["reason"]), "reasons hold no addresses"


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
    fetch = fetcher(read_timeout=2.0, total_timeout=5.0)
    rows = asyncio.run(fetch({"url": [server.url("/silent"), server.url("/drip")]}))
    assert rows["status"] == ["timeout", "timeout"]
    assert "nothing came" in rows["reason"][0]
    assert "not done within 5 s" in rows["reason"][1]
    assert time.monotonic() - start < 15  # the drip alone would take 20 s and more


def test_the_time_for_one_try_includes_its_redirects(server: WebServer) -> None:
    async def slowly(reply: Reply) -> bool | None:
        await asyncio.sleep(0.3)
        return await redirect("/a")(reply)

    server.routes["/a"] = slowly
    assert fetch_one(server, max_redirects=100, total_timeout=1.0)["status"] == "timeout"
    assert server.count("/a") <= 4


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


def test_a_film_is_not_read_to_its_end(server: WebServer, pictures: list[bytes]) -> None:
    limit = 1024 * 1024
    film = bytes(4) + b"ftypisom" + bytes(64)

    def served(kind: str) -> Route:
        async def route(reply: Reply) -> None:
            await reply.head(200, ("Content-Type", kind))
            await reply.write(film)
            for _ in range(24):
                await reply.write(bytes(limit))

        return route

    server.routes = {"/film": served("video/mp4"), "/picture": served("image/jpeg; charset=binary")}
    assert_fails(fetch_one(server, "/film"), "not_a_picture", "another kind")
    assert server.sent["/film"] < 16 * limit  # what the sockets' buffers took
    # Some formats have no sign at their beginning, so what is called a picture is read, and then looked at.
    assert_fails(fetch_one(server, "/picture"), "not_a_picture", "known format")
    assert server.sent["/picture"] > 24 * limit


@pytest.mark.parametrize("kind", ["video/mp4", "application/pdf", "", "binary/octet-stream", "TEXT/HTML; charset=x"])
def test_a_picture_under_any_other_name_is_a_picture(server: WebServer, pictures: list[bytes], kind: str) -> None:
    server.routes["/a"] = answer(pictures[0], kind=kind)
    assert fetch_one(server)["status"] == "ok"


@pytest.mark.parametrize("kind", ["image/x-tga", "application/octet-stream"])
def test_a_picture_whose_format_has_no_sign_is_one_too(server: WebServer, kind: str) -> None:
    buffer = io.BytesIO()
    PilImage.new("RGB", (8, 6)).save(buffer, "TGA")
    server.routes["/a"] = answer(buffer.getvalue(), kind=kind)
    assert fetch_one(server)["status"] == "ok"


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


def test_opt_outs_can_be_left_unasked(server: WebServer, pictures: list[bytes]) -> None:
    server.routes["/a"] = answer(pictures[0], 200, ("X-Robots-Tag", "otherbot: noai"), ("X-Robots-Tag", "noimageai"))
    assert_fails(fetch_one(server), "opted_out", "noimageai")
    assert fetch_one(server, opt_out=())["status"] == "ok"


def test_reasons_and_errors_hold_neither_queries_nor_credentials(server: WebServer) -> None:
    signed = server.url("/a") + "?token=SECRET"
    rows = {"key": ["k1"], "url": [signed]}
    assert "SECRET" not in asyncio.run(fetcher()(rows))["reason"][0]
    for url in (signed, "http://user:SECRET@127.0.0.1/a", "http://user:SECRET@[bad/a"):
        with pytest.raises(ImageError, match="row 'k1': no picture") as caught:
            asyncio.run(fetcher(on_error="raise")({"key": ["k1"], "url": [url]}))
        assert "SECRET" not in str(caught.value)


def test_a_picture_decodes_as_it_was_drawn(server: WebServer) -> None:
    buffer = io.BytesIO()
    PilImage.new("RGB", (8, 6), (10, 200, 30)).save(buffer, "PNG")
    server.routes["/a"] = answer(buffer.getvalue())
    picture = to_rgb(fetch_one(server)["image"])
    assert (picture.size, picture.getpixel((3, 3))) == ((8, 6), (10, 200, 30))

"""Where `FetchImages` connects to, and where it does not: forbidden addresses, names, redirects, proxies, TLS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fetching import LOOPBACK, assert_fails, fetch_one, fetcher
from tests.web_server import FORBIDDEN, WebServer, answer, redirect


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as running:
        yield running


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


def know(monkeypatch: pytest.MonkeyPatch, name: str, *answers: list[str] | int) -> list[str]:
    """Have the system resolve a name to these addresses, or fail with these errors, in turn; the last one stays."""
    system, asked = socket.getaddrinfo, []

    def look_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != name:
            return system(host, port, *rest, **more)
        asked.append(name)
        found = answers[min(len(asked), len(answers)) - 1]
        if isinstance(found, int):
            raise socket.gaierror(found, "as told")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_of_a_names_addresses_the_permitted_ones_are_used(
    server: WebServer, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.routes["/a"] = answer(pictures[0])
    know(monkeypatch, "mixed.example", [FORBIDDEN, "169.254.169.254", "127.0.0.1", FORBIDDEN])
    row = asyncio.run(fetcher()({"url": server.url("/a", "mixed.example")}))
    assert row["status"] == "ok"
    assert server.connections == {"127.0.0.1": 1}


def test_a_name_with_forbidden_addresses_only_is_forbidden(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, "inner.example", [FORBIDDEN, "10.0.0.1"])
    row = asyncio.run(fetcher()({"url": server.url("/a", "inner.example")}))
    assert_fails(row, "forbidden_address", "loopback")
    assert not server.connections


@pytest.mark.parametrize(("error", "times"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 3)], ids=["none", "later"])
def test_a_name_that_does_not_resolve_is_asked_for_again_if_that_may_pass(
    monkeypatch: pytest.MonkeyPatch, error: int, times: int
) -> None:
    asked = know(monkeypatch, "gone.example", error)
    row = asyncio.run(fetcher()({"url": "http://gone.example/a.png"}))
    assert_fails(row, "name_not_found", "does not resolve")
    assert len(asked) == times


def test_a_name_that_resolves_a_little_later_is_found(
    server: WebServer, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.routes["/a"] = answer(pictures[0])
    know(monkeypatch, "late.example", socket.EAI_AGAIN, ["127.0.0.1"])
    assert asyncio.run(fetcher()({"url": server.url("/a", "late.example")}))["status"] == "ok"


def test_a_host_that_does_not_speak_tls_is_unreachable_and_asked_once() -> None:
    asked = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(3))
        writer.write(b"HTTP/1.1 400 This is not TLS\r\n\r\n")
        await writer.drain()
        writer.close()

    async def story() -> dict[str, Any]:
        listening = await asyncio.start_server(plain, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            return await fetcher()({"url": f"https://127.0.0.1:{port}/a"})

    assert_fails(asyncio.run(story()), "unreachable", "TLS")
    assert asked == [b"\x16\x03\x01"]  # a handshake

"""An aiohttp session whose connections go to permitted addresses only.

The check stands where sockets are made: aiohttp hands the function that makes a socket the very address that this
socket is then connected to. So it holds for names and literal addresses, first requests and redirects, and a name
that resolves to one thing when asked and to another when used has nothing to gain. The resolver checks too, to
pass over the forbidden ones among a name's addresses and to name the kind of failure.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver

from hf_mllm_aug.loaders.fetching.addresses import refusal

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

_KEEP_ALIVE = 2.0  # seconds; a long job meets many hosts, and each idle connection is an open file
_DNS_THREADS = 32  # dead names take seconds each, and the loop's own threads are few


class ForbiddenAddressError(OSError):
    """A connection that may not be made."""


class Resolver(AbstractResolver):
    """The system's resolver, in threads of its own, without forbidden addresses.

    Args:
        allowed_networks: Special networks that are permitted; None permits everything.
    """

    def __init__(self, allowed_networks: tuple[str, ...] | None) -> None:
        self._allowed = allowed_networks
        self._threads = ThreadPoolExecutor(_DNS_THREADS, "fetch-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Find a name's addresses.

        Raises:
            ForbiddenAddressError: There are none but forbidden ones.
            OSError: There are none.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host, port, family)
        reasons = [None if self._allowed is None else refusal(item["host"], self._allowed) for item in found]
        permitted = [item for item, reason in zip(found, reasons, strict=True) if reason is None]
        if not permitted:
            raise ForbiddenAddressError(next((reason for reason in reasons if reason), "no address"))
        return permitted

    async def close(self) -> None:
        """Let the threads go; one that still waits for a name server ends when that has answered."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: int) -> list[ResolveResult]:
    try:
        infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except ValueError:  # a label too long, a null byte: such names do not exist
        raise socket.gaierror(socket.EAI_NONAME, "not a name") from None
    return [
        {"hostname": host, "host": str(address[0]), "port": port, "family": kind, "proto": proto, "flags": 0}
        for kind, _, proto, _, address in infos
    ]


def _guard(allowed_networks: tuple[str, ...]) -> Any:
    def make_socket(info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        reason = refusal(str(address[0]), allowed_networks)
        if reason is not None:
            raise ForbiddenAddressError(reason)
        return socket.socket(family=family, type=kind, proto=proto)

    return make_socket


def open_session(*, user_agent: str, allow_private: bool, allowed_networks: tuple[str, ...]) -> aiohttp.ClientSession:
    """Open a session that keeps no cookies, knows no proxies and sends nobody's credentials.

    Proxies that the environment names are left aside, since a proxy resolves names by itself.

    Args:
        user_agent: Who we say that we are.
        allow_private: Whether any address may be connected to.
        allowed_networks: Special networks that may be.

    Returns:
        A session for the running event loop; it does not decode bodies.
    """
    allowed = None if allow_private else allowed_networks
    connector = aiohttp.TCPConnector(
        limit=0,  # the pace is kept elsewhere: waiting here would count as connecting
        keepalive_timeout=_KEEP_ALIVE,
        resolver=Resolver(allowed),
        socket_factory=None if allowed is None else _guard(allowed),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent, "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )

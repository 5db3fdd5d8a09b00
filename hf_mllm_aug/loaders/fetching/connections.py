"""An aiohttp session whose connections go to permitted addresses only.

The check stands where sockets are made: aiohttp hands the function that makes a socket the very address that this
socket is then connected to. So it holds for names and literal addresses, first requests and redirects, and a name
that resolves to one thing when asked and to another when used has nothing to gain. The resolver checks too, to
pass over the forbidden ones among a name's addresses and to name the kind of failure.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver

from hf_mllm_aug.loaders.fetching.addresses import refusal

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

_KEEP_ALIVE = 2.0  # seconds; a long job meets many hosts, and each idle connection is an open file


class ForbiddenAddressError(OSError):
    """A connection that may not be made."""


class Resolver(AbstractResolver):
    """The system's resolver, in threads of its own, without forbidden addresses.

    The system's look-up cannot be broken off: one that nobody waits for any more keeps its thread until the name
    servers are given up. So there are twice as many threads as requests, and a request waits in `room`, where its
    time does not run, while as many as half are busy: none of those at work can find all threads taken.

    Args:
        allowed_networks: Special networks that are permitted; None permits everything.
        concurrency: Requests at a time.
    """

    def __init__(self, allowed_networks: tuple[str, ...] | None, concurrency: int) -> None:
        self.allowed_networks = allowed_networks
        self._concurrency = concurrency
        self._threads = ThreadPoolExecutor(2 * concurrency, "fetch-names")
        self._busy: Counter[str] = Counter()  # look-ups at work, by name
        self._changed = asyncio.Event()

    async def room(self) -> None:
        """Wait until a look-up, should one be needed, finds a thread."""
        while self._busy.total() > self._concurrency:
            self._changed.clear()
            await self._changed.wait()

    def looks_for(self, host: str) -> bool:
        """Whether a name is being looked up."""
        return self._busy[host] > 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Find a name's addresses.

        Raises:
            ForbiddenAddressError: There are none but forbidden ones.
            OSError: There are none.
        """
        loop = asyncio.get_running_loop()
        self._busy[host] += 1
        job = loop.run_in_executor(self._threads, _look_up, host, port, family)
        job.add_done_callback(functools.partial(self._done, host))
        found = await asyncio.shield(job)  # its thread is busy to the end, whoever waits
        allowed = self.allowed_networks
        reasons = [None if allowed is None else refusal(item["host"], allowed) for item in found]
        permitted = [item for item, reason in zip(found, reasons, strict=True) if reason is None]
        if not permitted:
            raise ForbiddenAddressError(next((reason for reason in reasons if reason), "no address"))
        return permitted

    def _done(self, host: str, job: asyncio.Future[Any]) -> None:
        self._busy[host] -= 1
        self._busy += Counter()  # forget names with none
        self._changed.set()
        if not job.cancelled():
            job.exception()  # nobody may be left to ask for it

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


def open_session(resolver: Resolver, user_agent: str) -> aiohttp.ClientSession:
    """Open a session that keeps no cookies, knows no proxies and sends nobody's credentials.

    Proxies that the environment names are left aside, since a proxy resolves names by itself.

    Args:
        resolver: Finds addresses; what it does not permit is not connected to.
        user_agent: Who we say that we are.

    Returns:
        A session for the running event loop; it does not decode bodies.
    """
    allowed = resolver.allowed_networks
    connector = aiohttp.TCPConnector(
        limit=0,  # the pace is kept elsewhere: waiting here would count as connecting
        keepalive_timeout=_KEEP_ALIVE,
        resolver=resolver,
        socket_factory=None if allowed is None else _guard(allowed),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent, "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )

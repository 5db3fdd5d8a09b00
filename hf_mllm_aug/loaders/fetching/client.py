"""Fetches pictures within one event loop: redirects followed by hand, each hop checked, failures sorted by kind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from hf_mllm_aug import __version__
from hf_mllm_aug.loaders.fetching.bodies import check_picture, read_body
from hf_mllm_aug.loaders.fetching.connections import ForbiddenAddressError, Resolver, open_session
from hf_mllm_aug.loaders.fetching.outcome import FetchError, Outcome
from hf_mllm_aug.loaders.fetching.pace import Line, Pace, Patience, Place, Rests, TooBusyError
from hf_mllm_aug.loaders.fetching.policy import Policy
from hf_mllm_aug.loaders.fetching.robots import agent_token, opt_out
from hf_mllm_aug.loaders.fetching.waits import backoff, retry_after

_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 429, 500, 502, 503, 504)
_BUSY = 429
_ANSWERS = ("http_error", "redirect", "too_large", "opted_out", "not_a_picture")
_MAX_URL = 8192  # characters; servers refuse longer ones
_ROWS_AT_WORK = 1024  # as many as `map` has in flight


@dataclass(frozen=True)
class _Row:
    line: Line
    call: Sequence[Place]
    patience: Patience


class Client:
    """What all rows share: connections, the pace, and threads that look at the files.

    To be made while its event loop runs, and closed by `close`.

    Args:
        policy: The settings.
        rests: The hosts that rest.
    """

    def __init__(self, policy: Policy, rests: Rests) -> None:
        self._policy = policy
        self._pace = Pace(policy.concurrency, policy.per_host, rests)
        self._checks = ThreadPoolExecutor(2, "fetch-checks")  # a hostile header may take seconds to read
        user_agent = policy.user_agent or f"hf-mllm-aug/{__version__} (pictures for image-text data sets)"
        self._agent = agent_token(user_agent)
        self._resolver = Resolver(None if policy.allow_private else policy.allowed_networks, policy.concurrency)
        self._session = open_session(self._resolver, user_agent)

    def new_line(self) -> Line:
        """A line for rows that somebody takes in their order."""
        return Line(max(_ROWS_AT_WORK, 2 * self._policy.concurrency), self._policy.max_held_bytes)

    async def close(self) -> None:
        """Close the connections."""
        self._checks.shutdown(wait=False, cancel_futures=True)
        await self._session.close()
        await self._resolver.close()

    async def fetch(self, url: object, line: Line, call: Sequence[Place]) -> Outcome:
        """Fetch one picture; what goes wrong is part of the outcome.

        Args:
            url: A cell of the data set.
            line: Holds the row back while too much is finished.
            call: The places of the row's call, which have entered the line.
        """
        try:
            address = _parse(url)
            row = _Row(line, call, Patience(self._policy.max_wait))
            last: FetchError | None = None
            for failures in range(1, self._policy.retries + 2):
                try:
                    return Outcome("ok", data=await self._attempt(address, row, failures))
                except TooBusyError as busy:
                    wants = f"the host wants {busy.seconds:.0f} s more of patience"
                    if last is None:
                        raise FetchError("put_off", f"not asked for: {wants}") from None
                    raise FetchError(last.status, f"{last.reason}, and {wants}") from None
                except FetchError as failure:
                    if not failure.passing or failures > self._policy.retries:
                        raise
                    last = failure
                    await self._wait(failure, failures, row.patience)
        except FetchError as failure:
            return Outcome(failure.status, failure.reason)
        raise RuntimeError("a fetch ended neither with a picture nor with a failure")

    async def _wait(self, failure: FetchError, failures: int, patience: Patience) -> None:
        """Before the next try. Where the whole host is to rest, the next turn waits for that."""
        if failure.busy:
            return
        wait = failure.wait
        if wait is None:
            wait = self._backoff(failures)
        else:
            _charge(failure, wait, patience)
        await asyncio.sleep(wait)

    def _backoff(self, failures: int) -> float:
        return backoff(failures, self._policy.first_wait, self._policy.max_wait)

    @contextlib.asynccontextmanager
    async def _turn(self, host: str, row: _Row) -> AsyncIterator[None]:
        """Wait until the host, and all that a request needs here, is free; hold it."""
        while True:
            await row.line.go_on(row.call)
            async with self._pace.turn(host, row.patience):
                if not row.line.may_go_on(row.call):
                    continue  # others have finished meanwhile; who may go on is not to wait for this one
                await self._resolver.room()
                yield
                return

    async def _attempt(self, address: URL, row: _Row, number: int) -> bytes:
        """One try, redirects included; ``number`` counts from 1."""
        left = self._policy.total_timeout
        for _ in range(self._policy.max_redirects + 1):
            host = address.host or ""
            async with self._turn(host, row):
                start = time.monotonic()
                try:
                    found = await self._request(address, left)
                except FetchError as failure:
                    if failure.busy:
                        wait = self._backoff(number) if failure.wait is None else failure.wait
                        self._pace.rest(host, wait)
                        _charge(failure, wait, row.patience)
                    elif failure.status in _ANSWERS:
                        self._pace.answered(host)
                    raise
                self._pace.answered(host)
                left -= time.monotonic() - start
            if isinstance(found, bytes):
                return found
            if left <= 0:
                raise FetchError("timeout", f"not done within {self._policy.total_timeout:g} s")
            address = found
        raise FetchError("redirect", f"more than {self._policy.max_redirects} redirects")

    async def _request(self, address: URL, seconds: float) -> bytes | URL:
        """One request: the picture, or where to look for it instead."""
        policy = self._policy
        timeout = aiohttp.ClientTimeout(total=seconds, connect=policy.connect_timeout, sock_read=policy.read_timeout)
        try:
            async with self._session.get(address, allow_redirects=False, timeout=timeout) as response:
                data = await self._read(address, response)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failure(error, address.raw_host or "") from error
        if isinstance(data, bytes):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._checks, _check, data, policy)
        return data

    async def _read(self, address: URL, response: aiohttp.ClientResponse) -> bytes | URL:
        headers, policy = response.headers, self._policy
        if response.status in (200, *_REDIRECTS):
            directive = opt_out(headers.getall("X-Robots-Tag", ()), self._agent, policy.opt_out)
            if directive is not None:
                raise FetchError("opted_out", f"X-Robots-Tag: {directive}")
        if response.status in _REDIRECTS:
            return _target(address, headers.get("Location"))
        if response.status != 200:
            raise FetchError(
                "http_error",
                f"HTTP {response.status}",
                passing=response.status in _PASSING,
                wait=retry_after(headers.get("Retry-After")),
                busy=response.status == _BUSY,
            )
        return await read_body(
            response.content.iter_any(),
            encoding=headers.get("Content-Encoding", ""),
            kind=headers.get("Content-Type", ""),
            declared=response.content_length,
            max_bytes=policy.max_bytes,
        )

    def _failure(self, error: Exception, host: str) -> FetchError:
        """Sort what aiohttp raises. Its messages hold addresses and are not shown."""
        if isinstance(error, aiohttp.ConnectionTimeoutError) and self._resolver.looks_for(host):
            reason = f"the host's name was not found within {self._policy.connect_timeout:g} s"
            return FetchError("timeout", reason, passing=True)  # a slow name server is not the host's fault
        if isinstance(error, asyncio.TimeoutError):
            return FetchError("timeout", self._which_timeout(error))
        if isinstance(error, aiohttp.InvalidURL):
            return FetchError("bad_url", "not a valid address")
        if isinstance(error, aiohttp.ClientSSLError):
            return FetchError("unreachable", "no secure connection (TLS)")
        cause: Any = getattr(error, "os_error", error)
        if isinstance(cause, ForbiddenAddressError):
            return FetchError("forbidden_address", f"{cause}, which may not be connected to")
        if isinstance(cause, socket.gaierror):
            later = cause.errno == socket.EAI_AGAIN
            return FetchError("name_not_found", "the host's name does not resolve", passing=later)
        if isinstance(error, aiohttp.ClientConnectorError):
            return FetchError("unreachable", f"no connection: {_words(cause)}")
        if isinstance(error, aiohttp.ClientResponseError):
            return FetchError("broken", "the answer is not HTTP")
        if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError)):
            return FetchError("broken", "the connection broke off", passing=True)
        return FetchError("bad_url", "an address that cannot be requested")

    def _which_timeout(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"no connection within {self._policy.connect_timeout:g} s"
        if isinstance(error, aiohttp.SocketTimeoutError):
            return f"nothing came for {self._policy.read_timeout:g} s"
        return f"not done within {self._policy.total_timeout:g} s"


def _charge(failure: FetchError, wait: float, patience: Patience) -> None:
    if not patience.charge(wait):
        raise FetchError(failure.status, f"{failure.reason}, and the host wants {wait:.0f} s of patience") from failure


def _words(error: Any) -> str:
    """The kind of a system's error, in the system's words for it; asyncio's hold the address."""
    return os.strerror(error.errno) if error.errno in errno.errorcode else "the host did not take it"


def _check(data: bytes, policy: Policy) -> None:
    check_picture(data, max_pixels=policy.max_pixels, max_aspect=policy.max_aspect)


def _parse(url: object) -> URL:
    if url is None or (isinstance(url, str) and not url.strip()):
        raise FetchError("no_url", "the row has no address")
    if not isinstance(url, str):
        raise FetchError("bad_url", f"not an address but a value of type {type(url).__name__}")
    if len(url) > _MAX_URL:
        raise FetchError("bad_url", f"longer than {_MAX_URL:,} characters")
    try:
        return _checked(URL(url.strip()))
    except (ValueError, TypeError):
        raise FetchError("bad_url", "not a valid address") from None


def _target(address: URL, location: str | None) -> URL:
    """Where a redirect leads."""
    if not location or len(location) > _MAX_URL:
        raise FetchError("redirect", "a redirect to nowhere")
    try:
        return _checked(address.join(URL(location)))
    except FetchError as failure:
        raise FetchError("redirect", f"a redirect: {failure.reason}") from None
    except (ValueError, TypeError):
        raise FetchError("redirect", "a redirect to no valid address") from None


def _checked(url: URL) -> URL:
    if url.scheme not in ("http", "https"):
        raise FetchError("bad_url", "an address starts with http:// or https://")
    if not url.host:
        raise FetchError("bad_url", "an address without a host")
    # They would be sent, and stand in logs.
    if url.user is not None or url.password is not None:
        raise FetchError("bad_url", "an address with a user name or password in it")
    return url

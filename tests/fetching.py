"""What the tests of `FetchImages` share: one that may ask this machine, and answers that are none."""

from __future__ import annotations

import asyncio
from typing import Any

from hf_mllm_aug.loaders.fetch import FetchImages
from tests.web_server import Reply, Route, WebServer, answer

LOOPBACK = ("127.0.0.1/32",)
PAGE = b"<!DOCTYPE html><html><body>not here</body></html>" * 20


def fetcher(**settings: Any) -> FetchImages:
    """One that may ask 127.0.0.1."""
    return FetchImages(**{"first_wait": 0.02, "allowed_networks": LOOPBACK, **settings})


def fetch_one(server: WebServer, path: str = "/a", **settings: Any) -> dict[str, Any]:
    """The columns of one address."""
    return asyncio.run(fetcher(**settings)({"url": server.url(path)}))


def assert_fails(row: dict[str, Any], status: str, reason: str) -> None:
    """The row has no picture, for this reason."""
    assert (row["status"], row["image"]) == (status, None)
    assert reason in row["reason"]


async def silent(reply: Reply) -> None:
    """No answer."""
    await asyncio.sleep(30)


def slow(body: bytes, seconds: float) -> Route:
    """An honest answer, later."""

    async def route(reply: Reply) -> bool | None:
        await asyncio.sleep(seconds)
        return await answer(body)(reply)

    return route

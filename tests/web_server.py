"""A web server on the loopback interface, as good and as bad as the real web: each path answers as its route says.

    with WebServer() as server:
        server.routes["/a.png"] = answer(picture)
        ... server.url("/a.png") ...
        assert server.count("/a.png") == 1

It runs on a thread of its own, listens on 127.0.0.1 and, at the same port, on 127.0.0.2, so that an address which must
not be asked can tell whether it was. ``python tests/web_server.py FOLDER`` serves a folder until its standard input
ends, for benchmarks.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

FORBIDDEN = "127.0.0.2"


@dataclass
class Request:
    """One request: its path with the query, headers in lower case, and the address that it came to."""

    path: str
    headers: dict[str, str]
    address: str


class Reply:
    """Writes an answer by pieces, and counts what left."""

    def __init__(self, server: WebServer, request: Request, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._writer = writer
        self.request = request

    async def write(self, data: bytes) -> None:
        """Send some bytes; waits while the other side does not read them."""
        self._writer.write(data)
        await self._writer.drain()
        self._server.sent[self.request.path.partition("?")[0]] += len(data)

    async def head(self, status: int = 200, *headers: tuple[str, str]) -> None:
        """Send the status and headers."""
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers), "", ""]
        await self.write("\r\n".join(lines).encode("latin-1"))


Route = Callable[[Reply], Awaitable[bool | None]]  # True leaves the connection open for another request


def answer(body: bytes = b"", status: int = 200, *headers: tuple[str, str], kind: str = "image/png") -> Route:
    """An honest answer."""

    async def route(reply: Reply) -> bool:
        length = ("Content-Length", str(len(body)))
        lines = (f"HTTP/1.1 {status} Whatever", *(f"{k}: {v}" for k, v in (*headers, ("Content-Type", kind), length)))
        await reply.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
        return True

    return route


def redirect(location: str, status: int = 302) -> Route:
    """An answer from elsewhere."""
    return answer(b"", status, ("Location", location))


def in_turn(*routes: Route) -> Route:
    """Another answer at each request; the last one stays."""
    count = 0

    async def route(reply: Reply) -> bool | None:
        nonlocal count
        count += 1
        return await routes[min(count, len(routes)) - 1](reply)

    return route


class WebServer:
    """Serves `routes` until stopped; what is not there is 404."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.requests: list[Request] = []
        self.connections: Counter[str] = Counter()  # by the address that was connected to
        self.sent: Counter[str] = Counter()  # bytes, by path
        self.at_once: Counter[str] = Counter()  # requests at work, by path
        self.most_at_once = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="web-server", daemon=True)
        self._ready = threading.Event()
        self._stopped: asyncio.Event

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The address of a path."""
        return f"http://{host}:{self.port}{path}"

    def count(self, path: str) -> int:
        """How often a path was asked for, whatever the query."""
        return sum(request.path.partition("?")[0] == path for request in self.requests)

    def __enter__(self) -> WebServer:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the web server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        if self._thread.is_alive():
            raise RuntimeError("the web server did not stop")

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        first = await asyncio.start_server(self._converse, "127.0.0.1", 0, backlog=1024)
        self.port = first.sockets[0].getsockname()[1]
        second = await asyncio.start_server(self._converse, FORBIDDEN, self.port)
        self._ready.set()
        await self._stopped.wait()
        first.close()
        second.close()
        conversations = asyncio.all_tasks() - {asyncio.current_task()}
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        self.connections[address] += 1
        try:
            while await self._exchange(reader, writer, address):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # they went away, or we stop
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> bool:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        request = Request(lines[0].split(" ")[1], headers, address)
        self.requests.append(request)
        path = request.path.partition("?")[0]
        self.at_once[path] += 1
        self.most_at_once = max(self.most_at_once, sum(self.at_once.values()))
        try:
            route = self.routes.get(path, answer(b"<h1>none</h1>", 404, kind="text/html"))
            return bool(await route(Reply(self, request, writer)))
        finally:
            self.at_once[path] -= 1


def _main(folder: Path) -> None:
    with WebServer() as server:
        server.routes = {f"/{file.name}": answer(file.read_bytes()) for file in folder.iterdir()}
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

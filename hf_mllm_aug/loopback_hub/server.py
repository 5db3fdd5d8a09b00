"""The HTTP side of the loopback Hub: connections, tokens, faults on request, counts."""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import socketserver
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hf_mllm_aug.loopback_hub.api import Api
from hf_mllm_aug.loopback_hub.faults import Fault, Faults
from hf_mllm_aug.loopback_hub.messages import Request, Response
from hf_mllm_aug.loopback_hub.pages import WHAT
from hf_mllm_aug.loopback_hub.store import HubError, Store

_CHUNK = 1 << 20
_OWN_HOSTS = ("127.0.0.1", "localhost")


class LoopbackHub:
    """A Hub on the loopback interface, in threads of this process.

    Args:
        folder: Where files are kept; a temporary folder that goes with the server if None.
        port: The port; 0 takes a free one.
        token: The one token that is accepted for writing and for private data sets. None accepts all.
        user: The user whom every token belongs to.
        page_size: How many entries a page of a file listing has.
        part_size: Files larger than this, in bytes, are uploaded in parts.

    >>> with LoopbackHub() as hub:
    ...     hub.url.startswith("http://127.0.0.1:"), hub.environment["HF_ENDPOINT"] == hub.url
    (True, True)
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        port: int = 0,
        token: str | None = None,
        user: str = "local",
        page_size: int = 1000,
        part_size: int = 5 * 1024**3,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="loopback-hub-") if folder is None else None
        self.store = Store(Path(folder or self._temporary.name) / "blobs", user)  # type: ignore[union-attr]
        self.faults = Faults()
        self.token = token
        self.requests: list[tuple[str, str, int]] = []
        self.uploads: Counter[str] = Counter()
        self.uploaded_bytes = 0
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.api = Api(self.store, self.url, page_size, part_size)
        self._thread: threading.Thread | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a new process talk to this Hub, and to no other with a real token."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": self.token or "hf_loopback",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def start(self) -> LoopbackHub:
        """Serve, in a thread."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def serve(self) -> None:
        """Serve, in this thread, until interrupted."""
        self._server.serve_forever()

    def stop(self) -> None:
        """Close the port, and forget everything if the folder was temporary."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> LoopbackHub:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def inject(self, path: str, kind: int | str, **options: Any) -> Fault:
        """Let the next requests that match go wrong; `Fault` has the options."""
        return self.faults.add(Fault(path, kind, **options))

    def count(self, method: str | None = None, path: str = "") -> int:
        """How many requests had this method and this text in their path."""
        with self.lock:
            return sum(method in (None, m) and path in p for m, p, _ in self.requests)

    def stats(self) -> dict[str, Any]:
        """Counts, for another process: requests, uploaded bytes, and how often each object was sent."""
        with self.lock:
            uploads = dict(self.uploads)
            return {"requests": len(self.requests), "uploaded_bytes": self.uploaded_bytes, "uploads": uploads}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    hub: LoopbackHub

    def server_bind(self) -> None:
        """Bind without asking for this machine's full name, which can take seconds where no name server answers."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _OWN_HOSTS[0], int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the server's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "hf-mllm-aug-loopback-hub"
    sys_version = ""
    # Without both of these each answer waits 40 ms for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        """Answer a request of any method, or commit the fault that waits for it."""
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._unread = self._chunks(headers)
        request = Request(self.command, url.path, parse_qs(url.query), headers, self._unread)
        is_control = url.path in ("/_stats", "/_faults")
        fault = None if is_control else self.server.hub.faults.take(self.command, url.path)
        kind = fault.kind if fault else None
        if fault and kind == "slow":
            time.sleep(fault.seconds)
        if kind == "cut":
            next(self._unread, None)  # cut off while the client sends, or at once if it sends nothing
            self._cut()
            return
        response = self._error(HubError(int(kind), "Injected fault")) if isinstance(kind, int) else self._try(request)
        if fault and fault.retry_after is not None:
            response.headers["Retry-After"] = str(fault.retry_after)
        if kind == "cut-after":
            self._cut()
        else:
            self._send(response, half=kind == "cut-half")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 (the base class looks for these names)

    def _try(self, request: Request) -> Response:
        try:
            self._refuse_strangers(request.headers)
            return self._control(request) or self._answer(request)
        except HubError as error:
            return self._error(error)
        except (KeyError, TypeError, ValueError) as error:
            return self._error(HubError(400, f"Malformed request: {type(error).__name__}: {error}"))

    @staticmethod
    def _error(error: HubError) -> Response:
        headers = {"X-Error-Message": _header(str(error))} | ({"X-Error-Code": error.code} if error.code else {})
        return Response(error.status, {"error": str(error), **error.data}, headers=headers)

    def _refuse_strangers(self, headers: dict[str, str]) -> None:
        # A page in a browser can reach the loopback interface under a name of its own (DNS rebinding).
        if headers.get("host", "127.0.0.1").rsplit(":", 1)[0] not in _OWN_HOSTS or "origin" in headers:
            raise HubError(403, "This loopback Hub answers to 127.0.0.1 alone")

    def _answer(self, request: Request) -> Response:
        hub = self.server.hub
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        trusted = hub.token is None or hmac.compare_digest(token.encode(), hub.token.encode())
        request.may_read_private = trusted
        reads = request.method in ("GET", "HEAD") or request.path.endswith("/validate-yaml")
        reads = reads or "/paths-info/" in request.path or request.path.startswith("/_lfs/")
        if not trusted and (token or not reads or request.path == "/api/whoami-v2"):
            wrong = "Invalid credentials in Authorization header"
            raise HubError(401, wrong if token else "Invalid username or password.")
        response = hub.api.handle(request)
        if request.method == "PUT":
            with hub.lock:
                hub.uploads[request.path.split("/", 3)[-1]] += 1
        return response

    def _control(self, request: Request) -> Response | None:
        hub = self.server.hub
        if request.path == "/_stats" and request.method == "GET":
            return Response(data=hub.stats())
        if request.path == "/_faults" and request.method == "POST":
            hub.faults.add_json(request.json())
            return Response(data={"ok": True})
        if request.path == "/_faults" and request.method == "DELETE":
            hub.faults.clear()
            return Response(data={"ok": True})
        return None

    def _chunks(self, headers: dict[str, str]) -> Iterator[bytes]:
        """The request's body, sent with a length or in chunks."""
        count = self.command == "PUT"
        if "chunked" in headers.get("transfer-encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield self._read(size, count)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(headers.get("content-length") or 0)
        while left > 0:
            chunk = self._read(min(left, _CHUNK), count)
            left -= len(chunk)
            yield chunk

    def _read(self, size: int, count: bool) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError("the client went away")
        if count:
            with self.server.hub.lock:
                self.server.hub.uploaded_bytes += size
        return data

    def _send(self, response: Response, half: bool) -> None:
        for _ in self._unread:  # what was not read would be taken for the next request
            pass
        body = response.body
        if body is None and response.file is None:
            body = json.dumps(response.data).encode()
        start, stop = response.span
        length = stop - start if body is None else len(body)
        self._note(response.status)
        self.send_response(response.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(length), "X-Loopback-Hub": WHAT}
        for name, value in {**headers, **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        length = length // 2 if half else length
        if body is not None:
            self.wfile.write(body[:length])
        elif response.file is not None:
            with response.file.open("rb") as file:
                file.seek(start)
                while length > 0 and (chunk := file.read(min(length, _CHUNK))):
                    self.wfile.write(chunk)
                    length -= len(chunk)
        if half:
            self.wfile.flush()
            self._cut()

    def _cut(self) -> None:
        """Close the connection as a broken line does: with a reset."""
        self._note(0)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wfile = _Nowhere()  # type: ignore[assignment]
        self.connection.close()

    def _note(self, status: int) -> None:
        with self.server.hub.lock:
            self.server.hub.requests.append((self.command, urlsplit(self.path).path, status))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Keep quiet: the counts and the list of requests say more."""


class _Nowhere:
    """Takes what the handler flushes after its connection is gone."""

    closed = True

    def write(self, data: bytes) -> int:
        """Take it."""
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


def _header(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:500]

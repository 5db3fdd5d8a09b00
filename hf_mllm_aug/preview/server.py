"""The preview's server: the loopback interface and GET alone, and nothing that a page of another site could use.

The standard library's server: five routes without bodies, cookies or forms need no framework, and none to install.
"""

from __future__ import annotations

import logging
import socketserver
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hf_mllm_aug.errors import AugError, UnknownNameError
from hf_mllm_aug.preview.page import card_page, digest, plots_page, rows_page, script, style, wrong_page
from hf_mllm_aug.preview.pictures import NO_PICTURE, SIDES, thumbnail
from hf_mllm_aug.preview.state import State
from hf_mllm_aug.preview.views import Views
from hf_mllm_aug.safe_text import plain

_LOG = logging.getLogger(__name__)

# A drawing that is opened by itself is a document: it gets its own style, and no script.
_DRAWING_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_HTML = "text/html; charset=utf-8"
_STAYS = "private, max-age=600"  # for what a commit's row number gives again and again


@dataclass(frozen=True)
class Answer:
    """What is sent."""

    body: bytes
    kind: str = _HTML
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class PreviewServer:
    """Serves the pages of a repository on 127.0.0.1.

    Args:
        views: The rows.
        port: The port; 0 takes a free one.
    """

    def __init__(self, views: Views, *, port: int = 0) -> None:
        self.views = views
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.preview = self
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread: threading.Thread | None = None

    def serve(self) -> None:
        """Serve, in this thread, until interrupted."""
        self._server.serve_forever(0.2)

    def close(self) -> None:
        """Close the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> PreviewServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def answer(self, path: str, query: dict[str, list[str]]) -> Answer:
        """The answer to a GET."""
        try:
            return self._answer(path, query)
        except UnknownNameError as error:
            return self._wrong(404, "Not found", str(error))
        except AugError as error:
            return self._wrong(500, "This cannot be shown", str(error))

    def _answer(self, path: str, query: dict[str, list[str]]) -> Answer:
        if path == "/":
            return self._page(rows_page(self.views, State.parse(query)))
        if path == "/card":
            return self._page(card_page(self.views))
        if path == "/plots":
            return self._page(plots_page(self.views))
        if path == "/picture":
            return self._picture(query)
        if path.startswith("/repository/"):
            return self._of_repository(path.removeprefix("/repository/"))
        return self._wrong(404, "Not found", "There is no such page.")

    @staticmethod
    def _page(html: str, status: int = 200) -> Answer:
        policy = {
            "Content-Security-Policy": f"default-src 'none'; img-src 'self' data:; style-src {digest(style())}; "
            f"script-src {digest(script())}; connect-src 'self'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"
        }
        return Answer(html.encode("utf-8", "replace"), status=status, headers=policy)

    def _wrong(self, status: int, heading: str, message: str) -> Answer:
        return self._page(wrong_page(self.views, heading, plain(message, 1000)), status)

    def _picture(self, query: dict[str, list[str]]) -> Answer:
        """A row's picture, written anew as a JPEG; a drawing of ours in place of what is none."""
        config, split, row = (query.get(name, [""])[-1] for name in ("config", "split", "row"))
        data = None
        if row.isascii() and row.isdecimal() and len(row) < 13:
            data = self.views.rows(config, split).picture(int(row))
        picture = thumbnail(data, SIDES["large" in query]) if data else None
        policy = {"Content-Security-Policy": _DRAWING_POLICY, "Cache-Control": _STAYS}
        if picture is None:
            return Answer(NO_PICTURE, "image/svg+xml", headers=policy)
        return Answer(picture, "image/jpeg", headers=policy)

    def _of_repository(self, path: str) -> Answer:
        found = self.views.repository.picture(unquote(path))
        if found is None:
            return self._wrong(404, "Not found", "The repository has no such picture.")
        return Answer(found[1], found[0], headers={"Content-Security-Policy": _DRAWING_POLICY})


def own_hosts(port: int) -> set[str]:
    """The values of the Host header that a browser sends which was given our address.

    Args:
        port: Where the server listens.

    >>> sorted(own_hosts(8000)), sorted(own_hosts(80))  # browsers leave out the port that is http's own
    (['127.0.0.1:8000', 'localhost:8000'], ['127.0.0.1', '127.0.0.1:80', 'localhost', 'localhost:80'])
    """
    names = {"127.0.0.1", "localhost"}
    return {f"{name}:{port}" for name in names} | (names if port == 80 else set())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    preview: PreviewServer

    def server_bind(self) -> None:
        """Bind without asking for this machine's full name, which can take seconds where no name server answers."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error of the server's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "hf-mllm-aug-preview"
    sys_version = ""
    timeout = 30
    # Without both of these each answer waits 40 ms for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        """Answer, unless the request was meant for another name (DNS rebinding)."""
        preview = self.server.preview
        if self.headers.get("Host", "") not in own_hosts(preview.port):
            self._send(Answer(b"This preview answers to 127.0.0.1 alone.\n", "text/plain; charset=utf-8", 403))
            return
        try:
            url = urlsplit(self.path)
            query = parse_qs(url.query, max_num_fields=50)
        except ValueError:  # an address that is none, or too many fields
            self._send(Answer(b"Malformed request.\n", "text/plain; charset=utf-8", 400))
            return
        try:
            answer = preview.answer(url.path, query)
        except Exception:  # noqa: BLE001 - one page that fails is no reason to end the others; the log has the rest
            _LOG.exception("the page %s failed", plain(self.path, 200))
            answer = Answer(b"This page failed; the terminal says why.\n", "text/plain; charset=utf-8", 500)
        self._send(answer)

    def _refuse(self) -> None:
        self.close_connection = True  # its body, if it has one, is not read
        self._send(Answer(b"GET alone.\n", "text/plain; charset=utf-8", 405, {"Allow": "GET", "Connection": "close"}))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815 (the base class's names)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        own = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        for name, value in {**_HEADERS, **own, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Keep quiet: the terminal shows the address, and what goes wrong."""

"""A server on the loopback interface that speaks OpenAI's chat language, as well and as badly as real ones do.

    with ChatServer(lambda question: "A dog.") as server:
        server.faults[60] = [status(429, ("Retry-After", "1"))]  # the first answer about the picture 60 pixels wide
        ... server.url ...
        assert server.count(60) == 2

Pictures are told apart by their widths. It runs on a thread of its own.
"""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from PIL import Image

from hf_mllm_aug.captioners.engine import Generated


@dataclass
class Question:
    """One request for a caption: the picture as it came, the prompt with its mark, and the whole body."""

    image: Image.Image
    prompt: str
    body: dict[str, Any]
    authorization: str | None
    time: float


Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(number: int, *headers: tuple[str, str], body: Any = None) -> Fault:
    """An answer that is an error."""

    async def fault(request: web.Request) -> web.StreamResponse:
        said = {"error": {"message": f"error {number}"}} if body is None else body
        return web.json_response(said, status=number, headers=dict(headers))

    return fault


def says(body: bytes, *headers: tuple[str, str]) -> Fault:
    """An answer of any bytes, with the status of a good one."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json", headers=dict(headers))

    return fault


async def cut(request: web.Request) -> web.StreamResponse:
    """An answer that breaks off."""
    response = web.StreamResponse(headers={"Content-Length": "500"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    if request.transport is not None:
        request.transport.abort()
    return response


async def stalled(request: web.Request) -> web.StreamResponse:
    """No answer."""
    await asyncio.sleep(30)
    return web.Response()


class ChatServer:
    """Answers until stopped.

    Args:
        caption: The model.
        models: The answer to the question which models there are, or a `Fault`; None if it is not understood.
        key: Who does not bring it is turned away; None for no key.
        delay: Before each good answer. Seconds.
    """

    def __init__(
        self,
        caption: Callable[[Question], str | Generated],
        *,
        models: Any = None,
        key: str | None = None,
        delay: float = 0.0,
    ) -> None:
        self.caption, self.models, self.key, self.delay = caption, models, key, delay
        self.faults: dict[int, list[Fault]] = {}
        """By the picture's width: answers that are given first, one a request."""
        self.questions: list[Question] = []
        self.headers: list[dict[str, str]] = []
        """Of every question."""
        self.most_at_once = 0
        self.url = ""
        self._at_once = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="chat-server", daemon=True)
        self._ready = threading.Event()
        self._stopped: asyncio.Event

    def count(self, width: int) -> int:
        """How often the picture of a width was asked about."""
        return sum(question.image.width == width for question in self.questions)

    def __enter__(self) -> ChatServer:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the chat server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stopped.wait()
        await runner.cleanup()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if self.models is None:
            return web.Response(status=404)
        if callable(self.models):
            answer: web.StreamResponse = await self.models(request)
            return answer
        return web.json_response({"object": "list", "data": self.models})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        question = _read(await request.json(), request.headers.get("Authorization"))
        self.questions.append(question)
        self.headers.append(dict(request.headers))
        if self.key is not None and question.authorization != f"Bearer {self.key}":
            return web.json_response({"error": {"message": f"no such key: {question.authorization}"}}, status=401)
        faults = self.faults.get(question.image.width)
        if faults:
            return await faults.pop(0)(request)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delay)
            said = await asyncio.to_thread(self._ask, question)
        finally:
            self._at_once -= 1
        generated = said if isinstance(said, Generated) else Generated(said, len(said.split()), "stop")
        message = {"role": "assistant", "content": generated.text}
        choice = {"index": 0, "message": message, "finish_reason": generated.finish_reason}
        usage = {"prompt_tokens": 9, "completion_tokens": generated.tokens}
        return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})

    def _ask(self, question: Question) -> str | Generated:
        with self._lock:
            return self.caption(question)


def _read(body: dict[str, Any], authorization: str | None) -> Question:
    """What is asked; KeyError, and so status 500, where it is not asked as the language has it."""
    (message,) = body["messages"]
    assert message["role"] == "user"
    words, image = [], None
    for part in message["content"]:
        if part["type"] == "image_url":
            assert image is None
            kind, _, data = part["image_url"]["url"].partition(";base64,")
            assert kind in ("data:image/png", "data:image/jpeg")
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            image.load()
            words.append("<image>")
        else:
            words.append(part["text"])
    assert image is not None
    return Question(image, " ".join(words), body, authorization, time.monotonic())

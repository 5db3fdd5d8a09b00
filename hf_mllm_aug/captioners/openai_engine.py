"""The engine on a server: any that speaks OpenAI's chat language, such as those of vLLM, SGLang or `transformers`.

Each picture is a request of its own; the pictures of a micro-batch are under way together, and the server makes
batches of them as it likes. A picture goes as a PNG, which loses nothing, so that the server's model sees the pixels
that a model in this process would see; beyond four megapixels, which models scale down by far, as a JPEG of quality 95.
The prompt goes as the text of a conversation, of which the server's chat template makes the model's input.

Every decoding parameter is said to servers that sign as vLLM or SGLang; to others only length, temperature, ``top_p``,
seed, stops, and what differs from neutral. What such a server is not told, it takes from its checkpoint, as that of
`transformers` does with ``do_sample``, or ignores.

A request that fails in passing is sent again, later each time; a server that asks for fewer requests gets none from
anybody for as long as it says. A picture whose requests all fail has an error and no caption. A server that is not
there, wants another key, or has no such model ends the call, and so do many failures with no caption between them.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from httpx2 import AsyncByteStream, AsyncClient, Limits, RemoteProtocolError, Timeout

from hf_mllm_aug.captioners import served
from hf_mllm_aug.captioners.answers import MAX_BODY, read_caption, read_models
from hf_mllm_aug.captioners.engine import Generated, ModelKey, Request
from hf_mllm_aug.captioners.loop_thread import LoopThread
from hf_mllm_aug.captioners.patience import (
    TOO_MUCH,
    AwayError,
    LastingError,
    PassingError,
    Patience,
    RowError,
    Turns,
    judge,
)
from hf_mllm_aug.checkpoints import label
from hf_mllm_aug.errors import CheckpointError, ImageError, UnknownNameError, UsageError
from hf_mllm_aug.safe_text import plain

if TYPE_CHECKING:
    from PIL import Image as PilImage

KEY_VARIABLE = "OPENAI_API_KEY"
_NO_KEY = "none"  # what servers without keys are sent; the package insists on one

PATIENCE = Patience()

_GREETING = 20.0  # seconds; a server that lists no models for so long may still caption
_NAMES_SHOWN = 20
_LOSSLESS_PIXELS = 4_000_000
_FULL_NAMES = frozenset({"vllm", "sglang"})  # as they sign their models

_INHERITED: list[Line] = []
"""Lines of the process that this one was forked from: what closes them here would close them there."""


class OpenAIEngine:
    """A server's model.

    Args:
        base_url: The server.
        model: The name that the server has for its model.
        key: The server's key; None if it wants none.
        patience: How often and how long to try.
    """

    max_batch: int | None = None

    def __init__(self, base_url: str, model: str, *, key: str | None = None, patience: Patience | None = None) -> None:
        self._base_url, self._model, self._key = base_url, model, key
        self._patience = patience or PATIENCE
        self._line = self._connect()
        try:
            self._tells_all = self._line.thread.run(self._line.greet(model))
        except BaseException:
            self._line.thread.close()
            raise

    def generate(
        self, images: Sequence[PilImage.Image], keys: Sequence[str], request: Request
    ) -> Sequence[Generated | ImageError]:
        """See `Engine.generate`."""
        if self._line.thread.lost:  # a thread does not follow into a forked process
            _INHERITED.append(self._line)
            self._line = self._connect()
        known = served.extensions(request, neutral=self._tells_all)
        common = {"model": self._model, "extra_body": known or None}
        asked = [(image, {**common, **served.decoding(request, key)}) for image, key in zip(images, keys, strict=True)]
        return self._line.thread.run(self._line.caption_all(asked, request.prompt))

    def _connect(self) -> Line:
        return Line(self._base_url, self._key, self._patience)


class Line:
    """The connections to a server, and the thread that they live on.

    Args:
        base_url: The server.
        key: Its key.
        patience: How often and how long to try.
    """

    def __init__(self, base_url: str, key: str | None, patience: Patience) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise UsageError(
                "the engine 'openai' needs the package openai. To do: pip install 'hf-mllm-aug[openai]'"
            ) from error
        self._turns = Turns(patience)
        self._patience = patience
        self._has_key = key is not None
        timeout = Timeout(patience.timeout, connect=patience.connect)
        self._client = AsyncOpenAI(
            api_key=key or _NO_KEY,
            base_url=base_url,
            max_retries=0,  # `Turns` knows when to try again, for all requests together
            timeout=timeout,
            default_headers={"Accept-Encoding": "identity"},  # what is packed small may be large
            # An answer that leads elsewhere is not followed: it would take the pictures and the key along.
            http_client=AsyncClient(
                limits=Limits(max_connections=None, max_keepalive_connections=256),
                event_hooks={"response": [_limit]},
                follow_redirects=False,
                timeout=timeout,
            ),
        )
        # Taken from the environment by the package: they are for OpenAI, and not for any server that is named.
        self._client.organization = self._client.project = None
        self.thread = LoopThread("openai-engine")

    async def greet(self, model: str) -> bool:
        """Find out whether the server is there and has the model.

        Returns:
            Whether it knows all decoding parameters.

        Raises:
            CheckpointError: It is not there, refuses the key, or has no such model.
        """
        try:
            listed = self._client.models.with_raw_response.list()
            names, owners = read_models(await self._ask(listed, min(self._patience.timeout, _GREETING)))
        except AwayError as error:
            raise self._ended(LastingError(f"{error}: is it running, and is base_url right?"), model) from error
        except LastingError as error:
            if error.status != 404:  # not every server lists its models
                raise self._ended(error, model) from error
            names, owners = [], set()
        except (PassingError, RowError):  # it is there; what it can do will show
            names, owners = [], set()
        self._turns.reached = True
        tells_all = bool(owners) and {owner.lower() for owner in owners} <= _FULL_NAMES
        if tells_all and model not in names:  # other servers load what they are asked for
            shown = [plain(name, 80) for name in names[:_NAMES_SHOWN]]
            raise CheckpointError(f"the server: {UnknownNameError('model', label(model), shown)}")
        return tells_all

    async def caption_all(
        self, asked: Sequence[tuple[PilImage.Image, dict[str, Any]]], prompt: str
    ) -> list[Generated | ImageError]:
        """Caption pictures, all at once.

        Args:
            asked: (n,) pictures, and what is asked for besides the question.
            prompt: The question.

        Returns:
            (n,) captions, or why there is none.
        """
        tasks = [asyncio.ensure_future(self._caption(image, prompt, arguments)) for image, arguments in asked]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _caption(self, image: PilImage.Image, prompt: str, arguments: dict[str, Any]) -> Generated | ImageError:
        picture = {"type": "image_url", "image_url": {"url": await asyncio.to_thread(data_url, image)}}
        messages: Any = served.question(prompt, picture)
        create, timeout = self._client.chat.completions.with_raw_response.create, self._patience.timeout
        try:
            body = await self._turns.take(lambda: self._ask(create(messages=messages, **arguments), timeout))
        except RowError as error:
            result: Generated | ImageError = ImageError(str(error))
        except LastingError as error:
            raise self._ended(error, arguments["model"]) from error
        else:
            result = read_caption(body)
        self._turns.count(result)
        return result

    async def _ask(self, call: Any, timeout: float) -> bytes:
        """The body of an answer; what goes wrong becomes one of three kinds of errors."""
        try:
            answer = await asyncio.wait_for(call, timeout)
        except Exception as error:  # openai and httpx2 have errors of their own
            raise judge(error, timeout) from error
        return bytes(answer.http_response.content)

    def _ended(self, error: LastingError, model: str) -> CheckpointError:
        if error.status in (401, 403):
            key = f"refuses the key in {KEY_VARIABLE}" if self._has_key else f"wants a key. To do: set {KEY_VARIABLE}"
            return CheckpointError(f"the server {key} (status {error.status})")
        if error.status == 404:
            return CheckpointError(
                f"the server has no model {label(model)!r}, or is not at this base_url, which ends with /v1 as a rule "
                "(status 404)"
            )
        return CheckpointError(f"the server of {label(model)!r} {error}")


class _Limited(AsyncByteStream):
    """An answer's body, of which no more is read than an answer can need."""

    def __init__(self, stream: AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for block in self._stream:
            size += len(block)
            if size > MAX_BODY:
                raise RemoteProtocolError(f"{TOO_MUCH}: more than {MAX_BODY:,} bytes")
            yield block

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _limit(response: Any) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise RemoteProtocolError(f"{TOO_MUCH}: it is packed")
    response.stream = _Limited(response.stream)


def data_url(image: PilImage.Image) -> str:
    """A picture as an address that holds it.

    Args:
        image: Of mode RGB.

    Returns:
        A PNG, or a JPEG of quality 95 beyond four megapixels, in base 64.
    """
    lossless = image.width * image.height <= _LOSSLESS_PIXELS
    file = io.BytesIO()
    if lossless:
        image.save(file, "PNG", compress_level=1)  # the network is faster than the smallest form
    else:
        image.save(file, "JPEG", quality=95, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getbuffer()).decode('ascii')}"


def load(key: ModelKey) -> OpenAIEngine:
    """Find the server.

    Args:
        key: Which server, and its name for the model.

    Returns:
        The engine.

    Raises:
        CheckpointError: The server is not there, refuses the key, or has no such model.
        UsageError: The package `openai` is missing, or the key in the environment can be none.
    """
    secret = os.environ.get(KEY_VARIABLE) or None
    if secret is not None and not (secret.isascii() and secret.isprintable() and " " not in secret):
        raise UsageError(f"{KEY_VARIABLE} holds characters that no key has, such as white space")
    return OpenAIEngine(key.base_url or "", key.source, key=secret)

"""Which failures pass, and how long to wait for that.

A request ends in a body or in one of three errors. `PassingError`: it is worth another try. `RowError`: it is not, for
this picture. `LastingError`: it is not, for any picture.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hf_mllm_aug.captioners.answers import complaint, read_json
from hf_mllm_aug.captioners.engine import Generated
from hf_mllm_aug.errors import CheckpointError, ImageError
from hf_mllm_aug.loaders.fetching.waits import backoff, retry_after

logger = logging.getLogger(__name__)

TOO_MUCH = "the server's answer is more than a caption"
"""How the text of an error begins that is about an answer's size."""

_LASTING = frozenset({401, 403, 404})
_PASSING = frozenset({408, 409, 425, 429})
_ASKS_FOR_REST = frozenset({429, 503})
_LONG_REST = 10.0  # seconds; who sees nothing happen for so long should know why
_SPENT = frozenset({"insufficient_quota"})  # what OpenAI calls an account without money, with status 429


@dataclass(frozen=True)
class Patience:
    """How often and how long to try.

    Args:
        timeout: For one request, from its first byte to the last of its answer. Seconds.
        connect: For reaching the server. Seconds.
        tries: Requests for one picture.
        first_wait: Before the second try, give or take half; then twice as long each time. Seconds.
        max_wait: The longest wait between tries. Seconds.
        max_rest: The most that one picture waits for a server that asks for fewer requests. Seconds.
        max_failures: So many pictures without a caption, one after the other, end the call: it is not the pictures.
    """

    timeout: float = 300.0
    connect: float = 10.0
    tries: int = 5
    first_wait: float = 1.0
    max_wait: float = 30.0
    max_rest: float = 600.0
    max_failures: int = 100


class PassingError(Exception):
    """A failure that may pass.

    Args:
        text: What failed, as the end of a sentence about the server.
        rest: Seconds for which the server wants no request; None if it has said nothing like that.
        busy: Whether it failed only because there were too many requests.
    """

    def __init__(self, text: str, rest: float | None = None, *, busy: bool = False) -> None:
        super().__init__(text)
        self.rest, self.busy = rest, busy


class RowError(Exception):
    """A picture that gets no caption; the text says why, and may be published."""


class LastingError(Exception):
    """A failure that all further requests would share.

    Args:
        text: What failed, as the end of a sentence about the server.
        status: Of HTTP, if there was an answer.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class AwayError(PassingError):
    """There is nobody at the server's address. Whoever was there may come back; who never was does not."""


def judge(error: Exception, timeout: float) -> Exception:
    """Which of the three errors a failure is.

    Args:
        error: Of `openai`, or of waiting.
        timeout: The seconds that were waited at most.
    """
    import httpx2
    import openai

    if isinstance(error, openai.APIStatusError):
        return _judge_status(error)
    cause = error.__cause__
    if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return AwayError("cannot be reached")
    if isinstance(error, (openai.APITimeoutError, asyncio.TimeoutError)):
        return PassingError(f"did not answer within {timeout:g} seconds")
    if isinstance(cause, httpx2.RemoteProtocolError) and str(cause).startswith(TOO_MUCH):
        return RowError(str(cause))
    if isinstance(error, openai.APIConnectionError):
        return PassingError("broke the connection")
    return error


def _judge_status(error: object) -> Exception:
    response = error.response  # type: ignore[attr-defined]
    status = int(response.status_code)
    if status in _LASTING:
        return LastingError(f"answers with status {status}", status)
    said = complaint(response.content)
    text = f"answers with status {status}" + (f" ({said})" if said else "")
    if status not in _PASSING and status < 500:
        return RowError(f"the server {text}")
    found = read_json(response.content)
    inner = found.get("error") if isinstance(found, dict) else None
    if isinstance(inner, dict) and not _SPENT.isdisjoint(str(inner.get(name)) for name in ("code", "type")):
        return LastingError(f"says that the account's quota is used up (status {status})", status)
    rest = retry_after(response.headers.get("retry-after")) if status in _ASKS_FOR_REST else None
    return PassingError(text, rest, busy=status == 429)


class Turns:
    """When requests may be sent, for the first time or again. To be used on one event loop.

    Args:
        patience: How often and how long.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._rests_until = 0.0  # of `time.monotonic`
        self._rests = 0  # since the last answer
        self._answers = 0
        self._failures = 0
        self.reached = False
        """Whether there has ever been somebody at the server's address."""

    async def take(self, ask: Callable[[], Awaitable[bytes]]) -> bytes:
        """Ask until there is an answer, or no hope of one.

        Args:
            ask: Sends the request once.

        Raises:
            RowError: There is no answer for this picture.
            LastingError: There would be none for others either.
        """
        patience, tried, rested, seen = self._patience, 0, 0.0, self._answers
        while True:
            rested += await self._sit_out()
            try:
                body = await ask()
            except AwayError as error:
                tried += 1
                if not self.reached or tried >= patience.tries:
                    raise LastingError(f"{error}: is it running, and is base_url right?") from error
            except PassingError as error:
                self.reached = True
                tried += not error.busy
                if seen != self._answers:  # it does answer others: this row's turn will come
                    rested, seen = 0.0, self._answers
                if tried >= patience.tries or rested >= patience.max_rest:
                    times = f", {tried} times" if tried > 1 else ""
                    raise RowError(f"the server {error}{times}") from error
                if error.busy or error.rest is not None:
                    self._rest(error.rest or 0.0)
                    continue
            except RowError:
                self.reached = True
                raise
            else:
                self.reached, self._rests = True, 0
                self._answers += 1
                return body
            await asyncio.sleep(backoff(tried, patience.first_wait, patience.max_wait))

    async def _sit_out(self) -> float:
        """Wait while the server rests; returns for how many seconds."""
        waited = 0.0
        while (left := self._rests_until - time.monotonic()) > 0:
            # Those who waited do not all come back in the same moment.
            pause = left + random.uniform(0.0, min(left, self._patience.first_wait))
            await asyncio.sleep(pause)
            waited += pause
        return waited

    def _rest(self, asked: float) -> None:
        """Leave the server alone: all requests that are not under way wait.

        Args:
            asked: The seconds that it has asked for; 0 if it did not say.
        """
        patience, now = self._patience, time.monotonic()
        if asked > patience.max_rest:
            raise LastingError(f"wants no request for the next {asked:,.0f} seconds: go on when they are over")
        if now >= self._rests_until:  # else it is the same rest, asked for by another answer
            self._rests += 1
        seconds = max(asked, backoff(max(self._rests, 1), patience.first_wait, patience.max_wait))
        if now + seconds > self._rests_until:
            self._rests_until = now + seconds
            level = logging.WARNING if seconds >= _LONG_REST else logging.INFO
            logger.log(level, "the server asks for fewer requests: none for %.1f seconds", seconds)

    def count(self, result: Generated | ImageError) -> None:
        """Remember whether a picture got its caption.

        Raises:
            CheckpointError: Too many got none, one after the other.
        """
        self._failures = self._failures + 1 if isinstance(result, ImageError) else 0
        if self._failures >= self._patience.max_failures:
            raise CheckpointError(
                f"{self._failures} pictures in a row got no caption from the server; of the last one: {result}"
            )

"""Calls to the Hub that wait and try again where that can help, and that end in one clear sentence where it cannot."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from hf_mllm_aug.safe_text import plain, scrub

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

CONFLICTS = (409, 412)
_AGAIN = (408, 429, 500, 502, 503, 504)
_UNCLEAR = (408, 502, 504)
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_UNREACHABLE_TRIES = 3
_CONFLICT_TRIES = 8
_LONGEST_CONFLICT_WAIT = 8.0


class Retry:
    """How often and how long one release waits for the Hub.

    Waits double from half a second to half a minute and differ at random, so that publishers who met once do not
    meet again; ``Retry-After`` is kept to where the Hub sends it.

    Args:
        max_retries: How many failures in a row are met by another try. A Hub that cannot be reached at all, or a name
            that does not resolve, gets fewer: it does not come back within a minute. Conflicts get eight times as many,
            and shorter waits, for each of them means that another publisher got through.
    """

    def __init__(self, max_retries: int) -> None:
        self.max_retries = max_retries

    def __call__(self, what: str, call: Callable[[], _T], *, conflicts: bool = False) -> _T:
        """Call, and call again after failures that pass.

        Args:
            what: What is being done, for the log.
            call: What to do. It must be safe to do twice.
            conflicts: Whether 409 and 412 are among the failures that pass, as they are if `call` reads the head anew.

        Raises:
            Exception: The last failure, if it does not pass.
        """
        failures = met = 0
        while True:
            try:
                return call()
            except Exception as error:
                if conflicts and status_of(error) in CONFLICTS:
                    failures, met = 0, met + 1
                    if met > self.max_retries * _CONFLICT_TRIES:
                        raise
                    wait = min(_LONGEST_CONFLICT_WAIT, _FIRST_WAIT * 2 ** min(met - 1, 10))
                else:
                    failures += 1
                    limit = min(self.max_retries, _UNREACHABLE_TRIES) if is_unreachable(error) else self.max_retries
                    if not may_pass(error) or failures > limit:
                        raise
                    wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (failures - 1))
                asked = retry_after(error)
                wait = asked if asked is not None else wait * random.uniform(0.5, 1.5)
                _LOG.info("%s: %s; trying again in %.1f s", what, _short(error), wait)
                time.sleep(wait)


def hub_errors() -> tuple[type[Exception], ...]:
    """What the client raises: broken connections, HTTP errors, uploads wrapped in RuntimeError, refused input."""
    import httpx2

    return (httpx2.HTTPError, OSError, RuntimeError, ValueError)


def chain(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from, outermost first. The client wraps failed uploads in a RuntimeError."""
    errors = [error]
    while (cause := errors[-1].__cause__) is not None and cause not in errors:
        errors.append(cause)
    return errors


def status_of(error: BaseException) -> int | None:
    """The HTTP status that ended a call, if one did."""
    for link in chain(error):
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def retry_after(error: BaseException) -> float | None:
    """The seconds that the Hub asks to wait, a few minutes at most."""
    for link in chain(error):
        value = getattr(getattr(link, "response", None), "headers", {}).get("retry-after", "")
        if str(value).strip().isdigit():
            return min(300.0, float(value))
    return None


def is_connection_error(error: BaseException) -> bool:
    """Whether the line failed: nothing was answered, or not all of it."""
    import httpx2

    return status_of(error) is None and any(isinstance(link, httpx2.TransportError) for link in chain(error))


def is_unreachable(error: BaseException) -> bool:
    """Whether no connection was made at all."""
    import httpx2

    connecting = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
    return any(isinstance(link, connecting) for link in chain(error))


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    status = status_of(error)
    if status is not None:
        return status in _AGAIN
    # A gateway's error page where JSON was expected.
    return is_connection_error(error) or any(type(link).__name__ == "JSONDecodeError" for link in chain(error))


def may_have_happened(error: BaseException) -> bool:
    """Whether a commit that ended so may have been made all the same: the answer was lost, or a gateway's own."""
    return is_connection_error(error) or status_of(error) in _UNCLEAR


def explain(error: BaseException, repo_id: str, endpoint: str) -> str:
    """What went wrong, in one sentence without secrets, and what to do about it."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    status = status_of(error)
    if any(isinstance(link, OfflineModeIsEnabled) for link in chain(error)):
        return "offline mode is on (HF_HUB_OFFLINE): unset it to publish"
    if any(isinstance(link, HFValidationError) for link in chain(error)):
        return f"{repo_id!r} cannot name a repository: {_short(error)}"
    if status in (401, 403):
        return (
            f"the Hub refused the token ({status}) for {repo_id}: "
            "log in with `hf auth login`, or pass a token that may write there"
        )
    if status == 404:
        return f"the Hub does not know {repo_id}, or not what was asked for there (404): {_short(error)}"
    if status in CONFLICTS:
        return f"others kept publishing to {repo_id} at the same time ({status})"
    if status is not None:
        return f"the Hub answered {status} for {repo_id}: {_short(error)}"
    if is_connection_error(error):
        return f"cannot reach the Hub at {scrub(endpoint)}: {_short(error)}"
    return f"publishing to {repo_id} failed: {_short(error)}"


def _short(error: BaseException) -> str:
    text = getattr(error, "server_message", None) or str(chain(error)[-1] if isinstance(error, RuntimeError) else error)
    return plain(scrub(text or type(error).__name__), 300)

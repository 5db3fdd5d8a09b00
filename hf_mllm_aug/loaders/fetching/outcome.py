"""How the fetching of one picture ends: with its bytes, or with a kind of failure and the reason in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal[
    "ok",
    "no_url",
    "bad_url",
    "forbidden_address",
    "name_not_found",
    "unreachable",
    "broken",
    "timeout",
    "http_error",
    "put_off",
    "redirect",
    "too_large",
    "opted_out",
    "not_a_picture",
]

STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True)
class Outcome:
    """What a row gets.

    Args:
        status: ``"ok"``, or the kind of failure.
        reason: The failure in words, without the address; empty where there is a picture.
        data: The picture's file, None where there is none.
    """

    status: Status
    reason: str = ""
    data: bytes | None = None


class FetchError(Exception):
    """No picture from this address; it never leaves the fetcher.

    Args:
        status: The kind.
        reason: In words.
        passing: Whether the same request may succeed a little later.
        wait: The seconds that the host asks to wait.
        busy: Whether the host says that it is asked too often, so that its other pictures should wait too.
    """

    def __init__(
        self, status: Status, reason: str, *, passing: bool = False, wait: float | None = None, busy: bool = False
    ) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason
        self.passing = passing
        self.wait = wait
        self.busy = busy

"""How long to wait before a second try."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

LONGEST_ASKED = 3600.0
"""More than an hour's patience is not remembered, whatever a host asks for. Seconds."""


def retry_after(value: str | None) -> float | None:
    """The seconds that a ``Retry-After`` header asks to wait, in either of its forms.

    Args:
        value: The header: seconds, or the date of HTTP.

    Returns:
        0 to `LONGEST_ASKED`; None where there is no header or it makes no sense.

    >>> retry_after("120"), retry_after("soon"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (120.0, None, 0.0)
    """
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_ASKED)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_ASKED)


def backoff(failures: int, first_wait: float, max_wait: float) -> float:
    """Exponential, and different at random, so that rows that failed together do not come back together.

    Args:
        failures: How many tries have failed, from 1.
        first_wait: Seconds after the first one, give or take half.
        max_wait: The most.
    """
    return min(max_wait, first_wait * 2.0 ** min(failures - 1, 32) * random.uniform(0.5, 1.5))

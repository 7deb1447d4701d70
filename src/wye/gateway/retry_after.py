"""`Retry-After` as an upstream says it: seconds, an HTTP date, or OpenAI's milliseconds.

Source: RFC 9110, 10.2.3 (Retry-After) and 5.6.7 (dates).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to leave an upstream alone; None where it says nothing that can be read.

    A date is held against the upstream's own `Date` where it sends one, since clocks differ.

    Args:
        headers: of the response, names in lower case.
        now: seconds since 1970, of this machine's clock when not given.

    >>> retry_after({"retry-after": "7"})
    7.0
    >>> retry_after({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, now=946684790.0)
    9.0
    """
    precise = _number(headers.get("retry-after-ms"))
    if precise is not None:
        return precise / 1000
    given = headers.get("retry-after")
    seconds = _number(given)
    if seconds is not None:
        return seconds
    until = _date(given)
    if until is None:
        return None
    since = _date(headers.get("date"))
    if since is None:
        since = time.time() if now is None else now
    return max(0.0, until - since)


def _number(value: str | None) -> float | None:
    """A number that is finite and not negative; some send fractions of a second."""
    text = (value or "").strip()
    if not text.replace(".", "", 1).isdecimal() or not text.isascii():
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _date(value: str | None) -> float | None:
    try:
        date = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    # A date without a zone is in GMT.
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()

"""Figures in the words of a decision or a report."""

from __future__ import annotations

import math
from collections.abc import Sized


def usd(amount: float) -> str:
    """Dollars with three significant digits and no exponent; `unknown cost` for NaN.

    Example:
        >>> usd(0.00001234)
        '$0.0000123'
        >>> usd(0.0000099999)
        '$0.0000100'
    """
    if math.isnan(amount):
        return "unknown cost"
    if not math.isfinite(amount) or amount == 0:
        return f"${amount:.0f}"
    # The exponent after rounding: 9.9999e-6 has the digits of 1e-5.
    magnitude = int(f"{amount:.2e}".partition("e")[2])
    digits = max(2, 2 - magnitude)
    return f"${amount:.{min(digits, 12)}f}"


def seconds(amount: float) -> str:
    """Seconds with two significant digits; `unknown latency` for NaN.

    Example:
        >>> seconds(0.0123)
        '0.012 s'
    """
    if math.isnan(amount):
        return "unknown latency"
    return f"{amount:.2g} s" if amount < 100 else f"{amount:.0f} s"


def listed(names: list[str], most: int = 6) -> str:
    """Names in a row, the rest counted.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def counted(things: Sized | int, word: str) -> str:
    """How many, with the word in the right number.

    Example:
        >>> counted(["a"], "model"), counted(3, "query")
        ('1 model', '3 queries')
    """
    n = things if isinstance(things, int) else len(things)
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{n} {word if n == 1 else plural}"

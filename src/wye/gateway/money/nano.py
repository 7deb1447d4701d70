"""Money at rest: whole nanodollars, of which sums are exact; dollars as float everywhere else."""

from __future__ import annotations

import math

_PER_USD = 1_000_000_000
# Sums of this many nanodollars (nine million USD) are far from the end of a 64-bit integer.
MOST_USD = 9_000_000.0


def at_most(usd: float) -> int:
    """Nanodollars of a limit, rounded down."""
    return math.floor(round(usd * _PER_USD, 3))


def at_least(usd: float) -> int:
    """Nanodollars of a cost, rounded up; `MOST_USD` where it is more.

    >>> at_least(1e-10), at_least(0.000023)
    (1, 23000)
    """
    return math.ceil(round(min(usd, MOST_USD) * _PER_USD, 3))


def dollars(nano: int) -> float:
    """USD."""
    return nano / _PER_USD

"""Sums of the outcomes of each hour, kept in memory once the hour is over.

What is over changes no more, so a look at a month reads the store for the present hour alone. An
outcome can be late (the store could not be written for a while, another gateway's clock is behind):
hours are kept only `LATE_SECONDS` after their end, and read anew every `FRESH_SECONDS`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from wye.gateway.schema import outcomes

HOUR = 3600
LATE_SECONDS = 600.0
FRESH_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class HourlySum:
    """Outcomes of one hour, target and status.

    Attributes:
        start: of the hour, seconds since 1970.
        first: time of the first of them.
        priced: how many have a known cost, which `cost_usd` adds up.
        baseline_usd: what they are expected to have cost at the baseline.
        both_baseline_usd, both_cost_usd: of those alone where both are known.
    """

    start: int
    target: str | None
    status: str
    first: float
    requests: int
    priced: int
    cost_usd: float
    baseline_usd: float
    both: int
    both_baseline_usd: float
    both_cost_usd: float


class HourlySums:
    """The hours of one store. Any thread may ask.

    Args:
        engine: of the store.
        clock: seconds since 1970.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._over: list[HourlySum] = []
        self._through = 0
        self._read = -math.inf

    def since(self, moment: float | None) -> list[HourlySum]:
        """The sums of everything from a moment on (seconds since 1970), in no order."""
        first = 0 if moment is None else math.ceil(moment / HOUR) * HOUR
        with self._lock:
            self._keep()
            over, through = self._over, self._through
        found = [row for row in over if row.start >= first]
        if moment is None or moment >= through:
            return found + self._sums(moment if moment is not None else through, None)
        return found + self._sums(moment, min(first, through)) + self._sums(through, None)

    def _keep(self) -> None:
        """Read the hours that are over and not kept."""
        if time.monotonic() - self._read > FRESH_SECONDS:
            self._over, self._through, self._read = [], 0, time.monotonic()
        end = int((self._clock() - LATE_SECONDS) // HOUR) * HOUR
        if end > self._through:
            # A new list: whoever holds the old one reads on.
            self._over = self._over + self._sums(self._through, end)
            self._through = end

    def _sums(self, start: float, end: float | None) -> list[HourlySum]:
        o = outcomes.c
        both = sa.and_(o.cost_usd.is_not(None), o.baseline_usd.is_not(None))
        length = sa.literal_column(str(HOUR), sa.BigInteger)
        hour = (whole_below(o.time / length) * length).label("start")
        query = (
            sa.select(
                hour,
                o.target,
                o.status,
                sa.func.min(o.time),
                sa.func.count(),
                sa.func.count(o.cost_usd),
                _total(o.cost_usd),
                _total(o.baseline_usd),
                sa.func.count().filter(both),
                _total(sa.case((both, o.baseline_usd))),
                _total(sa.case((both, o.cost_usd))),
            )
            .where(o.time >= start)
            .group_by(hour, o.target, o.status)
        )
        if end is not None:
            query = query.where(o.time < end)
        with self._engine.connect() as connection:
            return [HourlySum(*row) for row in connection.execute(query)]


def whole_below(value: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """The whole number below; casts cut off in SQLite and round in PostgreSQL.

    Without parameters, which PostgreSQL would not know again in GROUP BY.
    """
    whole = sa.cast(value, sa.BigInteger)
    one: sa.ColumnElement[int] = sa.literal_column("1")
    zero: sa.ColumnElement[int] = sa.literal_column("0")
    return whole - sa.case((whole > value, one), else_=zero)


def _total(figure: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(figure), 0.0)

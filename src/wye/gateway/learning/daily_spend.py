"""What all gateways of a store together spend in a day beside answers, held to a limit exactly.

Before anything is bought, what it can cost at most is added to the day's sum, in one statement that
changes nothing where the limit would be passed; afterwards the sum is put right. A process that is
killed in between leaves the most in the sum, so that the limit holds all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from wye.gateway.dialects import exclude_others
from wye.gateway.learning.tables import overhead_days, overheads
from wye.gateway.money.nano import at_least, at_most

_DAY = 86400.0


@dataclass(frozen=True)
class Held:
    """What was set aside, in nanodollars, and on which day (since 1970, UTC)."""

    day: int
    most: int


class DailySpend:
    """The sum of one kind. Every method blocks: call it from a thread.

    Args:
        engine: of the store.
        kind: on what is spent, as in the table of overheads.
        limit: USD in a day (UTC) by all gateways of the store; None for none.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        engine: sa.Engine,
        kind: str,
        limit: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._kind = kind
        self._limit = None if limit is None else at_most(limit)
        self._clock = clock

    def hold(self, most: float) -> Held | None:
        """Set aside what something costs at most, in USD; None where the limit has no room.

        Raises:
            sqlalchemy.exc.DBAPIError: the store cannot be written, so nothing may be spent.
        """
        held = Held(int(self._clock() // _DAY), at_least(most))
        with self._engine.begin() as connection:
            if self._add(connection, held.day, held.most, self._limit):
                return held
            if self._begun(connection, held.day):
                return None
        with self._engine.begin() as connection:
            # Of two that begin a day, the second sees the row of the first.
            exclude_others(connection)
            if not self._begun(connection, held.day):
                self._begin(connection, held.day)
            return held if self._add(connection, held.day, held.most, self._limit) else None

    def settle(self, held: Held, cost: float) -> None:
        """Put the sum right once it is known what was spent, in USD; also beyond what was held."""
        with self._engine.begin() as connection:
            self._add(connection, held.day, at_least(cost) - held.most, None)

    def _add(self, connection: sa.Connection, day: int, amount: int, limit: int | None) -> bool:
        spent = overhead_days.c.spent
        statement = sa.update(overhead_days).where(
            overhead_days.c.kind == self._kind, overhead_days.c.day == day
        )
        if limit is not None:
            statement = statement.where(spent + amount <= limit)
        return connection.execute(statement.values(spent=spent + amount)).rowcount == 1

    def _begun(self, connection: sa.Connection, day: int) -> bool:
        query = sa.select(overhead_days.c.day).where(
            overhead_days.c.kind == self._kind, overhead_days.c.day == day
        )
        return connection.execute(query).first() is not None

    def _begin(self, connection: sa.Connection, day: int) -> None:
        """A day's row, with what gateways that keep no such sum have spent on it already."""
        query = sa.select(sa.func.sum(overheads.c.cost_usd)).where(
            overheads.c.kind == self._kind,
            overheads.c.time >= day * _DAY,
            overheads.c.time < (day + 1) * _DAY,
        )
        spent = at_least(float(connection.execute(query).scalar() or 0.0))
        row = {"kind": self._kind, "day": day, "spent": spent}
        connection.execute(sa.insert(overhead_days).values(row))

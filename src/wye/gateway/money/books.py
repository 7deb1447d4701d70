"""The books: reserve, settle and book money of keys, as statements on one connection.

A reservation is one conditional UPDATE of the key's account, `spent + reserved + amount <= limit`
for every window at once, so that a limit holds whoever else writes. What is reserved is what a
request can cost at most; settling turns it into what it did cost.

Windows are days and months in UTC. They move forward only: the account names the day and month
that its sums are of, and a clock that is behind books there. An amount that was reserved in a
window that has passed leaves that window's sums with it.

A reservation whose gateway holds no lease lapses: it counts as spent until that gateway, if it
lives after all, says what it really was. Everything here is called inside a transaction, on SQLite
or PostgreSQL alike; amounts are whole nanodollars.
"""

from __future__ import annotations

import datetime
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from wye.gateway.dialects import lock_in_order
from wye.gateway.money.entries import (
    AT_ONCE,
    CORRECTION,
    DELETED,
    ENTRY,
    OLD_LAPSES,
    RESERVATION,
    SESSION,
    SESSION_RESERVATION,
    SILENT_SESSIONS,
)
from wye.gateway.records import new_id
from wye.gateway.schema import accounts, keys, leases, reservations, sessions

_A = accounts.c


@dataclass(frozen=True)
class Order:
    """A reservation that is asked for; `session` is given where it has a budget."""

    key_id: str
    session: str | None
    amount: int


@dataclass(frozen=True)
class Reservation:
    """Money set aside for one request."""

    id: str
    key_id: str
    session: str | None
    amount: int
    day: int
    month: int


@dataclass(frozen=True)
class Spend:
    """Money of a request for which nothing had been set aside."""

    key_id: str
    session: str | None
    amount: int


@dataclass(frozen=True)
class Left:
    """What is left of each budget of a key; None where there is none. Never below what is free."""

    day: int | None = None
    month: int | None = None
    total: int | None = None
    session: int | None = None

    @property
    def least(self) -> tuple[str, int] | None:
        """The budget with least left, by its name; None without budgets."""
        found = [(name, left) for name, left in vars(self).items() if left is not None]
        return min(found, key=lambda pair: pair[1], default=None)


@dataclass(frozen=True)
class Balance:
    """What a key has spent and holds reserved, in its present windows."""

    day: str
    day_spent: int
    day_reserved: int
    month: str
    month_spent: int
    month_reserved: int
    total_spent: int
    total_reserved: int


def windows(now: float) -> tuple[int, int]:
    """The day since 1970 and the month since year 0 of a moment, in UTC."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return int(now // 86400), moment.year * 12 + moment.month - 1


class Books:
    """The books as one gateway keeps them.

    Args:
        gateway: id of its lease.
        clock: seconds since 1970.
    """

    def __init__(self, gateway: str, clock: Callable[[], float] = time.time) -> None:
        self.gateway = gateway
        self._clock = clock

    def reserve(
        self, connection: sa.Connection, orders: Sequence[Order]
    ) -> list[Reservation | Left]:
        """Set money aside for each order in turn; where it does not fit, what is left instead."""
        granted: dict[int, Reservation] = {}
        by_key: dict[str, list[int]] = defaultdict(list)
        for place, order in enumerate(orders):
            by_key[order.key_id].append(place)
        # In one order everywhere, so that no two gateways wait for each other.
        for key_id in sorted(by_key):
            places = by_key[key_id]
            made = self._grant(connection, [orders[place] for place in places])
            granted |= {p: r for p, r in zip(places, made, strict=True) if r is not None}
        if granted:
            shared = {"gateway": self.gateway, "lapsed": False, "time": self._clock()}
            rows = [{**vars(reservation), **shared} for reservation in granted.values()]
            connection.execute(sa.insert(reservations), rows)
        return [
            granted[place] if place in granted else self.left(connection, order)
            for place, order in enumerate(orders)
        ]

    def settle(
        self, connection: sa.Connection, settlements: Sequence[tuple[Reservation, int]]
    ) -> list[None]:
        """Turn each reservation into what was really spent; one that is settled stays as it is."""
        costs = {reservation.id: spent for reservation, spent in settlements}
        ids = list(costs)
        found = [
            row
            for start in range(0, len(ids), AT_ONCE)
            for row in connection.execute(DELETED, {"ids": ids[start : start + AT_ONCE]}).mappings()
        ]
        self._correct(
            connection,
            (
                # What lapsed was booked as spent already.
                (row, costs[row["id"]] - row["amount"] * row["lapsed"],
                 -row["amount"] * (not row["lapsed"]))
                for row in found
            ),
        )  # fmt: skip
        return [None] * len(settlements)

    def book(self, connection: sa.Connection, spends: Sequence[Spend]) -> list[None]:
        """Book what was spent without a reservation; no limit stands in the way of the truth."""
        now = self._clock()
        for spend in merged(spends):
            amounts = {"spend": spend.amount, "reserve": 0}
            connection.execute(ENTRY, {"key": spend.key_id, **amounts, **self._windows()})
            if spend.session is not None:
                entry = {**amounts, "now": now}
                self._enter_session(connection, SESSION, spend.key_id, spend.session, entry)
        return [None] * len(spends)

    def lapse(self, connection: sa.Connection) -> int:
        """Count as spent what gateways without a lease have reserved; how many reservations."""
        orphaned = (
            reservations.c.lapsed.is_(sa.false()),
            reservations.c.gateway.not_in(sa.select(leases.c.id)),
        )
        concerned = sa.select(reservations.c.key_id).where(*orphaned).distinct()
        lock_in_order(connection, _A.key_id, connection.execute(concerned).scalars().all())
        rows = connection.execute(
            sa.update(reservations)
            .where(*orphaned)
            .values(lapsed=True)
            .returning(reservations)
        ).mappings().all()  # fmt: skip
        self._correct(connection, ((row, row["amount"], -row["amount"]) for row in rows))
        return len(rows)

    def forget(self, connection: sa.Connection, seconds: float) -> int:
        """Drop some sessions, and reservations that lapsed, of which nothing was heard for so long.

        What they spent stays in their key's account; a session that comes back begins anew.

        Returns:
            How many rows are gone, at most a few thousand at a time.
        """
        before = self._clock() - seconds
        return sum(
            connection.execute(statement, {"before": before}).rowcount
            for statement in (SILENT_SESSIONS, OLD_LAPSES)
        )

    def left(self, connection: sa.Connection, order: Order) -> Left:
        """What is free of each budget of the order's key and session."""
        names = ("budget_day", "budget_month", "budget_total", "per_session")
        row = connection.execute(
            sa.select(accounts, *(keys.c[name] for name in names))
            .join(keys, keys.c.id == _A.key_id)
            .where(_A.key_id == order.key_id)
        ).mappings().one()  # fmt: skip
        today, this_month = windows(self._clock())
        used = {
            "day": 0 if row["day"] < today else row["day_spent"] + row["day_reserved"],
            "month": (
                0 if row["month"] < this_month else row["month_spent"] + row["month_reserved"]
            ),
            "total": row["total_spent"] + row["total_reserved"],
        }
        left = {
            window: max(0, row[f"budget_{window}"] - used[window])
            for window in used
            if row[f"budget_{window}"] is not None
        }
        if order.session is not None and row["per_session"] is not None:
            in_session = connection.execute(
                sa.select(sessions.c.spent + sessions.c.reserved).where(
                    sessions.c.key_id == order.key_id, sessions.c.session == order.session
                )
            ).scalar()
            left["session"] = max(0, row["per_session"] - (in_session or 0))
        return Left(**left)

    def balance(self, connection: sa.Connection, key_id: str) -> Balance:
        """What a key has spent and holds reserved."""
        row = connection.execute(sa.select(accounts).where(_A.key_id == key_id)).mappings().one()
        return self._balance(row)

    def balances(self, connection: sa.Connection) -> dict[str, Balance]:
        """What every key has spent and holds reserved, by its id."""
        rows = connection.execute(sa.select(accounts)).mappings()
        return {row["key_id"]: self._balance(row) for row in rows}

    def _balance(self, row: sa.RowMapping) -> Balance:
        today, this_month = windows(self._clock())
        values = {name: row[name] for name in row if "_spent" in name or "_reserved" in name}
        for window, is_past in (("day", row["day"] < today), ("month", row["month"] < this_month)):
            if is_past:
                values |= {f"{window}_spent": 0, f"{window}_reserved": 0}
        day, month = max(row["day"], today), max(row["month"], this_month)
        date = datetime.date(1970, 1, 1) + datetime.timedelta(days=day)
        return Balance(
            day=date.isoformat(), month=f"{month // 12:04d}-{month % 12 + 1:02d}", **values
        )

    def _grant(
        self, connection: sa.Connection, orders: Sequence[Order]
    ) -> list[Reservation | None]:
        """As if one came after the other: together where all fit, else half before half."""
        total = sum(order.amount for order in orders)
        entry = {"key": orders[0].key_id, "spend": 0, **self._windows()}
        now = {"now": self._clock()}
        window = connection.execute(RESERVATION, {**entry, "reserve": total, **now}).first()
        if window is not None:
            if self._reserve_in_sessions(connection, orders):
                return [
                    Reservation(new_id(), o.key_id, o.session, o.amount, window.day, window.month)
                    for o in orders
                ]
            connection.execute(ENTRY, {**entry, "reserve": -total})
        if len(orders) == 1:
            return [None]
        half = len(orders) // 2
        return [
            *self._grant(connection, orders[:half]),
            *self._grant(connection, orders[half:]),
        ]

    def _reserve_in_sessions(self, connection: sa.Connection, orders: Sequence[Order]) -> bool:
        sums: dict[str, int] = defaultdict(int)
        for order in orders:
            if order.session is not None:
                sums[order.session] += order.amount
        key_id, now = orders[0].key_id, self._clock()
        done: list[tuple[str, int]] = []
        for session, amount in sorted(sums.items()):
            amounts = {"spend": 0, "reserve": amount, "now": now}
            if not self._enter_session(connection, SESSION_RESERVATION, key_id, session, amounts):
                for other, taken in done:
                    back = {"spend": 0, "reserve": -taken, "now": now}
                    self._enter_session(connection, SESSION, key_id, other, back)
                return False
            done.append((session, amount))
        return True

    def _enter_session(
        self,
        connection: sa.Connection,
        entry: sa.Update,
        key_id: str,
        session: str,
        amounts: dict[str, Any],
    ) -> bool:
        """Enter amounts in a session's account, opened where there is none; False if refused."""
        values = {"key": key_id, "name": session, **amounts}
        if connection.execute(entry, values).rowcount:
            return True
        mine = (sessions.c.key_id == key_id, sessions.c.session == session)
        if connection.execute(sa.select(sessions.c.seen).where(*mine)).first() is not None:
            return False
        opened = {"key_id": key_id, "session": session, "spent": 0, "reserved": 0}
        connection.execute(sa.insert(sessions), {**opened, "seen": amounts["now"]})
        return connection.execute(entry, values).rowcount == 1

    def _correct(self, connection: sa.Connection, entries: Iterable[tuple[Any, int, int]]) -> None:
        """Add to spent and reserved, in the windows in which the reservations were made."""
        by_window: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0])
        by_session: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for row, spend, reserve in entries:
            sums = [by_window[row["key_id"], row["day"], row["month"]]]
            if row["session"] is not None:
                sums.append(by_session[row["key_id"], row["session"]])
            for both in sums:
                both[0] += spend
                both[1] += reserve
        for (key_id, day, month), (spend, reserve) in sorted(by_window.items()):
            amounts = {"spend": spend, "reserve": reserve}
            place = {"key": key_id, "today": day, "this_month": month}
            connection.execute(CORRECTION, {**place, **amounts})
        for (key_id, session), (spend, reserve) in sorted(by_session.items()):
            amounts = {"spend": spend, "reserve": reserve}
            place = {"key": key_id, "name": session, "now": self._clock()}
            connection.execute(SESSION, {**place, **amounts})

    def _windows(self) -> dict[str, int]:
        day, month = windows(self._clock())
        return {"today": day, "this_month": month}


def merged(spends: Sequence[Spend]) -> list[Spend]:
    """One spend for each key and session, with the same sums, in one order everywhere."""
    sums: dict[tuple[str, str | None], int] = defaultdict(int)
    for spend in spends:
        sums[spend.key_id, spend.session] += spend.amount
    ordered = sorted(sums.items(), key=lambda pair: (pair[0][0], pair[0][1] or ""))
    return [Spend(key_id, session, amount) for (key_id, session), amount in ordered]

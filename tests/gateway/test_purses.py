"""The ledger against plain dictionaries that know the truth, whatever comes in whatever order."""

from __future__ import annotations

import datetime
from collections import defaultdict
from typing import ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from wye.gateway.money.books import Books, Left, Order, Reservation, windows
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.money.lease import Lease
from wye.gateway.money.nano import dollars
from wye.gateway.schema import accounts, connect, reservations, sessions

NOON = datetime.datetime(2026, 3, 31, 12, tzinfo=datetime.UTC).timestamp()
HOUR = 3600.0


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Purses(RuleBasedStateMachine):
    """Two gateways on one store against plain dictionaries that know the truth."""

    held = Bundle("held")
    LIMITS: ClassVar = {"day": 100, "month": 250, "total": 600, "session": 60}
    KEYS = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.engine = self.new_store()
        self.clock = Clock()
        self.ids = {}
        book = KeyBook(self.engine)
        nano = {name: dollars(limit) for name, limit in self.LIMITS.items()}
        for name in self.KEYS:
            limits = Limits(nano["day"], nano["month"], nano["total"], per_session=nano["session"])
            self.ids[name] = book.add(name, limits)[0].id
        self.leases = [Lease(30.0, self.clock), Lease(30.0, self.clock)]
        self.books = [Books(lease.id, self.clock) for lease in self.leases]
        with self.engine.begin() as connection:
            for lease in self.leases:
                lease.renew(connection)
        self.reached = dict.fromkeys(self.KEYS, (0, 0))
        # Reservation id -> (key, session, day, month, amount, open or lapsed).
        self.open = {}
        self.lapsed = {}
        # Settled and lapsed spend by (key, window).
        self.spent = defaultdict(int)

    def new_store(self) -> sa.Engine:
        engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        accounts.metadata.create_all(engine)
        return engine

    def teardown(self) -> None:
        for lease in self.leases:
            lease.forget()
        self.engine.dispose()

    def windows(self) -> dict[str, tuple[int, int]]:
        """Where an entry of each key goes: its account's window, or a later one by the clock."""
        day, month = windows(self.clock.now)
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(accounts)).mappings().all()
        found = {row["key_id"]: (max(row["day"], day), max(row["month"], month)) for row in rows}
        return {key: found[self.ids[key]] for key in self.KEYS}

    def book_places(self, key: str, session: str, day: int, month: int):
        yield key, "total", 0
        yield key, "day", day
        yield key, "month", month
        yield key, "session", session

    def in_flight(self, place) -> int:
        return sum(
            amount
            for key, session, day, month, amount in self.open.values()
            if place in self.book_places(key, session, day, month)
        )

    @rule(
        target=held,
        gateway=st.sampled_from([0, 1]),
        wanted=st.lists(
            st.tuples(st.sampled_from(KEYS), st.sampled_from("xy"), st.integers(0, 70)),
            min_size=1,
            max_size=5,
        ),
    )
    def reserve(self, gateway, wanted):
        orders = [Order(self.ids[key], session, amount) for key, session, amount in wanted]
        before = self.windows()
        with self.engine.begin() as connection:
            made = self.books[gateway].reserve(connection, orders)
        for (key, session, amount), result in zip(wanted, made, strict=True):
            day, month = before[key]
            places = list(self.book_places(key, session, day, month))
            free = min(
                self.LIMITS[place[1]] - self.spent[place] - self.in_flight(place)
                for place in places
            )
            if isinstance(result, Left):
                assert amount > free
            else:
                assert amount <= free
                assert (result.day, result.month) == (day, month)
                self.open[result.id] = (key, session, day, month, amount)
        return [result for result in made if isinstance(result, Reservation)]

    @rule(made=consumes(held), share=st.floats(0, 1), gateway=st.sampled_from([0, 1]))
    def settle(self, made, share, gateway):
        """Settle twice, which must count once; what has lapsed is put right."""
        settlements = [(r, int(r.amount * share)) for r in made]
        for _ in range(2):
            with self.engine.begin() as connection:
                self.books[gateway].settle(connection, settlements)
        for reservation, spent in settlements:
            if reservation.id in self.open:
                key, session, day, month, _ = self.open.pop(reservation.id)
                change = spent
            else:
                key, session, day, month, amount = self.lapsed.pop(reservation.id)
                change = spent - amount
            for place in self.book_places(key, session, day, month):
                self.spent[place] += change

    @rule(gateway=st.sampled_from([0, 1]))
    def die(self, gateway):
        """A gateway is killed and the other finds out."""
        mine = {r for r in self.open if self.owner(r) == self.leases[gateway].id}
        with self.engine.begin() as connection:
            self.leases[gateway].give_up(connection)
            self.leases[1 - gateway].renew(connection)
            assert self.books[1 - gateway].lapse(connection) == len(mine)
            self.leases[gateway].renew(connection)
        for reservation in mine:
            key, session, day, month, amount = self.open.pop(reservation)
            self.lapsed[reservation] = (key, session, day, month, amount)
            for place in self.book_places(key, session, day, month):
                self.spent[place] += amount

    def owner(self, reservation: str) -> str:
        with self.engine.connect() as connection:
            query = sa.select(reservations.c.gateway).where(reservations.c.id == reservation)
            return connection.execute(query).scalar_one()

    @rule(hours=st.sampled_from([-900, -30, -1, 1, 7, 30, 400]))
    def the_clock_jumps(self, hours):
        self.clock.now += hours * HOUR

    @invariant()
    def the_store_has_the_truth_and_no_limit_is_exceeded(self):
        with self.engine.connect() as connection:
            rows = {r["key_id"]: r for r in connection.execute(sa.select(accounts)).mappings()}
            in_sessions = connection.execute(sa.select(sessions)).mappings().all()
        for key in self.KEYS:
            row = rows[self.ids[key]]
            assert (row["day"], row["month"]) >= self.reached[key]
            self.reached[key] = (row["day"], row["month"])
            for window, period in (("total", 0), ("day", row["day"]), ("month", row["month"])):
                place = (key, window, period)
                assert row[f"{window}_spent"] == self.spent[place]
                assert row[f"{window}_reserved"] == self.in_flight(place)
        for row in in_sessions:
            key = next(k for k, v in self.ids.items() if v == row["key_id"])
            assert row["spent"] == self.spent[key, "session", row["session"]]
            assert row["reserved"] == self.in_flight((key, "session", row["session"]))
        for (key, window, period), amount in self.spent.items():
            total = amount + self.in_flight((key, window, period))
            assert amount >= 0
            assert total <= self.LIMITS[window]


TestPurses = Purses.TestCase
TestPurses.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


class PursesOnPostgreSql(Purses):
    """The same against PostgreSQL, whose database the fixture names."""

    url = ""

    def new_store(self) -> sa.Engine:
        engine = connect(self.url)
        tables = ", ".join(accounts.metadata.tables)
        with engine.begin() as connection:
            connection.execute(sa.text(f"TRUNCATE {tables}"))
        return engine


@pytest.fixture(scope="module")
def an_empty_database(postgresql):
    PursesOnPostgreSql.url = postgresql.url(postgresql.database())


@pytest.mark.usefixtures("an_empty_database")
class TestPursesOnPostgreSql(PursesOnPostgreSql.TestCase):
    settings = settings(max_examples=6, stateful_step_count=15, deadline=None)

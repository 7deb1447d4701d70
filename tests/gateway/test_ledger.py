"""The ledger: no limit is ever exceeded and nothing that was settled is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import math
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from wye.gateway.money.books import Books, Left, Order, Reservation, Spend, merged
from wye.gateway.money.group_commit import GroupCommit, Handler, LedgerError
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.money.lease import Lease
from wye.gateway.money.ledger import Ledger
from wye.gateway.money.nano import at_least, dollars
from wye.gateway.schema import connect, leases, reservations

NOON = datetime.datetime(2026, 3, 31, 12, tzinfo=datetime.UTC).timestamp()
HOUR = 3600.0


@pytest.fixture
def engine(place):
    engine = connect(place)
    yield engine
    engine.dispose()


def a_key(engine, **limits) -> str:
    return KeyBook(engine).add("one", Limits(**limits))[0].id


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_spent_day_opens_again_at_midnight_and_not_when_the_clock_steps_back(engine):
    clock = Clock(NOON)
    key, books = a_key(engine, budget_day=dollars(10)), Books("g", clock)
    with engine.begin() as connection:

        def fits() -> bool:
            return isinstance(books.reserve(connection, [Order(key, None, 10)])[0], Reservation)

        assert fits()
        clock.now = NOON - 24 * HOUR
        assert not fits()
        clock.now = NOON + 11.9 * HOUR
        assert not fits()
        clock.now = NOON + 12 * HOUR
        assert fits()
        clock.now = NOON
        assert not fits()


def test_what_is_reserved_before_midnight_counts_for_the_day_before(engine):
    clock = Clock(NOON)
    limits = {"budget_day": dollars(10), "budget_month": dollars(100)}
    key, books = a_key(engine, **limits), Books("g", clock)
    with engine.begin() as connection:
        (late,) = books.reserve(connection, [Order(key, None, 10)])
        clock.now += 12 * HOUR
        (early,) = books.reserve(connection, [Order(key, None, 7)])
        books.settle(connection, [(late, 9), (early, 5)])
        balance = books.balance(connection, key)
    assert (balance.day, balance.day_spent) == ("2026-04-01", 5)
    assert (balance.month, balance.month_spent) == ("2026-04", 5)
    assert (balance.total_spent, balance.total_reserved) == (14, 0)


def test_a_limit_that_is_lowered_or_a_key_that_is_revoked_holds_at_once(engine):
    key, books, book = a_key(engine, budget_total=dollars(100)), Books("g"), KeyBook(engine)
    order = Order(key, None, 30)
    with engine.begin() as connection:
        assert isinstance(books.reserve(connection, [order])[0], Reservation)
    book.change("one", {"budget_total": dollars(50)})
    with engine.begin() as connection:
        assert books.reserve(connection, [order]) == [Left(total=20)]
    book.change("one", {"budget_total": dollars(500)})
    book.revoke("one")
    with engine.begin() as connection:
        assert isinstance(books.reserve(connection, [order])[0], Left)


def test_spend_without_a_reservation_is_booked_even_beyond_the_limit(engine):
    key, books = a_key(engine, budget_total=dollars(10), per_session=dollars(10)), Books("g")
    spends = [Spend(key, "s", 4), Spend(key, None, 3), Spend(key, "s", 5)]
    with engine.begin() as connection:
        books.book(connection, merged(spends))
        assert books.balance(connection, key).total_spent == 12
        assert books.left(connection, Order(key, "s", 0)) == Left(total=0, session=1)
        assert books.left(connection, Order(key, "t", 0)).session == 10


def test_costs_round_up_and_a_nanodollar_is_not_lost_to_floats():
    assert at_least(0.1 + 0.2) == 300_000_000
    assert at_least(23e-6) == 23_000
    assert at_least(1e-10) == 1
    assert at_least(0.0) == 0
    assert at_least(1e18) == at_least(math.inf) == at_least(9e6)


@pytest.fixture
def ledger(engine):
    group = GroupCommit(engine)
    ledger = Ledger(group)
    yield ledger
    group.close()
    ledger.close(engine)


async def test_many_at_once_get_exactly_what_fits(engine, ledger):
    key = a_key(engine, budget_total=dollars(1000))
    made = await asyncio.gather(*(ledger.reserve(Order(key, None, 30)) for _ in range(64)))
    granted = [r for r in made if isinstance(r, Reservation)]
    assert len(granted) == 33
    for reservation in granted:
        ledger.settle(reservation, 10)
    assert await ledger.left(Order(key, None, 0)) == Left(total=1000 - 330)


async def test_what_nobody_waits_for_any_more_is_given_back(engine, ledger):
    key = a_key(engine, budget_total=dollars(100))
    waiting = [asyncio.create_task(ledger.reserve(Order(key, None, 10))) for _ in range(10)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    while await ledger.left(Order(key, None, 0)) != Left(total=100):
        await asyncio.sleep(0.01)


async def test_a_store_that_cannot_be_written_refuses_reservations_and_keeps_settlements(
    engine, ledger
):
    key = a_key(engine, budget_total=dollars(100))
    reservation = await ledger.reserve(Order(key, None, 60))

    def refuse(connection, *_):
        sqlite = connection.dialect.name == "sqlite"
        connection.exec_driver_sql("PRAGMA query_only=1" if sqlite else "SET TRANSACTION READ ONLY")

    sa.event.listen(engine, "begin", refuse)
    ledger.settle(reservation, 25)
    with pytest.raises(LedgerError, match=r"read-?only"):
        await ledger.reserve(Order(key, None, 1))
    sa.event.remove(engine, "begin", refuse)
    engine.dispose()
    while await ledger.left(Order(key, None, 0)) != Left(total=75):
        await asyncio.sleep(0.01)


async def test_an_item_that_cannot_be_done_fails_alone_for_who_asked_it(engine):
    group = GroupCommit(engine)

    def fail(_connection, _items):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await group.ask(Handler(fail), 1)
    assert await group.ask(Handler(lambda _, items: items), 2) == 2
    group.close()


class Scribe:
    """Writes down what it is given: nothing "bad", and not `unwritable` while it is so."""

    def __init__(self, unwritable: str | None = None) -> None:
        self.unwritable = unwritable
        self.done: list[str] = []

    def write(self, _connection, items):
        if "bad" in items:
            raise OverflowError("too large for the store")
        if self.unwritable in items:
            raise sa.exc.OperationalError("UPDATE", None, Exception("the disk is gone"))
        self.done.extend(items)
        return list(items)


@contextlib.asynccontextmanager
async def held_up(group):
    """All that comes meanwhile waits, and so goes into one transaction."""
    started, go_on = threading.Event(), threading.Event()

    def wait(_connection, _items):
        started.set()
        go_on.wait(10)
        return [None]

    first = asyncio.create_task(group.ask(Handler(wait), None))
    await asyncio.to_thread(started.wait, 10)
    yield
    go_on.set()
    await first


async def test_an_item_that_cannot_be_written_is_given_up_and_stops_nobody_else(engine, caplog):
    group, scribe = GroupCommit(engine), Scribe()
    told, wanted = Handler(scribe.write), Handler(scribe.write)
    async with held_up(group):
        for item in ("one", "bad", "two"):
            group.tell(told, item)
        asked = [asyncio.create_task(group.ask(wanted, item)) for item in ("three", "bad", "four")]
        await asyncio.sleep(0)
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert (found[0], found[2]) == ("three", "four")
    assert isinstance(found[1], OverflowError)
    assert scribe.done == ["one", "two", "three", "four"]
    assert (group.error, group.waiting) == (None, 0)
    assert "cannot take ['bad'], which is lost" in caplog.text
    group.close()


async def test_a_store_that_goes_away_in_between_loses_nothing_and_does_nothing_twice(engine):
    group, scribe = GroupCommit(engine), Scribe(unwritable="two")
    told = Handler(scribe.write)
    async with held_up(group):
        for item in ("bad", "one", "two", "three"):
            group.tell(told, item)
    while group.error is None:
        await asyncio.sleep(0.01)
    assert scribe.done == ["one"]
    scribe.unwritable = None
    while group.waiting:
        await asyncio.sleep(0.01)
    assert await group.ask(Handler(scribe.write), "four") == "four"
    assert scribe.done == ["one", "two", "three", "four"]
    group.close()


def test_a_ledger_that_closes_writes_what_was_told_and_gives_its_lease_up(engine):
    key = a_key(engine, budget_total=dollars(100))
    group = GroupCommit(engine)
    ledger = Ledger(group)

    async def use() -> None:
        reservation = await ledger.reserve(Order(key, None, 60))
        ledger.settle(reservation, 25)

    asyncio.run(use())
    group.close()
    ledger.close(engine)
    with engine.connect() as connection:
        assert Books("g").balance(connection, key).total_spent == 25
        assert connection.execute(sa.select(leases)).all() == []
        assert connection.execute(sa.select(reservations)).all() == []


def test_reservations_of_a_process_that_is_gone_are_found_at_the_next_start(engine, place):
    key = a_key(engine, budget_total=dollars(100))
    script = f"""
import asyncio, os
from wye.gateway.money.books import Order
from wye.gateway.money.group_commit import GroupCommit
from wye.gateway.money.ledger import Ledger
from wye.gateway.schema import connect
ledger = Ledger(GroupCommit(connect({str(place)!r})))
asyncio.run(ledger.reserve(Order({key!r}, None, 60)))
os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == 9
    ledger = Ledger(GroupCommit(engine))
    assert ledger.recover(engine) == 1
    assert ledger.recover(engine) == 0
    with engine.connect() as connection:
        balance = Books("g").balance(connection, key)
    assert (balance.total_spent, balance.total_reserved) == (60, 0)
    ledger.close(engine)


def test_a_gateway_that_falls_silent_elsewhere_is_dead_after_its_lease_and_puts_right_what_it_can(
    engine, monkeypatch
):
    clock = Clock()
    key = a_key(engine, budget_total=dollars(100))
    monkeypatch.setattr("wye.gateway.money.lease.machine", lambda: "elsewhere")
    silent = Lease(30.0, clock)
    with engine.begin() as connection:
        silent.renew(connection)
        (held,) = Books(silent.id, clock).reserve(connection, [Order(key, None, 60)])
    monkeypatch.undo()
    watcher = Lease(30.0, clock)
    books = Books(watcher.id, clock)
    with engine.begin() as connection:
        watcher.renew(connection)
    for seconds, lapsed in ((29.0, 0), (2.0, 1)):
        clock.now += seconds
        with engine.begin() as connection:
            watcher.renew(connection)
            watcher.take_from_the_dead(connection)
            assert books.lapse(connection) == lapsed
            assert books.left(connection, Order(key, None, 0)) == Left(total=40)
    with engine.begin() as connection:
        Books(silent.id, clock).settle(connection, [(held, 5)])
        assert books.left(connection, Order(key, None, 0)) == Left(total=95)
        silent.renew(connection)
        assert silent.id in connection.execute(sa.select(leases.c.id)).scalars().all()


def test_processes_that_share_a_store_never_exceed_a_budget_together(engine, place):
    key = a_key(engine, budget_total=dollars(1000), per_session=dollars(700))
    script = f"""
import asyncio
from wye.gateway.money.books import Left, Order
from wye.gateway.money.group_commit import GroupCommit
from wye.gateway.money.ledger import Ledger
from wye.gateway.schema import connect

async def main():
    group = GroupCommit(connect({str(place)!r}))
    ledger = Ledger(group)
    spent = 0
    async def client(number):
        nonlocal spent
        for round in range(10):
            made = await ledger.reserve(Order({key!r}, "ab"[number % 2], 7))
            if isinstance(made, Left):
                return
            await asyncio.sleep(0)
            ledger.settle(made, 5)
            spent += 5
    await asyncio.gather(*(client(n) for n in range(16)))
    group.close()
    print(spent)

asyncio.run(main())
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(2)
    ]
    spent = sum(int(process.communicate(timeout=60)[0]) for process in processes)
    assert all(process.returncode == 0 for process in processes)
    with engine.connect() as connection:
        balance = Books("g").balance(connection, key)
    assert balance.total_spent == spent
    assert balance.total_reserved == 0
    assert 900 < spent <= 1000

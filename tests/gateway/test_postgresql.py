"""A store in PostgreSQL: its address, its format, what it cannot hold, and what it survives."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import psycopg
import pytest
import sqlalchemy as sa
from postgresql_server import PASSWORD

from wye.gateway.config import ConfigError
from wye.gateway.config_file import parse_config
from wye.gateway.dialects import PASSWORD_ENV, StoreError, place_of, shown
from wye.gateway.money.books import Books, Left, Order, Spend
from wye.gateway.money.group_commit import GroupCommit, Handler, LedgerError
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.money.ledger import Ledger
from wye.gateway.money.nano import MOST_USD, dollars
from wye.gateway.records import DecisionRecord, OutcomeRecord, new_id
from wye.gateway.reports import decision
from wye.gateway.schema import VERSION, connect, decisions, metadata, prompt_engine, sessions
from wye.gateway.store import Store


def a_decision(**changes) -> DecisionRecord:
    values = {
        "id": new_id(),
        "time": 1.0,
        "requested": "wye",
        "policy_name": "quality",
        "policy": "quality()",
        "router": "none",
        "policy_version": "0",
        "target": "one",
        "propensity": 1.0,
        "candidates": (),
        "excluded": {},
        "reasons": ("because",),
        "features": {},
        "text": "hello",
        "stream": False,
        "router_cost_usd": 0.0,
        "router_seconds": None,
    }
    return DecisionRecord(**{**values, **changes})


@pytest.fixture
def database(postgresql) -> str:
    return postgresql.database()


@pytest.fixture
def engine(postgresql, database):
    engine = connect(postgresql.url(database))
    yield engine
    engine.dispose()


# Addresses


def test_the_password_comes_from_the_environment_and_is_never_shown(
    postgresql, database, monkeypatch
):
    url = postgresql.url_with_password(database)
    monkeypatch.setenv(PASSWORD_ENV, PASSWORD)
    connect(url).dispose()
    assert PASSWORD not in shown(place_of(url))
    assert PASSWORD not in repr(place_of(url))
    monkeypatch.setenv(PASSWORD_ENV, "wrong-secret")
    with pytest.raises(StoreError, match="user, password and rights") as refused:
        connect(url)
    assert "wrong-secret" not in str(refused.value)
    assert database in str(refused.value)
    monkeypatch.delenv(PASSWORD_ENV)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    connect(url).dispose()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql+psycopg://wye:secret@host/db", "holds a password"),
        ("postgresql://wye@host/db?password=secret", "holds a password"),
        ("mysql://wye@host/db", "begins with mysql://"),
        ("postgresql://wye@host", "names no database"),
        ("postgresql://wye@host:port/db", "cannot be read"),
    ],
)
def test_an_address_that_cannot_be_used_says_what_is_expected_and_no_secret(url, why):
    with pytest.raises(StoreError, match=why) as refused:
        place_of(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ('url = "postgresql://w:secret@h/d"', "holds a password"),
        ('url = "postgresql://w@h/d"\npath = "log.db"', "two stores"),
        ('url = "log.db"', "name a SQLite file with `path`"),
        ('url = "postgresql://w@h/d"\npassword_env = "WYE_NO_SUCH"', "WYE_NO_SUCH"),
        ("connections = 0", "connections"),
    ],
)
def test_a_store_table_that_cannot_be_used_is_told_by_line(table, why):
    target = '[[targets]]\nname = "a"\nbase_url = "http://127.0.0.1:1/v1"\n'
    with pytest.raises(ConfigError, match=why) as refused:
        parse_config(f'[policies.q]\nkind = "quality"\n[store]\n{table}\n{target}')
    assert "secret" not in str(refused.value)
    assert "wye.toml:" in str(refused.value)


def test_a_server_that_is_not_there_and_a_driver_that_is_not_are_told(monkeypatch):
    with pytest.raises(StoreError, match="check that the server runs"):
        connect("postgresql://wye@127.0.0.1:9/wye")
    for name in [name for name in sys.modules if name.split(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'wye\[postgresql\]'"):
        connect("postgresql://wye@127.0.0.1:9/wye")


# Format


def test_gateways_that_start_together_on_an_empty_database_make_the_store_once(
    postgresql, database
):
    failures = []

    def start() -> None:
        try:
            connect(postgresql.url(database)).dispose()
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_tables_of_another_program_are_refused_and_left_alone(postgresql, database):
    postgresql.do("CREATE TABLE sessions (mine TEXT)", database)
    with pytest.raises(StoreError, match="sessions of another program"):
        connect(postgresql.url(database))
    postgresql.do("INSERT INTO sessions (mine) VALUES ('still')", database)
    postgresql.do("CREATE SCHEMA gateway", database)
    url = f"{postgresql.url(database)}&options=-csearch_path=gateway"
    connect(url).dispose()
    engine = connect(url)
    assert set(sa.inspect(engine).get_table_names("gateway")) > set(metadata.tables)
    engine.dispose()


def test_a_database_of_a_later_version_is_refused(engine, postgresql, database):
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE wye_format SET version = {VERSION + 1}"))
    with pytest.raises(StoreError, match="another version"):
        connect(postgresql.url(database))


def test_a_database_of_an_earlier_format_is_brought_to_this_one(engine, postgresql, database):
    with engine.begin() as connection:
        for table, column in (("feedback", "source"), ("decisions", "key_id")):
            connection.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        for column in ("session",):
            connection.execute(sa.text(f"ALTER TABLE decisions DROP COLUMN {column}"))
        for column in ("cached_input_tokens", "cache_write_tokens", "reasoning_tokens"):
            connection.execute(sa.text(f"ALTER TABLE outcomes DROP COLUMN {column}"))
        connection.execute(sa.text("DROP INDEX ix_sessions_seen"))
        connection.execute(sa.text("UPDATE wye_format SET version = 1"))
    again = connect(postgresql.url(database))
    inspector = sa.inspect(again)
    for table in metadata.tables.values():
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        assert columns == {column.name for column in table.columns}, table.name
    assert {index["name"] for index in inspector.get_indexes("sessions")} == {"ix_sessions_seen"}
    with again.connect() as connection:
        assert connection.execute(sa.text("SELECT version FROM wye_format")).scalar() == VERSION
    again.dispose()


# What databases cannot hold


def test_text_that_no_database_holds_is_kept_as_far_as_it_goes_with_its_whole_batch(place):
    store = Store(place, batch_seconds=0.05)
    odd = a_decision(
        text="nul \x00 half \ud83d whole \U0001f600",
        features={"a\x00": ["\ud800", float("nan"), 1.5, {"b": float("inf")}]},
        reasons=("\x00",),
        session="s\x00",
    )
    others = [a_decision() for _ in range(5)]
    for record in (odd, *others):
        store.add(record)
    assert store.flush()
    assert store.health().lost == 0
    found = decision(store.engine, odd.id)
    assert found["text"].endswith("half ? whole \U0001f600")
    assert found["features"] == {"a\ufffd": ["?", None, 1.5, {"b": None}]}
    with store.engine.connect() as connection:
        inside = sa.select(decisions.c.features["surface"].as_string())
        assert len(connection.execute(inside).all()) == 6
    store.close()


def test_counts_and_money_beyond_32_bits_are_exact(place):
    store = Store(place, batch_seconds=0.05)
    many = 2**53 - 1
    made = a_decision()
    store.add(made)
    store.add(OutcomeRecord(made.id, 2.0, "one", "ok", 200, None, many, many, latency_s=0.1))
    assert store.flush()
    assert decision(store.engine, made.id)["outcome"]["input_tokens"] == many
    key, _ = KeyBook(store.engine).add("rich", Limits(budget_total=MOST_USD))
    books = Books("g")
    whole = int(MOST_USD * 1e9)
    with store.engine.begin() as connection:
        books.book(connection, [Spend(key.id, None, whole - 1)])
        assert books.left(connection, Order(key.id, None, 0)) == Left(total=1)
        assert books.balance(connection, key.id).total_spent == whole - 1
    store.close()


# A server that goes away


def test_a_server_that_restarts_costs_no_record_and_no_money(postgresql, database):
    store = Store(postgresql.url(database), batch_seconds=0.05, max_pending=50)
    key, _ = KeyBook(store.engine).add("one", Limits(budget_total=dollars(1000)))
    group = GroupCommit(prompt_engine(store.engine))
    ledger = Ledger(group)

    async def use() -> None:
        held = await ledger.reserve(Order(key.id, None, 600))
        postgresql.stop()
        try:
            for _ in range(20):
                store.add(a_decision())
            assert not store.flush()
            health = store.health()
            assert (health.ok, health.pending, health.lost) == (False, 20, 0)
            assert health.error == "the database cannot be reached"
            ledger.settle(held, 250)
            with pytest.raises(LedgerError, match="cannot be reached"):
                await ledger.reserve(Order(key.id, None, 1))
            assert group.waiting > 0
            for _ in range(40):
                store.add(a_decision())
            store.flush()
            assert (store.health().pending, store.health().lost) == (50, 10)
        finally:
            postgresql.start()
        while await ledger.left(Order(key.id, None, 0)) != Left(total=750):
            await asyncio.sleep(0.05)

    asyncio.run(use())
    assert store.flush()
    assert store.health().ok
    with store.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(decisions)).scalar() == 50
    group.close()
    ledger.close(store.engine)
    store.close()


def test_a_server_that_only_reads_any_more_is_left_for_one_that_writes(postgresql, database):
    """As after a failover, where the address leads to another server before long."""
    store = Store(postgresql.url(database), batch_seconds=0.05)
    key, _ = KeyBook(store.engine).add("one", Limits(budget_total=dollars(1000)))
    group = GroupCommit(prompt_engine(store.engine))
    ledger = Ledger(group)

    async def use() -> None:
        held = await ledger.reserve(Order(key.id, None, 600))
        # Sessions have this from their begin to their end.
        postgresql.do(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        postgresql.do(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        )
        try:
            ledger.settle(held, 250)
            with pytest.raises(LedgerError, match="read-only"):
                await ledger.reserve(Order(key.id, None, 1))
            store.add(a_decision())
            assert not store.flush()
        finally:
            postgresql.do(f"ALTER DATABASE {database} RESET default_transaction_read_only")
        deadline = time.monotonic() + 20
        while await ledger.left(Order(key.id, None, 0)) != Left(total=750):
            assert time.monotonic() < deadline, group.error
            await asyncio.sleep(0.05)

    asyncio.run(use())
    assert store.flush()
    group.close()
    ledger.close(store.engine)
    store.close()


def test_records_wait_while_another_version_has_changed_their_table(postgresql, database):
    store = Store(postgresql.url(database), batch_seconds=0.05)
    change = "ALTER TABLE decisions RENAME COLUMN {} TO {}"
    postgresql.do(change.format("session", "conversation"), database)
    for _ in range(3):
        store.add(a_decision(session="s"))
    assert not store.flush()
    assert (store.health().pending, store.health().lost) == (3, 0)
    postgresql.do(change.format("conversation", "session"), database)
    assert store.flush()
    with store.engine.connect() as connection:
        assert connection.execute(sa.select(decisions.c.session)).scalars().all() == ["s"] * 3
    store.close()


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("away", [0, 2])
async def test_a_commit_in_doubt_counts_once(engine, monkeypatch, committed, away):
    """The connection breaks while a commit is made or not; then the server is away for a while."""
    key, _ = KeyBook(engine).add("one", Limits(budget_total=dollars(100)))
    mine = prompt_engine(engine)
    group = GroupCommit(mine)
    ledger = Ledger(group)
    assert await ledger.left(Order(key.id, None, 0)) == Left(total=100)
    commit, open_one = mine.dialect.do_commit, mine.dialect.connect
    broken: list[str] = []

    def break_once(connection) -> None:
        if broken:
            return commit(connection)
        broken.append("commit")
        if committed:
            commit(connection)
        connection.dbapi_connection.close()
        raise psycopg.OperationalError("the connection is lost")

    def stay_away(*arguments, **options):
        if broken and len(broken) <= away:
            broken.append("connect")
            raise psycopg.OperationalError("nobody is there")
        return open_one(*arguments, **options)

    monkeypatch.setattr(mine.dialect, "do_commit", break_once)
    monkeypatch.setattr(mine.dialect, "connect", stay_away)
    ledger.book(Spend(key.id, None, 7))
    try:
        await ledger.reserve(Order(key.id, None, 20))
        reserved = 20
    except LedgerError:
        reserved = 0
    assert broken
    while True:
        with engine.connect() as connection:
            balance = Books("g").balance(connection, key.id)
        if (balance.total_spent, balance.total_reserved) == (7, reserved) and not group.waiting:
            break
        assert balance.total_spent <= 7
        await asyncio.sleep(0.02)
    group.close()
    ledger.close(engine)


# Room


def test_sessions_that_fell_silent_are_forgotten_bit_by_bit_and_their_spend_is_not(place):
    now = 1.8e9
    engine = connect(place)
    key, _ = KeyBook(engine).add("one", Limits(per_session=dollars(100)))
    books = Books("g", lambda: now)
    with engine.begin() as connection:
        silent = {"key_id": key.id, "spent": 3, "reserved": 0, "seen": now}
        rows = [{**silent, "session": f"old {number}"} for number in range(2499)]
        connection.execute(sa.insert(sessions), rows)
        books.book(connection, [Spend(key.id, "old 2499", 3)])
        held, *_ = books.reserve(connection, [Order(key.id, "held", 5)])
        now += 40 * 86400
        books.book(connection, [Spend(key.id, "fresh", 4)])
        month = 30 * 86400.0
        assert books.forget(connection, month) == 2000
        assert books.forget(connection, month) == 500
        assert books.forget(connection, month) == 0
        assert books.left(connection, Order(key.id, "old 1", 0)).session == 100
        assert books.left(connection, Order(key.id, "held", 0)).session == 95
        assert books.left(connection, Order(key.id, "fresh", 0)).session == 96
        assert books.lapse(connection) == 1
        assert books.balance(connection, key.id).total_spent == 3 + 4 + 5
        now += 40 * 86400
        # Both sessions, and the reservation that lapsed.
        assert books.forget(connection, month) == 3
        books.settle(connection, [(held, 1)])
        assert books.balance(connection, key.id).total_spent == 3 + 4 + 5
    engine.dispose()


async def test_gateways_that_change_the_same_accounts_in_any_order_wait_and_do_not_clash(
    engine, postgresql
):
    book = KeyBook(engine)
    keys = [book.add(f"key {n}", Limits(budget_total=dollars(10**6)))[0].id for n in range(12)]
    groups = [GroupCommit(prompt_engine(engine)) for _ in range(3)]
    ledgers = [Ledger(group) for group in groups]

    async def spend(number: int) -> None:
        ledger = ledgers[number % 3]
        for turn in range(8):
            key = keys[(number * 5 + turn * 7) % len(keys)]
            made = await ledger.reserve(Order(key, None, 10))
            ledger.settle(made, 3)
            ledger.book(Spend(keys[(number * 7 - turn) % len(keys)], None, 1))

    await asyncio.gather(*(spend(number) for number in range(30)))
    for group, ledger in zip(groups, ledgers, strict=True):
        group.close()
        ledger.close(engine)
    with engine.connect() as connection:
        balances = [Books("g").balance(connection, key) for key in keys]
    assert sum(balance.total_spent for balance in balances) == 30 * 8 * 4
    assert all(balance.total_reserved == 0 for balance in balances)
    assert "deadlock" not in (postgresql.folder / "log").read_text()
    assert await _one(GroupCommit(engine)) == 1


async def _one(group: GroupCommit) -> int:
    found = await group.ask(Handler(lambda c, _: [c.execute(sa.text("SELECT 1")).scalar()]), None)
    group.close()
    return int(found)

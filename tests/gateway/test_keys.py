"""Virtual keys in the store: made, found, changed, refused; and the store's earlier format."""

from __future__ import annotations

import hashlib
import sqlite3
import threading

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.money.key_ring import KeyRing
from wye.gateway.money.keys import KeyBook, KeysError, Limits
from wye.gateway.reports import decision
from wye.gateway.schema import VERSION, accounts, connect, keys, metadata

LIMITS = Limits(
    budget_day=1.5,
    budget_total=100.0,
    per_request=0.25,
    requests_per_minute=60,
    targets=("small", "größer"),
    policy="thrifty",
    expires=4e9,
)


@pytest.fixture
def engine(place):
    engine = connect(place)
    yield engine
    engine.dispose()


@pytest.fixture
def book(engine):
    return KeyBook(engine, clock=lambda: 1000.0)


def test_a_key_is_found_by_its_secret_with_everything_it_was_given(book):
    key, secret = book.add("Zoë's agent 🦊", LIMITS)
    assert key.name == "Zoë's agent 🦊"
    assert book.find(secret) == key == book.get("Zoë's agent 🦊")
    assert book.find(secret).limits == LIMITS
    assert book.find(secret[:-1]) is None
    assert book.find(secret + "x") is None
    assert book.find("") is None
    assert book.find("\udcff\udc80") is None


def test_names_that_look_the_same_are_the_same(book):
    book.add("caf\u00e9")
    assert book.get("cafe\u0301").name == "caf\u00e9"
    with pytest.raises(KeysError, match="already"):
        book.add(" cafe\u0301 ")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00", "x" * 101, "\ud800"])
def test_a_name_that_cannot_be_told_apart_or_stored_is_refused(book, name):
    with pytest.raises(KeysError, match="1 to 100 characters"):
        book.add(name)


def test_the_store_holds_a_digest_and_never_the_secret(book, engine, tmp_path):
    _, secret = book.add("one")
    with engine.connect() as connection:
        rows = [row for t in metadata.sorted_tables for row in connection.execute(sa.select(t))]
    raw = repr(rows).encode() + b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in raw
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in raw
    assert len(secret) == len("wye_") + 43


def test_no_two_secrets_are_the_same(book):
    secrets = {book.add(f"key {number}")[1] for number in range(20)}
    assert len(secrets) == 20


def test_a_revoked_key_stays_known_and_is_refused(book):
    _, secret = book.add("one")
    assert book.find(secret).refusal(1000.0) is None
    book.revoke("one")
    assert "revoked" in book.find(secret).refusal(1000.0)
    with pytest.raises(KeysError, match="revoked already"):
        book.revoke("one")
    with pytest.raises(KeysError, match="already"):
        book.add("one")


def test_a_key_expires_at_its_moment(book):
    key, _ = book.add("one", Limits(expires=2000.0))
    assert key.refusal(1999.9) is None
    assert "expired" in key.refusal(2000.0)


def test_limits_change_one_by_one(book):
    book.add("one", LIMITS)
    book.change("one", {"budget_day": None, "tokens_per_minute": 500})
    limits = book.get("one").limits
    assert (limits.budget_day, limits.tokens_per_minute) == (None, 500)
    assert limits.targets == LIMITS.targets
    assert limits.per_request == 0.25


@pytest.mark.parametrize(
    "limits",
    [
        {"budget_day": -1.0},
        {"budget_total": float("nan")},
        {"per_request": float("inf")},
        {"requests_per_minute": 0},
        {"tokens_per_minute": 10**10},
        {"targets": ()},
        {"expires": float("nan")},
    ],
)
def test_a_limit_that_cannot_be_held_is_refused_and_changes_nothing(book, limits):
    with pytest.raises(KeysError, match=next(iter(limits))):
        Limits(**limits)
    before, _ = book.add("one", LIMITS)
    with pytest.raises(KeysError):
        book.change("one", limits)
    assert book.get("one") == before


@given(st.floats(0, 1000, allow_subnormal=False))
def test_a_budget_comes_back_from_the_store_to_the_nanodollar_and_never_above(
    tmp_path_factory, usd
):
    engine = connect(tmp_path_factory.getbasetemp() / "budgets.db")
    try:
        book = KeyBook(engine)
        with engine.begin() as connection:
            connection.execute(sa.delete(keys))
        book.add("one", Limits(budget_total=usd))
        kept = book.get("one").limits.budget_total
    finally:
        engine.dispose()
    assert usd - 1.1e-9 <= kept <= usd + 1e-12


def test_unknown_names_are_told_with_the_known_ones(book):
    book.add("alpha")
    with pytest.raises(KeysError, match="known are: alpha"):
        book.get("beta")


async def test_a_key_made_elsewhere_is_known_at_once_and_a_revoked_one_soon_is_not(book, engine):
    ring = KeyRing(KeyBook(engine), required=False, fresh_seconds=0.05)
    assert not await ring.required()
    key, secret = book.add("one")
    assert (await ring.find(secret)).id == key.id
    book.revoke("one")
    while (await ring.find(secret)).refusal(1000.0) is None:
        pass
    assert await ring.required()


async def test_a_ring_requires_keys_from_the_first_moment_where_the_store_has_one(book, engine):
    book.add("one")
    ring = KeyRing(KeyBook(engine), required=False, fresh_seconds=1000.0)
    assert await ring.required()


async def test_memory_serves_known_keys_while_the_store_cannot_be_read(book, engine):
    _, secret = book.add("one")
    ring = KeyRing(KeyBook(engine), required=False, fresh_seconds=1e-9)
    known = await ring.find(secret)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE keys RENAME TO elsewhere"))
    assert await ring.find(secret) == known
    with pytest.raises(sa.exc.DatabaseError):
        await ring.find("wye_unknown")


VERSION_1 = """
CREATE TABLE decisions (
    id VARCHAR(36) NOT NULL, time FLOAT NOT NULL, requested TEXT NOT NULL,
    policy_name TEXT NOT NULL, policy TEXT NOT NULL, router TEXT NOT NULL,
    policy_version TEXT NOT NULL, target TEXT, propensity FLOAT NOT NULL,
    candidates JSON NOT NULL, excluded JSON NOT NULL, reasons JSON NOT NULL,
    features JSON NOT NULL, text TEXT, stream BOOLEAN NOT NULL,
    router_cost_usd FLOAT NOT NULL, router_seconds FLOAT, PRIMARY KEY (id));
CREATE INDEX ix_decisions_time ON decisions (time);
CREATE TABLE outcomes (
    decision_id VARCHAR(36) NOT NULL, time FLOAT NOT NULL, target TEXT,
    status VARCHAR(16) NOT NULL, http_status INTEGER NOT NULL, error TEXT,
    input_tokens INTEGER, output_tokens INTEGER, tokens_estimated BOOLEAN NOT NULL,
    cost_usd FLOAT, baseline_usd FLOAT, latency_s FLOAT, first_byte_s FLOAT,
    finish_reason TEXT, attempts JSON NOT NULL, PRIMARY KEY (decision_id));
CREATE INDEX ix_outcomes_time ON outcomes (time);
CREATE TABLE feedback (
    number INTEGER NOT NULL, decision_id VARCHAR(36) NOT NULL, time FLOAT NOT NULL,
    quality FLOAT NOT NULL, comment TEXT, PRIMARY KEY (number));
CREATE INDEX ix_feedback_decision_id ON feedback (decision_id);
CREATE TABLE targets (
    name TEXT NOT NULL, kind TEXT NOT NULL, price_in_per_mtok FLOAT,
    price_out_per_mtok FLOAT, context INTEGER, PRIMARY KEY (name));
INSERT INTO decisions VALUES (
    'd1', 1.0, 'wye', 'quality', 'quality()', 'none', '0', 'one', 1.0,
    '[]', '{}', '["because"]', '{}', 'hello', 0, 0.0, NULL);
INSERT INTO outcomes VALUES (
    'd1', 2.0, 'one', 'ok', 200, NULL, 11, 6, 0, 0.5, NULL, 0.1, 0.1, 'stop', '[]');
INSERT INTO feedback VALUES (1, 'd1', 3.0, 0.25, 'meh');
PRAGMA user_version=1;
"""


@pytest.fixture
def version_1(tmp_path):
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
    connection.close()
    return path


def test_a_store_of_the_first_format_is_brought_to_this_one_with_all_it_holds(version_1):
    engine = connect(version_1)
    found = decision(engine, "d1")
    assert found["outcome"]["cost_usd"] == 0.5
    assert found["outcome"]["cached_input_tokens"] is None
    assert found["feedback"][0]["comment"] == "meh"
    assert found["key_id"] is None
    KeyBook(engine).add("one")
    inspector = sa.inspect(engine)
    for table in metadata.tables.values():
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        assert columns == {column.name for column in table.columns}, table.name
    with engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA user_version")).scalar() == VERSION
        assert connection.execute(sa.select(accounts.c.total_spent)).scalar() == 0
    engine.dispose()
    connect(version_1).dispose()


def test_gateways_that_start_together_on_an_old_store_change_it_once(version_1):
    failures = []

    def start() -> None:
        try:
            connect(version_1).dispose()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_change_of_format_that_fails_leaves_the_old_store_as_it_was(version_1):
    with sqlite3.connect(version_1) as connection:
        connection.execute("ALTER TABLE outcomes ADD COLUMN reasoning_tokens INTEGER")
    connection.close()
    with pytest.raises(Exception, match="reasoning_tokens"):
        connect(version_1)
    with sqlite3.connect(version_1) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(decisions)")]
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()
    assert "key_id" not in columns

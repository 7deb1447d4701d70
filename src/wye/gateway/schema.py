"""Tables of the store, and the connection to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from wye.errors import WyeError
from wye.gateway.config import Target
from wye.gateway.learning import tables as learning
from wye.gateway.learning.records import (
    AssignmentRecord,
    ContextRecord,
    OverheadRecord,
    ShadowRecord,
)
from wye.gateway.metadata import metadata
from wye.gateway.migrations import migrate
from wye.gateway.records import (
    AlarmRecord,
    DecisionRecord,
    FeedbackRecord,
    OutcomeRecord,
    Record,
)

VERSION = 3

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("requested", sa.Text, nullable=False),
    sa.Column("policy_name", sa.Text, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("router", sa.Text, nullable=False),
    sa.Column("policy_version", sa.Text, nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("propensity", sa.Float, nullable=False),
    sa.Column("candidates", sa.JSON, nullable=False),
    sa.Column("excluded", sa.JSON, nullable=False),
    sa.Column("reasons", sa.JSON, nullable=False),
    sa.Column("features", sa.JSON, nullable=False),
    sa.Column("text", sa.Text),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("router_cost_usd", sa.Float, nullable=False),
    sa.Column("router_seconds", sa.Float),
    sa.Column("key_id", sa.String(36)),
    sa.Column("session", sa.Text),
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("decision_id", sa.String(36), primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("http_status", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("input_tokens", sa.Integer),
    sa.Column("output_tokens", sa.Integer),
    sa.Column("tokens_estimated", sa.Boolean, nullable=False),
    sa.Column("cost_usd", sa.Float),
    sa.Column("baseline_usd", sa.Float),
    sa.Column("latency_s", sa.Float),
    sa.Column("first_byte_s", sa.Float),
    sa.Column("finish_reason", sa.Text),
    sa.Column("attempts", sa.JSON, nullable=False),
    sa.Column("cached_input_tokens", sa.Integer),
    sa.Column("cache_write_tokens", sa.Integer),
    sa.Column("reasoning_tokens", sa.Integer),
)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("decision_id", sa.String(36), nullable=False, index=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("quality", sa.Float, nullable=False),
    sa.Column("comment", sa.Text),
    # Who judged: person, judge or outcome; null in rows of format 2, which came from anybody.
    sa.Column("source", sa.String(16)),
)

# Sums over the traffic are read of these alone; the rows themselves are wide.
sa.Index("decisions_in_time", decisions.c.time, decisions.c.router_seconds)
sa.Index(
    "outcomes_in_time",
    *(
        outcomes.c[name]
        for name in ("time", "target", "status", "cost_usd", "baseline_usd", "latency_s")
    ),
)
sa.Index("decisions_of_key", decisions.c.key_id, decisions.c.id)
sa.Index("decisions_of_session", decisions.c.session, decisions.c.id)

targets = sa.Table(
    "targets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("price_in_per_mtok", sa.Float),
    sa.Column("price_out_per_mtok", sa.Float),
    sa.Column("context", sa.Integer),
)

# What `wye.gateway.watch` found, and who has seen it.
alarms = sa.Table(
    "alarms",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("time", sa.Float, nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", sa.Text),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("since", sa.Float),
    sa.Column("figures", sa.JSON, nullable=False),
    sa.Column("acknowledged", sa.Float),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("note", sa.Text),
)

# Under which name and fingerprint each target has answered; empty where it gave none.
identities = sa.Table(
    "identities",
    metadata,
    sa.Column("target", sa.String(200), primary_key=True),
    sa.Column("model", sa.String(200), primary_key=True),
    sa.Column("fingerprint", sa.String(200), primary_key=True),
    sa.Column("first_seen", sa.Float, nullable=False),
)

# Money is whole nanodollars (1e-9 USD) in these tables, so that sums are exact in every database.
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("prefix", sa.String(16), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("revoked", sa.Float),
    sa.Column("budget_day", sa.BigInteger),
    sa.Column("budget_month", sa.BigInteger),
    sa.Column("budget_total", sa.BigInteger),
    sa.Column("per_request", sa.BigInteger),
    sa.Column("per_session", sa.BigInteger),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("targets", sa.JSON(none_as_null=True)),
    sa.Column("policy", sa.Text),
)

# What each key has used. `day` counts days since 1970 and `month` months since year 0, both UTC;
# the sums beside them are of that day and month alone. `..._due` are nanoseconds since 1970.
accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("key_id", sa.String(36), primary_key=True),
    *(
        sa.Column(name, sa.BigInteger, nullable=False, default=0)
        for name in (
            "day",
            "day_spent",
            "day_reserved",
            "month",
            "month_spent",
            "month_reserved",
            "total_spent",
            "total_reserved",
            "requests_due",
            "tokens_due",
        )
    ),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("key_id", sa.String(36), primary_key=True),
    sa.Column("session", sa.String(200), primary_key=True),
    sa.Column("spent", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.Float, nullable=False),
)

reservations = sa.Table(
    "reservations",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("gateway", sa.String(36), nullable=False, index=True),
    sa.Column("key_id", sa.String(36), nullable=False),
    sa.Column("session", sa.String(200)),
    sa.Column("day", sa.BigInteger, nullable=False),
    sa.Column("month", sa.BigInteger, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("lapsed", sa.Boolean, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.Float, nullable=False),
)

_TABLES: dict[type, sa.Table] = {
    DecisionRecord: decisions,
    OutcomeRecord: outcomes,
    FeedbackRecord: feedback,
    ContextRecord: learning.contexts,
    ShadowRecord: learning.shadow_decisions,
    AssignmentRecord: learning.assignments,
    OverheadRecord: learning.overheads,
    AlarmRecord: alarms,
}


class StoreError(WyeError):
    """The store's file cannot be used; the message says what to do."""


def connect(path: Path) -> sa.Engine:
    """An engine on the SQLite file at `path`, created with its tables where it is new.

    WAL lets readers work beside the writer and survives a killed process: a transaction is in the
    file whole or not at all. `synchronous=NORMAL` keeps that, and gives up at most the last
    transactions when the machine itself loses power.

    Raises:
        StoreError: the folder cannot be written, or the file is no store, or one of a later
            version; one of an earlier version is brought to this one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the store's folder {path.parent} cannot be made ({error}); set store.path in wye.toml"
        ) from error
    engine = sa.create_engine(f"sqlite:///{path}")
    sa.event.listen(engine, "connect", _prepare)
    try:
        with engine.begin() as connection:
            # The driver opens no transaction for DDL; without one, two gateways that start at once
            # would both change the tables, and a killed one would leave them half changed.
            connection.execute(sa.text("BEGIN IMMEDIATE"))
            found = connection.execute(sa.text("PRAGMA user_version")).scalar_one()
            if found > VERSION:
                raise StoreError(
                    f"{path} was written by another version of wye (its format is {found}, this "
                    f"one knows {VERSION}); set store.path in wye.toml to a new file"
                )
            if found:
                migrate(connection, found)
            metadata.create_all(connection)
            connection.execute(sa.text(f"PRAGMA user_version={VERSION}"))
    except sa.exc.DatabaseError as error:
        engine.dispose()
        raise StoreError(
            f"{path} cannot be opened as a store ({error.orig}); check the disk and its rights, or "
            "set store.path in wye.toml to a new file"
        ) from error
    except StoreError:
        engine.dispose()
        raise
    return engine


def prompt_engine(engine: sa.Engine) -> sa.Engine:
    """An engine on the same store for transactions that requests wait for.

    SQLite moves its log into the file, and waits for the disk to have it, at the end of whichever
    transaction finds the log long. Here that is left to the writers whom nobody waits for.
    """
    if engine.dialect.name != "sqlite":
        return engine
    prompt = sa.create_engine(engine.url)

    @sa.event.listens_for(prompt, "connect")
    def _prepare_prompt(connection: Any, record: Any) -> None:
        _prepare(connection, record)
        connection.execute("PRAGMA wal_autocheckpoint=0")

    return prompt


def _prepare(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=5000")


def write_targets(engine: sa.Engine, known: Iterable[Target]) -> None:
    """Remember the configured targets and their prices beside those of earlier configurations."""
    rows = [
        {
            "name": target.name,
            "kind": target.kind,
            "price_in_per_mtok": prices.input if prices else target.price_in_per_mtok,
            "price_out_per_mtok": prices.output if prices else target.price_out_per_mtok,
            "context": target.context,
        }
        for target, prices in ((target, target.prices) for target in known)
    ]
    with engine.begin() as connection:
        names = [row["name"] for row in rows]
        connection.execute(sa.delete(targets).where(targets.c.name.in_(names)))
        connection.execute(sa.insert(targets), rows)


def row_of(record: Record) -> tuple[sa.Table, dict[str, Any]]:
    """The table a record goes to, and its row."""
    row = asdict(record)
    if row.get("router_seconds") != row.get("router_seconds"):
        row["router_seconds"] = None
    return _TABLES[type(record)], row

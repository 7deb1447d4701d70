"""Tables of the store, and the connection to them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from wye.gateway.answer_cache.records import AnswerRecord
from wye.gateway.answer_cache.tables import answers
from wye.gateway.config import Target
from wye.gateway.dialects import (
    STORE_ERRORS,
    Place,
    StoreError,
    details,
    exclude_others,
    foreign_tables,
    keep_log,
    make_engine,
    place_of,
    place_of_engine,
    read_format,
    shown,
    storable,
    write_format,
)
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
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    sa.Column("tokens_estimated", sa.Boolean, nullable=False),
    sa.Column("cost_usd", sa.Float),
    sa.Column("baseline_usd", sa.Float),
    sa.Column("latency_s", sa.Float),
    sa.Column("first_byte_s", sa.Float),
    sa.Column("finish_reason", sa.Text),
    sa.Column("attempts", sa.JSON, nullable=False),
    sa.Column("cached_input_tokens", sa.BigInteger),
    sa.Column("cache_write_tokens", sa.BigInteger),
    sa.Column("reasoning_tokens", sa.BigInteger),
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
    sa.Column("context", sa.BigInteger),
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
    sa.Column("seen", sa.Float, nullable=False, index=True),
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
    AnswerRecord: answers,
}


def connect(place: Place | str, *, connections: int = 8, create: bool = True) -> sa.Engine:
    """An engine on the store at `place`, created with its tables where it is new.

    SQLite: WAL lets readers work beside the writer and survives a killed process: a transaction is
    in the file whole or not at all. `synchronous=NORMAL` keeps that, and gives up at most the last
    transactions when the machine itself loses power.

    Args:
        place: see `wye.gateway.dialects.place_of`.
        connections: see `wye.gateway.dialects.make_engine`.
        create: whether a store is made where there is none.

    Raises:
        StoreError: the place cannot be used, or is no store, or one of a later version; one of an
            earlier version is brought to this one.
    """
    place = place_of(place)
    if isinstance(place, Path):
        _find_folder(place, create)
    engine = make_engine(place, connections=connections)
    try:
        with engine.begin() as connection:
            exclude_others(connection)
            _bring_to_format(connection, place, create)
        keep_log(engine)
    except STORE_ERRORS as error:
        engine.dispose()
        raise StoreError(
            f"{shown(place)} cannot be opened as a store ({details(error)}); "
            + (
                "check the disk and its rights, or set store.path in wye.toml to a new file"
                if isinstance(place, Path)
                else "check that the server runs, and its user, password and rights"
            )
        ) from error
    except StoreError:
        engine.dispose()
        raise
    return engine


def prompt_engine(engine: sa.Engine) -> sa.Engine:
    """An engine on the same store for transactions that requests wait for, from one thread."""
    return make_engine(place_of_engine(engine), prompt=True)


def _find_folder(path: Path, create: bool) -> None:
    if not create and not (path.is_file() and path.stat().st_size):
        raise StoreError(
            f"{path} {'is empty and no store' if path.is_file() else 'does not exist'}; give the "
            "store of a gateway (it says where it is at its start)"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the store's folder {path.parent} cannot be made ({error}); set store.path in wye.toml"
        ) from error


def _bring_to_format(connection: sa.Connection, place: Place, create: bool) -> None:
    # Other programs number the formats of their files in the same place.
    found = read_format(connection) if sa.inspect(connection).has_table(decisions.name) else 0
    if found > VERSION:
        raise StoreError(
            f"{shown(place)} was written by another version of wye (its format is {found}, this "
            f"one knows {VERSION}); set store.path or store.url in wye.toml to a new store"
        )
    if found:
        migrate(connection, found)
    elif taken := foreign_tables(connection, metadata.tables):
        raise StoreError(
            f"{shown(place)} holds the tables {', '.join(taken[:5])} of another program; "
            + (
                "give wye a file of its own"
                if isinstance(place, Path)
                else "give wye a database of its own, or a schema: "
                "?options=-csearch_path=NAME at the url's end"
            )
        )
    elif not create:
        raise StoreError(
            f"{shown(place)} is empty and no store; give the store of a gateway (it says where it "
            "is at its start)"
        )
    metadata.create_all(connection)
    if found != VERSION:
        for table in metadata.sorted_tables:
            for index in table.indexes:
                index.create(connection, checkfirst=True)
        write_format(connection, VERSION)


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
        exclude_others(connection)
        names = [row["name"] for row in rows]
        connection.execute(sa.delete(targets).where(targets.c.name.in_(names)))
        connection.execute(sa.insert(targets), rows)


def row_of(record: Record) -> tuple[sa.Table, dict[str, Any]]:
    """The table a record goes to, and its row."""
    row = dict(vars(record))
    if row.get("router_seconds") != row.get("router_seconds"):
        row["router_seconds"] = None
    for name, value in row.items():
        if isinstance(value, str) and not value.isascii():
            row[name] = storable(value)
    return _TABLES[type(record)], row

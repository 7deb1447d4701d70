"""The databases that hold a store: SQLite in a file, PostgreSQL for many gateways.

Everything that differs between the two is here; the rest of the gateway speaks SQLAlchemy alone.

SQLite has one writer at a time. PostgreSQL has many, so what is exact there rests on rows: an
UPDATE with a condition takes its row's lock and sees what was committed before (READ COMMITTED),
and who changes several accounts locks them first, in one order (`lock_in_order`).

A connection that breaks during a commit leaves open whether it was made. PostgreSQL can be asked
afterwards (`receipt_of`, `was_committed`); in SQLite a commit that fails was not made.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from wye.errors import WyeError

Place = Path | sa.URL
PASSWORD_ENV = "WYE_STORE_PASSWORD"
# A number that no other program locks by, of one database: "wye" in ASCII.
_LOCK = 0x777965
_CONNECT_SECONDS = 3
_PATIENCE_MS = 10_000
_RETRY_SECONDS = 0.02
# Classes of SQLSTATE that say something of the server, or of rights, and nothing of a record:
# connection, invalid transaction state (read only), authorisation, tables and columns that another
# version of wye has changed, resources, intervention, system.
_SERVERS_FAULT = ("08", "25", "28", "42501", "42P01", "42703", "53", "57", "58", "XX")
_READ_ONLY = "25006"
_EXAMPLE = "postgresql+psycopg://USER@HOST:PORT/DATABASE"
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
STORE_ERRORS = (sa.exc.DBAPIError, sa.exc.TimeoutError)


class StoreError(WyeError):
    """The store cannot be used; the message says what to do."""


def place_of(given: str | Path | sa.URL, password_env: str = PASSWORD_ENV) -> Place:
    """A file's path, or the address of a PostgreSQL database with its password.

    Args:
        given: a path, or `postgresql+psycopg://USER@HOST:PORT/DATABASE`.
        password_env: environment variable with the password; without one the driver looks where
            PostgreSQL's own programs do (PGPASSWORD, the password file).

    Raises:
        StoreError: the address names another kind of database, cannot be read, or holds a password.
    """
    if isinstance(given, Path) or (isinstance(given, str) and "://" not in given):
        return Path(given)
    try:
        url = sa.make_url(given)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError(f"the store's url cannot be read; expected {_EXAMPLE}") from None
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise StoreError(
            f"the store's url begins with {url.drivername}://; expected {_EXAMPLE}, or a file's "
            "path alone for SQLite"
        )
    if isinstance(given, str) and (url.password is not None or "password" in url.query):
        raise StoreError(
            "the store's url holds a password, which files and process lists show to others; take "
            f"it out and set the environment variable {password_env} to it"
        )
    if not url.database:
        raise StoreError(f"the store's url names no database; expected {_EXAMPLE}")
    url = url.set(drivername="postgresql+psycopg")
    password = os.environ.get(password_env)
    return url.set(password=password) if password and url.password is None else url


def shown(place: Place) -> str:
    """How a place is told to people: without its password."""
    return place.render_as_string() if isinstance(place, sa.URL) else str(place)


def name_of(place: Place) -> str:
    """A place's name in short: of its file, or of its database."""
    return place.stem if isinstance(place, Path) else place.database or ""


def make_engine(place: Place, *, connections: int = 8, prompt: bool = False) -> sa.Engine:
    """An engine; nothing is connected yet.

    Args:
        connections: most of them at once, on PostgreSQL.
        prompt: for transactions that requests wait for, which one thread makes and tries again.

    Raises:
        StoreError: the driver of PostgreSQL is not installed.
    """
    if isinstance(place, Path):
        engine = sa.create_engine(f"sqlite:///{place}", **_FOR_ALL)
        sa.event.listen(engine, "connect", _prepare_prompt if prompt else _prepare)
        return engine
    settings = {
        "application_name": "wye",
        # A lock that is held longer than this is held by somebody who is gone.
        "options": f"-c lock_timeout={_PATIENCE_MS} -c statement_timeout={6 * _PATIENCE_MS} "
        f"-c idle_in_transaction_session_timeout={6 * _PATIENCE_MS}",
        "connect_timeout": _CONNECT_SECONDS,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": _PATIENCE_MS,
    }
    try:
        engine = sa.create_engine(
            place,
            **_FOR_ALL,
            isolation_level="READ COMMITTED",
            pool_size=1 if prompt else connections,
            max_overflow=0,
            pool_timeout=_PATIENCE_MS / 1000,
            # Who tries again finds out by itself, one round trip earlier.
            pool_pre_ping=not prompt,
            connect_args={
                name: value for name, value in settings.items() if name not in place.query
            },
        )
    except ImportError as error:
        raise StoreError(
            f"PostgreSQL needs its driver ({error}): pip install 'wye[postgresql]'"
        ) from error
    sa.event.listen(engine, "connect", _take_any_text)
    sa.event.listen(engine, "handle_error", _leave_who_only_reads)
    return engine


def place_of_engine(engine: sa.Engine) -> Place:
    """Where an engine's store is."""
    if engine.dialect.name == "sqlite":
        return Path(engine.url.database or "")
    return engine.url


def exclude_others(connection: sa.Connection) -> None:
    """Let nobody else do what begins with this, until the transaction that it begins ends.

    On SQLite the driver opens no transaction for DDL; without one, two gateways that start at once
    would both change the tables, and a killed one would leave them half changed.
    """
    if connection.dialect.name == "sqlite":
        connection.execute(sa.text("BEGIN IMMEDIATE"))
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def keep_log(engine: sa.Engine) -> None:
    """Have a store's file written ahead, which it stays from then on; nothing on PostgreSQL.

    Only for what is known to be a store: the file of another program is to stay as it is.
    """
    if engine.dialect.name != "sqlite":
        return
    deadline = time.monotonic() + _PATIENCE_MS / 1000
    while True:
        try:
            with engine.connect() as connection:
                connection.execute(sa.text("PRAGMA journal_mode=WAL"))
            return
        except sa.exc.OperationalError as error:
            # Of two that change a file at once SQLite lets none wait for the other.
            busy = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


_formats = sa.Table("wye_format", sa.MetaData(), sa.Column("version", sa.Integer, primary_key=True))


def read_format(connection: sa.Connection) -> int:
    """The number of the store's format; 0 where there is none."""
    if connection.dialect.name == "sqlite":
        return int(connection.execute(sa.text("PRAGMA user_version")).scalar_one())
    if not sa.inspect(connection).has_table(_formats.name):
        return 0
    return int(connection.execute(sa.select(_formats.c.version)).scalar_one())


def write_format(connection: sa.Connection, version: int) -> None:
    """Set the number of the store's format."""
    if connection.dialect.name == "sqlite":
        connection.execute(sa.text(f"PRAGMA user_version={version}"))
        return
    _formats.create(connection, checkfirst=True)
    connection.execute(sa.delete(_formats))
    connection.execute(sa.insert(_formats).values(version=version))


def foreign_tables(connection: sa.Connection, ours: Collection[str]) -> list[str]:
    """Tables of others in what holds no store: in a file any, in a database those of our names."""
    found = sa.inspect(connection).get_table_names()
    return sorted(found if connection.dialect.name == "sqlite" else set(found) & set(ours))


def lock_in_order(
    connection: sa.Connection, column: sa.Column[Any], values: Collection[Any]
) -> None:
    """Lock the rows with these values of `column`, in their order, until the transaction ends.

    So two gateways that change the same rows wait for each other once and never in a circle. SQLite
    lets in one writer at a time anyway.
    """
    if connection.dialect.name == "sqlite" or not values:
        return
    rows = sa.select(column).where(column.in_(sorted(values))).order_by(column).with_for_update()
    connection.execute(rows).all()


_ROWS_AT_ONCE = 32


def insert_if_new(connection: sa.Connection, table: sa.Table) -> sa.Executable:
    """An INSERT that leaves alone a row which is there already, as after a commit in doubt."""
    if connection.dialect.name == "sqlite":
        # What returns something goes to the library many rows at a time; row by row, its thread
        # would hand Python's lock to and fro with the one that serves. Each number of rows makes a
        # statement that is kept, so few numbers are made.
        insert = sa.insert(table).returning(*table.primary_key.columns)
        return insert.execution_options(insertmanyvalues_page_size=_ROWS_AT_ONCE)
    return postgresql.insert(table).on_conflict_do_nothing()


def receipt_of(connection: sa.Connection) -> str | None:
    """What tells later whether a transaction was committed; None where nobody can be in doubt."""
    if connection.dialect.name == "sqlite":
        return None
    query = sa.text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")
    found: str | None = connection.execute(query).scalar()
    return found


def was_committed(connection: sa.Connection, receipt: str) -> bool:
    """Whether the transaction with this receipt was committed.

    Raises:
        OperationalError: it is still being committed; ask again.
    """
    query = sa.text("SELECT pg_xact_status(CAST(:receipt AS xid8))")
    try:
        state = connection.execute(query, {"receipt": receipt}).scalar()
    except sa.exc.DataError:
        # A server that has not come so far took over from the one that gave the receipt.
        return False
    if state == "in progress":
        raise sa.exc.OperationalError("pg_xact_status", None, Exception("a commit is under way"))
    return bool(state == "committed")


def is_stores_fault(error: Exception) -> bool:
    """Whether the store cannot be used at present, rather than what it was given stored."""
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError):
        return True
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return isinstance(state, str) and state.startswith(_SERVERS_FAULT)


def details(error: Exception) -> str:
    """Why the store failed, for logs: no statements, but addresses."""
    return str(getattr(error, "orig", None) or error)


def reason(error: Exception) -> str:
    """Why the store failed, in words that clients may see: no addresses, no statements."""
    cause = getattr(error, "orig", None)
    if cause is None:
        return "no connection to the database is free" if _is_timeout(error) else str(error)
    if not hasattr(cause, "diag"):
        return str(cause)
    return cause.diag.message_primary or "the database cannot be reached"


def storable(text: str) -> str:
    """Text that every database takes: what is half a character becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, sa.exc.TimeoutError)


def _prepare(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=5000")


def _prepare_prompt(connection: Any, record: Any) -> None:
    """SQLite moves its log into the file, and waits for the disk to have it, at the end of
    whichever transaction finds the log long. Here that is left to writers whom nobody waits for.
    """
    _prepare(connection, record)
    connection.execute("PRAGMA wal_autocheckpoint=0")


def _take_any_text(connection: Any, _record: Any) -> None:
    """PostgreSQL has no text with NUL in it, nor with half a character; a mark stands for them."""
    from psycopg.types.string import StrDumperUnknown

    class AnyText(StrDumperUnknown):
        def dump(self, obj: str) -> bytes:
            return obj.replace("\0", _UNKNOWN).encode("utf-8", "replace")

    connection.adapters.register_dumper(str, AnyText)


def _leave_who_only_reads(context: sa.ExceptionContext) -> None:
    """Who was made to follow another server keeps its connections, and never writes again."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


# Made once: `json.dumps` would make one for every column of a row.
_STRICT = json.JSONEncoder(allow_nan=False)


def _to_json(value: Any) -> str:
    """JSON that every database reads back: finite numbers, and text without NUL."""
    try:
        text = _STRICT.encode(value)
    except ValueError:
        return _STRICT.encode(_plain(value))
    # PostgreSQL keeps these as they are, and then fails to look into what holds them.
    suspect = "\\u0000" in text or "\\ud" in text
    return json.dumps(_plain(value)) if suspect else text


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value).replace("\0", _UNKNOWN)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Errors are logged; what people ask is not to be in them.
_FOR_ALL: dict[str, Any] = {"json_serializer": _to_json, "hide_parameters": True}

"""The store: every decision and outcome, written in batches by a thread of its own.

`add` never blocks and never fails: records wait in memory and go to the database together, one
transaction every `batch_seconds`. A killed process loses at most what waited. While the store
cannot be written (full disk, a server that is away), records wait up to `max_pending`; beyond that
the oldest are dropped and counted as lost. Serving goes on either way.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from itertools import groupby

from wye.gateway.dialects import (
    Place,
    details,
    insert_if_new,
    is_stores_fault,
    place_of,
    reason,
    shown,
)
from wye.gateway.records import Record
from wye.gateway.schema import connect, row_of
from wye.gateway.telemetry.redaction import Redact, redacted_row

logger = logging.getLogger("wye.gateway")
_BATCH = 1000
_RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class StoreHealth:
    """Whether records reach the disk; `lost` counts those that never will."""

    ok: bool
    lost: int
    pending: int
    error: str | None


class Store:
    """Writer and reader of one store.

    Args:
        place: a SQLite file, made where there is none, or a PostgreSQL database.
        batch_seconds: longest time a record waits before it is written.
        max_pending: most records that wait while the store cannot be written.
        connections: see `wye.gateway.dialects.make_engine`.
        redact: applied to the texts of a record before it is written.

    Raises:
        StoreError: the store cannot be opened at the start.
    """

    def __init__(
        self,
        place: str | Place,
        *,
        batch_seconds: float = 0.05,
        max_pending: int = 10_000,
        connections: int = 8,
        redact: Redact | None = None,
    ) -> None:
        self.place = place_of(place)
        self.engine = connect(self.place, connections=connections)
        self._batch_seconds = batch_seconds
        self._max_pending = max_pending
        self._redact = redact
        self._pending: deque[Record] = deque()
        self._changed = threading.Condition()
        self._added = 0
        self._settled = 0
        self._lost = 0
        self._error: str | None = None
        self._hurry = False
        self._closing = False
        self._attempts = 0
        self._thread = threading.Thread(target=self._run, name="wye-store", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Take a record to be written soon. Never blocks."""
        with self._changed:
            if self._closing:
                self._lost += 1
                return
            self._pending.append(record)
            self._added += 1
            self._drop(len(self._pending) - self._max_pending)
            # The writer needs no waking for what comes while it waits for company.
            if len(self._pending) in (1, _BATCH):
                self._changed.notify_all()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything added so far is on disk; False when it could not be written.

        Blocks: call it from a thread, never from the event loop.
        """
        with self._changed:
            goal, attempts = self._added, self._attempts
            if self._settled >= goal and self._error is None:
                return True
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    self._settled >= goal
                    or (self._error is not None and self._attempts > attempts)
                    or not self._thread.is_alive()
                ),
                timeout,
            )
            return self._settled >= goal and self._error is None

    def health(self) -> StoreHealth:
        """Whether records reach the disk."""
        with self._changed:
            alive = self._thread.is_alive()
            error = self._error or (None if alive or self._closing else "the writer has stopped")
            return StoreHealth(error is None, self._lost, len(self._pending), error)

    def close(self) -> None:
        """Write what waits, then let go of the file."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            if self._pending:
                logger.error(
                    "%d records could not be written to %s and are lost: %s",
                    len(self._pending), shown(self.place), self._error,
                )  # fmt: skip
                self._drop(len(self._pending))
        self.engine.dispose()

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            left, error = self._write(batch)
            with self._changed:
                self._attempts += 1
                self._settled += len(batch) - len(left)
                self._pending.extendleft(reversed(left))
                self._drop(len(self._pending) - self._max_pending)
                self._report(error)
                self._hurry = self._hurry and bool(self._pending) and error is None
                self._changed.notify_all()
                if self._closing and (error is not None or not self._pending):
                    return

    def _next_batch(self) -> list[Record]:
        """Wait for records, and a little longer for company; take them off the queue."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            if not self._closing:
                self._changed.wait_for(
                    lambda: self._hurry or self._closing or len(self._pending) >= _BATCH,
                    self._batch_seconds if self._error is None else _RETRY_SECONDS,
                )
            return [self._pending.popleft() for _ in range(min(_BATCH, len(self._pending)))]

    def _write(self, batch: list[Record]) -> tuple[list[Record], str | None]:
        """Write a batch in one transaction; what is left of it, and why it could not be written."""
        if not batch:
            return [], None
        try:
            self._insert(batch)
        except Exception as error:
            if is_stores_fault(error):
                logger.debug("the store %s: %s", shown(self.place), details(error))
                return batch, reason(error)
            logger.exception("a batch of %d records is refused; writing them singly", len(batch))
            return self._write_singly(batch)
        return [], None

    def _write_singly(self, batch: list[Record]) -> tuple[list[Record], str | None]:
        """Save what can be saved of a batch in which some record cannot be stored at all."""
        for index, record in enumerate(batch):
            try:
                self._insert([record])
            except Exception as error:
                if is_stores_fault(error):
                    return batch[index:], reason(error)
                logger.exception("a %s cannot be stored and is lost", type(record).__name__)
                with self._changed:
                    self._lost += 1
        return [], None

    def _insert(self, batch: list[Record]) -> None:
        rows = sorted((row_of(record) for record in batch), key=lambda pair: pair[0].name)
        if self._redact is not None:
            rows = [(table, redacted_row(row, self._redact)) for table, row in rows]
        with self.engine.begin() as connection:
            for table, group in groupby(rows, key=lambda pair: pair[0]):
                connection.execute(insert_if_new(connection, table), [row for _, row in group])

    def _report(self, error: str | None) -> None:
        """Say once when the store stops working and once when it works again."""
        if error is not None and self._error is None:
            logger.error("the store %s cannot be written: %s", shown(self.place), error)
        elif error is None and self._error is not None:
            logger.warning("the store %s is written again", shown(self.place))
        self._error = error

    def _drop(self, count: int) -> None:
        """Give up the oldest `count` waiting records."""
        for _ in range(max(0, count)):
            self._pending.popleft()
            self._lost += 1
            self._settled += 1

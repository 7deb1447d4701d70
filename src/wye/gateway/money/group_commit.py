"""Group commit: what many requests ask of the database at once goes there in one transaction.

A thread takes everything that waits, runs it in one transaction and tells everybody; what comes
meanwhile waits for the next. So a transaction costs a lone request no more than usual, and under
load its cost is shared. Nothing waits on purpose.

Work comes in two kinds. Who *asks* waits for the result and gets the error where there is none. Who
*tells* goes on: it is kept and tried again until it is written, before anything that is asked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from wye.errors import WyeError

logger = logging.getLogger("wye.gateway")
Item = TypeVar("Item")
Result = TypeVar("Result")
_TRIES = 3
_RETRY_SECONDS = 1.0
_CROWD = 10_000


class LedgerError(WyeError):
    """The store cannot be written at present."""


@dataclass(frozen=True)
class Handler(Generic[Item, Result]):
    """What is done with items of one kind.

    Attributes:
        apply: does all items on a connection, within a transaction; one result for each.
        undo: takes a result back that nobody waited for; tells, must not ask.
        merge: fewer items with the same effect, for when many wait.
    """

    apply: Callable[[sa.Connection, Sequence[Item]], Sequence[Result]]
    undo: Callable[[Result], None] | None = None
    merge: Callable[[Sequence[Item]], list[Item]] | None = None


@dataclass(frozen=True)
class _Asked:
    handler: Handler[Any, Any]
    item: Any
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class GroupCommit:
    """Runs handlers' work on an engine in shared transactions.

    The thread starts with the first work.

    Args:
        engine: see `wye.gateway.schema.prompt_engine`; disposed of at the end.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._asked: list[_Asked] = []
        self._told: dict[Handler[Any, Any], list[Any]] = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self._error: str | None = None
        self._tick: tuple[float, Handler[None, None]] | None = None
        self._next_tick = 0.0

    @property
    def error(self) -> str | None:
        """Why the last transaction failed; None when it did not."""
        return self._error

    @property
    def waiting(self) -> int:
        """How much that was told is not written yet."""
        with self._changed:
            return sum(len(items) for items in self._told.values())

    async def ask(self, handler: Handler[Item, Result], item: Item) -> Result:
        """What the handler makes of the item, once that is committed.

        Raises:
            LedgerError: it could not be committed.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(handler, item, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise LedgerError("the gateway is stopping")
            self._asked.append(asked)
            self._wake()
        result: Result = await asked.future
        return result

    def tell(self, handler: Handler[Item, Any], item: Item) -> None:
        """Have the item written soon. Never blocks."""
        with self._changed:
            items = self._told.setdefault(handler, [])
            items.append(item)
            if handler.merge is not None and len(items) > _CROWD:
                self._told[handler] = handler.merge(items)
            self._wake()

    def every(self, seconds: float, handler: Handler[None, None]) -> None:
        """Tell `handler` so often from here on."""
        with self._changed:
            self._tick = (seconds, handler)
            self._next_tick = time.monotonic() + seconds
            self._wake()

    def close(self) -> None:
        """Write what was told, then stop; what cannot be written is logged."""
        with self._changed:
            self._closing = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()
        left = self.waiting
        if left:
            logger.error("%d entries of the ledger could not be written: %s", left, self._error)
        self._engine.dispose()

    def _wake(self) -> None:
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="wye-ledger", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            told, asked = self._next()
            results, error = self._commit(told, asked)
            with self._changed:
                if error is not None and self._error is None:
                    logger.error("the ledger cannot be written: %s", error)
                elif error is None and self._error is not None:
                    logger.warning("the ledger is written again")
                self._error = str(error) if error is not None else None
                if error is not None:
                    for handler, items in told.items():
                        self._told[handler] = items + self._told.get(handler, [])
            self._deliver(asked, results, error)
            with self._changed:
                idle = not self._asked and (not self._told or error is not None)
                if self._closing and idle:
                    return

    def _next(self) -> tuple[dict[Handler[Any, Any], list[Any]], list[_Asked]]:
        """Wait for work; after a failure what was told waits a moment for better times."""
        with self._changed:
            while not (self._asked or self._closing):
                wait = self._next_tick - time.monotonic() if self._tick else None
                if wait is not None and wait <= 0:
                    break
                if self._told:
                    if self._error is None:
                        break
                    wait = min(_RETRY_SECONDS, wait if wait is not None else _RETRY_SECONDS)
                if not self._changed.wait(wait) and self._told:
                    break
            if self._tick is not None and time.monotonic() >= self._next_tick:
                seconds, handler = self._tick
                self._next_tick = time.monotonic() + seconds
                self._told.setdefault(handler, [None])
            told, self._told = self._told, {}
            asked, self._asked = self._asked, []
            return told, asked

    def _commit(
        self, told: dict[Handler[Any, Any], list[Any]], asked: list[_Asked]
    ) -> tuple[dict[int, Any], Exception | None]:
        """Everything in one transaction, tried again where others were in the way."""
        if not told and not asked:
            return {}, None
        for tries_left in reversed(range(_TRIES)):
            try:
                with self._engine.begin() as connection:
                    for handler, items in told.items():
                        handler.apply(connection, items)
                    return self._answers(connection, asked), None
            except (sa.exc.IntegrityError, sa.exc.OperationalError) as error:
                if tries_left == 0:
                    return {}, LedgerError(str(error.orig))
            except Exception as error:
                logger.exception("a transaction of the ledger failed")
                return {}, error
        raise AssertionError("the last try returns")

    def _answers(self, connection: sa.Connection, asked: list[_Asked]) -> dict[int, Any]:
        results: dict[int, Any] = {}
        by_handler: dict[Handler[Any, Any], list[int]] = {}
        for place, work in enumerate(asked):
            by_handler.setdefault(work.handler, []).append(place)
        for handler, places in by_handler.items():
            found = handler.apply(connection, [asked[place].item for place in places])
            results |= dict(zip(places, found, strict=True))
        return results

    def _deliver(
        self, asked: list[_Asked], results: dict[int, Any], error: Exception | None
    ) -> None:
        """Tell everybody, with one wake-up of each event loop."""
        loops: dict[asyncio.AbstractEventLoop, list[int]] = {}
        for place, work in enumerate(asked):
            loops.setdefault(work.loop, []).append(place)

        def tell(places: list[int]) -> None:
            for place in places:
                work = asked[place]
                if work.future.done():
                    _take_back(work, results.get(place), error)
                elif error is not None:
                    work.future.set_exception(error)
                else:
                    work.future.set_result(results[place])

        for loop, places in loops.items():
            try:
                loop.call_soon_threadsafe(tell, places)
            except RuntimeError:
                # The loop is closed: nobody waits there.
                for place in places:
                    _take_back(asked[place], results.get(place), error)


def _take_back(work: _Asked, result: Any, error: Exception | None) -> None:
    if error is None and work.handler.undo is not None:
        work.handler.undo(result)

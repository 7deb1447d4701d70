"""Group commit: what many requests ask of the database at once goes there in one transaction.

A thread takes everything that waits, runs it in one transaction and tells everybody; what comes
meanwhile waits for the next. So a transaction costs a lone request no more than usual, and under
load its cost is shared. Nothing waits on purpose.

A transaction that may have been committed or not, because the database went away in the middle, is
asked after before anything else is done (`wye.gateway.money.transactions`).

Work comes in two kinds. Who *asks* waits for the result and gets the error where there is none. Who
*tells* goes on: it is kept and tried again until it is written, before anything that is asked.

What cannot be done at all must not keep others from being served: where a transaction fails for
another reason than the store's, each of its items is tried on its own.
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
from wye.gateway.dialects import STORE_ERRORS, details, is_stores_fault, lock_in_order, reason
from wye.gateway.money.transactions import InDoubtError, committed, run
from wye.gateway.schema import accounts

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
        key_of: id of the key whose account an item changes, which is locked before all is done.
    """

    apply: Callable[[sa.Connection, Sequence[Item]], Sequence[Result]]
    undo: Callable[[Result], None] | None = None
    merge: Callable[[Sequence[Item]], list[Item]] | None = None
    key_of: Callable[[Item], str] | None = None


@dataclass(frozen=True)
class _Refused:
    """An item that cannot be done, however often it is tried."""

    error: Exception


@dataclass(frozen=True)
class _Asked:
    handler: Handler[Any, Any]
    item: Any
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


Told = dict[Handler[Any, Any], list[Any]]


@dataclass(frozen=True)
class _Doubt:
    """A transaction that may have been committed or not."""

    receipt: str
    told: Told
    asked: list[_Asked]
    results: dict[int, Any]


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
        self._told: Told = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self._error: str | None = None
        self._doubt: _Doubt | None = None
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
            told = [self._told] + ([self._doubt.told] if self._doubt else [])
            return sum(len(items) for waiting in told for items in waiting.values())

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
        try:
            result: Result = await asked.future
        except asyncio.CancelledError:
            if not asked.future.cancelled() and asked.future.exception() is None:
                # It was done at the moment in which nobody waited any more.
                _take_back(asked, asked.future.result())
            raise
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
                    logger.error("the ledger cannot be written: %s", str(error))
                elif error is None and self._error is not None:
                    logger.warning("the ledger is written again")
                self._error = str(error) if error is not None else None
                if error is not None and (self._doubt is None or self._doubt.told is not told):
                    self._put_back(told)
            self._deliver(asked, results, error)
            with self._changed:
                idle = not self._asked and (not self._work_waits() or error is not None)
                if self._closing and idle:
                    return

    def _next(self) -> tuple[Told, list[_Asked]]:
        """Wait for work; after a failure what was told waits a moment for better times."""
        with self._changed:
            while not (self._asked or self._closing):
                wait = self._next_tick - time.monotonic() if self._tick else None
                if wait is not None and wait <= 0:
                    break
                if self._work_waits():
                    if self._error is None:
                        break
                    wait = min(_RETRY_SECONDS, wait if wait is not None else _RETRY_SECONDS)
                if not self._changed.wait(wait) and self._work_waits():
                    break
            if self._tick is not None and time.monotonic() >= self._next_tick:
                seconds, handler = self._tick
                self._next_tick = time.monotonic() + seconds
                self._told.setdefault(handler, [None])
            told, self._told = self._told, {}
            asked, self._asked = self._asked, []
            return told, asked

    def _work_waits(self) -> bool:
        return bool(self._told) or self._doubt is not None

    def _put_back(self, told: Told) -> None:
        for handler, items in told.items():
            self._told[handler] = items + self._told.get(handler, [])

    def _commit(self, told: Told, asked: list[_Asked]) -> tuple[dict[int, Any], Exception | None]:
        """Everything in one transaction, tried again where others were in the way."""
        for tries_left in reversed(range(_TRIES)):
            try:
                self._settle_doubt()
                if not told and not asked:
                    return {}, None
                return run(self._engine, lambda c: self._do(c, told, asked)), None
            except InDoubtError as error:
                logger.error("the store went away during a commit: %s", details(error.cause))
                with self._changed:
                    self._doubt = _Doubt(error.receipt, told, asked, error.result)
                return {}, LedgerError(reason(error.cause))
            except STORE_ERRORS as error:
                others = isinstance(error, sa.exc.IntegrityError) or is_stores_fault(error)
                if tries_left and others:
                    continue
                logger.debug("a transaction of the ledger failed", exc_info=True)
                cause = LedgerError(reason(error))
                if is_stores_fault(error):
                    return {}, cause
                return self._refuse(told, asked, cause)
            except Exception as error:
                logger.debug("a transaction of the ledger failed", exc_info=True)
                return self._refuse(told, asked, error)
        raise AssertionError("the last try returns")

    def _refuse(
        self, told: Told, asked: list[_Asked], cause: Exception
    ) -> tuple[dict[int, Any], Exception | None]:
        """Give up the one item that there is, or do one after the other."""
        if sum(map(len, told.values())) + len(asked) > 1:
            return self._singly(told, asked)
        for items in told.values():
            logger.error("the ledger cannot take %r, which is lost", items, exc_info=cause)
        if asked:
            logger.error("the ledger cannot do what was asked", exc_info=cause)
        return dict.fromkeys(range(len(asked)), _Refused(cause)), None

    def _singly(self, told: Told, asked: list[_Asked]) -> tuple[dict[int, Any], Exception | None]:
        """Each item in a transaction of its own; what is done is taken out of `told`."""
        for handler in tuple(told):
            while told[handler]:
                one = {handler: told[handler][:1]}
                _, error = self._commit(one, [])
                if error is None or (self._doubt is not None and self._doubt.told is one):
                    del told[handler][0]
                if error is not None:
                    return {}, error
            del told[handler]
        results: dict[int, Any] = {}
        for place, work in enumerate(asked):
            found, error = self._commit({}, [work])
            if error is not None:
                return results, error
            results[place] = found[0]
        return results, None

    def _settle_doubt(self) -> None:
        """Find out what became of the transaction in doubt, if there is one."""
        doubt = self._doubt
        if doubt is None:
            return
        done = committed(self._engine, doubt.receipt)
        with self._changed:
            self._doubt = None
            if not done:
                self._put_back(doubt.told)
        for place, work in enumerate(doubt.asked):
            # They were told that it failed.
            if done:
                _take_back(work, doubt.results[place])

    def _do(self, connection: sa.Connection, told: Told, asked: list[_Asked]) -> dict[int, Any]:
        work = [(handler, item) for handler, items in told.items() for item in items]
        work += [(one.handler, one.item) for one in asked]
        locked = {handler.key_of(item) for handler, item in work if handler.key_of is not None}
        lock_in_order(connection, accounts.c.key_id, locked)
        for handler, items in told.items():
            handler.apply(connection, items)
        return self._answers(connection, asked)

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
        failed = _Refused(error or LedgerError("nothing was done"))
        loops: dict[asyncio.AbstractEventLoop, list[int]] = {}
        for place, work in enumerate(asked):
            loops.setdefault(work.loop, []).append(place)

        def tell(places: list[int]) -> None:
            for place in places:
                work = asked[place]
                result = results.get(place, failed)
                if work.future.done():
                    _take_back(work, result)
                elif isinstance(result, _Refused):
                    work.future.set_exception(result.error)
                else:
                    work.future.set_result(result)

        for loop, places in loops.items():
            try:
                loop.call_soon_threadsafe(tell, places)
            except RuntimeError:
                # The loop is closed: nobody waits there.
                for place in places:
                    _take_back(asked[place], results.get(place, failed))


def _take_back(work: _Asked, result: Any) -> None:
    if not isinstance(result, _Refused) and work.handler.undo is not None:
        work.handler.undo(result)

"""The ledger of one running gateway: reserve before a call, settle after it.

`Books` says what happens in the database; here it happens for many requests at a time
(`group_commit`), under a lease, from an event loop that never waits for a disk.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from wye.gateway.dialects import STORE_ERRORS, details
from wye.gateway.money.books import Books, Left, Order, Reservation, Spend, merged
from wye.gateway.money.group_commit import GroupCommit, Handler
from wye.gateway.money.lease import Lease

logger = logging.getLogger("wye.gateway")
_BEATS_A_LEASE = 3
_MOST_REMEMBERED = 10_000


class Ledger:
    """Reserves and settles for one gateway.

    Args:
        group: runs the transactions.
        lease_seconds: see `Lease`.
        session_seconds: a session that is silent for so long is forgotten.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        group: GroupCommit,
        *,
        lease_seconds: float = 30.0,
        session_seconds: float = 30 * 86400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._group = group
        self._lease = Lease(lease_seconds, clock)
        self._books = Books(self._lease.id, clock)
        self._session_seconds = session_seconds
        self._held = False
        self._seen: OrderedDict[tuple[str, str | None], tuple[float, Left]] = OrderedDict()
        self._reserve = Handler(
            self._apply_reserve, undo=self._give_back, key_of=lambda order: order.key_id
        )
        self._settle = Handler(self._books.settle, key_of=lambda pair: pair[0].key_id)
        self._book = Handler(self._books.book, merge=merged, key_of=lambda spend: spend.key_id)
        self._look = Handler(self._apply_look)

    async def reserve(self, order: Order) -> Reservation | Left:
        """Set money aside; what is left of each budget where it does not fit.

        Raises:
            LedgerError: the store cannot be written.
        """
        return await self._group.ask(self._reserve, order)

    async def left(self, order: Order, *, within: float = 0.0) -> Left:
        """What is left of each budget of an order's key and session.

        Args:
            within: seconds for which an earlier answer will do.

        Raises:
            LedgerError: the store cannot be read.
        """
        known = self.remembered(order, within=within)
        if known is not None:
            return known
        left = await self._group.ask(self._look, order)
        self._seen[order.key_id, order.session] = (time.monotonic(), left)
        while len(self._seen) > _MOST_REMEMBERED:
            self._seen.popitem(last=False)
        return left

    def remembered(self, order: Order, *, within: float) -> Left | None:
        """What `left` said no more than so many seconds ago, if it did."""
        known = self._seen.get((order.key_id, order.session))
        if known is None or time.monotonic() - known[0] > within:
            return None
        return known[1]

    def settle(self, reservation: Reservation, spent: int) -> None:
        """Say what a request did cost, in nanodollars; kept until it is written."""
        self._group.tell(self._settle, (reservation, spent))

    def book(self, spend: Spend) -> None:
        """Book what was spent without a reservation; kept until it is written."""
        self._group.tell(self._book, spend)

    def recover(self, engine: sa.Engine) -> int:
        """Count as spent what gateways that are gone had reserved; how many reservations.

        Raises:
            DBAPIError, TimeoutError: the store cannot be written.
        """
        with engine.begin() as connection:
            return self._take_over(connection)

    def close(self, engine: sa.Engine) -> None:
        """Give the lease up; call it when everything is written."""
        self._lease.forget()
        if not self._held:
            return
        try:
            with engine.begin() as connection:
                self._lease.give_up(connection)
        except STORE_ERRORS as error:
            logger.error("the lease cannot be given up and will lapse: %s", details(error))

    def _apply_reserve(
        self, connection: sa.Connection, orders: Sequence[Order]
    ) -> list[Reservation | Left]:
        if not self._held:
            self._lease.renew(connection)
        results = self._books.reserve(connection, orders)
        if not self._held:
            # A transaction that fails after this leaves a beat that puts the lease there anyway.
            self._held = True
            self._group.every(self._lease.seconds / _BEATS_A_LEASE, Handler(self._beat))
        return results

    def _beat(self, connection: sa.Connection, items: Sequence[None]) -> list[None]:
        self._lease.renew(connection)
        self._take_over(connection)
        self._books.forget(connection, self._session_seconds)
        return [None] * len(items)

    def _take_over(self, connection: sa.Connection) -> int:
        self._lease.take_from_the_dead(connection)
        found = self._books.lapse(connection)
        if found:
            logger.warning(
                "%d reservations of gateways that are gone count as spent at their full amount",
                found,
            )
        return found

    def _apply_look(self, connection: sa.Connection, orders: Sequence[Order]) -> list[Left]:
        return [self._books.left(connection, order) for order in orders]

    def _give_back(self, result: Reservation | Left) -> None:
        if isinstance(result, Reservation):
            self.settle(result, 0)

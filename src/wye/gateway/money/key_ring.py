"""The keys that a running gateway has met, no older than a moment.

A key is read from the store when it is first presented and again when what is known of it is older
than `fresh_seconds`; requests that wait for the same key share one read. So a key that is revoked
or changed anywhere is refused or changed everywhere within that time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict

from wye.gateway.dialects import STORE_ERRORS, details
from wye.gateway.money.keys import MARK, Key, KeyBook, digest_of

logger = logging.getLogger("wye.gateway")
_MOST_REMEMBERED = 10_000


class KeyRing:
    """Looks up keys without blocking the event loop.

    Args:
        book: where keys are.
        required: whether requests need a key even while the store has none.
        fresh_seconds: longest time for which an answer is taken from memory.

    Raises:
        DBAPIError, TimeoutError: the store cannot be read.
    """

    def __init__(self, book: KeyBook, *, required: bool, fresh_seconds: float) -> None:
        self.book = book
        self._fresh = fresh_seconds
        self._required = required or book.any()
        self._checked = time.monotonic()
        self._known: OrderedDict[str, tuple[float, Key]] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Key | None]] = {}
        self._in_trouble = False

    async def required(self, given: bytes = b"") -> bool:
        """Whether requests need a key: as configured, or since the store has had one.

        Args:
            given: the key of a request. One that may be of the store's first has the store asked at
                once, so that its limits hold, and its spend is its own, from its first request on.
        """
        old = time.monotonic() - self._checked >= self._fresh
        if not self._required and (old or given.startswith(MARK.encode())):
            self._checked = time.monotonic()
            try:
                self._required = await asyncio.to_thread(self.book.any)
            except STORE_ERRORS as error:
                logger.error("the store cannot be asked for keys: %s", details(error))
        return self._required

    async def find(self, secret: str) -> Key | None:
        """The key with this secret, revoked and expired ones too; None where there is none.

        Raises:
            DBAPIError, TimeoutError: the store cannot be read, and the key is not known.
        """
        digest = digest_of(secret)
        known = self._known.get(digest)
        if known is not None and time.monotonic() - known[0] < self._fresh:
            return known[1]
        reading = self._reading.get(digest)
        if reading is None:
            reading = asyncio.create_task(self._read(secret, digest))
            self._reading[digest] = reading
            reading.add_done_callback(lambda _: self._reading.pop(digest, None))
        # A client that leaves must not take the others' read with it.
        return await asyncio.shield(reading)

    def _say(self, error: str | None) -> None:
        """Say once when the store cannot be asked and once when it can again."""
        if error is not None and not self._in_trouble:
            logger.error("the store cannot be asked for keys, memory serves: %s", error)
        elif error is None and self._in_trouble:
            logger.warning("the store is asked for keys again")
        self._in_trouble = error is not None

    async def _read(self, secret: str, digest: str) -> Key | None:
        began = time.monotonic()
        try:
            key = await asyncio.to_thread(self.book.find, secret)
        except STORE_ERRORS as error:
            if digest not in self._known:
                raise
            self._say(details(error))
            key = self._known[digest][1]
            # Asked again when this is as old as an answer may be, not by every request.
            self._known[digest] = (time.monotonic(), key)
            return key
        self._say(None)
        self._known.pop(digest, None)
        if key is not None:
            self._known[digest] = (began, key)
            while len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        return key

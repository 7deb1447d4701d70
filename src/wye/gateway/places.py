"""Room for so many requests at once, with a bounded queue before it; closed while stopping.

A gateway that takes in more than it can carry answers everybody late. Beyond its places and its
queue it refuses at once, and says when to come back; while it stops it lets in nobody.

Source: B. Beyer and others, "Site Reliability Engineering" (2016), chapters 21 and 22 (load
shedding, queue management).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from wye.gateway.errors import ApiError

_LONGEST_WAIT = 60.0
_NEW_SHARE = 0.1


class Places:
    """Places for requests, given in order of arrival. Used from one event loop only.

    Args:
        limit: most requests at once; None for any number.
        queue: most requests that wait for a place.
        queue_seconds: longest time that one waits.
    """

    def __init__(self, limit: int | None, queue: int, queue_seconds: float) -> None:
        self.running = 0
        self.draining = False
        self._limit = limit
        self._queue = queue
        self._queue_seconds = queue_seconds
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 1.0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    async def enter(self) -> float:
        """Take a place, after waiting where there is none; the time to hand to `leave`.

        Raises:
            ApiError: 429 where there is no room, 503 while the gateway stops.
        """
        if self.draining:
            raise _draining()
        if self._limit is None or (self.running < self._limit and not self._waiting):
            self.running += 1
            return time.monotonic()
        if len(self._waiting) >= self._queue:
            raise self._full()
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self._queue_seconds):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                # The place came in the same moment as the end of the wait.
                self._pass_on()
            elif place in self._waiting:
                self._waiting.remove(place)
            if isinstance(error, TimeoutError):
                raise self._full() from None
            raise
        return time.monotonic()

    def leave(self, entered: float) -> None:
        """Give the place to the next in the queue."""
        held = time.monotonic() - entered
        self._mean_seconds += _NEW_SHARE * (held - self._mean_seconds)
        self._pass_on()

    def drain(self) -> None:
        """Let nobody in any more, those in the queue included."""
        self.draining = True
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(_draining())

    def _pass_on(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1

    def _full(self) -> ApiError:
        # Little's law: those before it, at the pace at which places came free lately.
        ahead = (len(self._waiting) + 1) * self._mean_seconds / max(self._limit or 1, 1)
        seconds = math.ceil(min(max(ahead, 1.0), _LONGEST_WAIT))
        return ApiError(
            429,
            f"the gateway is full: {self.running} requests are being answered and "
            f"{len(self._waiting)} wait; try again in {seconds} s",
            type="rate_limit_error",
            code="overloaded",
            headers={"retry-after": str(seconds)},
        )


def _draining() -> ApiError:
    return ApiError(
        503,
        "the gateway is stopping and takes no new requests; try again in a moment",
        type="server_error",
        code="draining",
        headers={"retry-after": "1", "connection": "close"},
    )

"""A limit to the time in which a connection must bring the headers of a request.

uvicorn closes a connection that is idle after an answer, and waits without end for one that never
sends a whole head, so that a few bytes a minute would hold it open. The clock runs from the moment
a connection opens, or from the first byte of its next request, until the head is there.
"""

from __future__ import annotations

import asyncio
from typing import Any


def with_header_clock(protocol: Any, seconds: float) -> Any:
    """The protocol class of uvicorn, closing connections whose headers are late.

    Args:
        protocol: uvicorn's class for HTTP, of h11 or of httptools.
        seconds: from the first byte of a head to its last.
    """

    class HeaderClock(protocol):  # type: ignore[misc]
        """A connection that does not wait for headers for ever."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._late = self.loop.call_later(seconds, self._too_late)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._between_requests():
                self._stop_clock()
            elif self._late is None:
                self._late = self.loop.call_later(seconds, self._too_late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def _between_requests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _stop_clock(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _too_late(self) -> None:
            self._late = None
            if self._between_requests():
                self.transport.close()

    return HeaderClock

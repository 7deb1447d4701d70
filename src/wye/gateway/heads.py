"""Limits to the head of a request: the time in which it must come, and its size.

uvicorn closes a connection that is idle after an answer, and waits without end for one that never
sends a whole head, so that a few bytes a minute would hold it open; of its two parsers the faster
takes heads of any size. The clock runs from the moment a connection opens, or from the first byte
of its next request, until the head is there.
"""

from __future__ import annotations

import asyncio
from typing import Any


def with_head_limits(protocol: Any, *, seconds: float, most_bytes: int) -> Any:
    """The protocol class of uvicorn, closing connections whose heads are late or large.

    Args:
        protocol: uvicorn's class for HTTP, of h11 or of httptools.
        seconds: from the first byte of a head to its last.
        most_bytes: of a head; a connection that sends more without an end gets 400.
    """

    class LimitedHeads(protocol):  # type: ignore[misc]
        """A connection that waits for no head for ever, and keeps none that has no end."""

        _late: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._late = self.loop.call_later(seconds, self._too_late)

        def data_received(self, data: bytes) -> None:
            self._head += len(data)
            super().data_received(data)
            if not self._between_requests():
                self._head = 0
                self._stop_clock()
            elif self._head > most_bytes:
                if not self.transport.is_closing():
                    self.send_400_response(f"The head is longer than {most_bytes} bytes.")
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

    return LimitedHeads

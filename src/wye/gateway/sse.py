"""Server-sent events, both ways: bytes from an upstream to events, events to bytes for a client.

Source: WHATWG HTML, "Server-sent events", 9.2.5 (parsing) and 9.2.6 (interpretation).
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator
from dataclasses import dataclass

DONE = "[DONE]"
_EVENT_CHARACTERS = 8 * 1024 * 1024


class EventTooLongError(ValueError):
    """An event grows without an end; nobody who means well sends one of this length."""


@dataclass(frozen=True)
class Event:
    """One event: its `data` (lines joined by newline) and its `event` name ('' when unnamed)."""

    data: str
    event: str = ""


def encode(event: Event) -> bytes:
    """The event on the wire.

    >>> encode(Event("hello"))
    b'data: hello\\n\\n'
    """
    name = f"event: {event.event}\n" if event.event else ""
    lines = event.data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return (name + "".join(f"data: {line}\n" for line in lines) + "\n").encode()


class Decoder:
    """Incremental parser: feed it bytes as they come, get the events that are complete.

    Invalid UTF-8 becomes U+FFFD, as the standard asks. An event that the stream never finished with
    a blank line is dropped, as the standard asks.

    Args:
        limit: most characters of one event.
    """

    def __init__(self, limit: int = _EVENT_CHARACTERS) -> None:
        self._limit = limit
        self._held = 0
        self._text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._buffer = ""
        self._at_start = True
        self._data: list[str] = []
        self._event = ""

    def feed(self, chunk: bytes) -> list[Event]:
        """Events completed by `chunk`.

        Raises:
            EventTooLongError: one is longer than the limit.
        """
        text = self._text.decode(chunk)
        if self._at_start and text:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        self._buffer += text
        events = []
        while (line := self._next_line()) is not None:
            event = self._take(line)
            if event is not None:
                events.append(event)
        if self._held + len(self._buffer) > self._limit:
            raise EventTooLongError(f"an event is longer than {self._limit} characters")
        return events

    def _next_line(self) -> str | None:
        """The next whole line; a final carriage return waits, since a newline may follow it."""
        newline, carriage = self._buffer.find("\n"), self._buffer.find("\r")
        if carriage != -1 and (newline == -1 or carriage < newline):
            if carriage == len(self._buffer) - 1:
                return None
            width = 2 if newline == carriage + 1 else 1
            line, self._buffer = self._buffer[:carriage], self._buffer[carriage + width :]
            return line
        if newline == -1:
            return None
        line, self._buffer = self._buffer[:newline], self._buffer[newline + 1 :]
        return line

    def _take(self, line: str) -> Event | None:
        if not line:
            event = Event("\n".join(self._data), self._event) if self._data else None
            self._data, self._event, self._held = [], "", 0
            return event
        self._held += len(line)
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        return None


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Events of a byte stream, as soon as each is complete.

    Raises:
        EventTooLongError: one does not end.
    """
    decoder = Decoder()
    async for chunk in chunks:
        for event in decoder.feed(chunk):
            yield event

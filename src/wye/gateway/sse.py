"""Server-sent events, both ways: bytes from an upstream to events, events to bytes for a client.

Source: WHATWG HTML, "Server-sent events", 9.2.5 (parsing) and 9.2.6 (interpretation).
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

DONE = "[DONE]"
_EVENT_CHARACTERS = 8 * 1024 * 1024
_LINE_END = re.compile(r"\r\n|\r|\n")


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
    a blank line is dropped, as the standard asks. The work is linear in the bytes, however they are
    cut.

    Args:
        limit: most characters held of an event that is not complete.
    """

    def __init__(self, limit: int = _EVENT_CHARACTERS) -> None:
        self._limit = limit
        self._text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = True
        self._after_return = False
        self._line = io.StringIO()
        self._data: list[str] = []
        self._event = ""
        self._held = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """Events completed by `chunk`.

        Raises:
            EventTooLongError: one is longer than the limit.
        """
        text = self._text.decode(chunk)
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if text and self._after_return:
            # The second half of a pair whose first half has ended the line.
            self._after_return = False
            text = text.removeprefix("\n")
        if text:
            self._after_return = text[-1] == "\r"
        first, *rest = _LINE_END.split(text)
        self._hold(first)
        events = []
        for following in rest:
            event = self._take(self._line.getvalue())
            self._line = io.StringIO()
            if event is not None:
                events.append(event)
            self._hold(following)
        if self._held > self._limit:
            raise EventTooLongError(f"an event is longer than {self._limit} characters")
        return events

    def _hold(self, part: str) -> None:
        if part:
            self._line.write(part)
            self._held += len(part)

    def _take(self, line: str) -> Event | None:
        if not line:
            event = Event("\n".join(self._data), self._event) if self._data else None
            self._data, self._event, self._held = [], "", 0
            return event
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

"""An upstream that costs next to nothing: fixed answers, whole or in pieces, over HTTP/1.1.

    python bench/gateway/stub_upstream.py [--piece-seconds 0.05] [--pieces 20]

Prints its port. A hand-written protocol, so that what is measured is the gateway before it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from typing import cast

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAMS = re.compile(rb'"stream": *true')
_USAGE = {"prompt_tokens": 24, "completion_tokens": 16, "total_tokens": 40}


def _answer() -> bytes:
    message = {"role": "assistant", "content": "Sixteen tokens of an answer that says nothing."}
    body = json.dumps(
        {
            "id": "chatcmpl-stub",
            "object": "chat.completion",
            "created": 0,
            "model": "stub",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _USAGE,
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _chunk(text: str) -> bytes:
    data = f"data: {text}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _piece(delta: dict[str, str], finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps(
        {
            "id": "chatcmpl-stub",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "stub",
            "choices": [choice],
        }
    )


_WHOLE = _answer()
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_WORD = _chunk(_piece({"content": " word"}))
_END = (
    _chunk(_piece({}, "stop"))
    + _chunk(json.dumps({**json.loads(_piece({})), "choices": [], "usage": _USAGE}))
    + _chunk("[DONE]")
    + b"0\r\n\r\n"
)


class Stub(asyncio.Protocol):
    """One connection: requests in, answers out."""

    piece_seconds = 0.05
    pieces = 20

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            if _STREAMS.search(body):
                self._transport.write(_HEAD + _WORD)
                self._next(self.pieces - 1)
            else:
                self._transport.write(_WHOLE)

    def _next(self, left: int) -> None:
        loop = asyncio.get_running_loop()
        if left > 0:
            loop.call_later(self.piece_seconds, self._send, left)
        else:
            self._transport.write(_END)

    def _send(self, left: int) -> None:
        if not self._transport.is_closing():
            self._transport.write(_WORD)
            self._next(left - 1)


async def main() -> None:
    """Listen until killed."""
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--piece-seconds", type=float, default=Stub.piece_seconds)
    parser.add_argument("--pieces", type=int, default=Stub.pieces)
    given = parser.parse_args()
    Stub.piece_seconds, Stub.pieces = given.piece_seconds, given.pieces
    uvloop.run(main())

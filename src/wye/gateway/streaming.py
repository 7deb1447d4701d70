"""Answers to a client that may leave: watched while it waits, and streamed as server-sent events.

Both ends of the connection are watched at once, since only the receiving side tells that the client
is gone; the work for it is cancelled then. What is over sooner than somebody could be missed is not
watched at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wye.gateway import sse
from wye.gateway.exchange import AnswerStream
from wye.gateway.patience import Patience
from wye.gateway.surfaces import surface_of
from wye.gateway.upstream import UpstreamError

logger = logging.getLogger("wye.gateway")
T = TypeVar("T")
_UNWATCHED_SECONDS = 0.05


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads the answer."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves.

    Raises:
        ClientGoneError: it left.
    """
    loop = asyncio.get_running_loop()
    patience, gone, over = Patience(), False, False
    watching: asyncio.Task[None] | None = None

    async def watch() -> None:
        nonlocal gone
        try:
            await _disconnected(receive)
        finally:
            if not over:
                gone = True
                patience.expire()

    def begin() -> None:
        nonlocal watching
        watching = loop.create_task(watch())

    timer = loop.call_later(_UNWATCHED_SECONDS, begin)
    try:
        with patience.until(math.inf):
            return await work
    except TimeoutError:
        if not gone:
            raise
        raise ClientGoneError from None
    finally:
        over = True
        timer.cancel()
        if watching is not None:
            watching.cancel()


class EventStream(Response):
    """A stream of answer pieces as server-sent events.

    Args:
        answer: the pieces; closed by this response however it ends.
        headers: of the response.
    """

    media_type = "text/event-stream"

    def __init__(self, answer: AnswerStream, *, headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self._answer = answer
        self._chat = answer.exchange.chat
        self._surface = surface_of(self._chat.body)
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces until they end or the client leaves."""
        try:
            await unless_gone(receive, self._send(send))
        except ClientGoneError:
            return
        finally:
            await self._answer.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with contextlib.aclosing(self._answer.pieces()) as pieces:
                async for piece in pieces:
                    event = self._surface.event(piece, self._chat)
                    if event is not None:
                        await send(_message(event))
            if self._surface.end_marker is not None:
                await send(_message(sse.Event(self._surface.end_marker)))
        except UpstreamError as error:
            await send(_message(self._surface.broken(str(error), "upstream_broke_off")))
        except OSError:
            return
        except Exception:
            logger.exception("a stream ended in a defect of the gateway")
            await send(_message(self._surface.broken("the gateway failed", "internal_error")))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _message(event: sse.Event) -> dict[str, Any]:
    return {"type": "http.response.body", "body": sse.encode(event), "more_body": True}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue

"""What a request passes after its key and before anything is read of it: room and time.

ASGI middleware. Requests that ask for an answer need a place (`wye.gateway.places`); refused ones
are answered before their body is read. A body must come within `body_seconds`, and a client must
take each piece of its answer within `send_seconds`, so that neither holds a place for long.
"""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wye.gateway.config import Server
from wye.gateway.errors import ApiError
from wye.gateway.metrics import Metrics
from wye.gateway.patience import Patience
from wye.gateway.places import Places
from wye.gateway.surfaces import surface_at

_NO_PLACE_NEEDED = {"/v1/feedback"}


class NotTakenError(OSError):
    """A client that reads nothing, which is as good as gone."""


class Door:
    """Gives each request a place and its time.

    Args:
        places: see `Places`.
        server: the limits of time.
        metrics: count those refused.
    """

    def __init__(self, app: ASGIApp, places: Places, server: Server, metrics: Metrics) -> None:
        self._app = app
        self._places = places
        self._server = server
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on once there is room, or answer why there is none."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        timed = (scope, receive, send)
        if scope["method"] != "POST" or not _asks(scope["path"]):
            await self._serve(*timed)
            return
        try:
            entered = await self._places.enter()
        except ApiError as error:
            self._metrics.rejected.labels(str(error.status)).inc()
            self._metrics.shed.labels(str(error.code)).inc()
            body = surface_at(scope["path"]).error(error)
            await JSONResponse(body, error.status, headers=error.headers)(scope, receive, send)
            return
        try:
            await self._serve(*timed)
        finally:
            self._places.leave(entered)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        reading, sending = Patience(), Patience()
        try:
            await self._app(scope, self._in_time(receive, reading), self._taken(send, sending))
        except (ClientDisconnect, NotTakenError):
            # Nobody is there to be answered, and nothing went wrong here.
            return
        finally:
            reading.close()
            sending.close()

    def _in_time(self, receive: Receive, patience: Patience) -> Receive:
        seconds = self._server.body_seconds
        deadline: float | None = None
        whole = False

        async def receive_in_time() -> Message:
            nonlocal deadline, whole
            if whole:
                return await receive()
            if deadline is None:
                deadline = asyncio.get_running_loop().time() + seconds
            try:
                with patience.until(deadline):
                    message = await receive()
            except TimeoutError:
                raise ApiError(
                    408,
                    f"the body did not come within {seconds:g} s (body_seconds)",
                    code="body_timeout",
                    headers={"connection": "close"},
                ) from None
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        return receive_in_time

    def _taken(self, send: Send, patience: Patience) -> Send:
        seconds = self._server.send_seconds
        clock = asyncio.get_running_loop().time
        streams = False

        async def send_in_time(message: Message) -> None:
            nonlocal streams
            streams = streams or message.get("more_body", False)
            if not streams:
                # An answer in one piece is taken by the server itself, whoever reads it when.
                await send(message)
                return
            try:
                with patience.until(clock() + seconds):
                    await send(message)
            except TimeoutError:
                raise NotTakenError(f"the client took nothing for {seconds:g} s") from None

        return send_in_time


def _asks(path: str) -> bool:
    return path.startswith("/v1/") and path not in _NO_PLACE_NEEDED

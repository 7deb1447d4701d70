"""One line for each request that asks for an answer, in the log `wye.access`.

It tells the decision, the key's name, the target, what was used and what it cost; for a request
that was refused before a decision its status alone. What was asked stands in it only where
`[logs] prompts` says so. What an upstream said of an error never does: upstreams repeat prompts.
"""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wye.gateway.surfaces import SURFACES
from wye.gateway.telemetry.settings import LogsTable
from wye.gateway.telemetry.trace import CURRENT

if TYPE_CHECKING:
    from wye.gateway.exchange import Exchange
    from wye.gateway.records import OutcomeRecord

access = logging.getLogger("wye.access")
_PATHS = frozenset(surface.path for surface in SURFACES.values())
# What is known of the request in hand; filled where a decision ends, told where the response does.
_LINE: ContextVar[dict[str, Any] | None] = ContextVar("wye_access", default=None)


class AccessLog:
    """Reads the line off a request that is over; a witness."""

    def __init__(self, settings: LogsTable) -> None:
        self._prompts = settings.prompts

    def decided(self, exchange: Exchange) -> None:
        """See `Witness`."""

    def ended(self, exchange: Exchange, outcome: OutcomeRecord) -> None:
        """See `Witness`."""
        line = _LINE.get()
        if line is None:
            return
        made, key = exchange.routed.record, exchange.grant.key
        line |= {
            "decision": made.id,
            "key": key.name if key is not None else None,
            "policy": made.policy_name,
            "target": outcome.target,
            "result": outcome.status,
            "faults": [f"{a['target']}:{a['fault']}" for a in outcome.attempts] or None,
            "stream": made.stream,
            "input_tokens": outcome.input_tokens,
            "cached_input_tokens": outcome.cached_input_tokens,
            "output_tokens": outcome.output_tokens,
            "cost_usd": outcome.cost_usd,
            "decision_s": made.router_seconds,
            "first_byte_s": outcome.first_byte_s,
            "finish_reason": outcome.finish_reason,
        }
        if self._prompts:
            line["prompt"] = exchange.chat.text


class Logged:
    """ASGI middleware in front of everything: tells the line when the response has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log it where it asks for an answer."""
        if scope["type"] != "http" or scope["path"] not in _PATHS:
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        line: dict[str, Any] = {"method": scope["method"], "path": scope["path"], "status": None}
        _LINE.set(line)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                line["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            line["latency_s"] = time.monotonic() - started
            trace = CURRENT.get()
            if trace is not None:
                line["trace"] = f"{trace.trace_id:032x}"
            access.info("request", extra={"wye": line})

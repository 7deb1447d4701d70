"""Traces on their way out: noted on the event loop, made into spans and sent by a thread.

What a request pays is its notes (`wye.gateway.telemetry.trace`). The thread makes spans of them and
hands them to OpenTelemetry's exporter. Where the collector is slow or gone, traces wait up to
`max_pending`; beyond that the oldest are dropped and counted. Serving goes on either way.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wye.gateway.config import ConfigError, Target
from wye.gateway.surfaces import SURFACES
from wye.gateway.telemetry.redaction import Redact
from wye.gateway.telemetry.settings import TelemetryTable
from wye.gateway.telemetry.trace import CURRENT, Trace, begin

if TYPE_CHECKING:
    from wye.gateway.exchange import Exchange
    from wye.gateway.records import OutcomeRecord

logger = logging.getLogger("wye.gateway")
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_BATCH = 256
_WAIT_SECONDS = 1.0
_LAST_SECONDS = 5.0
_PATHS = frozenset(surface.path for surface in SURFACES.values())


class TraceExport:
    """Takes traces and sends them; a witness, so that it notes decisions and outcomes.

    Args:
        settings: see `TelemetryTable`.
        targets: every deployment of every target, by its name.
        redact: applied to every text that goes along.

    Attributes:
        sent, dropped: traces so far.

    Raises:
        ConfigError: the extra `otel` is not installed.
    """

    def __init__(
        self, settings: TelemetryTable, targets: Mapping[str, Target], redact: Redact
    ) -> None:
        if not _installed():
            raise ConfigError(
                "[telemetry] needs OpenTelemetry, which is not installed; run "
                "`pip install 'wye[otel]'`, or take the table out of wye.toml"
            )
        self.settings = settings
        self.sent = 0
        self.dropped = 0
        self._targets = targets
        self._redact = redact
        self._waiting: deque[Trace] = deque()
        self._changed = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="wye-traces", daemon=True)
        self._thread.start()

    def decided(self, exchange: Exchange) -> None:
        """See `Witness`."""
        trace = CURRENT.get()
        if trace is not None and trace.sampled:
            trace.decided(exchange, content=self.settings.content)
            exchange.trace = trace

    def ended(self, exchange: Exchange, outcome: OutcomeRecord) -> None:
        """See `Witness`."""
        if exchange.trace is not None:
            exchange.trace.answered(exchange, outcome)

    def take(self, trace: Trace) -> None:
        """Send a trace soon. Never blocks."""
        while len(self._waiting) >= self.settings.max_pending:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(trace)
        if len(self._waiting) >= _BATCH:
            self._changed.set()

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        self._closing = True
        self._changed.set()
        self._thread.join(_LAST_SECONDS)

    def _run(self) -> None:
        exporter, maker = self._tools()
        while not (self._closing and not self._waiting):
            self._changed.wait(_WAIT_SECONDS)
            self._changed.clear()
            while self._waiting:
                self._send(exporter, maker)
        exporter.shutdown()

    def _send(self, exporter: Any, maker: Any) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        traces = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        try:
            spans = [span for trace in traces for span in maker.spans(trace)]
            result = exporter.export(spans)
        except Exception:
            logger.exception("%d traces could not be made into spans", len(traces))
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self.sent += len(traces)
        else:
            self.dropped += len(traces)

    def _tools(self) -> tuple[Any, Any]:
        from importlib.metadata import version

        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        from wye.gateway.telemetry.spans import SpanMaker

        release = version("wye")
        resource = Resource.create(
            {"service.name": self.settings.service, "service.version": release}
        )
        exporter = OTLPSpanExporter(
            endpoint=self.settings.traces_url,
            headers=self.settings.headers,
            timeout=_LAST_SECONDS,
        )
        return exporter, SpanMaker(resource, release, self._targets, self._redact)


def _installed() -> bool:
    try:
        return all(find_spec(name) is not None for name in _NEEDED)
    except ModuleNotFoundError:
        return False


class Traced:
    """ASGI middleware in front of everything: begins and ends the trace of a request.

    Args:
        export: takes traces that are over.
    """

    def __init__(self, app: ASGIApp, export: TraceExport) -> None:
        self._app = app
        self._export = export

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, within a trace where it asks for an answer."""
        if scope["type"] != "http" or scope["path"] not in _PATHS:
            await self._app(scope, receive, send)
            return
        share = self._export.settings.sample
        trace = begin(Headers(scope=scope), scope["method"], scope["path"], share)
        CURRENT.set(trace)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            if trace.sampled:
                trace.end()
                self._export.take(trace)

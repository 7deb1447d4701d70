"""All that looks on while requests are served, put together from the configuration.

Each part is there only where its table of `wye.toml` asks for it, and imports nothing otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware

from wye.gateway.telemetry.redaction import redactor

if TYPE_CHECKING:
    from wye.gateway.config import Config
    from wye.gateway.dispatch import Dispatcher
    from wye.gateway.metrics import Metrics
    from wye.gateway.store import Store
    from wye.gateway.telemetry.exporting import TraceExport
    from wye.gateway.telemetry.redaction import Redact
    from wye.gateway.watch.guarding import RequestGuard
    from wye.gateway.watch.vectors import SharedEmbedder
    from wye.gateway.watch.watching import Watch
    from wye.gateway.witness import Witness
    from wye.query.base import QueryRouter


@dataclass(frozen=True)
class Onlookers:
    """Who is told of requests.

    Attributes:
        witnesses: told of each decision and outcome.
        redact: takes out of text what must not leave.
        traces: see `TraceExport`; None where `[telemetry]` is not there.
        access: whether each request has a line in the log.
        watch: see `Watch`; None where `[watch]` is not there.
    """

    witnesses: tuple[Witness, ...]
    redact: Redact
    traces: TraceExport | None
    access: bool
    watch: Watch | None = None

    @property
    def middleware(self) -> list[Middleware]:
        """What stands in front of every route."""
        stack = []
        if self.traces is not None:
            from wye.gateway.telemetry.exporting import Traced

            stack.append(Middleware(Traced, export=self.traces))
        if self.access:
            from wye.gateway.telemetry.access import Logged

            stack.append(Middleware(Logged))
        return stack

    def start(self, dispatcher: Dispatcher) -> None:
        """Begin what asks of its own accord; called on the event loop."""
        if self.watch is not None and self.watch.canaries is not None:
            self.watch.canaries.start(dispatcher)

    async def stop(self) -> None:
        """End it."""
        if self.watch is not None and self.watch.canaries is not None:
            await self.watch.canaries.stop()

    def close(self) -> None:
        """Look at and send what waits. Blocks."""
        if self.watch is not None:
            self.watch.close()
        if self.traces is not None:
            self.traces.close()


def watched(
    onlookers: Onlookers,
    config: Config,
    store: Store,
    metrics: Metrics,
    *,
    router: QueryRouter | None,
    shared: SharedEmbedder | None,
    guard: RequestGuard | None,
) -> Onlookers:
    """The onlookers, with the watch where `[watch]` asks for it."""
    if config.watch is None:
        return onlookers
    from wye.gateway.watch.alarms import Alarms
    from wye.gateway.watch.watching import Watch

    watch = Watch(
        config.watch,
        store,
        Alarms(store, metrics, config.watch.webhook),
        shared=shared,
        reference=getattr(router, "references_", None) if shared is not None else None,
        guard=guard,
        targets=tuple(target.name for target in config.targets),
        seed=config.router.seed,
    )
    return replace(onlookers, witnesses=(*onlookers.witnesses, watch), watch=watch)


def look_on(config: Config) -> Onlookers:
    """The onlookers that a configuration asks for.

    Raises:
        ConfigError: one needs a package that is not installed.
    """
    redact = redactor(config.logs.redact if config.logs is not None else ())
    witnesses: list[Any] = []
    traces = None
    if config.logs is not None and config.logs.access:
        from wye.gateway.telemetry.access import AccessLog

        witnesses.append(AccessLog(config.logs))
    if config.telemetry is not None:
        from wye.gateway.telemetry.exporting import TraceExport

        deployments = {one.name: one for target in config.targets for one in target.served_by}
        traces = TraceExport(config.telemetry, deployments, redact)
        witnesses.append(traces)
    access = config.logs is not None and config.logs.access
    return Onlookers(tuple(witnesses), redact, traces, access)

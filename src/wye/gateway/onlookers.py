"""All that looks on while requests are served, put together from the configuration.

Each part is there only where its table of `wye.toml` asks for it, and imports nothing otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware

from wye.gateway.telemetry.redaction import redactor

if TYPE_CHECKING:
    from wye.gateway.config import Config
    from wye.gateway.telemetry.exporting import TraceExport
    from wye.gateway.telemetry.redaction import Redact
    from wye.gateway.witness import Witness


@dataclass(frozen=True)
class Onlookers:
    """Who is told of requests.

    Attributes:
        witnesses: told of each decision and outcome.
        redact: takes out of text what must not leave.
        traces: see `TraceExport`; None where `[telemetry]` is not there.
        access: whether each request has a line in the log.
    """

    witnesses: tuple[Witness, ...]
    redact: Redact
    traces: TraceExport | None
    access: bool

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

    def close(self) -> None:
        """Send what waits. Blocks."""
        if self.traces is not None:
            self.traces.close()


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

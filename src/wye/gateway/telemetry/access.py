"""One line for each request, in the log `wye.access`.

It tells the decision, the key's name, the target, what was used and what it cost. What was asked
stands in it only where `[logs] prompts` says so, and what an upstream said of an error never does:
upstreams repeat prompts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from wye.gateway.telemetry.redaction import Redact
from wye.gateway.telemetry.settings import LogsTable
from wye.gateway.telemetry.trace import CURRENT

if TYPE_CHECKING:
    from wye.gateway.exchange import Exchange
    from wye.gateway.records import OutcomeRecord

access = logging.getLogger("wye.access")


class AccessLog:
    """Writes the line when a request is over."""

    def __init__(self, settings: LogsTable, redact: Redact) -> None:
        self._prompts = settings.prompts
        self._redact = redact

    def decided(self, exchange: Exchange) -> None:
        """See `Witness`."""

    def ended(self, exchange: Exchange, outcome: OutcomeRecord) -> None:
        """See `Witness`."""
        if not access.isEnabledFor(logging.INFO):
            return
        made = exchange.routed.record
        key = exchange.grant.key
        fields: dict[str, Any] = {
            "decision": made.id,
            "key": key.name if key is not None else None,
            "policy": made.policy_name,
            "requested": self._redact(made.requested[:200]),
            "target": outcome.target,
            "status": outcome.http_status,
            "result": outcome.status,
            "faults": [f"{a['target']}:{a['fault']}" for a in outcome.attempts],
            "stream": made.stream,
            "input_tokens": outcome.input_tokens,
            "cached_input_tokens": outcome.cached_input_tokens,
            "output_tokens": outcome.output_tokens,
            "cost_usd": outcome.cost_usd,
            "latency_s": outcome.latency_s,
            "first_byte_s": outcome.first_byte_s,
            "decision_s": made.router_seconds,
            "finish_reason": outcome.finish_reason,
        }
        trace = CURRENT.get()
        if trace is not None:
            fields["trace"] = f"{trace.trace_id:032x}"
        if self._prompts:
            fields["prompt"] = self._redact(exchange.chat.text)
        access.info("%s", made.id, extra={"wye": fields})

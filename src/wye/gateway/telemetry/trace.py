"""What a request leaves behind for its trace: ids and moments, noted on the way.

    traceparent of the client -> server span -> decision span
                                            -> a span for each call upstream -> its traceparent

Nothing here imports OpenTelemetry: spans are made of these notes in a thread
(`wye.gateway.telemetry.exporting`). Source: W3C Trace Context, version 00.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.gateway.exchange import Exchange
    from wye.gateway.records import DecisionRecord, OutcomeRecord

_PARENT = re.compile(r"^(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$")
_SAMPLED = 1
# Seeded by the system; ids must differ, nothing rests on their being hard to guess.
_ids = random.Random()
# Parameters of a request that the conventions name and that tell nothing of its content.
_PARAMETERS = (
    "temperature", "top_p", "top_k", "seed", "n", "frequency_penalty", "presence_penalty",
)  # fmt: skip


@dataclass(slots=True)
class Attempt:
    """One call to one deployment; `ended` is 0 while it runs, `fault` None where it answered."""

    span_id: int
    deployment: str
    trace: Trace
    started: int
    ended: int = 0
    fault: str | None = None

    def failed(self, fault: str) -> None:
        """It ended without an answer; what the request's end has told of it already stands."""
        if not self.ended:
            self.ended, self.fault = self.trace.now(), fault


@dataclass(slots=True)
class Trace:
    """One request. Moments are nanoseconds since 1970, ids numbers; 0 for no parent.

    All moments but the first are counted from it by a clock that never jumps.
    """

    trace_id: int
    span_id: int
    parent_id: int
    sampled: bool
    state: str
    method: str
    path: str
    host: str
    started: int = field(default_factory=time.time_ns)
    base: int = field(default_factory=time.monotonic_ns)
    ended: int = 0
    status: int = 0
    decision_id: int = 0
    decision_started: int = 0
    decision_ended: int = 0
    key: str | None = None
    decision: DecisionRecord | None = None
    outcome: OutcomeRecord | None = None
    operation: str = "chat"
    parameters: dict[str, Any] = field(default_factory=dict)
    served_as: str | None = None
    content: Any = None
    attempts: list[Attempt] = field(default_factory=list)

    def end(self) -> None:
        """The response was sent, or will never be."""
        self.ended = self.now()

    def now(self) -> int:
        """The present moment."""
        return self.started + time.monotonic_ns() - self.base

    def decided(self, exchange: Exchange, *, content: bool) -> None:
        """Note a decision."""
        body = exchange.chat.body
        self.decision_id = new_span_id()
        self.decision_ended = self.now()
        self.decision_started = self.started + int(exchange.started * 1e9) - self.base
        self.decision = exchange.routed.record
        self.key = exchange.grant.key.name if exchange.grant.key is not None else None
        self.operation = "embeddings" if self.path.endswith("/embeddings") else "chat"
        self.parameters = {name: body[name] for name in _PARAMETERS if name in body}
        self.parameters |= {"max_tokens": exchange.chat.max_output, "stream": exchange.chat.stream}
        if content:
            self.content = body.get("messages") or body.get("input")

    def answered(self, exchange: Exchange, outcome: OutcomeRecord) -> None:
        """Note what came of it; the call that answered, or still runs, ends with it."""
        now = self.now()
        self.outcome = outcome
        self.served_as = exchange.glance.model if exchange.glance is not None else None
        answered_by = exchange.call.deployment.name if exchange.call is not None else None
        for attempt in self.attempts:
            if attempt.fault == "cancelled" and outcome.status == "ok":
                attempt.fault = "hedged"
            if not attempt.ended:
                attempt.ended = now
                if attempt.deployment != answered_by:
                    attempt.fault = "hedged"
                elif outcome.status != "ok":
                    attempt.fault = "cut" if outcome.status == "error" else "cancelled"


CURRENT: ContextVar[Trace | None] = ContextVar("wye_trace", default=None)
OUTGOING: ContextVar[Mapping[str, str]] = ContextVar("wye_outgoing", default={})  # noqa: B039


def new_span_id() -> int:
    """Eight random bytes as a number, never 0."""
    return _ids.getrandbits(64) or 1


def begin(headers: Mapping[str, str], method: str, path: str, share: float) -> Trace:
    """The trace of a request that comes in: the client's, or a fresh one.

    Args:
        headers: of the request, names in lower case.
        share: of fresh traces, how many are kept; by the lower 8 bytes of the id, so that others
            who sample by it choose the same ones.
    """
    found = _PARENT.match(headers.get("traceparent", "").strip())
    span_id = new_span_id()
    host = headers.get("host", "")
    if found and int(found[1], 16) and int(found[2], 16):
        sampled = bool(int(found[3], 16) & _SAMPLED)
        known = (int(found[1], 16), span_id, int(found[2], 16), sampled)
        return Trace(*known, headers.get("tracestate", "")[:512], method, path, host)
    trace_id = _ids.getrandbits(128) or 1
    sampled = (trace_id & (1 << 64) - 1) < share * (1 << 64)
    return Trace(trace_id, span_id, 0, sampled, "", method, path, host)


def begin_attempt(trace: Trace, deployment: str) -> Attempt:
    """Note that a call begins, and have its `traceparent` sent along."""
    span_id = new_span_id()
    flags = _SAMPLED if trace.sampled else 0
    outgoing = {"traceparent": f"00-{trace.trace_id:032x}-{span_id:016x}-{flags:02x}"}
    if trace.state:
        outgoing["tracestate"] = trace.state
    OUTGOING.set(outgoing)
    begun = Attempt(span_id, deployment, trace, trace.now())
    trace.attempts.append(begun)
    return begun

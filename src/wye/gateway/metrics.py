"""Prometheus metrics of one gateway, in a registry of its own."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from wye.gateway.breaker import State
from wye.gateway.lane import Circuit
from wye.gateway.records import OutcomeRecord
from wye.gateway.store import StoreHealth
from wye.gateway.upstream import Fault

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DECISION_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1)


class Metrics:
    """What is counted, and how it is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "wye_requests", "Chat requests by policy, target and result.",
            ("policy", "target", "status"), registry=self.registry,
        )  # fmt: skip
        self.rejected = Counter(
            "wye_rejected_requests", "Requests refused before a decision, by HTTP status.",
            ("code",), registry=self.registry,
        )  # fmt: skip
        self.cost = Counter(
            "wye_cost_usd", "USD spent, by target.", ("target",), registry=self.registry
        )
        self.tokens = Counter(
            "wye_tokens",
            "Tokens by target and direction.",
            ("target", "direction"),
            registry=self.registry,
        )
        self.failures = Counter(
            "wye_upstream_failures", "Attempts that a target failed, by kind.",
            ("target", "fault"), registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "wye_requests_in_flight", "Chat requests being served.", registry=self.registry
        )
        self.latency = Histogram(
            "wye_request_seconds", "Seconds from request to last byte.",
            ("target",), buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.first_byte = Histogram(
            "wye_first_byte_seconds", "Seconds from request to the first piece of the answer.",
            ("target",), buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.decision = Histogram(
            "wye_decision_seconds", "Seconds that deciding took.",
            buckets=_DECISION_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.circuit = Gauge(
            "wye_circuit_open", "1 when the target is left alone, 0.5 half open, 0 closed.",
            ("target",), registry=self.registry,
        )  # fmt: skip
        self.store_ok = Gauge(
            "wye_store_ok", "1 when records reach the disk.", registry=self.registry
        )
        self.store_pending = Gauge(
            "wye_store_pending", "Records waiting to be written.", registry=self.registry
        )
        self.store_lost = Gauge(
            "wye_store_lost_records", "Records that never reached the disk.", registry=self.registry
        )

    def record(self, policy: str, outcome: OutcomeRecord) -> None:
        """Count what became of a request."""
        target = outcome.target or "none"
        self.requests.labels(policy, target, outcome.status).inc()
        for attempt in outcome.attempts:
            if attempt["fault"] == Fault.HEDGED:
                continue
            self.failures.labels(attempt["target"], attempt["fault"]).inc()
        if outcome.cost_usd is not None:
            self.cost.labels(target).inc(outcome.cost_usd)
        for direction, count in (("in", outcome.input_tokens), ("out", outcome.output_tokens)):
            if count is not None:
                self.tokens.labels(target, direction).inc(count)
        if outcome.latency_s is not None:
            self.latency.labels(target).observe(outcome.latency_s)
        if outcome.first_byte_s is not None:
            self.first_byte.labels(target).observe(outcome.first_byte_s)

    def render(self, breakers: Mapping[str, Circuit], store: StoreHealth) -> bytes:
        """Everything in Prometheus' text format."""
        level = {State.CLOSED: 0.0, State.HALF_OPEN: 0.5, State.OPEN: 1.0}
        for name, breaker in breakers.items():
            self.circuit.labels(name).set(level[breaker.state])
        self.store_ok.set(1 if store.ok else 0)
        self.store_pending.set(store.pending)
        self.store_lost.set(store.lost)
        return generate_latest(self.registry)

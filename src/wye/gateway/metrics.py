"""Prometheus metrics of one gateway, in a registry of its own.

Labels are names that somebody configured (targets, deployments, policies) or words of wye's own, so
that no client can make series. Keys are many, and have series only where `[metrics] keys` asks.
What is read at the moment of asking (queues, circuits, budgets) is in `wye.gateway.gauges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from wye.gateway.records import OutcomeRecord
from wye.gateway.telemetry.settings import MetricsTable
from wye.gateway.upstream import Fault

OTHERS = "(others)"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST_SECONDS = (0.01, 0.025, *_SECONDS)
_DECISION_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1)


class _Series(dict[Any, Any]):
    """The series of a metric by their labels; `labels` checks them and takes a lock each time."""

    def __init__(self, metric: Counter | Histogram) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: str | tuple[str, ...]) -> Any:
        series = self._metric.labels(*((labels,) if isinstance(labels, str) else labels))
        self[labels] = series
        return series


class Metrics:
    """What is counted.

    Args:
        settings: see `MetricsTable`.

    Attributes:
        exposed: what a scrape gets; of several workers their sums.
    """

    def __init__(self, settings: MetricsTable | None = None) -> None:
        self.settings = settings or MetricsTable()
        self.registry = self.exposed = CollectorRegistry()
        self._named_keys: set[str] = set()
        self.requests = self._counter(
            "wye_requests", "Requests by policy, target and result.", "policy", "target", "status"
        )
        self.rejected = self._counter(
            "wye_rejected_requests", "Requests refused before a decision, by HTTP status.", "code"
        )
        self.shed = self._counter(
            "wye_shed_requests", "Requests refused since the gateway is full or stopping.", "reason"
        )
        self.guarded = self._counter(
            "wye_guarded_requests", "Requests that the guard flagged.", "verdict", "action"
        )
        self.cost = self._counter("wye_cost_usd", "USD spent, by target.", "target")
        self.baseline = self._counter(
            "wye_baseline_cost_usd",
            "USD that the same requests are expected to have cost at the baseline target.",
        )
        self.tokens = self._counter(
            "wye_tokens", "Tokens by target and direction (in, out).", "target", "direction"
        )
        self.token_parts = self._counter(
            "wye_token_parts",
            "Tokens within those of wye_tokens: cached_input and cache_write are input, "
            "reasoning is output.",
            "target", "part",
        )  # fmt: skip
        self.failures = self._counter(
            "wye_upstream_failures", "Calls that a target failed, by kind.", "target", "fault"
        )
        self.retries = self._counter(
            "wye_retries", "Further calls to a target for the same request.", "target"
        )
        self.fallbacks = self._counter(
            "wye_fallbacks", "Requests that went on to a target after another failed.", "target"
        )
        self.hedges = self._counter(
            "wye_hedges", "Calls that were not waited for, since another answered.", "target"
        )
        self.answer_cache = self._counter(
            "wye_answer_cache", "Look-ups in a cache of answers.", "cache", "result"
        )
        self.alarms = self._counter("wye_alarms", "Alarms that the watch raised.", "kind")
        self.key_requests = self._counter("wye_key_requests", "Requests by key.", "key")
        self.key_cost = self._counter("wye_key_cost_usd", "USD spent by key.", "key")
        self.key_tokens = self._counter("wye_key_tokens", "Tokens by key.", "key", "direction")
        # Of several workers those that live are added up.
        self.in_flight = Gauge(
            "wye_requests_in_flight", "Requests being served.",
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.latency = self._histogram(
            "wye_request_seconds", "Seconds from request to last byte.", _SECONDS, "target"
        )
        self.first_byte = self._histogram(
            "wye_first_byte_seconds",
            "Seconds from request to the first piece of the answer, its first token in a stream.",
            _FIRST_SECONDS, "target",
        )  # fmt: skip
        self.decision = self._histogram(
            "wye_decision_seconds", "Seconds that deciding took.", _DECISION_SECONDS
        )

        self._requests = _Series(self.requests)
        self._cost = _Series(self.cost)
        self._tokens = _Series(self.tokens)
        self._latency = _Series(self.latency)
        self._first_byte = _Series(self.first_byte)

    def gauge(self, name: str, words: str, *labels: str) -> Gauge:
        """A gauge in this registry."""
        return Gauge(name, words, labels, registry=self.registry)

    def record(self, policy: str, outcome: OutcomeRecord, key: str | None = None) -> None:
        """Count what became of a request."""
        target = outcome.target or "none"
        self._requests[policy, target, outcome.status].inc()
        if outcome.attempts:
            self._attempts(outcome)
        if outcome.cost_usd is not None:
            self._cost[target].inc(outcome.cost_usd)
        if outcome.baseline_usd is not None:
            self.baseline.inc(outcome.baseline_usd)
        for direction, count in (("in", outcome.input_tokens), ("out", outcome.output_tokens)):
            if count is not None:
                self._tokens[target, direction].inc(count)
        for part, count in (
            ("cached_input", outcome.cached_input_tokens),
            ("cache_write", outcome.cache_write_tokens),
            ("reasoning", outcome.reasoning_tokens),
        ):
            if count:
                self.token_parts.labels(target, part).inc(count)
        if outcome.latency_s is not None:
            self._latency[target].observe(outcome.latency_s)
        if outcome.first_byte_s is not None:
            self._first_byte[target].observe(outcome.first_byte_s)
        if key is not None and self.settings.keys:
            self._key(self.name_of(key), outcome)

    def name_of(self, key: str) -> str:
        """The label of a key: its name, for as many keys as `max_keys` allows."""
        if key not in self._named_keys:
            if len(self._named_keys) >= self.settings.max_keys:
                return OTHERS
            self._named_keys.add(key)
        return key

    def _key(self, key: str, outcome: OutcomeRecord) -> None:
        self.key_requests.labels(key).inc()
        self.key_cost.labels(key).inc(outcome.cost_usd or 0.0)
        self.key_tokens.labels(key, "in").inc(outcome.input_tokens or 0)
        self.key_tokens.labels(key, "out").inc(outcome.output_tokens or 0)

    def _attempts(self, outcome: OutcomeRecord) -> None:
        """Calls that failed, and where the request went after each."""
        called = []
        for attempt in outcome.attempts:
            target = attempt["target"]
            if attempt["fault"] == Fault.HEDGED:
                self.hedges.labels(target).inc()
                continue
            self.failures.labels(target, attempt["fault"]).inc()
            called.append(target)
        if outcome.status == "ok" and outcome.target is not None:
            called.append(outcome.target)
        for before, after in pairwise(called):
            (self.retries if before == after else self.fallbacks).labels(after).inc()

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(name, words, labels, registry=self.registry)

    def _histogram(
        self, name: str, words: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(name, words, labels, buckets=buckets, registry=self.registry)

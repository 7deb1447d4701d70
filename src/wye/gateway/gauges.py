"""Prometheus metrics that are read off the gateway's parts when somebody asks for them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import sqlalchemy as sa
from prometheus_client import generate_latest

from wye.gateway.breaker import State
from wye.gateway.figures import Figures
from wye.gateway.metrics import Metrics
from wye.gateway.money.keys import KeyBook
from wye.gateway.money.nano import dollars
from wye.gateway.watch import alarm_book

if TYPE_CHECKING:
    from wye.gateway.gateway import Gateway

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LEVEL = {State.CLOSED: 0.0, State.HALF_OPEN: 0.5, State.OPEN: 1.0}
_PERIODS = ("day", "month", "total")


class Gauges:
    """Sets and tells every gauge.

    Args:
        metrics: whose registry they join.
    """

    def __init__(self, metrics: Metrics) -> None:
        gauge = metrics.gauge
        self._metrics = metrics
        self._running = gauge("wye_places_running", "Requests that hold a place.")
        self._waiting = gauge("wye_queue_waiting", "Requests that wait for a place.")
        self._circuit = gauge(
            "wye_circuit_open",
            "1 when the target is left alone, 0.5 half open, 0 closed.",
            "target",
        )
        self._deployment = gauge(
            "wye_deployment_circuit_open",
            "1 when the deployment is left alone, 0.5 half open, 0 closed.",
            "target", "deployment",
        )  # fmt: skip
        self._deployment_busy = gauge(
            "wye_deployment_in_flight", "Requests at a deployment.", "target", "deployment"
        )
        self._store_ok = gauge("wye_store_ok", "1 when records reach the disk.")
        self._store_pending = gauge("wye_store_pending", "Records waiting to be written.")
        self._store_lost = gauge("wye_store_lost_records", "Records that never reached the disk.")
        self._alarms = gauge("wye_alarms_open", "Alarms that nobody has acknowledged.", "kind")
        self._traces = gauge("wye_traces", "Traces sent and dropped since the start.", "result")
        self._shadows = gauge(
            "wye_shadow_decisions",
            "Decisions of shadows since the start: made, dropped where too many waited, failed.",
            "result",
        )
        self._shadows_waiting = gauge("wye_shadows_waiting", "Decisions that shadows have to make.")
        self._limit = gauge(
            "wye_key_budget_usd", "Budget of a key, where it has one.", "key", "period"
        )
        self._spent = gauge(
            "wye_key_budget_spent_usd", "What a key has spent and reserved.", "key", "period"
        )

    def render(self, gateway: Gateway, figures: Figures) -> bytes:
        """Everything in Prometheus' text format. Reads the store: call it from a thread."""
        self._running.set(figures.running)
        self._waiting.set(figures.waiting)
        for name, target in figures.targets.items():
            self._circuit.labels(name).set(_LEVEL[target.state])
            for one in target.deployments:
                self._deployment.labels(name, one.name).set(_LEVEL[one.state])
                self._deployment_busy.labels(name, one.name).set(one.in_flight)
        self._store_ok.set(1 if figures.store.ok else 0)
        self._store_pending.set(figures.store.pending)
        self._store_lost.set(figures.store.lost)
        for result, count in figures.traces.items():
            self._traces.labels(result).set(count)
        for result, count in figures.shadows.items():
            self._shadows.labels(result).set(count)
        self._shadows_waiting.set(figures.shadows_waiting)
        # A store that cannot be read leaves these as they were; wye_store_ok tells.
        with suppress(sa.exc.DatabaseError):
            self._from_store(gateway)
        return generate_latest(self._metrics.exposed)

    def _from_store(self, gateway: Gateway) -> None:
        self._alarms.clear()
        counts = alarm_book.count_open(gateway.store.engine)
        for kind in alarm_book.KINDS:
            self._alarms.labels(kind).set(counts.get(kind, 0))
        if self._metrics.settings.keys:
            self._keys(KeyBook(gateway.store.engine))

    def _keys(self, book: KeyBook) -> None:
        """The budgets of the first keys that are good; one that is gone leaves no series."""
        self._limit.clear()
        self._spent.clear()
        good = [key for key in book.list() if key.revoked is None]
        balances = book.balances()
        for key in good[: self._metrics.settings.max_keys]:
            balance = balances[key.id]
            for period in _PERIODS:
                budget = getattr(key.limits, f"budget_{period}")
                if budget is None:
                    continue
                used = getattr(balance, f"{period}_spent") + getattr(balance, f"{period}_reserved")
                self._limit.labels(key.name, period).set(budget)
                self._spent.labels(key.name, period).set(dollars(used))

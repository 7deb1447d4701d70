"""Prometheus metrics of several workers as one scrape.

Counters and histograms are prometheus_client's of several processes: each worker's lie in a file
that is mapped into its memory, so that a killed one loses none, and a scrape at any worker adds all
files up. The files are named after the worker's number instead of its process, so that the worker
that takes a place counts on. Gauges are set at each scrape from what all workers tell
(`wye.gateway.workers.board`), but for loads, of which those of the living are added up.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from wye.gateway.metrics import Metrics

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_EACH_FOR_ITSELF = "all"


def count_in(folder: Path, number: int) -> None:
    """Have what this process counts from here on lie in the folder, at the place of a worker."""
    os.environ.pop(_FOLDER, None)
    making = threading.Lock()
    mapped = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]

    def value(
        typ: str, *given: Any, multiprocess_mode: str = _EACH_FOR_ITSELF, **named: Any
    ) -> Any:
        if typ == "gauge" and multiprocess_mode == _EACH_FOR_ITSELF:
            return values.MutexValue(typ, *given, **named)  # type: ignore[no-untyped-call]
        # The library reads the folder off the environment, and where it stands there for longer
        # it takes every gauge for one of these.
        with making:
            os.environ[_FOLDER] = str(folder)
            try:
                return mapped(typ, *given, multiprocess_mode=multiprocess_mode, **named)
            finally:
                del os.environ[_FOLDER]

    # The library looks its kind of value up here whenever a series is made.
    values.ValueClass = value


def expose_sums(metrics: Metrics, folder: Path) -> None:
    """Have a scrape get what all workers count, and the gauges that this one was told to show."""
    metrics.exposed = CollectorRegistry()
    MultiProcessCollector(metrics.exposed, str(folder))  # type: ignore[no-untyped-call]
    metrics.exposed.register(_Gauges(metrics))


class _Gauges(Collector):
    """The gauges that are set at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry
        self._summed = {family.name for family in metrics.in_flight.describe()}

    def collect(self) -> Iterator[Metric]:
        """Those that no process keeps by itself."""
        for metric in self._registry.collect():
            if metric.type == "gauge" and metric.name not in self._summed:
                yield metric

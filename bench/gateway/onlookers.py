"""What each onlooker costs a request on the event loop, in microseconds.

    python bench/gateway/onlookers.py

Traces, the line of the log, the notes of the watch and the guard, each called as the gateway calls
it, over and over; the best of several rounds, since whatever else runs only adds.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wye.data import load_embedded
from wye.gateway.config import Config
from wye.gateway.gateway import build
from wye.gateway.openai_api import parse_chat
from wye.gateway.records import OutcomeRecord
from wye.gateway.telemetry.exporting import TraceExport
from wye.gateway.telemetry.log_lines import Lines, _Queued
from wye.gateway.telemetry.settings import LogsTable, TelemetryTable
from wye.gateway.telemetry.trace import CURRENT, begin, begin_attempt
from wye.gateway.watch.guarding import RequestGuard
from wye.gateway.watch.settings import GuardTable
from wye.gateway.watch.vectors import sharing
from wye.gateway.witness import Glance
from wye.query import get_router
from wye.query.guarded_query_routing import GuardedRouter
from wye.query.guards import AnyGuard, KnownTokenGuard, SigmoidGuard, VectorClassifier

ROUNDS, TIMES = 7, 2000
ANSWER = {
    "model": "m", "system_fingerprint": "fp",
    "choices": [{"message": {"role": "assistant", "content": "The answer is 42."}}],
}  # fmt: skip


def microseconds(work: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(TIMES):
            work()
        best = min(best, time.perf_counter() - started)
    return best / TIMES * 1e6


async def measure(folder: Path) -> dict[str, float]:
    data = load_embedded()
    router, shared = sharing(get_router("linear").fit(data))
    rules = AnyGuard(guards=(SigmoidGuard(), KnownTokenGuard()))
    fitted = GuardedRouter(VectorClassifier(), rules).fit(data.texts, list(data.datasets))
    file = fitted.save(folder / "guard.safetensors")
    names = [{"name": name, "base_url": "http://127.0.0.1:1"} for name in data.model_names]
    config = Config.model_validate(
        {
            "targets": names,
            "store": {"path": str(folder / "a.db")},
            "watch": {"seconds": 3600},
            "policies": {"quality": {"kind": "quality"}},
        }
    )
    gateway = build(config, router)
    text = data.texts[5]
    chat = parse_chat({"model": "wye", "messages": [{"role": "user", "content": text}]})
    exchange = await gateway.dispatcher.begin(chat, policy="quality", target=None)
    outcome = OutcomeRecord(exchange.decision_id, 0.0, names[0]["name"], "ok", 200, latency_s=1.0)
    exporter = TraceExport(TelemetryTable(max_pending=100), {}, str)
    exporter._waiting = _Nowhere()
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "host": "x"}

    def trace() -> None:
        noted = begin(headers, "POST", "/v1/chat/completions", 1.0)
        CURRENT.set(noted)
        exporter.decided(exchange)
        begin_attempt(noted, "a")
        exporter.ended(exchange, outcome)
        noted.end()
        exporter.take(noted)

    watch = gateway.onlookers.watch
    assert watch is not None

    def watched() -> None:
        glance = Glance()
        glance.take(ANSWER)
        watch.decided(exchange)
        watch.ended(exchange, outcome)

    line = {"method": "POST", "path": "/v1/chat/completions", "status": 200, "target": "a"}
    line |= dict.fromkeys("abcdefghijk", 1.5)
    record = logging.LogRecord("wye.access", 20, "f", 1, "request", (), None)
    record.wye = line
    as_json = Lines(LogsTable(format="json"))
    redacting = Lines(LogsTable(format="json", redact=("email", "phone", "card", "key")))
    access = logging.getLogger("wye.access")
    access.addHandler(_Queued(_Forgetful(1)))
    access.setLevel(logging.INFO)
    access.propagate = False
    alone = RequestGuard(GuardTable(path=file), (), None)
    together = RequestGuard(GuardTable(path=file), (), shared)
    found = {
        "traces: notes of a request": microseconds(trace),
        "watch: notes of a request": microseconds(watched),
        "log: handing over one line": microseconds(lambda: access.info("r", extra={"wye": line})),
        "log: making it, by a thread, as JSON": microseconds(lambda: as_json.format(record)),
        "log: the same through every pattern": microseconds(lambda: redacting.format(record)),
        "guard, embedding by itself": microseconds(lambda: alone.judge(chat)),
        "guard, with the router's embedding": microseconds(lambda: together.judge(chat)),
        "the router's estimate alone": microseconds(lambda: fresh(router, data.texts)),
    }
    await gateway.close()
    return found


class _Forgetful(queue.Queue[Any]):
    """A queue that is always empty."""

    def _put(self, _item: Any) -> None:
        return


class _Nowhere(list[Any]):
    """Takes traces and keeps none, so that the exporting thread has nothing to do."""

    def append(self, _trace: Any) -> None:
        return


def fresh(router: Any, texts: list[str], place: list[int] = [0]) -> None:  # noqa: B006
    place[0] = (place[0] + 1) % len(texts)
    router.estimate([texts[place[0]]])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, cost in asyncio.run(measure(Path(folder))).items():
            print(f"{name:40} {cost:8.1f} us")


if __name__ == "__main__":
    main()

"""Latency of a decision, text to plan: `OMP_NUM_THREADS=1 python bench/query/latency.py`.

Every built-in router, ten models, the static embedder, unseen texts of 20 words, one at a time, one
core. The routers come from the folder that `fit.py --save` wrote (25,000 queries), or are fitted
here on fewer: the references, which are what a decision may have to read, are as many.

Prints for each router the median time of `estimate` and of `route` (text to plan, quality policy)
in milliseconds of CPU and by the clock, the 99th percentile of `route`, `estimate` as a share of
the bar, and the CPU of `estimate` as a multiple of the least that it could take, measured right
after it: the embedder alone, one product of the vector with a `[D, M]` matrix, and one with the
references that the router keeps. Where a method reads neighbours that is 8192 vectors, 8 MB, which
take as long as memory lets them. Routers that learn online also show `select`.

Bars: p50 of CPU <= 1 ms for `estimate` and `select`; for `auto`, the gateway's default, for `route`
as well, and p99 <= 5 ms. Exits with 1 if one is missed.

A router that asks a language model (`routellm-causal` with a `chat_model`) is left out: its time is
that of the language model.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from made import made, unseen

import wye
from wye.embed import get_embedder
from wye.query import get_router
from wye.query.base import QueryRouter
from wye.query.online.base import OnlineRouter
from wye.query.registry import BUILT_IN

BAR, TAIL_BAR = 1.0, 5.0
WORDS = 20
WARM_UP = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routers", nargs="+", default=sorted(BUILT_IN))
    parser.add_argument("--saved", type=Path, help="folder that fit.py --save wrote")
    parser.add_argument("--queries", type=int, default=9000, help="to fit on without --saved")
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1000)
    options = parser.parse_args()
    texts = unseen(options.rounds + WARM_UP, WORDS)
    print(
        f"{'router':24} {'estimate':>9} {'(clock)':>8} {'route':>8} {'(clock)':>8} {'p99':>8} "
        f"{'of the bar':>11} {'least':>8} {'times least':>12}"
    )
    missed: list[str] = []
    data = None if options.saved else made(options.queries, options.models)
    for name in options.routers:
        if data is None:
            router: QueryRouter = wye.load(options.saved / name)
        else:
            router = get_router(name).fit(data)
        cpu, clock = timed(lambda text, r=router: r.estimate([text]), texts)
        routed, waited = timed(lambda text, r=router: r.route([text]), texts)
        least = least_time(texts, options.models, getattr(router, "references_", None))
        cpu_50, route_50, route_99 = p(cpu, 50), p(routed, 50), p(routed, 99)
        late = cpu_50 > BAR or (name == "auto" and (route_50 > BAR or route_99 > TAIL_BAR))
        missed += [name] * late
        print(
            f"{name:24} {cpu_50:9.3f} {p(clock, 50):8.3f} {route_50:8.3f} {p(waited, 50):8.3f} "
            f"{route_99:8.3f} {cpu_50 / BAR:11.1%} {least:8.3f} {cpu_50 / least:12.2f}"
            f"{'  MISS' if late else ''}",
            flush=True,
        )
        if isinstance(router, OnlineRouter):
            chosen, waited = timed(router.select, texts)
            missed += [f"{name} select"] * (p(chosen, 50) > BAR)
            print(f"{'  select':24} {p(chosen, 50):9.3f} {p(waited, 50):8.3f}", flush=True)
    print(f"missed: {', '.join(missed) if missed else 'none'}")
    return 1 if missed else 0


def least_time(texts: list[str], n_models: int, references: np.ndarray | None) -> float:
    """Median milliseconds of CPU of the embedder and the products that nobody can do without."""
    embedder = get_embedder("static")
    matrix = np.zeros((embedder.dim, n_models), np.float32)
    kept = np.zeros((1, embedder.dim), np.float32) if references is None else references

    def products(text: str) -> object:
        vector = embedder.embed([text])[0]
        return vector @ matrix, kept @ vector

    return p(timed(products, texts)[0], 50)


def timed(call: Callable[[str], object], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of CPU and by the clock of a call with each text, the first ones to warm up."""
    took = np.empty((len(texts), 2))
    for i, text in enumerate(texts):
        started, worked = time.perf_counter(), time.thread_time()
        call(text)
        took[i] = time.thread_time() - worked, time.perf_counter() - started
    cpu, clock = took[WARM_UP:].T * 1e3
    return cpu, clock


def p(milliseconds: np.ndarray, percent: float) -> float:
    return float(np.percentile(milliseconds, percent))


if __name__ == "__main__":
    sys.exit(main())

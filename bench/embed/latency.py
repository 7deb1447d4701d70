"""Latency of the embedders on one core: `OMP_NUM_THREADS=1 python bench/embed/latency.py`.

Targets for the static embedder: p50 <= 150 us for a query of 20 words, <= 2 ms for 500 tokens.
Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from wye.embed import get_embedder

SHORT = (
    "please explain how the river system of northern france was shaped by glaciers during the "
    "last great ice age"
)
LONG = " ".join([SHORT] * 23)
TARGETS = {("static", "20 words"): 150.0, ("static", "500 tokens"): 2000.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedders", nargs="+", default=["static", "tfidf"])
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    held = True
    for spec in options.embedders:
        embedder = get_embedder(spec)
        for name, text in (("20 words", SHORT), ("500 tokens", LONG)):
            for _ in range(20):
                embedder.embed([text])
            times = []
            for _ in range(options.rounds):
                started = time.perf_counter()
                embedder.embed([text])
                times.append((time.perf_counter() - started) * 1e6)
            p50, p99 = np.percentile(times, [50, 99])
            target = TARGETS.get((spec, name))
            verdict = "    " if target is None else "pass" if p50 <= target else "MISS"
            held &= verdict != "MISS"
            bound = "" if target is None else f" (target <= {target:g} us)"
            print(f"{verdict}  {spec}, {name}: p50 {p50:.0f} us{bound}, p99 {p99:.0f} us")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

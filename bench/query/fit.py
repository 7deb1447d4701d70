"""Time to fit on 100,000 outcomes, once embedded: `python bench/query/fit.py`.

Three shapes of the same number of outcomes. Target: under 30 s. Exits with 1 if
it is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from latency import made

from wye.embed import CachedEmbedder, get_embedder
from wye.query import get_router

SHAPES = ((11_112, 9), (50_000, 2), (3_334, 30))
TARGET = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--router", default="auto")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes")
    options = parser.parse_args()
    held = True
    with tempfile.TemporaryDirectory() as cache:
        embedder = CachedEmbedder(get_embedder("static"), cache)
        for n_queries, n_models in SHAPES[: options.shapes]:
            data = made(n_queries, n_models)
            embedder.embed(data.texts)
            started, worked = time.perf_counter(), time.process_time()
            get_router(options.router, embedder=embedder).fit(data)
            wall, cpu = time.perf_counter() - started, time.process_time() - worked
            held &= wall <= TARGET
            verdict = "pass" if wall <= TARGET else "MISS"
            shape = f"{n_queries} queries x {n_models} models"
            print(
                f"{verdict}  {options.router} on {shape}: {wall:.1f} s "
                f"(target <= {TARGET:g} s; {cpu:.1f} s of CPU)",
                flush=True,
            )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

"""Time to fit on 250,000 outcomes, once embedded: `OMP_NUM_THREADS=1 python bench/query/fit.py`.

Every built-in router on 25,000 queries x 10 models, one thread. Bar: 60 s of CPU each; and 30 s for
`auto` on 100,000 outcomes in three shapes. Prints seconds of CPU (`time.process_time`, which a busy
machine stretches less than the clock), seconds by the clock, CPU as a share of the bar, and CPU as
a multiple of what `knn` takes, which learns next to nothing: that is embedding lookups, features,
neighbours, cost model and calibration, which all share. Exits with 1 if a bar is missed.

A router that asks a language model (`routellm-causal` with a `chat_model`) is left out: its time is
that of the language model. `--save` keeps the fitted routers for `latency.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from made import made

from wye.data import RoutingData
from wye.embed import CachedEmbedder, get_embedder
from wye.query import get_router
from wye.query.registry import BUILT_IN

SHAPE, BAR = (25_000, 10), 60.0
AUTO_SHAPES, AUTO_BAR = ((11_112, 9), (50_000, 2), (3_334, 30)), 30.0
# What the others are compared with.
LEAST = "knn"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routers", nargs="+", default=sorted(BUILT_IN))
    parser.add_argument("--queries", type=int, default=SHAPE[0])
    parser.add_argument("--models", type=int, default=SHAPE[1])
    parser.add_argument("--save", type=Path, help="folder for the fitted routers")
    parser.add_argument("--auto-shapes", action="store_true", help="the three shapes of auto too")
    options = parser.parse_args()
    set_threads()
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as cache:
        embedder = CachedEmbedder(get_embedder("static"), cache)
        data = made(options.queries, options.models)
        embedder.embed(data.texts)
        # Imports are not learning.
        fit(LEAST, made(200, 2), embedder, None)
        print(f"{options.queries} queries x {options.models} models, bar {BAR:g} s of CPU")
        print(f"{'router':24} {'CPU s':>8} {'clock s':>8} {'of the bar':>11} {'times knn':>10}")
        least = 0.0
        for name in [LEAST, *(n for n in options.routers if n != LEAST)]:
            cpu, wall = fit(name, data, embedder, options.save)
            least = least or cpu
            missed += [name] * (cpu > BAR)
            print(
                f"{name:24} {cpu:8.2f} {wall:8.2f} {cpu / BAR:11.1%} {cpu / least:10.2f}"
                f"{'  MISS' if cpu > BAR else ''}",
                flush=True,
            )
        for shape in AUTO_SHAPES if options.auto_shapes else ():
            data = made(*shape)
            embedder.embed(data.texts)
            cpu, wall = fit("auto", data, embedder, None)
            missed += [f"auto {shape}"] * (cpu > AUTO_BAR)
            print(f"auto, {shape[0]} x {shape[1]}: {cpu:.2f} s of CPU, {wall:.2f} s, bar 30 s")
    print(f"missed: {', '.join(missed) if missed else 'none'}")
    return 1 if missed else 0


def fit(
    name: str, data: RoutingData, embedder: CachedEmbedder, folder: Path | None
) -> tuple[float, float]:
    """Seconds of CPU and by the clock; the router goes to `folder` where there is one."""
    started, worked = time.perf_counter(), time.process_time()
    router = get_router(name, embedder=embedder).fit(data)
    took = time.process_time() - worked, time.perf_counter() - started
    if folder is not None:
        router.save(folder / name)
    return took


def set_threads() -> None:
    """PyTorch on one thread, whatever the environment said."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())

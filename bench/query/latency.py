"""Latency of a decision, text to plan: `OMP_NUM_THREADS=1 python bench/query/latency.py`.

Nine models, the router `auto`, the static embedder, a query of 20 words, one core. Learns from
outcomes made by rule of the size of a real set, so that it runs anywhere; the time depends on sizes
alone. Targets: p50 <= 1 ms, p99 <= 5 ms. Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from wye.data import RoutingData
from wye.query import get_router

# fmt: off
WORDS = [
    "river", "glacier", "capital", "treaty", "integer", "matrix", "vector", "enzyme", "market",
    "price", "orbit", "planet", "verse", "python", "function", "loop", "string", "syntax",
    "theorem", "proof", "engine", "circuit", "voltage", "statute", "court", "kingdom", "empire",
    "sonnet", "melody", "rhythm", "protein", "neuron", "reactor", "catalyst", "polymer",
    "derivative",
]
# fmt: on


def made(n_queries: int, n_models: int, seed: int = 0) -> RoutingData:
    """Outcomes of `n_models` on queries of random words; each model knows some of the words."""
    generator = np.random.default_rng(seed)
    words = generator.integers(len(WORDS), size=(n_queries, 20))
    skill = generator.normal(0, 1.0, (len(WORDS), n_models))
    chance = 1 / (1 + np.exp(-skill[words].mean(axis=1) * 3))
    quality = (generator.random(chance.shape) < chance).astype(float)
    rows, columns = np.divmod(np.arange(quality.size), n_models)
    ids = np.array([f"q{i}" for i in range(n_queries)], dtype=object)
    names = np.array([f"model-{m}" for m in range(n_models)], dtype=object)
    tokens = generator.integers(50, 500, quality.size)
    queries = pd.DataFrame(
        {
            "query_id": ids,
            "dataset": "made",
            "text": [" ".join(WORDS[w] for w in row) + f" {i}?" for i, row in enumerate(words)],
            "split": "train",
        }
    )
    outcomes = pd.DataFrame(
        {
            "query_id": ids[rows],
            "model": names[columns],
            "quality": quality.ravel(),
            "cost_usd": tokens * (1.0 + columns) * 1e-6,
            "input_tokens": 25,
            "output_tokens": tokens,
            "latency_s": tokens * 0.01,
        }
    )
    models = pd.DataFrame(
        {
            "model": names,
            "provider": "made",
            "price_in_per_mtok": 1.0,
            "price_out_per_mtok": 1.0,
            "params_b": 1.0,
            "context": 8192,
        }
    )
    return RoutingData(queries, outcomes, models, "made")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=3343, help="training queries")
    parser.add_argument("--models", type=int, default=9)
    parser.add_argument("--router", default="auto")
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    router = get_router(options.router).fit(made(options.queries, options.models))
    text = " ".join(WORDS[(7 * i) % len(WORDS)] for i in range(20))
    for _ in range(50):
        router.route([text])
    wall, cpu = [], []
    for _ in range(options.rounds):
        started, worked = time.perf_counter(), time.thread_time()
        router.route([text])
        cpu.append(time.thread_time() - worked)
        wall.append(time.perf_counter() - started)
    held = True
    for share, target in ((50, 1.0), (99, 5.0)):
        figure = float(np.percentile(wall, share)) * 1e3
        held &= figure <= target
        print(
            f"{'pass' if figure <= target else 'MISS'}  {options.router}, {options.models} models, "
            f"{options.queries} training queries: p{share} {figure:.3f} ms "
            f"(target <= {target:g} ms; {float(np.percentile(cpu, share)) * 1e3:.3f} ms of CPU)"
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

"""Timings of the core against their targets: `python bench/core/selection.py`.

Each figure is a median over many rounds; where a target is a ratio, both sides run interleaved in
the same rounds, so that other load on the machine falls on both. Exits with 1 if a target is
missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from wye.core import makespan, solve_budget, top_k


def seconds(call: Callable[[], Any], inner: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(inner):
        call()
    return (time.perf_counter() - start) / inner


def report(name: str, figure: float, target: float, unit: str, note: str = "") -> bool:
    held = figure <= target
    print(
        f"{'pass' if held else 'FAIL'}  {name:<52} {figure:9.3f} {unit:<3} "
        f"(target <= {target:g} {unit}){'  ' + note if note else ''}",
        flush=True,
    )
    return held


def single_query(rounds: int) -> bool:
    """NumPy, one query and 16 models, k = 1 and k = 2, scores to plan."""
    scores = np.random.default_rng(0).random((1, 16))
    held = True
    for k in (1, 2):
        for _ in range(200):
            top_k(scores, k)
        times = sorted(seconds(lambda k=k: top_k(scores, k)) * 1e6 for _ in range(rounds))
        note = f"p99 {times[int(0.99 * len(times))]:.1f} us"
        held &= report(f"NumPy top_k 1 x 16, k={k}, p50", statistics.median(times), 40, "us", note)
    return held


def token_batch(rounds: int, threads: int) -> bool:
    """PyTorch, 8192 tokens and 64 experts, k = 2, against softmax + topk + gather by hand."""
    if importlib.util.find_spec("torch") is None:
        print("skip  PyTorch top_k 8192 x 64: PyTorch is not installed")
        return True
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    logits = torch.randn(8192, 64)

    def by_hand() -> Any:
        gates = torch.softmax(logits, dim=1)
        index = torch.topk(gates, 2, dim=1).indices
        return index, gates.gather(1, index)

    def ours() -> Any:
        return top_k(torch.softmax(logits, dim=1), 2)

    def ours_unchecked() -> Any:
        return top_k(torch.softmax(logits, dim=1), 2, check=False)

    index, gates = by_hand()
    plan = ours()
    assert torch.equal(plan.target, index.reshape(-1))
    assert torch.equal(plan.weight, gates.reshape(-1))
    held = True
    for name, call in (("", ours), (", check=False", ours_unchecked)):
        hand, mine = [], []
        for _ in range(rounds):
            hand.append(seconds(by_hand))
            mine.append(seconds(call))
        base, own = statistics.median(hand) * 1e3, statistics.median(mine) * 1e3
        note = f"ours {own:.2f} ms, by hand {base:.2f} ms, {threads} thread(s)"
        held &= report(f"PyTorch softmax + top_k 8192 x 64, k=2{name}", own / base, 1.25, "x", note)
    return held


def budget(rounds: int) -> bool:
    """100,000 sources and 20 targets under one budget, on four kinds of data."""
    rng = np.random.default_rng(0)
    n, width = 100_000, 20
    by_model = np.geomspace(1e-5, 1e-2, width)
    skill = np.clip(np.linspace(0.3, 0.7, width) + 0.3 * rng.normal(size=(n, width)), 0, 1)
    cases = {
        "independent": (rng.random((n, width)), rng.random((n, width))),
        "correlated": (skill, by_model * rng.lognormal(sigma=0.5, size=(n, 1))),
        "one price per target": (skill, by_model),
        "scores in steps of 0.1": (np.round(skill, 1), by_model * rng.lognormal(size=(n, 1))),
    }
    held = True
    for name, (scores, cost) in cases.items():
        dearest = np.broadcast_to(cost, scores.shape).max(axis=1).sum()
        limit = 0.1 * float(dearest)
        found = solve_budget(scores, cost, limit)
        times = [
            seconds(lambda s=scores, c=cost, b=limit: solve_budget(s, c, b)) for _ in range(rounds)
        ]
        gap = (found.bound - found.score) / abs(found.bound)
        note = f"{'proven optimal' if found.optimal else f'gap {gap:.1e}'}"
        held &= report(
            f"within_budget 100,000 x 20, {name}", statistics.median(times), 2, "s", note
        )
    return held


def placement(rounds: int) -> bool:
    """10,000 sequences on 16 devices; no target, reported for orientation."""
    cost = np.random.default_rng(0).lognormal(size=10_000)
    times = [seconds(lambda: makespan(cost, 16)) for _ in range(rounds)]
    print(f"      makespan 10,000 -> 16: {statistics.median(times):.3f} s")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="rounds of the short benches")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads")
    options = parser.parse_args()
    results = [
        single_query(20 * options.rounds),
        token_batch(options.rounds, options.threads),
        budget(3),
        placement(3),
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What a router reaches on real outcomes, against what it must: `python bench/query/targets.py`.

Reads the folder that the environment variable WYE_SHARED_DATA names. Trains on the split `train`
and measures on `test`, once for each seed (of the folds, the references, k-means and the network),
with no dataset name as a feature. Prints for each target the mean over the seeds, the range of the
seeds, and a 95% bootstrap interval over the test queries. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wye.core import within_budget
from wye.data import RoutingData
from wye.embed import CachedEmbedder, Embedder, get_embedder
from wye.query import Estimate, get_router
from wye.query.metrics.two_models import apgr

BROKEN_SUBJECT = "mmlu:high_school_mathematics"
STRONG = "gpt-4-1106-preview"
# Share of a budget that is kept back for the error of expected costs.
HEADROOM = 0.02
DRAWS = 1000

FloatArray = NDArray[np.float64]
Fit = Callable[[RoutingData, int], list[Estimate]]


@dataclass(frozen=True)
class Row:
    """One target: a figure for each seed, and the draws of their mean over test queries."""

    name: str
    target: float
    seeds: list[float]
    draws: FloatArray
    note: str

    @property
    def held(self) -> bool:
        return float(np.mean(self.seeds)) >= self.target

    def line(self) -> str:
        low, high = np.quantile(self.draws, [0.025, 0.975])
        return (
            f"{'pass' if self.held else 'MISS'}  {self.name:<44} {np.mean(self.seeds):8.4f} "
            f"(target >= {self.target:g})  seeds {min(self.seeds):.4f} to {max(self.seeds):.4f}  "
            f"95% {low:.4f} to {high:.4f}  {self.note}"
        )


def resample(n: int) -> NDArray[np.intp]:
    """`[DRAWS, n]` queries drawn with replacement."""
    return np.random.default_rng(0).integers(n, size=(DRAWS, n))


def chosen(matrix: FloatArray, columns: NDArray[np.intp]) -> FloatArray:
    return matrix[np.arange(len(matrix)), columns]


def best_single(data: RoutingData) -> int:
    """The best model on average among those that answered over 90% of the queries."""
    quality = data.quality
    covered = np.isfinite(quality).mean(axis=0) > 0.9
    return int(np.argmax(np.where(covered, np.nanmean(quality, axis=0), -1.0)))


def llmrouter(data: RoutingData, estimates: list[Estimate]) -> list[Row]:
    """Mean quality of the best expected model."""
    test = data.part("test")
    single = test.quality[:, best_single(data.part("train"))].mean()
    routed = np.stack([chosen(test.quality, e.quality.argmax(axis=1)) for e in estimates])
    draws = routed.mean(axis=0)[resample(len(test))].mean(axis=1)
    note = f"best single model {single:.4f}"
    seeds = routed.mean(axis=1).tolist()
    return [
        Row("llmrouter: mean quality", 0.66, seeds, draws, note),
        *never_below("llmrouter", data, estimates),
    ]


def mmlu_pro(data: RoutingData, estimates: list[Estimate]) -> list[Row]:
    """Mean quality free of limits, and the share of the best single model's at half of its cost."""
    test, best = data.part("test"), best_single(data.part("train"))
    complete = np.isfinite(test.quality).all(axis=1)
    quality, cost = test.quality[complete], test.cost[complete]
    free = np.stack([chosen(quality, e.quality[complete].argmax(axis=1)) for e in estimates])
    kept, spent = [], []
    for estimate in estimates:
        expected = estimate.cost[complete]
        budget = 0.5 * (1 - HEADROOM) * expected[:, best].sum()
        plan = within_budget(estimate.quality[complete], expected, float(budget))
        target = np.empty(len(quality), np.intp)
        target[np.asarray(plan.source)] = np.asarray(plan.target)
        kept.append(chosen(quality, target))
        spent.append(chosen(cost, target).sum() / cost[:, best].sum())
    rows, single = resample(len(quality)), quality[:, best]
    draws = np.mean(kept, axis=0)[rows].mean(axis=1) / single[rows].mean(axis=1)
    share = [float(k.mean() / single.mean()) for k in kept]
    note = f"best single {single.mean():.4f}; really spent {min(spent):.3f} to {max(spent):.3f}"
    under = [1.0 - s for s in spent]
    return [
        Row(
            "mmlu_pro: mean quality, free of limits",
            0.725,
            free.mean(axis=1).tolist(),
            free.mean(axis=0)[rows].mean(axis=1),
            f"best single {single.mean():.4f}",
        ),
        Row("mmlu_pro: quality kept at half the cost", 0.99, share, draws, note),
        Row("mmlu_pro: share of the cost saved", 0.5, under, np.array(under), ""),
        *never_below("mmlu_pro", data, estimates),
    ]


def routellm(data: RoutingData, estimates: list[Estimate]) -> list[Row]:
    """APGR on MMLU, without the subject on which the strong model's answers were not read."""
    test = data.part("test")
    strong = test.model_names.index(STRONG)
    quality = test.quality
    best, other = quality[:, strong], quality[:, 1 - strong]
    rows = resample(len(test))
    seeds, draws = [], []
    for estimate in estimates:
        score = estimate.quality[:, strong] - estimate.quality[:, 1 - strong]
        seeds.append(apgr(score, other, best))
        draws.append([apgr(score[r], other[r], best[r]) for r in rows[:200]])
    note = f"gap of the models {(best - other).mean():.4f}"
    return [
        Row("routellm: APGR on MMLU", 0.66, seeds, np.mean(draws, axis=0), note),
        *never_below("routellm", data, estimates),
    ]


def zeroeval(data: RoutingData, estimates: list[Estimate]) -> list[Row]:
    """Routed minus best single quality."""
    return never_below("zeroeval", data, estimates)


def never_below(source: str, data: RoutingData, estimates: list[Estimate]) -> list[Row]:
    """Routed minus best single quality, at any cost and at the best priced model's cost."""
    train, test = data.part("train"), data.part("test")
    covered = np.isfinite(train.quality).mean(axis=0) > 0.9
    priced = covered & (np.isfinite(train.cost).mean(axis=0) > 0.9)
    result = []
    for name, pool in (("any cost", covered), ("equal cost", priced)):
        columns = np.flatnonzero(pool)
        if not columns.size:
            continue
        quality, cost = test.quality[:, columns], test.cost[:, columns]
        best = int(np.nanmean(train.quality[:, columns], axis=0).argmax())
        known = np.isfinite(quality).all(axis=1)
        if name == "equal cost":
            known &= np.isfinite(cost).all(axis=1)
        quality, cost = quality[known], cost[known]
        gaps, spent = [], []
        for estimate in estimates:
            expected = estimate.quality[known][:, columns]
            target = expected.argmax(axis=1)
            if name == "equal cost":
                prices = estimate.cost[known][:, columns]
                budget = (1 - HEADROOM) * prices[:, best].sum()
                plan = within_budget(expected, prices, float(budget))
                target[np.asarray(plan.source)] = np.asarray(plan.target)
                spent.append(chosen(cost, target).sum() / cost[:, best].sum())
            gaps.append(chosen(quality, target) - quality[:, best])
        draws = np.mean(gaps, axis=0)[resample(len(quality))].mean(axis=1)
        note = f"best single {test.model_names[columns[best]]} {quality[:, best].mean():.4f}"
        note += f"; really spent {max(spent):.3f}" if spent else ""
        seeds = [float(g.mean()) for g in gaps]
        result.append(Row(f"{source}: gain over best single, {name}", -0.005, seeds, draws, note))
    return result


def load(folder: Path, name: str) -> RoutingData:
    data = RoutingData.read(folder / "routing" / name)
    if name == "routellm":
        mmlu = np.array([d.startswith("mmlu:") and d != BROKEN_SUBJECT for d in data.datasets])
        data = data.where(mmlu)
    return data


MEASURES = {f.__name__: f for f in (llmrouter, mmlu_pro, routellm, zeroeval)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedder", default="static", help="a spec of wye.embed.get_embedder")
    parser.add_argument("--router", default="auto")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=sorted(MEASURES), nargs="+", default=sorted(MEASURES))
    options = parser.parse_args()
    folder = os.environ.get("WYE_SHARED_DATA")
    if not folder:
        parser.error("set WYE_SHARED_DATA to the folder that contains routing/")
    held = True
    print(f"router {options.router}, embedder {options.embedder}, {options.seeds} seeds")
    with tempfile.TemporaryDirectory() as cache:
        for name in options.only:
            data = load(Path(folder), name)
            train, test = data.part("train"), data.part("test")
            embedder: Embedder = CachedEmbedder(get_embedder(options.embedder), cache)
            estimates, started = [], time.process_time()
            for seed in range(options.seeds):
                router = get_router(options.router, embedder=embedder, seed=seed).fit(train)
                estimates.append(router.estimate(test.texts))
            for row in MEASURES[name](data, estimates):
                held &= row.held
                print(row.line(), flush=True)
            took = (time.process_time() - started) / options.seeds
            print(f"      {name}: {took:.1f} CPU seconds a seed", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

"""GreenServ: does a bandit on task and text complexity learn, online, to spend less for as much?

Paper: GreenServ (preprint of 2026, arXiv number not confirmed). A log with the outcome and the cost
of every model is replayed as a stream, so that the replay is exact; cost stands for energy, its
logarithm scaled between the 1st and 99th percentile. Up to 11 models, 3000 queries, five orders,
lambda 0, 0.2 and 0.5; the task is the dataset's name, as in the paper's own runs. Baselines in the
same run: a random model, the best single model in hindsight, LinUCB without context, and the best
model of each task in hindsight, which is the ceiling of what the task can tell.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.query.streams import Baselines, drawn, last_steps, orders, priced_pool
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.data import RoutingData
    from wye.query.greenserv import GreenServRouter
    from wye.query.online.base import Queries
    from wye.query.online.feedback import Replay

ORDERS = 5
LAMBDAS = (0.0, 0.2, 0.5)
MIDDLE = 0.2
CONTEXT = ("task", "complexity")
# Run at every lambda and not held to anything.
VARIANTS: dict[str, dict[str, object]] = {
    "LinUCB, alpha 0.1": {"alpha": 0.1},
    "LinUCB without context": {"features": (), "constant": True},
}
# Run at lambda = 0.2 and not held to anything: other bandits and other features.
OTHERS: dict[str, dict[str, object]] = {
    "Thompson": {"algorithm": "thompson"},
    "linear epsilon-greedy": {"algorithm": "linear-epsilon"},
    "contextual epsilon-greedy": {"algorithm": "contextual-epsilon"},
    "epsilon-greedy": {"algorithm": "epsilon"},
    "task, cluster, complexity": {"features": ("task", "cluster", "complexity")},
    "cluster, complexity": {"features": ("cluster", "complexity")},
}


def check(context: CheckContext) -> CheckResult:
    """Reward of the last steps against the baselines, regret, cost by lambda, and a new model.

    Raises:
        CheckError: too few models with costs, or datasets.
    """
    pool = priced_pool(context.data)
    seeds = orders(context, ORDERS)
    rows = []
    for number, seed in enumerate(seeds, start=1):
        context.progress(f"order {number} of {len(seeds)}")
        rows.append(_order(drawn(pool, seed), seed))
    figures = averaged(rows)
    claims = [
        Claim(
            f"lambda {v:g}: LinUCB - random",
            figures[f"lambda {v:g}: LinUCB"] - figures[f"lambda {v:g}: random"],
            ">=",
            0.08,
        )
        for v in LAMBDAS
    ]
    m = f"lambda {MIDDLE:g}: "
    single = figures[m + "LinUCB"] - figures[m + "best single"]
    claims.append(Claim(m + "LinUCB - best single in hindsight", single, ">=", -0.005))
    claims += [
        Claim(
            f"lambda {v:g}: regret, last third / first third",
            figures[f"lambda {v:g}: regret, last third"]
            / figures[f"lambda {v:g}: regret, first third"],
            "<=",
            0.6,
        )
        for v in LAMBDAS
    ]
    costs = [figures[f"lambda {v:g}: mean cost"] for v in LAMBDAS]
    fall = min((a - b) / a for a, b in pairwise(costs))
    claims.append(Claim("least relative fall of cost from lambda to lambda", fall, ">=", 0.0))
    joined = figures["share of a new best model, last quarter"] * len(pool.model_names)
    claims.append(Claim("share of a new best model x M, last quarter", joined, ">=", 1.0))
    queries = min(len(pool), len(drawn(pool, 0)))
    return CheckResult(
        tuple(claims),
        figures,
        seeds,
        f"Replay of {queries} queries x {len(pool.model_names)} models, "
        f"{len(set(pool.datasets))} tasks; mean reward of the last steps. Data: {pool.name}.",
    )


def _order(log: RoutingData, seed: int) -> dict[str, float]:
    bounds = np.percentile(log.cost, (1.0, 99.0))
    queries = _router(log, bounds, MIDDLE, features=("task", "cluster", "complexity")).read(
        log.texts
    )
    figures: dict[str, float] = {}
    for weight in LAMBDAS:
        name = f"lambda {weight:g}: "
        router = _router(log, bounds, weight)
        run = router.replay(log, seed=seed, tasks=True, queries=queries)
        figures |= {name + k: v for k, v in _figures(log, router, run).items()}
        for label, changed in VARIANTS.items():
            figures[name + label] = _last(log, bounds, weight, seed, queries, changed)
    for label, changed in OTHERS.items():
        name = f"lambda {MIDDLE:g}: {label}"
        figures[name] = _last(log, bounds, MIDDLE, seed, queries, changed)
    figures["share of a new best model, last quarter"] = _newcomer(log, bounds, seed)
    return figures


def _router(
    log: RoutingData, bounds: np.ndarray, weight: float, **changed: object
) -> GreenServRouter:
    from wye.query.greenserv import GreenServRouter

    settings: dict[str, object] = {"features": CONTEXT} | changed
    return GreenServRouter(
        arms=log.model_names,
        weight=weight,
        tasks=tuple(sorted(set(log.datasets))),
        resource_range=(float(bounds[0]), float(bounds[1])),
        **settings,  # type: ignore[arg-type]
    )


def _figures(log: RoutingData, router: GreenServRouter, run: Replay) -> dict[str, float]:
    rewards = router.rewards(router.observed(log), [None] * len(log))
    last = last_steps(run)
    base = Baselines.of(rewards, log.datasets, run.rows[last])
    third = len(run) // 3
    regret = run.regret
    return {
        "LinUCB": float(run.reward[last].mean()),
        "random": base.random,
        "best single": base.best_single,
        "best per task": base.best_per_task,
        "oracle": base.oracle,
        "regret, first third": float(regret[third - 1]),
        "regret, last third": float(regret[-1] - regret[-1 - third]),
        "mean cost": float(run.cost.mean()),
        "quality": float(run.quality.mean()),
    }


def _last(
    log: RoutingData,
    bounds: np.ndarray,
    weight: float,
    seed: int,
    queries: Queries,
    changed: dict[str, object],
) -> float:
    router = _router(log, bounds, weight, **changed)
    run = router.replay(log, seed=seed, tasks=True, queries=queries)
    return float(run.reward[last_steps(run)].mean())


def _newcomer(log: RoutingData, bounds: np.ndarray, seed: int) -> float:
    """Share of the best model in the last quarter when it joins after half of the queries."""
    router = _router(log, bounds, MIDDLE).start(log.model_names)
    rewards = router.rewards(router.observed(log), [None] * len(log))
    best = log.model_names[int(rewards.mean(axis=0).argmax())]
    order = np.random.default_rng(seed).permutation(len(log))
    first = np.zeros(len(log), np.bool_)
    first[order[: len(log) // 2]] = True
    router.remove_arm(best)
    router.replay(log.where(first), seed=seed, tasks=True)
    router.add_arm(best)
    run = router.replay(log.where(~first), seed=seed, tasks=True)
    return run.shares(slice(len(run) // 2, None))[best]

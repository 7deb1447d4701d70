"""Online bandits: do MetaLLM, MixLLM, PickLLM and C2MAB-V learn from their own choices alone?

Papers: MetaLLM arXiv 2407.10834, MixLLM arXiv 2502.18482, PickLLM arXiv 2412.12170, C2MAB-V arXiv
2405.16587. The log of `greenserv` as a stream in the same orders. MetaLLM and PickLLM are paid
quality - p cost, MixLLM w quality - (1 - w) cost / (mean cost of the dearest model), where p and w
make the dearest model's mean answer cost a fifth of the scale. C2MAB-V takes sets of two of which
one good answer suffices, under a budget per query of half a random pair's mean cost.

Baselines in the same run, on the same last steps: a random model (pair within the budget), and the
best model (pair within the budget) in hindsight. No threshold is published: each must get half of
the way from random to the best in hindsight, and C2MAB-V must keep its budget within a tenth.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.streams import Baselines, drawn, last_steps, orders, priced_pool
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from collections.abc import Callable

    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Floats
    from wye.data import RoutingData
    from wye.query.online.base import OnlineRouter
    from wye.query.online.feedback import Replay

ORDERS = 3
COST_SHARE = 0.2
HALF_WAY = 0.5
BUDGET_SHARE = 0.5
BUDGET_SLACK = 1.1


def check(context: CheckContext) -> CheckResult:
    """How far each bandit gets from a random choice to the best one in hindsight.

    Raises:
        CheckError: too few models with costs, or datasets.
    """
    pool = priced_pool(context.data)
    if len(pool.model_names) < 3:
        raise CheckError(f"{pool.name} has 2 models with costs; sets of two need 3 to choose from")
    seeds = orders(context, ORDERS)
    rows = []
    for number, seed in enumerate(seeds, start=1):
        context.progress(f"order {number} of {len(seeds)}")
        log = drawn(pool, seed)
        rows.append(_singles(log, seed) | _pairs(log, seed))
    figures = averaged(rows)
    claims = []
    for name in (*_routers(pool, 0.0), "C2MAB-V"):
        gap = figures[f"{name}: best in hindsight"] - figures[f"{name}: random"]
        way = (figures[name] - figures[f"{name}: random"]) / gap if gap > 0 else 0.0
        claims.append(Claim(f"{name}: share of the way to the best", way, ">=", HALF_WAY))
    spent = figures["C2MAB-V: cost / budget"]
    claims.append(Claim("C2MAB-V: cost / budget", spent, "<=", BUDGET_SLACK))
    return CheckResult(
        tuple(claims),
        figures,
        seeds,
        f"Replay of {len(drawn(pool, 0))} queries x {len(pool.model_names)} models; mean reward of "
        f"the last steps. Data: {pool.name}.",
    )


def _routers(log: RoutingData, price: float) -> dict[str, Callable[[int], OnlineRouter]]:
    from wye.query.metallm import MetaLLMRouter
    from wye.query.mixllm import MixLLMRouter
    from wye.query.pickllm import PickLLMRouter

    arms = log.model_names
    return {
        "MetaLLM": lambda seed: MetaLLMRouter(arms=arms, price=price, seed=seed),
        "MixLLM": lambda seed: MixLLMRouter(
            arms=arms, quality_weight=1.0 / (1.0 + COST_SHARE), seed=seed
        ),
        "PickLLM, Q-learning": lambda seed: PickLLMRouter(arms=arms, cost_weight=price, seed=seed),
        "PickLLM, gradient": lambda seed: PickLLMRouter(
            arms=arms, cost_weight=price, algorithm="gradient", rate=0.1, seed=seed
        ),
    }


def _singles(log: RoutingData, seed: int) -> dict[str, float]:
    quality, cost = log.quality, log.cost
    dearest = float(cost.mean(axis=0).max())
    price = COST_SHARE / dearest
    weight = 1.0 / (1.0 + COST_SHARE)
    paid = {
        "MixLLM": weight * (quality >= 0.5) - (1.0 - weight) * cost / dearest,
    }
    figures: dict[str, float] = {}
    for name, make in _routers(log, price).items():
        rewards = paid.get(name, quality - price * cost)
        run = make(seed).replay(log, seed=seed)
        last = last_steps(run)
        base = Baselines.of(rewards, log.datasets, run.rows[last])
        figures |= {
            name: float(_earned(rewards, run)[last].mean()),
            f"{name}: random": base.random,
            f"{name}: best in hindsight": base.best_single,
            f"{name}: quality": float(run.quality[last].mean()),
            f"{name}: mean cost": float(run.cost[last].mean()),
        }
    return figures


def _earned(rewards: Floats, run: Replay) -> Floats:
    return np.asarray(rewards[run.rows][np.arange(len(run)), run.chosen.argmax(axis=1)], np.float64)


def _pairs(log: RoutingData, seed: int) -> dict[str, float]:
    from wye.query.c2mab_v import C2MABVRouter

    quality, cost = log.quality, log.cost
    budget = BUDGET_SHARE * 2.0 * float(cost.mean())
    # The unit of cost is its 99th percentile, as in `greenserv`: single answers cost far more.
    unit = float(np.percentile(cost, 99.0))
    router = C2MABVRouter(arms=log.model_names, size=2, budget=budget, max_cost=unit, seed=seed)
    run = router.replay(log, seed=seed)
    last = last_steps(run)
    rows = run.rows[last]
    pairs = [
        pair
        for pair in combinations(range(len(log.model_names)), 2)
        if cost[:, pair].sum(axis=1).mean() <= budget
    ]
    if not pairs:
        raise CheckError(f"no pair of models of {log.name} fits the budget of {budget:.2g} USD")
    worth = np.stack([1.0 - (1.0 - quality[:, pair]).prod(axis=1) for pair in pairs], axis=1)
    best = int(worth.mean(axis=0).argmax())
    return {
        "C2MAB-V": float(router.set_worth(quality[run.rows], run.chosen)[last].mean()),
        "C2MAB-V: random": float(worth[rows].mean()),
        "C2MAB-V: best in hindsight": float(worth[rows, best].mean()),
        "C2MAB-V: cost / budget": float(run.cost[last].mean() / budget),
        "C2MAB-V: models in a set": float(run.chosen[last].sum(axis=1).mean()),
    }

"""A budget run over a recorded stream, and its regret against the offline optimum.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import Estimate
from wye.query.policies.choosing import IntArray, allowed_models, targets_of
from wye.query.policy import PolicyError

if TYPE_CHECKING:
    from wye.query.base import BoolArray, FloatArray
    from wye.query.policies.budget import Budget


@dataclass(frozen=True)
class BudgetRun:
    """What a budget did on Q queries, and what could have been done in hindsight.

    Attributes:
        total, spent: USD allowed, and really spent (router's own cost included).
        answered: queries that got a model; the others count as quality 0.
        quality: mean quality over all Q queries, as it came out.
        offline_quality: mean quality of the best plan within the same total, for one who knows all
            queries, costs and outcomes beforehand.
        regret: `offline_quality - quality`.
        estimated_regret: the same difference counted in estimates on both sides: what pacing alone
            lost, apart from the errors of the estimate.
        spent_after: `[Q]` USD spent after each query.
        price: `[Q]` the price at which each query was chosen.
    """

    total: float
    spent: float
    answered: int
    quality: float
    offline_quality: float
    regret: float
    estimated_regret: float
    spent_after: FloatArray
    price: FloatArray


def run_budget(
    policy: Budget,
    estimate: Estimate,
    quality: FloatArray,
    cost: FloatArray,
    *,
    allowed: BoolArray | None = None,
    seed: int = 0,
) -> BudgetRun:
    """Send Q queries through `policy` one by one, settling each with its real cost.

    Args:
        policy: a fresh `Budget`; it is used up by this.
        estimate: of the Q queries, in the order of the stream.
        quality, cost: `[Q, M]` what came out, columns as in `estimate`; a pair where either is NaN
            is not chosen.
        allowed: `[Q, M]` or `[M]`.

    Raises:
        PolicyError: shapes differ, or the budget has been used.
    """
    if quality.shape != estimate.quality.shape or cost.shape != estimate.quality.shape:
        raise PolicyError(
            f"quality {quality.shape} and cost {cost.shape} must have the estimate's shape "
            f"{estimate.quality.shape}"
        )
    if policy.answered_ or policy.spent_:
        raise PolicyError("the budget has been used; a run starts with a fresh one")
    mask = allowed_models(estimate, allowed) & np.isfinite(quality) & np.isfinite(cost)
    rng = np.random.default_rng(seed)
    n_queries = len(estimate)
    target = np.full(n_queries, -1, dtype=np.intp)
    spent_after, price = np.empty(n_queries), np.empty(n_queries)
    for i in range(n_queries):
        price[i] = policy.price_
        choice = policy.choose(query_of(estimate, i), allowed=mask[i : i + 1], generator=rng)
        target[i] = targets_of(choice)[0]
        if target[i] >= 0:
            policy.settle(float(cost[i, target[i]]))
        spent_after[i] = policy.spent_
    got = _total(quality, target) / max(n_queries, 1)
    for_answers = max(policy.total - estimate.router_cost * n_queries, 0.0)
    best = _offline(quality, cost, mask, for_answers)
    estimated = _offline(estimate.quality, estimate.cost, mask, for_answers)
    return BudgetRun(
        total=policy.total,
        spent=policy.spent_,
        answered=policy.answered_,
        quality=got,
        offline_quality=best,
        regret=best - got,
        estimated_regret=estimated - _total(estimate.quality, target) / max(n_queries, 1),
        spent_after=spent_after,
        price=price,
    )


def query_of(estimate: Estimate, i: int) -> Estimate:
    """The estimate of query `i` alone."""
    row = slice(i, i + 1)
    return Estimate(
        models=estimate.models,
        quality=estimate.quality[row],
        quality_std=estimate.quality_std[row],
        cost=estimate.cost[row],
        latency=estimate.latency[row],
        novelty=estimate.novelty[row],
        router_cost=estimate.router_cost,
        router_seconds=estimate.router_seconds,
    )


def _total(values: FloatArray, target: IntArray) -> float:
    rows = np.flatnonzero(target >= 0)
    return float(values[rows, target[rows]].sum())


def _offline(quality: FloatArray, cost: FloatArray, mask: BoolArray, budget: float) -> float:
    from wye.core import solve_budget

    possible = mask.any(axis=1)
    if not possible.any():
        return 0.0
    solution = solve_budget(
        np.where(mask, quality, -np.inf)[possible],
        np.where(mask, cost, 0.0)[possible],
        budget,
        leave_out=True,
    )
    return float(solution.score) / int(mask.shape[0])

"""Cascades with a real confidence: threshold cascade, routing, and both in one plan.

K1, K2 and K3 of the survey arXiv 2603.04445 over three byte-level solvers (`solver_pool`), whose
answers are judged by their mean token probability (U1). K3 is cascade routing (arXiv 2410.10347).
A router on the text of the question learns from 500 answered questions; the judge learns from the
same 500, with estimates by routers that had not seen the question. All are measured on 500 others
at twelve budgets between the costs of the small and the large solver, every rejected answer paid.
Baselines in the same run: the random mix of small and large, and the oracle. Beside them,
agreement-based cascading (ABC, arXiv 2407.02348): three small solvers of different seeds, and the
large one where too few of them agree. Runs on those questions, whatever outcomes are named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.trials import run_trials
from wye.checks.query.budget_sweep import cost_weights, mean_quality_at
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.budget_sweep import Floats
    from wye.checks.query.solvers import Solver
    from wye.checks.query.tasks import Item
    from wye.data import RoutingData
    from wye.query.base import Estimate

SEEDS = 2
BUDGETS = 12
ENSEMBLE = (101, 202)
TAUS = (0.6, 1.0)
CASCADE_OVER_MIX = 0.01
UNIFIED_SLACK = 0.005


def check(context: CheckContext) -> CheckResult:
    """Mean quality at twelve budgets of the mix, K1, K2, K3 and the oracle."""
    seeds = context.seeds[:SEEDS]
    results = run_trials(_trial, ["pool"], seeds, context)
    figures = averaged([results["pool", seed] for seed in seeds])
    k1, k2, k3 = (figures[name] for name in ("K1", "K2", "K3"))
    claims = (
        Claim("K1 - random mix", k1 - figures["random mix"], ">=", CASCADE_OVER_MIX),
        Claim("K3 - better of K1 and K2", k3 - max(k1, k2), ">=", -UNIFIED_SLACK),
    )
    text = (
        "Three byte-level solvers of 0.07, 0.2 and 1 million parameters on five families of "
        f"reasoning-gym; mean quality at {BUDGETS} budgets, 500 questions to learn from and 500 to "
        "measure on."
    )
    return CheckResult(claims, figures, seeds, text)


def _trial(arm: str, seed: int) -> dict[str, float]:
    from wye.checks.query.solver_pool import (
        SIZES,
        asked,
        pool_cost,
        pool_outcomes,
        pool_questions,
        pool_solver,
    )
    from wye.query.cross_fit import cross_fit
    from wye.query.linear import LinearRouter

    solvers = {name: pool_solver(name, seed) for name in SIZES}
    cost = pool_cost(list(solvers.values()))
    train, test = (
        pool_outcomes(items, {n: asked(s, items) for n, s in solvers.items()}, cost)
        for items in pool_questions(seed)
    )
    names = train.model_names
    at = np.argsort(test.cost.mean(axis=0))
    order = tuple(names[m] for m in at)
    router = LinearRouter(seed=seed).fit(train)
    known = cross_fit(lambda: LinearRouter(seed=seed), train, seed=seed).estimate.restrict(names)
    estimate = router.estimate(test.texts).restrict(names)
    flat = train.quality.mean(axis=0)
    budgets = np.linspace(test.cost.min(), test.cost.max(), BUDGETS)
    row = {f"accuracy {n}": float(test.quality[:, m].mean()) for m, n in enumerate(names)}
    row["random mix"] = _mix(test, at, budgets)
    row["oracle"] = _oracle(test, budgets)
    arms = {
        "K1": ((_level(known, flat), _level(estimate, flat)), len(names), order),
        "K2": ((known, estimate), 1, None),
        "K3": ((known, estimate), len(names), None),
    }
    for name, (estimates, depth, fixed) in arms.items():
        row[name] = _area(train, test, estimates, depth, fixed, budgets)
    others = [pool_solver("small", seed + shift) for shift in ENSEMBLE]
    ensemble = [solvers["small"], *others]
    return row | _agreement(ensemble, solvers["large"], pool_questions(seed)[1], cost[[0, -1]])


def _agreement(
    ensemble: list[Solver], large: Solver, items: list[Item], cost: Floats
) -> dict[str, float]:
    """Quality and cost of ABC at each threshold, over the random mix of small and large there."""
    from wye.checks.query.solver_pool import asked
    from wye.query.answers.canonical import canonical_all
    from wye.query.answers.voting import answer_numbers
    from wye.query.uncertainty.agreement_cascade import run_agreement_cascade

    said = [asked(s, items) for s in [*ensemble, large]]
    read = [canonical_all([r.text for r in a.greedy]) for a in said]
    right = np.column_stack([a.right for a in said])
    n = len(ensemble)
    tiers = [answer_numbers(list(zip(*read[:n], strict=True))), np.zeros((len(items), 1), np.intp)]
    figures: dict[str, float] = {}
    for tau in TAUS:
        out = run_agreement_cascade(tiers, [np.full(n, cost[0]), cost[1:]], [tau])
        returned = np.where(out.tier == 0, out.member, n)
        quality = float(right[np.arange(len(items)), returned].mean())
        paid = float(out.cost.mean())
        mix = float(np.interp(paid, cost, right[:, [0, n]].mean(axis=0)))
        figures |= {
            f"ABC at {tau:.2f}": quality,
            f"ABC at {tau:.2f} - mix of equal cost": quality - mix,
            f"ABC at {tau:.2f}, cost in large answers": paid / float(cost[1]),
        }
    return figures


def _area(
    train: RoutingData,
    test: RoutingData,
    estimates: tuple[Estimate, Estimate],
    depth: int,
    order: tuple[str, ...] | None,
    budgets: Floats,
) -> float:
    from wye.query.policies import Cascade, run_cascade

    known, estimate = estimates
    points = []
    for weight in cost_weights(test.cost):
        policy = Cascade(cost_weight=weight, max_depth=depth, order=order)
        policy.fit(known, train.quality, train.matrix("confidence"))
        outcome = run_cascade(policy, estimate, test.quality, test.cost, test.matrix("confidence"))
        points.append((float(outcome.cost.mean()), float(outcome.quality.mean())))
    return mean_quality_at(points, budgets)


def _level(estimate: Estimate, quality: Floats) -> Estimate:
    """The same estimate with each model's mean for every query: a cascade that knows no router."""
    from dataclasses import replace

    return replace(estimate, quality=np.broadcast_to(quality, estimate.quality.shape).copy())


def _mix(test: RoutingData, order: NDArray[np.intp], budgets: Floats) -> float:
    """A coin between the cheapest and the dearest model that spends each budget, averaged."""
    cost, quality = test.cost.mean(axis=0), test.quality.mean(axis=0)
    ends = [order[0], order[-1]]
    return float(np.interp(budgets, cost[ends], quality[ends]).mean())


def _oracle(test: RoutingData, budgets: Floats) -> float:
    """The best choice of one model per query within each mean budget, averaged."""
    from wye.core import solve_budget

    scores = [solve_budget(test.quality, test.cost, b * len(test)).score for b in budgets]
    return float(np.mean(scores)) / len(test)

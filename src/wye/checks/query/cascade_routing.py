"""Cascade routing: one plan over routing and escalation is at least as good as either alone.

Paper: arXiv 2410.10347. Models: those of the cheapest mix of single models, at most four. Baselines
of the paper, in the same run, at twelve budgets between the cheapest and the dearest of them: the
random mix of single models, the threshold cascade in the order of cost (K1), and routing before an
answer (K2). The answers are judged by what was observed of them (`answer_scores`). Three parts: the
router learns from one, the judge from the second, and all are measured on the third.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.answer_scores import answer_scores, score_kind
from wye.checks.query.budget_sweep import cost_weights, mean_quality_at
from wye.checks.query.trials import Trial, averaged, comparable, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Floats
    from wye.data import RoutingData
    from wye.query.base import Estimate
    from wye.query.policies import Cascade

BUDGETS = 12
MODELS = 4
CASCADE_OVER_MIX = 0.01
UNIFIED_SLACK = 0.005


def check(context: CheckContext) -> CheckResult:
    """Mean quality at twelve budgets of the mix, K1, K2 and cascade routing.

    Raises:
        CheckError: no costs, nothing observed of the answers, or one model that beats all others.
    """
    kind = score_kind(comparable(context.data))
    rows = [_trial(trial, kind, context) for trial in trials(context, test_share=0.5, costs=True)]
    figures = averaged(rows)
    unified, cascade = figures["cascade routing"], figures["threshold cascade"]
    better = max(cascade, figures["routing"])
    claims = (
        Claim("threshold cascade - mix", cascade - figures["mix"], ">=", CASCADE_OVER_MIX),
        Claim("cascade routing - better of both", unified - better, ">=", -UNIFIED_SLACK),
        Claim("cascade routing - mix", unified - figures["mix"], ">=", CASCADE_OVER_MIX),
    )
    what = f"Mean quality at {BUDGETS} budgets; answers are judged by their {kind}."
    return CheckResult(claims, figures, context.seeds, described(context, what))


def _trial(trial: Trial, kind: str, context: CheckContext) -> dict[str, float]:
    from wye.query.linear import LinearRouter
    from wye.query.policies import Cascade

    names = _pool(trial.train)
    train = trial.train.with_models(names)
    # Another seed than that of the first split, or the second would follow it.
    halves = trial.test.with_models(names).split(test_share=0.6, seed=trial.seed + 1_000_003)
    held_out, test = halves.part("train"), halves.part("test")
    router = LinearRouter(seed=trial.seed).fit(train)
    learn, estimate = router.estimate(held_out.texts), router.estimate(test.texts)
    seen, scores = (answer_scores(train, part, kind) for part in (held_out, test))
    budgets = np.linspace(test.cost.mean(axis=0).min(), test.cost.mean(axis=0).max(), BUDGETS + 2)
    row = {"mix": _mix(test, budgets[1:-1]), "oracle": float(test.quality.max(axis=1).mean())}
    order = tuple(names)
    for name, depth, fixed in (
        ("routing", 1, None),
        ("threshold cascade", len(names), order),
        ("cascade routing", min(3, len(names)), None),
    ):
        context.progress(f"seed {trial.seed}, {name}")
        points = []
        for weight in cost_weights(test.cost):
            policy = Cascade(cost_weight=weight, max_depth=depth, order=fixed)
            policy.fit(learn, held_out.quality, seen)
            points.append(_run(policy, estimate, test, scores))
        row[name] = mean_quality_at(points, budgets[1:-1])
    return row


def _pool(train: RoutingData) -> list[str]:
    """Models of the cheapest mix, cheapest first, thinned to four with both ends kept."""
    from wye.query.metrics.curve import hull

    quality, cost = train.quality.mean(axis=0), train.cost.mean(axis=0)
    on_cost, on_quality = (np.unique(side[0]) for side in hull(cost[None], quality[None]))
    on = np.flatnonzero(np.isin(cost, on_cost) & np.isin(quality, on_quality))
    on = on[np.argsort(cost[on], kind="stable")]
    if on.size < 2:
        raise CheckError(
            f"{train.model_names[on[0]]} is both the cheapest and the best model of {train.name}: "
            "there is nothing to escalate to"
        )
    kept = np.unique(np.linspace(0, on.size - 1, min(MODELS, on.size)).round().astype(int))
    return [train.model_names[m] for m in on[kept]]


def _run(
    policy: Cascade, estimate: Estimate, test: RoutingData, scores: Floats
) -> tuple[float, float]:
    from wye.query.policies import run_cascade

    outcome = run_cascade(policy, estimate, test.quality, test.cost, scores)
    return float(outcome.cost.mean()), float(outcome.quality.mean())


def _mix(test: RoutingData, budgets: Floats) -> float:
    """The cheapest mix of single models, at each budget, averaged."""
    from wye.query.metrics.curve import hull

    cost, quality = hull(test.cost.mean(axis=0)[None], test.quality.mean(axis=0)[None])
    return float(np.interp(budgets, cost[0], quality[0]).mean())

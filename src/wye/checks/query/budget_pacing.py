"""Budget pacing: an online dual price keeps a hard total and spends it where it does most good.

Paper: Balseiro, Lu and Mirrokni, arXiv 2002.10421. A stream of test queries in random order under a
tenth, a quarter and a half of what the best single model costs on them. Baseline in the same run:
the same hard total without pacing, first come first served, and the cheapest mix of single models
at the same mean cost, which knows the costs beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.query.trials import Trial, averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Floats
    from wye.query.base import Estimate
    from wye.query.policies.budget_stream import BudgetRun

SHARES = (0.1, 0.25, 0.5)
STREAM = 1000
EXACT = 1e-9


def check(context: CheckContext) -> CheckResult:
    """Spending against the total, and quality against spending without pacing.

    Raises:
        CheckError: the set has no costs.
    """
    rows = [_trial(trial) for trial in trials(context, costs=True)]
    figures = averaged(rows)
    overspent = max(row["spent / total"] for row in rows)
    figures["spent / total, most"] = overspent
    paced, first_come = figures["paced"], figures["first come first served"]
    claims = (
        Claim("spent / total, most", overspent, "<=", 1.0 + EXACT),
        Claim("paced - first come first served", paced - first_come, ">=", 0.0),
        Claim("paced - cheapest mix", paced - figures["cheapest mix"], ">=", 0.0),
    )
    shares = ", ".join(f"{s:.0%}" for s in SHARES)
    what = f"Streams of up to {STREAM} queries under {shares} of the best single model's cost."
    return CheckResult(claims, figures, context.seeds, described(context, what))


def _trial(trial: Trial) -> dict[str, float]:
    from wye.query.linear import LinearRouter

    router = LinearRouter(seed=trial.seed).fit(trial.train)
    order = np.random.default_rng(trial.seed).permutation(len(trial.test))[:STREAM]
    estimate = router.estimate([trial.test.texts[i] for i in order])
    quality, cost = trial.quality[order], trial.test.cost[order]
    runs: dict[str, list[BudgetRun]] = {"paced": [], "first come first served": []}
    mix = []
    for share in SHARES:
        total = share * float(cost[:, trial.best].sum())
        runs["paced"].append(_stream(estimate, quality, cost, total, paced=True))
        runs["first come first served"].append(_stream(estimate, quality, cost, total, paced=False))
        mix.append(_mix(quality, cost, total / len(order)))
    every = [run for group in runs.values() for run in group]
    return {
        **{name: float(np.mean([r.quality for r in group])) for name, group in runs.items()},
        "cheapest mix": float(np.mean(mix)),
        "best single at full cost": float(quality[:, trial.best].mean()),
        "offline optimum": float(np.mean([r.offline_quality for r in runs["paced"]])),
        "regret in estimates": float(np.mean([r.estimated_regret for r in runs["paced"]])),
        "spent / total": float(max(r.spent / r.total for r in every)),
    }


def _stream(
    estimate: Estimate, quality: Floats, cost: Floats, total: float, *, paced: bool
) -> BudgetRun:
    from wye.query.policies import Budget, run_budget

    # No answer costs more than this multiple of its estimate, so that the total is truly hard.
    worst = float(max(1.0, np.nanmax(cost / np.maximum(estimate.cost, 1e-12))))
    policy = Budget(total=total, horizon=len(estimate) if paced else None, worst_case=worst)
    return run_budget(policy, estimate, quality, cost)


def _mix(quality: Floats, cost: Floats, budget: float) -> float:
    """Quality of the cheapest mix of single models; a model or nothing below the cheapest."""
    from wye.query.metrics.curve import hull

    costs = np.append(cost.mean(axis=0), 0.0)
    qualities = np.append(quality.mean(axis=0), 0.0)
    on_cost, on_quality = hull(costs[None], qualities[None])
    return float(np.interp(budget, on_cost[0], on_quality[0]))

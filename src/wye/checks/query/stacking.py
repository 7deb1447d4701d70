"""Stacking: routers weighed by what they got right out of fold are no worse than the best of them.

Source: Breiman, Stacked regressions, Machine Learning 24, 1996. Baselines in the same run: each
member alone, and the best single model (chosen in training). Which member is best is read off the
test queries, which the stack cannot do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wye.checks.base import CheckResult, Claim
from wye.checks.query.trials import averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

SLACK = 0.005


def check(context: CheckContext) -> CheckResult:
    """The stack against each of its members and the best single model."""
    from wye.query.auto import MEMBERS, AutoRouter
    from wye.query.registry import get_router

    rows = []
    for trial in trials(context):
        row = {"best single": trial.best_single, "oracle": trial.oracle}
        for name in MEMBERS:
            context.progress(f"seed {trial.seed}, {name}")
            member = get_router(name, seed=trial.seed).fit(trial.train)
            row[name] = trial.routed(member.estimate(trial.test.texts))
        context.progress(f"seed {trial.seed}, the stack")
        stack = AutoRouter(seed=trial.seed).fit(trial.train)
        row["stack"] = trial.routed(stack.estimate(trial.test.texts))
        rows.append(row)
    figures = averaged(rows)
    best = max(figures[name] for name in MEMBERS)
    claims = (
        Claim("stack - best single", figures["stack"] - figures["best single"], ">=", 0.0),
        Claim("stack - best member", figures["stack"] - best, ">=", -SLACK),
    )
    what = "Mean quality of routing by a stack of routers, and by each of them alone."
    return CheckResult(claims, figures, context.seeds, described(context, what))

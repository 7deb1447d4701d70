"""kNN routing: outcomes of the nearest known queries, shrunk to each model's mean.

Papers: Shnitzer et al., arXiv 2309.15789; RouterBench, arXiv 2403.12031. Baselines in the same run:
the best single model (chosen in training), a random model, and kNN with five neighbours and next to
no shrinkage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wye.checks.base import CheckResult, Claim
from wye.checks.query.trials import averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

OVER_RANDOM = 0.04
FEW = 5
NO_SHRINKAGE = 1e-6


def check(context: CheckContext) -> CheckResult:
    """Shrunk kNN with k by cross-validation, against single models and plain kNN."""
    from wye.query.knn import KNNRouter

    rows = []
    for trial in trials(context):
        chosen = KNNRouter(seed=trial.seed).fit(trial.train)
        plain = KNNRouter(
            k=FEW, shrinkage=NO_SHRINKAGE, sharpness=0.0, calibration="none", seed=trial.seed
        ).fit(trial.train)
        rows.append(
            {
                "kNN": trial.routed(chosen.estimate(trial.test.texts)),
                "plain kNN(5)": trial.routed(plain.estimate(trial.test.texts)),
                "best single": trial.best_single,
                "random": trial.random,
                "oracle": trial.oracle,
            }
        )
    figures = averaged(rows)
    knn = figures["kNN"]
    claims = (
        Claim("kNN - best single", knn - figures["best single"], ">=", 0.0),
        Claim("kNN - random", knn - figures["random"], ">=", OVER_RANDOM),
        Claim("kNN - plain kNN(5)", knn - figures["plain kNN(5)"], ">=", 0.0),
    )
    what = "Mean quality of kNN routing on embedded queries, k and shrinkage by leave-one-out."
    return CheckResult(claims, figures, context.seeds, described(context, what))

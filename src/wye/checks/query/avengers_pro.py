"""Avengers-Pro: rankings of the models in clusters of queries beat the best single model.

Paper: arXiv 2508.12631. Baselines of the paper, in the same run: the best single model (chosen in
training) and a random model. Performance-first setting (w_c = 0), 8 and 32 clusters, three seeds.
The library's own cluster router, which shrinks each ranking, stands beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wye.checks.base import CheckResult, Claim
from wye.checks.query.trials import averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

COUNTS = (8, 32)
OVER_RANDOM = 0.04


def check(context: CheckContext) -> CheckResult:
    """Cluster routing with 8 and with 32 clusters, against the best single and a random model."""
    from wye.query.avengers_pro import AvengersProRouter
    from wye.query.cluster import ClusterRouter

    rows = []
    for trial in trials(context):
        row = {"best single": trial.best_single, "random": trial.random, "oracle": trial.oracle}
        for count in COUNTS:
            router = AvengersProRouter(n_clusters=count, seed=trial.seed).fit(trial.train)
            row[f"{count} clusters"] = trial.routed(router.estimate(trial.test.texts))
            shrunk = ClusterRouter(n_clusters=count, seed=trial.seed).fit(trial.train)
            row[f"{count} clusters, shrunk"] = trial.routed(shrunk.estimate(trial.test.texts))
        rows.append(row)
    figures = averaged(rows)
    claims = []
    for count in COUNTS:
        quality = figures[f"{count} clusters"]
        claims += [
            Claim(f"{count} clusters - best single", quality - figures["best single"], ">=", 0.0),
            Claim(f"{count} clusters - random", quality - figures["random"], ">=", OVER_RANDOM),
        ]
    what = "Mean quality of routing by k-means clusters of embedded queries."
    return CheckResult(tuple(claims), figures, context.seeds, described(context, what))

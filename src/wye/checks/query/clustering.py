"""Clusters of queries: they rank the models well enough to route, and a new model needs little.

Papers: Avengers, arXiv 2505.19797; UniRoute, arXiv 2502.08773. Baselines of the papers, in the same
run: the best single model (chosen in training), a random model, and UniRoute trained with all
answers of the model that joins. Avengers routes to one model (n = 1: a log holds no answers to vote
over) with 8 and 32 clusters; the library's own cluster router, with shrinkage, stands beside it.
Text vectors are the library's default, static ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.joining import routed_after_joining
from wye.checks.query.trials import Trial, averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

COUNTS = (8, 32)
OVER_RANDOM = 0.04
ANSWERS = 200
JOINING = 3
MOST_LOSS = 0.01


def check(context: CheckContext) -> CheckResult:
    """Cluster routing against single and random models; UniRoute's loss when a model joins.

    Raises:
        CheckError: fewer than three models, so that leaving one out leaves nothing to route.
    """
    figures = averaged([_trial(trial, context) for trial in trials(context)])
    claims = []
    for count in COUNTS:
        quality = figures[f"avengers, {count} clusters"]
        claims += [
            Claim(f"avengers, {count} clusters - {baseline}", quality - level, ">=", margin)
            for baseline, level, margin in (
                ("best single", figures["best single"], 0.0),
                ("random", figures["random"], OVER_RANDOM),
            )
        ]
    loss = figures[f"uniroute, loss from {ANSWERS}"]
    claims.append(Claim(f"uniroute, loss from {ANSWERS} answers", loss, "<=", MOST_LOSS))
    what = (
        "Mean quality of routing by k-means clusters of embedded queries, and what UniRoute loses "
        f"of it when one of {JOINING} models joins from {ANSWERS} answers instead of being trained "
        "on."
    )
    return CheckResult(tuple(claims), figures, context.seeds, described(context, what))


def _trial(trial: Trial, context: CheckContext) -> dict[str, float]:
    from wye.query.avengers import AvengersRouter
    from wye.query.cluster import ClusterRouter
    from wye.query.uniroute import UniRouteRouter

    if len(trial.train.model_names) < 3:
        raise CheckError(f"{trial.train.name} has fewer than 3 models; one joins two or more")
    seed, texts = trial.seed, trial.test.texts
    row = {"best single": trial.best_single, "random": trial.random, "oracle": trial.oracle}
    for count in COUNTS:
        for name, router in (
            ("avengers", AvengersRouter(n_clusters=count, seed=seed)),
            ("cluster", ClusterRouter(n_clusters=count, seed=seed)),
        ):
            fitted = router.fit(trial.train)
            row[f"{name}, {count} clusters"] = trial.routed(fitted.estimate(texts))
    trained = trial.routed(UniRouteRouter(seed=seed).fit(trial.train).estimate(texts))
    after = routed_after_joining(
        trial, lambda: UniRouteRouter(seed=seed), (ANSWERS,), JOINING, context
    )
    row["uniroute"] = trained
    row[f"uniroute, loss from {ANSWERS}"] = trained - float(np.mean(after[ANSWERS]))
    return row

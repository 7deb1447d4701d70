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
    """Avengers against single and random models, and UniRoute's loss when a model joins.

    Raises:
        CheckError: fewer than three models, so that leaving one out leaves nothing to route.
    """
    return _measured(context, avengers=True, uniroute=True)


def check_avengers(context: CheckContext) -> CheckResult:
    """Avengers alone."""
    return _measured(context, avengers=True)


def check_uniroute(context: CheckContext) -> CheckResult:
    """UniRoute alone.

    Raises:
        CheckError: fewer than three models.
    """
    return _measured(context, uniroute=True)


def _measured(
    context: CheckContext, *, avengers: bool = False, uniroute: bool = False
) -> CheckResult:
    rows = []
    for trial in trials(context):
        row = {"best single": trial.best_single, "random": trial.random, "oracle": trial.oracle}
        row |= _clusters(trial) if avengers else {}
        row |= _joining(trial, context) if uniroute else {}
        rows.append(row)
    figures = averaged(rows)
    claims: list[Claim] = []
    for count in COUNTS if avengers else ():
        quality = figures[f"avengers, {count} clusters"]
        claims += [
            Claim(f"avengers, {count} clusters - {baseline}", quality - level, ">=", margin)
            for baseline, level, margin in (
                ("best single", figures["best single"], 0.0),
                ("random", figures["random"], OVER_RANDOM),
            )
        ]
    if uniroute:
        loss = figures[f"uniroute, loss from {ANSWERS}"]
        claims.append(Claim(f"uniroute, loss from {ANSWERS} answers", loss, "<=", MOST_LOSS))
    what = (
        "Mean quality of routing by k-means clusters of embedded queries, and what UniRoute loses "
        f"of it when one of {JOINING} models joins from {ANSWERS} answers instead of being trained "
        "on."
    )
    return CheckResult(tuple(claims), figures, context.seeds, described(context, what))


def _clusters(trial: Trial) -> dict[str, float]:
    from wye.query.avengers import AvengersRouter
    from wye.query.cluster import ClusterRouter

    row = {}
    for count in COUNTS:
        for name, router in (
            ("avengers", AvengersRouter(n_clusters=count, seed=trial.seed)),
            ("cluster", ClusterRouter(n_clusters=count, seed=trial.seed)),
        ):
            estimate = router.fit(trial.train).estimate(trial.test.texts)
            row[f"{name}, {count} clusters"] = trial.routed(estimate)
    return row


def _joining(trial: Trial, context: CheckContext) -> dict[str, float]:
    from wye.query.uniroute import UniRouteRouter

    if len(trial.train.model_names) < 3:
        raise CheckError(f"{trial.train.name} has fewer than 3 models; one joins two or more")
    router = UniRouteRouter(seed=trial.seed).fit(trial.train)
    trained = trial.routed(router.estimate(trial.test.texts))
    after = routed_after_joining(
        trial, lambda: UniRouteRouter(seed=trial.seed), (ANSWERS,), JOINING, context
    )
    loss = trained - float(np.mean(after[ANSWERS]))
    return {"uniroute": trained, f"uniroute, loss from {ANSWERS}": loss}

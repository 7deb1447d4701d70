"""Learned rankers side by side: ZOOTER, RouterDC, Eagle, Shnitzer's S1 to S3, and IRT.

Papers: ZOOTER, arXiv 2311.08692; RouterDC, arXiv 2409.19886; Eagle, arXiv 2409.15518; Shnitzer et
al., arXiv 2309.15789; IRT-Router, arXiv 2506.01048. Baselines in the same run: the best single
model (chosen in training), a random model, the library's kNN, and the best answer to each query.
Every method has its own defaults and the library's default text vectors, static ones. IRT's join is
against IRT trained with all answers of the model. Shnitzer's scores choose one model for a task:
the figures "for a task" do so for the test queries of each dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.joining import routed_after_joining
from wye.checks.query.trials import Trial, averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.query.learning.embedded import EmbeddedRouter
    from wye.query.shnitzer import ShnitzerRouter

OVER_RANDOM = 0.04
UNDER_BEST = 0.005
ANSWERS = 50
JOINING = 3
MOST_LOSS = 0.01
METHODS = ("zooter", "routerdc", "eagle", "S1", "S2", "S3", "irt")


def check(context: CheckContext) -> CheckResult:
    """Mean quality of each ranker against random and best single; IRT's loss when a model joins.

    Raises:
        CheckError: fewer than three models, so that leaving one out leaves nothing to route.
    """
    figures = averaged([_trial(trial, context) for trial in trials(context)])
    claims = []
    for method in METHODS:
        quality = figures[method]
        claims += [
            Claim(f"{method} - random", quality - figures["random"], ">=", OVER_RANDOM),
            Claim(f"{method} - best single", quality - figures["best single"], ">=", -UNDER_BEST),
        ]
    loss = figures[f"irt, loss from {ANSWERS}"]
    claims.append(Claim(f"irt, loss from {ANSWERS} answers", loss, "<=", MOST_LOSS))
    what = (
        "Mean quality when each query goes to the model that a ranker puts first, and what IRT "
        f"loses of it when one of {JOINING} models joins from {ANSWERS} answers."
    )
    return CheckResult(tuple(claims), figures, context.seeds, described(context, what))


def _trial(trial: Trial, context: CheckContext) -> dict[str, float]:
    from wye.query.irt import IRTRouter
    from wye.query.knn import KNNRouter
    from wye.query.shnitzer import ShnitzerRouter

    if len(trial.train.model_names) < 3:
        raise CheckError(f"{trial.train.name} has fewer than 3 models; one joins two or more")
    row = {"best single": trial.best_single, "random": trial.random, "oracle": trial.oracle}
    routers = {"knn": KNNRouter(seed=trial.seed), **_rankers(trial.seed)}
    for name, router in routers.items():
        context.progress(f"seed {trial.seed}, {name}")
        row[name] = trial.routed(router.fit(trial.train).estimate(trial.test.texts))
        if isinstance(router, ShnitzerRouter):
            row[f"{name}, for a task"] = _routed_by_task(trial, router)
    after = routed_after_joining(
        trial, lambda: IRTRouter(seed=trial.seed), (ANSWERS,), JOINING, context
    )
    row[f"irt, loss from {ANSWERS}"] = row["irt"] - float(np.mean(after[ANSWERS]))
    return row


def _rankers(seed: int) -> dict[str, EmbeddedRouter]:
    from wye.query.eagle import EagleRouter
    from wye.query.irt import IRTRouter
    from wye.query.routerdc import RouterDCRouter
    from wye.query.shnitzer import ShnitzerRouter
    from wye.query.zooter import ZooterRouter

    return {
        "zooter": ZooterRouter(seed=seed),
        "routerdc": RouterDCRouter(seed=seed),
        "eagle": EagleRouter(seed=seed),
        **{score: ShnitzerRouter(score=score, seed=seed) for score in ("S1", "S2", "S3")},
        "irt": IRTRouter(seed=seed),
    }


def _routed_by_task(trial: Trial, router: ShnitzerRouter) -> float:
    """Mean test quality when all queries of a dataset go to the model of highest score."""
    total = 0.0
    for dataset in np.unique(trial.test.datasets):
        rows = np.flatnonzero(trial.test.datasets == dataset)
        chosen = router.route_task([trial.test.texts[i] for i in rows])
        total += float(trial.quality[rows, trial.test.model_names.index(chosen)].sum())
    return total / len(trial.quality)

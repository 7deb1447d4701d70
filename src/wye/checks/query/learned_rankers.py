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
    return _measured(context, METHODS)


def check_zooter(context: CheckContext) -> CheckResult:
    """ZOOTER alone."""
    return _measured(context, ("zooter",))


def check_routerdc(context: CheckContext) -> CheckResult:
    """RouterDC alone."""
    return _measured(context, ("routerdc",))


def check_eagle(context: CheckContext) -> CheckResult:
    """Eagle alone."""
    return _measured(context, ("eagle",))


def check_shnitzer(context: CheckContext) -> CheckResult:
    """Shnitzer's three scores."""
    return _measured(context, ("S1", "S2", "S3"))


def check_irt(context: CheckContext) -> CheckResult:
    """IRT alone, and its loss when a model joins.

    Raises:
        CheckError: fewer than three models.
    """
    return _measured(context, ("irt",))


def _measured(context: CheckContext, methods: tuple[str, ...]) -> CheckResult:
    figures = averaged([_trial(trial, methods, context) for trial in trials(context)])
    claims = []
    for method in methods:
        quality = figures[method]
        claims += [
            Claim(f"{method} - random", quality - figures["random"], ">=", OVER_RANDOM),
            Claim(f"{method} - best single", quality - figures["best single"], ">=", -UNDER_BEST),
        ]
    if "irt" in methods:
        loss = figures[f"irt, loss from {ANSWERS}"]
        claims.append(Claim(f"irt, loss from {ANSWERS} answers", loss, "<=", MOST_LOSS))
    what = f"Mean quality when each query goes to the model that {', '.join(methods)} put first."
    return CheckResult(tuple(claims), figures, context.seeds, described(context, what))


def _trial(trial: Trial, methods: tuple[str, ...], context: CheckContext) -> dict[str, float]:
    from wye.query.knn import KNNRouter
    from wye.query.shnitzer import ShnitzerRouter

    row = {"best single": trial.best_single, "random": trial.random, "oracle": trial.oracle}
    known = _rankers(trial.seed)
    routers = {"knn": KNNRouter(seed=trial.seed), **{m: known[m] for m in methods}}
    for name, router in routers.items():
        context.progress(f"seed {trial.seed}, {name}")
        row[name] = trial.routed(router.fit(trial.train).estimate(trial.test.texts))
        if isinstance(router, ShnitzerRouter):
            row[f"{name}, for a task"] = _routed_by_task(trial, router)
    if "irt" in methods:
        row[f"irt, loss from {ANSWERS}"] = row["irt"] - _after_joining(trial, context)
    return row


def _after_joining(trial: Trial, context: CheckContext) -> float:
    from wye.query.irt import IRTRouter

    if len(trial.train.model_names) < 3:
        raise CheckError(f"{trial.train.name} has fewer than 3 models; one joins two or more")
    after = routed_after_joining(
        trial, lambda: IRTRouter(seed=trial.seed), (ANSWERS,), JOINING, context
    )
    return float(np.mean(after[ANSWERS]))


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

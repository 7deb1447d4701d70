"""RouteLLM's metrics: APGR tells a router from chance, and the gap between models is what counts.

Paper: arXiv 2406.18665. A strong and a weak model: the best single model and the cheapest one (by
mean cost, else by price, else the worst). Scores in the same run: a constant, random numbers, kNN
on the gap, kNN on "the weak one is wrong", the mean gap of the query's dataset, and the oracle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.query.strong_and_weak import cheapest, dataset_gap
from wye.checks.query.trials import Trial, averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

LEAST_APGR = 0.58
OVER_RANDOM = 0.05
EXACT = 1e-9


def check(context: CheckContext) -> CheckResult:
    """APGR and CPT of six scores for the strong model."""
    rows = [_trial(trial) for trial in trials(context)]
    figures = averaged(rows)
    knn, random = figures["APGR kNN"], figures["APGR random"]
    claims = (
        Claim("|APGR constant - 0.5|", abs(figures["APGR constant"] - 0.5), "<=", EXACT),
        Claim("APGR kNN", knn, ">=", LEAST_APGR),
        Claim("APGR kNN - random", knn - random, ">=", OVER_RANDOM),
        Claim("APGR kNN - weak is wrong", knn - figures["APGR weak is wrong"], ">=", 0.0),
        Claim("APGR oracle", figures["APGR oracle"], ">=", 1.0),
    )
    what = "APGR and CPT for a strong and a weak model."
    return CheckResult(claims, figures, context.seeds, described(context, what))


def _trial(trial: Trial) -> dict[str, float]:
    from wye.query.knn import KNNRouter
    from wye.query.metrics.resample import Resample
    from wye.query.metrics.two_models import two_model_curve

    names = trial.train.model_names
    strong, weak = names[trial.best], names[cheapest(trial.train, trial.best)]
    train, test = (part.with_models([weak, strong]) for part in (trial.train, trial.test))
    quality = test.quality
    estimate = KNNRouter(seed=trial.seed).fit(train).estimate(test.texts).quality
    generator = np.random.default_rng(trial.seed)
    scores = {
        "constant": np.zeros(len(test)),
        "random": generator.random(len(test)),
        "kNN": estimate[:, 1] - estimate[:, 0],
        "weak is wrong": -estimate[:, 0],
        "dataset mean": dataset_gap(train, test),
        "oracle": quality[:, 1] - quality[:, 0],
    }
    row = {"strong": float(quality[:, 1].mean()), "weak": float(quality[:, 0].mean())}
    for name, score in scores.items():
        curve = two_model_curve(score, quality[:, 0], quality[:, 1], Resample(len(test), 0))
        row[f"APGR {name}"] = float(curve.apgr[0])
        if name in ("kNN", "random"):
            row[f"CPT50 {name}"], row[f"CPT80 {name}"] = (
                float(curve.cpt50[0]),
                float(curve.cpt80[0]),
            )
    return row

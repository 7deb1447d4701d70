"""FusionFactory, query level: one log routes, by neighbours, classifiers and a graph.

Paper: arXiv 2507.10540. Baselines in the same run: the best single model in training, a random
model, the oracle. Performance first; where the log has costs, the other two scenarios are printed.
Ranking is told by NDCG@3, hit@1, hit@3 and the mean reciprocal rank of each router's scores. The
best learned router is named per seed by its quality on a fifth of the training queries, so that the
test decides nothing.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.trials import averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Trial
    from wye.data import RoutingData
    from wye.embed import Embedder
    from wye.query.base import FloatArray
    from wye.query.fusionfactory import FusionFactoryRouter

METHODS = ("knn", "svm", "mlp", "bert", "graph")
OVER_SINGLE, OVER_RANDOM = 0.01, 0.05
SCENARIOS = {"balance": (0.5, 0.5), "cost first": (0.2, 0.8)}


def check(context: CheckContext) -> CheckResult:
    """Quality of the best learned router against single models, and the ranking of each.

    Raises:
        CheckError: fewer than two models or too few queries.
    """
    from wye.checks.query.embedding import embedded_once

    with embedded_once() as embedder:
        rows = [_trial(trial, embedder, context) for trial in trials(context)]
    figures = averaged(rows)
    best = figures["best learned"]
    gap = figures["oracle"] - figures["best single"]
    figures["share of the oracle gap closed"] = (best - figures["best single"]) / max(gap, 1e-12)
    claims = (
        Claim("best learned - best single", best - figures["best single"], ">=", OVER_SINGLE),
        Claim("best learned - random", best - figures["random"], ">=", OVER_RANDOM),
    )
    what = "Mean quality of five query-level routers learned from one log."
    return CheckResult(claims, figures, context.seeds, described(context, what))


def _trial(trial: Trial, embedder: Embedder, context: CheckContext) -> dict[str, float]:
    from wye.query.metrics.ranking import hit_at, mean_reciprocal_rank, ndcg_at

    # Another seed than that of the first split, or the second would follow it.
    parts = trial.train.split(test_share=0.2, seed=trial.seed + 1_000_003)
    learned, validation = parts.part("train"), parts.part("test")
    row = {"best single": trial.best_single, "random": trial.random, "oracle": trial.oracle}
    validated: dict[str, float] = {}
    for method in METHODS:
        context.progress(f"seed {trial.seed}: {method}")
        first = _router(method, embedder, trial.seed).fit(learned)
        validated[method] = _taken(first, validation)
        router = _router(method, embedder, trial.seed).fit(trial.train)
        scores = router.estimate(trial.test.texts).quality
        row |= {
            method: _mean(scores, trial.quality),
            f"{method}, NDCG@3": ndcg_at(scores, trial.quality, 3),
            f"{method}, hit@1": hit_at(scores, trial.quality, 1),
            f"{method}, hit@3": hit_at(scores, trial.quality, 3),
            f"{method}, reciprocal rank": mean_reciprocal_rank(scores, trial.quality),
        }
    row["best learned"] = row[max(validated, key=lambda m: validated[m])]
    return row | _with_cost(trial, embedder)


def _with_cost(trial: Trial, embedder: Embedder) -> dict[str, float]:
    """Quality and cost of kNN in the scenarios with cost; nothing where the log has none."""
    if trial.cost is None or not np.isfinite(trial.train.cost).all():
        return {}
    row: dict[str, float] = {}
    for name, scenario in SCENARIOS.items():
        router = _router("knn", embedder, trial.seed, scenario).fit(trial.train)
        scores = router.estimate(trial.test.texts).quality
        row[f"knn, {name}, quality"] = _mean(scores, trial.quality)
        row[f"knn, {name}, cost"] = _mean(scores, trial.cost)
    return row


def _router(
    method: str, embedder: Embedder, seed: int, scenario: tuple[float, float] = (1.0, 0.0)
) -> FusionFactoryRouter:
    from wye.query.fusionfactory import FusionFactoryRouter

    return FusionFactoryRouter(
        method=method, scenario=scenario, embedder=embedder, calibration="none", seed=seed
    )


def _taken(router: FusionFactoryRouter, data: RoutingData) -> float:
    if not len(data):
        raise CheckError(f"{data.name} is too small to hold queries out; name a larger set")
    return _mean(router.estimate(data.texts).quality, data.quality)


def _mean(scores: FloatArray, values: FloatArray) -> float:
    return float(values[np.arange(len(scores)), scores.argmax(axis=1)].mean())

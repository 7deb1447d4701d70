"""GraphRouter: a graph of queries and models routes, and a model joins through its edges.

Paper: arXiv 2410.03834. Baselines in the same run: the best single model in training, a random
model, kNN with 20 neighbours on the same vectors, and the same network with no visible edges, which
knows models by their descriptions alone. Scenarios are performance first and balance (where the log
has no cost, the mean price of the models stands for it, the same for every query; without prices
their size does). A model joins: each of the three best in training is left out of it, added with 50
visible answers, and counts as recalled where it is chosen among those that it is truly best on,
with and without visible edges. 70% of the queries are learned from, a fifth of them to choose the
step.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.trials import averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Trial
    from wye.data import RoutingData
    from wye.embed import Embedder
    from wye.query.base import QueryRouter
    from wye.query.graphrouter import GraphRouter

Floats = NDArray[np.float64]
HIDDEN, STEPS, DRAWS = 32, 60, 4
NEIGHBOURS = 20
ANSWERS = 50
JOINING = 3
OVER_RANDOM = 0.04
LEAST_MODELS = 3


def check(context: CheckContext) -> CheckResult:
    """Reward in two scenarios, and recall of a model that joins with and without edges.

    Raises:
        CheckError: fewer than three models, or nothing that can stand for cost.
    """
    from wye.checks.query.embedding import embedded_once

    rows = []
    with embedded_once() as embedder:
        for trial in trials(context):
            if len(trial.train.models) < LEAST_MODELS:
                raise CheckError(
                    f"{trial.train.name} has {len(trial.train.models)} models; one joins two others"
                )
            rows.append(_scenarios(trial, embedder) | _newcomers(trial, embedder, context))
    figures = averaged(rows)
    recall = np.array([r["recall with edges"] - r["recall without edges"] for r in rows])
    figures["std of recall gain"] = float(recall.std(ddof=1)) if len(rows) > 1 else 0.0
    claims = []
    for name in ("performance first", "balance"):
        value = figures[name]
        claims += [
            Claim(f"{name} - random", value - figures[f"{name}, random"], ">=", OVER_RANDOM),
            Claim(f"{name} - best single", value - figures[f"{name}, best single"], ">=", 0.0),
        ]
    claims.append(
        Claim(
            "recall of newcomers, edges - none, less one std over seeds",
            float(recall.mean()) - figures["std of recall gain"],
            ">=",
            1e-9,
        )
    )
    what = "Reward of routing by predicted edges, and recall of models that joined."
    return CheckResult(tuple(claims), figures, context.seeds, described(context, what))


def _router(
    trial: Trial, embedder: Embedder, scenario: tuple[float, float], *, edges: bool = True
) -> GraphRouter:
    from wye.query.graphrouter import GraphRouter

    return GraphRouter(
        scenario=scenario,
        hidden=HIDDEN,
        steps=STEPS,
        draws=DRAWS,
        visible_edges=edges,
        embedder=embedder,
        calibration="none",
        seed=trial.seed,
    )


def _scenarios(trial: Trial, embedder: Embedder) -> dict[str, float]:
    from wye.query.knn import KNNRouter
    from wye.query.learning.scenario import BALANCE, PERFORMANCE_FIRST

    train, cost = _costed(trial.train), _costed(trial.test).cost
    row: dict[str, float] = {}
    for name, scenario in (("performance first", PERFORMANCE_FIRST), ("balance", BALANCE)):
        seen = _rewards(train, train.quality, train.cost, train.datasets, scenario)
        true = _rewards(train, trial.quality, cost, trial.test.datasets, scenario)
        by_edges = _router(trial, embedder, scenario).fit(train)
        blind = _router(trial, embedder, scenario, edges=False).fit(train)
        knn = KNNRouter(
            k=NEIGHBOURS, shrinkage=1e-6, sharpness=0.0, embedder=embedder, calibration="none"
        ).fit(_with_quality(train, seen))
        best = int(seen.mean(axis=0).argmax())
        oracle = float(true.max(axis=1).mean())
        value, single = _taken(by_edges, trial, true), float(true[:, best].mean())
        row |= {
            name: value,
            f"{name}, best single": single,
            f"{name}, random": float(true.mean()),
            f"{name}, kNN": _taken(knn, trial, true),
            f"{name}, no edges": _taken(blind, trial, true),
            f"{name}, oracle": oracle,
            f"{name}, share of the gap closed": (value - single) / max(oracle - single, 1e-12),
        }
    return row


def _newcomers(trial: Trial, embedder: Embedder, context: CheckContext) -> dict[str, float]:
    from wye.query.learning.scenario import PERFORMANCE_FIRST, winners

    names = trial.train.model_names
    generator = np.random.default_rng(trial.seed)
    best = np.argsort(-trial.train.quality.mean(axis=0))[:JOINING]
    recalls: dict[bool, list[float]] = {True: [], False: []}
    quality: dict[bool, list[float]] = {True: [], False: []}
    for column in best.tolist():
        others = [m for m in names if m != names[column]]
        rows = generator.permutation(len(trial.train))[:ANSWERS]
        texts = [trial.train.texts[i] for i in rows]
        measured = trial.train.quality[rows, column].tolist()
        wins = winners(trial.quality)[:, column]
        for edges in (True, False):
            context.progress(f"seed {trial.seed}: {names[column]} joins, edges {edges}")
            router = _router(trial, embedder, PERFORMANCE_FIRST, edges=edges)
            router.fit(trial.train.with_models(others))
            router.add_model(names[column], texts, measured, description=_sentence(trial, column))
            estimate = router.estimate(trial.test.texts).restrict(names)
            chosen = estimate.quality.argmax(axis=1)
            recalls[edges].append(float((chosen[wins] == column).mean()))
            quality[edges].append(float(trial.quality[np.arange(len(chosen)), chosen].mean()))
    return {
        "recall with edges": float(np.mean(recalls[True])),
        "recall without edges": float(np.mean(recalls[False])),
        "quality with a newcomer, edges": float(np.mean(quality[True])),
        "quality with a newcomer, no edges": float(np.mean(quality[False])),
    }


def _sentence(trial: Trial, column: int) -> str:
    """What a router would have been told of the model, had it been there in training."""
    from wye.query.learning.model_descriptions import described

    row = trial.train.models.iloc[column]
    return described(
        str(row["model"]),
        provider=row["provider"],
        params_b=row["params_b"],
        price_in=row["price_in_per_mtok"],
        price_out=row["price_out_per_mtok"],
        context=row["context"],
    )


def _costed(data: RoutingData) -> RoutingData:
    """The same log with a cost of every answer."""
    if np.isfinite(data.cost).all():
        return data
    for columns in (["price_in_per_mtok", "price_out_per_mtok"], ["params_b"]):
        figure = data.models[columns].to_numpy(np.float64, na_value=np.nan).mean(axis=1)
        if np.isfinite(figure).all():
            by_name = dict(zip(data.model_names, figure.tolist(), strict=True))
            cost = data.outcomes["model"].map(by_name).astype(np.float64)
            return type(data)(
                data.queries, data.outcomes.assign(cost_usd=cost), data.models, data.name
            )
    raise CheckError(f"{data.name} has neither costs nor prices nor sizes of its models")


def _rewards(
    train: RoutingData,
    quality: Floats,
    cost: Floats,
    datasets: NDArray[np.str_],
    scenario: tuple[float, float],
) -> Floats:
    """Rewards `[Q, M]`, scaled by the bounds of each dataset in training."""
    from wye.query.learning.scenario import TaskScale, reward

    names, labels = np.unique(train.datasets.astype(str), return_inverse=True)
    if not np.isin(datasets.astype(str), names).all():
        raise CheckError(
            f"{train.name} has datasets without a query in training; name a larger set"
        )
    task = np.searchsorted(names, datasets.astype(str))
    scaled = [
        TaskScale.fit(seen, labels, len(names)).apply(values, task)
        for seen, values in ((train.quality, quality), (train.cost, cost))
    ]
    return reward(scaled[0], scaled[1], scenario)


def _with_quality(data: RoutingData, values: Floats) -> RoutingData:
    """The log with rewards in place of qualities, moved to the scale from 0 to 1."""
    import pandas as pd

    low, high = float(values.min()), float(values.max())
    rows = pd.Index(data.queries["query_id"]).get_indexer(pd.Index(data.outcomes["query_id"]))
    columns = pd.Index(data.models["model"]).get_indexer(pd.Index(data.outcomes["model"]))
    scaled = (values[rows, columns] - low) / max(high - low, 1e-12)
    return type(data)(data.queries, data.outcomes.assign(quality=scaled), data.models, data.name)


def _taken(router: QueryRouter, trial: Trial, reward: Floats) -> float:
    chosen = router.estimate(trial.test.texts).quality.argmax(axis=1)
    return float(reward[np.arange(len(chosen)), chosen].mean())

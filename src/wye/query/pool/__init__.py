"""Which models are worth having: the question before which model a query goes to.

For each model: what routing loses without it, as it can be achieved (cross-fitted estimates) and as
an oracle would. For the pool: forward selection, and the best subset of each size by trying all of
them where they are few enough. Choosing the best of many subsets flatters it, so each selection is
also judged on questions that it was not made on.

Sources: marginal value as in the leave-one-out of data valuation (Ghorbani and Zou, arXiv
1904.02868); routing at a realised cost as in RouterBench (arXiv 2403.12031, section 3.1).

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.query.arguments import check_data, check_seed
from wye.query.base import RouterError
from wye.query.cross_fit import cross_fit
from wye.query.metrics.baselines import baselines
from wye.query.metrics.comparison import Comparison, compare_on
from wye.query.metrics.contender import contender
from wye.query.metrics.resample import UNKNOWN, Resample
from wye.query.pool.report import ModelValue, Pool, PoolReport
from wye.query.pool.value import PoolValue, exact, greedy
from wye.query.registry import get_router

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.base import Estimate

# Cells of [W, Q] arrays that the exact search may compare; about a minute.
EXACT_CELLS = 4e9
REDRAWN = 40


def value_pool(
    data: RoutingData,
    *,
    router: str = "auto",
    embedder: Any = "static",
    budget: float | None = None,
    budget_share: float | None = None,
    max_models: int | None = None,
    tolerance: float = 0.005,
    folds: int = 3,
    seed: int = 0,
    bootstrap: int = 1000,
    level: float = 0.95,
    estimate: Estimate | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> PoolReport:
    """What each model of `data` is worth to routing, and which few are enough.

    Args:
        data: outcomes.
        router: whose estimates route; a name of `wye.query.router_names()`.
        embedder: of that router.
        budget: USD per query that the mean cost may be at most; quality at any cost when None.
        budget_share: the same as a share of the best single model's mean cost.
        max_models: largest pool to look for; all models when None.
        tolerance: quality that a smaller pool may lose to count as enough.
        folds, seed: of the cross-fit.
        bootstrap, level: of the intervals.
        estimate: cross-fitted estimates of all queries of `data`, in the place of `router`'s.
        progress: is told what runs.

    Raises:
        RouterError: both budgets, a budget out of range or without costs, or one model alone.
        ReportError: no models that answered the same queries.
    """
    check_data(data)
    check_seed(seed)
    comparison = compare_on(data)
    parts = None
    if estimate is None:
        parameters = {"embedder": embedder, "seed": seed}
        fitted = cross_fit(
            lambda: get_router(router, **parameters),
            data,
            folds=folds,
            seed=seed,
            progress=lambda said: progress(f"{router}, {said}"),
        )
        estimate, parts = fitted.estimate, fitted.parts[comparison.rows]
    draws = Resample(len(comparison), bootstrap, seed=seed, level=level)
    base = baselines(comparison, draws)
    best_cost = None if base.best_cost is None else float(base.best_cost[0])
    limit = _budget(budget, budget_share, best_cost, data.name)
    size = len(comparison.models) if max_models is None else max_models
    if len(comparison.models) < 2 or size < 1:
        raise RouterError(
            f"{data.name} compares {len(comparison.models)} models and the pool may hold {size}; "
            "expected at least two to choose from, and one to choose"
        )
    size = min(size, len(comparison.models))
    achievable, oracle = _values(estimate, data, comparison, limit)
    progress("marginal values")
    models = _marginal(achievable, oracle, comparison, draws)
    progress("forward selection")
    if parts is None:
        parts = np.random.default_rng(seed).integers(0, folds, len(comparison))
    steps = _steps(achievable, oracle, comparison, draws, size, parts)
    progress("exact search")
    best, why = _exact(achievable, oracle, comparison, draws, size)
    whole = achievable.on_draws(achievable.serve(range(achievable.n_models)), draws)
    enough = _enough(best or steps, whole[0], tolerance)
    return PoolReport(
        data_name=data.name,
        n_queries=len(comparison),
        router=router,
        budget=limit,
        tolerance=tolerance,
        level=level,
        seed=seed,
        whole=draws.figure(whole),
        oracle=draws.figure(oracle.on_draws(oracle.serve(range(oracle.n_models)), draws)),
        best_single=comparison.models[base.best],
        best_single_quality=draws.figure(base.best_quality),
        models=models,
        greedy=steps,
        exact=best,
        why_not_exact=why,
        enough=enough,
        picked=_redrawn(achievable, comparison, len(enough.models), seed),
        notes=comparison.notes,
    )


def _budget(
    budget: float | None, share: float | None, best_cost: float | None, name: str
) -> float | None:
    if budget is None and share is None:
        return None
    if budget is not None and share is not None:
        raise RouterError("give budget (USD per query) or budget_share, not both")
    if best_cost is None:
        raise RouterError(f"{name} has no costs, so no budget can be kept; leave it out")
    limit = budget if budget is not None else float(share or 0.0) * best_cost
    if not (np.isfinite(limit) and limit > 0):
        raise RouterError(f"the budget is {limit} USD per query, expected more than 0")
    return limit


def _values(
    estimate: Estimate, data: RoutingData, comparison: Comparison, budget: float | None
) -> tuple[PoolValue, PoolValue]:
    routed = contender("pool", estimate, data, comparison, latency_samples=0)
    if budget is not None and not routed.priced:
        raise RouterError("the router expects no cost of some models, so no budget can be kept")
    quality, cost = comparison.quality, comparison.cost
    expected_cost = routed.estimate.cost if routed.priced else None
    return (
        PoolValue(routed.estimate.quality, expected_cost, quality, cost, budget),
        PoolValue(quality, cost, quality, cost, budget),
    )


def _marginal(
    achievable: PoolValue, oracle: PoolValue, comparison: Comparison, draws: Resample
) -> tuple[ModelValue, ...]:
    everyone = list(range(achievable.n_models))
    serving = achievable.serve(everyone)
    with_all = achievable.on_draws(serving, draws)
    oracle_all = oracle.on_draws(oracle.serve(everyone), draws)
    values = []
    for m, name in enumerate(comparison.models):
        others = [k for k in everyone if k != m]
        lost = with_all - achievable.on_draws(achievable.serve(others), draws)
        oracle_lost = oracle_all - oracle.on_draws(oracle.serve(others), draws)
        cost = UNKNOWN
        if comparison.cost is not None:
            cost = draws.figure(draws.mean(comparison.cost[:, m]))
        values.append(
            ModelValue(
                name=name,
                quality=draws.figure(draws.mean(comparison.quality[:, m])),
                cost=cost,
                share=float((serving.column[0] == m).mean()),
                marginal=draws.figure(lost),
                oracle_marginal=draws.figure(oracle_lost),
            )
        )
    return tuple(sorted(values, key=lambda v: -v.marginal.value if v.marginal.known else -np.inf))


def _pool(
    columns: tuple[int, ...],
    achievable: PoolValue,
    oracle: PoolValue,
    comparison: Comparison,
    draws: Resample,
    held_out: float,
) -> Pool:
    whole = achievable.on_draws(achievable.serve(range(achievable.n_models)), draws)
    reached = achievable.on_draws(achievable.serve(columns), draws)
    return Pool(
        models=tuple(comparison.models[m] for m in columns),
        quality=draws.figure(reached),
        loss=draws.figure(whole - reached),
        oracle=draws.figure(oracle.on_draws(oracle.serve(columns), draws)),
        held_out=held_out,
    )


def _steps(
    achievable: PoolValue,
    oracle: PoolValue,
    comparison: Comparison,
    draws: Resample,
    size: int,
    parts: np.ndarray,
) -> tuple[Pool, ...]:
    order = tuple(m for m, _ in greedy(achievable, size))
    held_out = _held_out(achievable, size, parts)
    return tuple(
        _pool(order[:k], achievable, oracle, comparison, draws, held_out[k - 1])
        for k in range(1, len(order) + 1)
    )


def _held_out(value: PoolValue, size: int, parts: np.ndarray) -> list[float]:
    """Value of the pool of each size on the queries that its selection did not see."""
    total = np.zeros(size)
    for part in np.unique(parts):
        inside = np.flatnonzero(parts == part)
        learn, judge = value.restricted(np.flatnonzero(parts != part)), value.restricted(inside)
        serving = judge.nobody()
        for k, (column, _) in enumerate(greedy(learn, size)):
            serving = judge.with_model(serving, column)
            total[k] += judge.of(serving) * inside.size / parts.size
    return [float(v) if np.isfinite(v) else float("nan") for v in total]


def _exact(
    achievable: PoolValue,
    oracle: PoolValue,
    comparison: Comparison,
    draws: Resample,
    size: int,
) -> tuple[tuple[Pool, ...], str]:
    found: list[Pool] = []
    per_subset = achievable.score.shape[0] * achievable.score.shape[1]
    spent = 0.0
    for k in range(1, size + 1):
        spent += comb(achievable.n_models, k) * per_subset
        if spent > EXACT_CELLS:
            return tuple(found), (
                f"the best pool was looked for among all subsets up to {k - 1} models; of {k} "
                f"there are {comb(achievable.n_models, k)}, so larger ones are greedy"
            )
        columns = exact(achievable, k)
        found.append(_pool(columns, achievable, oracle, comparison, draws, float("nan")))
    return tuple(found), ""


def _enough(pools: tuple[Pool, ...], whole: float, tolerance: float) -> Pool:
    """The smallest pool within `tolerance` of all models; the best one where none is."""
    for pool in pools:
        if pool.quality.known and pool.quality.value >= whole - tolerance:
            return pool
    return max(pools, key=lambda p: p.quality.value if p.quality.known else -np.inf)


def _redrawn(value: PoolValue, comparison: Comparison, size: int, seed: int) -> dict[str, float]:
    """Share of bootstrap samples in which forward selection of `size` models takes each model."""
    generator = np.random.default_rng(seed)
    counts = np.zeros(value.n_models)
    n = value.quality.shape[0]
    for _ in range(REDRAWN):
        redrawn = value.restricted(np.asarray(generator.integers(0, n, n)))
        for column, _ in greedy(redrawn, size):
            counts[column] += 1
    return dict(zip(comparison.models, (counts / REDRAWN).tolist(), strict=True))

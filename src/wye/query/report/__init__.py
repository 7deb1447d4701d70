"""The honest report: does routing pay, against everything that needs no router?

Judges routers after the fact, on recorded outcomes: best single model, cheapest mix of single
models (zero router of RouterBench, arXiv 2403.12031), best model per dataset, oracle, and the
router at the same realised cost, on the same queries, with paired bootstrap intervals.

- at_budget: quality at a realised mean cost of at most a share of the best single model's mean
  cost, on the curve of cost weights (`metrics.curve.quality_at`).
- AIQ: RouterBench, equation 4 (`metrics.curve.aiq`), between the cheapest and the dearest single
  model; the cheapest single model belongs to the curve, since a router can send all to it.
- APGR, CPT: RouteLLM, arXiv 2406.18665, section 3.2 (`metrics.two_models`).
- PerfGain = max over the curve of quality / quality of the best single model - 1, and CostSave =
  1 - least cost of the curve at that quality / cost of the best single model, 0 where the curve
  never reaches it (LLMRouterBench, arXiv 2601.07206). Both pick the point on the data that they
  are reported on, as the benchmark does, so they are optimistic; the verdict rests on neither.
- regret: quality of the oracle minus quality of the router, under the policy `quality`.
- ECE, Brier: `metrics.calibration`, over all pairs of query and model.
- latency: from one text to a plan, timed on the queries of the data.

The router's own cost per query is part of every cost of the router.

Shape letters: Q queries, M models, B draws, L operating points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from wye.query.arguments import check_data, check_seed
from wye.query.base import Estimate, QueryRouter
from wye.query.learning.seen import seen
from wye.query.metrics.baselines import Baselines, baselines
from wye.query.metrics.calibration import brier, expected_calibration_error
from wye.query.metrics.comparison import Comparison, ReportError, compare_on
from wye.query.metrics.contender import Contender, contender, operating_points
from wye.query.metrics.curve import aiq, cost_at, quality_at
from wye.query.metrics.resample import UNKNOWN, Figure, Resample
from wye.query.metrics.two_models import two_model_curve
from wye.query.policies.choosing import targets_of
from wye.query.report.types import (
    SHARES,
    FrontierPoint,
    PolicyResult,
    Priced,
    Report,
    RouterResult,
)
from wye.query.report.verdict import judge_all, judge_one
from wye.query.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from wye.data import RoutingData
    from wye.query.base import FloatArray
    from wye.query.policy import Policy

__all__ = ["Report", "ReportError", "evaluate", "evaluate_many"]

_FRONTIER_POINTS = 48


def evaluate(
    router: QueryRouter | Estimate,
    data: RoutingData,
    *,
    name: str | None = None,
    policies: Sequence[Policy] = (),
    min_coverage: float = 0.9,
    seed: int = 0,
    bootstrap: int = 1000,
    level: float = 0.95,
    latency_samples: int = 200,
    console: Console | None = None,
) -> Report:
    """The honest report of one router (or one estimate of all queries of `data`).

    Args:
        router: fitted on other data.
        data: outcomes to judge on.
        name: what to call it; the router's own name when None.
        policies: further policies to judge on its estimate.
        min_coverage: share of the queries that a model must have answered to be compared.
        seed: of the bootstrap.
        bootstrap: draws.
        level: of the intervals.
        latency_samples: single queries to time.
        console: where to show progress; nowhere when None.

    Raises:
        ReportError: the data leave nothing to compare, or the router does not fit them.
    """
    called = name or str(getattr(router, "name", "estimate"))
    return evaluate_many(
        {called: router},
        data,
        policies=policies,
        min_coverage=min_coverage,
        seed=seed,
        bootstrap=bootstrap,
        level=level,
        latency_samples=latency_samples,
        console=console,
    )


def evaluate_many(
    routers: Mapping[str, QueryRouter | Estimate],
    data: RoutingData,
    *,
    policies: Sequence[Policy] = (),
    min_coverage: float = 0.9,
    seed: int = 0,
    bootstrap: int = 1000,
    level: float = 0.95,
    latency_samples: int = 200,
    console: Console | None = None,
) -> Report:
    """The honest report of several routers, on the same queries and bootstrap draws.

    Args and errors as in `evaluate`; `routers` by the name to call them.
    """
    for name, router in routers.items():
        if not isinstance(router, QueryRouter | Estimate):
            raise ReportError(f"{name} is {router!r}, expected a fitted router or an Estimate")
    if not routers:
        raise ReportError("no routers were given, expected at least one by name")
    if bootstrap < 0 or not 0.0 < level < 1.0:
        raise ReportError(f"bootstrap={bootstrap}, level={level}; expected >= 0 and within (0, 1)")
    check_data(data)
    check_seed(seed)
    comparison = compare_on(data, min_coverage=min_coverage)
    draws = Resample(len(comparison), bootstrap, seed=seed, level=level)
    base = baselines(comparison, draws)
    results: dict[str, RouterResult] = {}
    notes = list(comparison.notes)
    for name, router in _with_progress(routers, console):
        judged = contender(name, router, data, comparison, latency_samples=latency_samples)
        repeated = _repeated(router, data, comparison)
        results[name] = _result(judged, comparison, base, draws, policies, seed, repeated)
        if repeated:
            notes.append(
                f"{name} learned from {repeated} of these {counted(len(comparison), 'query')}: "
                "its figures are better than they will be on new ones."
            )
        notes.extend(_router_notes(judged, comparison))
    best_cost = base.best_cost
    singles = _singles(comparison, base, draws)
    best = next(s for s in singles if s.name == comparison.models[base.best])
    by_name = {s.name: s for s in singles}
    mix = tuple(by_name[comparison.models[m]] for m in base.mix)
    return Report(
        data_name=comparison.data_name,
        n_queries=comparison.n_queries,
        n_compared=len(comparison),
        models=comparison.models,
        excluded=comparison.excluded,
        notes=tuple(notes),
        seed=seed,
        n_draws=bootstrap,
        level=level,
        singles=singles,
        best_single=best,
        mix=mix,
        mix_aiq=draws.figure(base.mix_aiq()),
        mix_at_budget={
            s: UNKNOWN
            if best_cost is None
            else draws.figure(base.mix_quality_at(float(s) * best_cost))
            for s in SHARES
        },
        best_per_dataset=Priced(
            "best per dataset",
            draws.figure(base.per_dataset_quality),
            _figure(draws, base.per_dataset_cost),
        ),
        oracle=Priced(
            "oracle", draws.figure(base.oracle_quality), _figure(draws, base.oracle_cost)
        ),
        per_dataset={d: comparison.models[m] for d, m in base.per_dataset.items()},
        routers=results,
        verdict=judge_all(list(results.values())),
    )


def _result(
    judged: Contender,
    comparison: Comparison,
    base: Baselines,
    draws: Resample,
    policies: Sequence[Policy],
    seed: int,
    repeated: int,
) -> RouterResult:
    estimate = judged.estimate
    points = operating_points(judged)
    quality = draws.mean(np.take_along_axis(comparison.quality, points, axis=1))
    cost = None
    if comparison.cost is not None:
        cost = draws.mean(np.take_along_axis(comparison.cost, points, axis=1))
        cost = cost + estimate.router_cost
    known = judged.known
    predicted, real = estimate.quality[:, known], comparison.quality[:, known]
    two = _two_models(judged, comparison, draws)
    money = _money(cost, quality, base, draws)
    gains = money.gain | {"any": quality[:, 0] - base.best_quality}
    latency = _latency(judged.latency, draws)
    loads = np.bincount(points[:, 0], minlength=len(comparison.models)) / len(comparison)
    relative = base.best_quality
    perf_gain = np.where(
        relative > 0, quality.max(axis=1) / np.where(relative > 0, relative, 1) - 1, np.nan
    )
    verdict = judge_one(
        judged.name,
        comparison,
        base,
        draws,
        quality=quality[:, 0],
        cost=None if cost is None else cost[:, 0],
        at_budget=money.at_budget,
        gains=gains,
        apgr=two["apgr"],
        repeated=repeated,
    )
    return RouterResult(
        name=judged.name,
        quality=draws.figure(quality[:, 0]),
        cost=UNKNOWN if cost is None else draws.figure(cost[:, 0]),
        aiq=draws.figure(money.aiq),
        apgr=two["apgr"],
        cpt50=two["cpt50"],
        cpt80=two["cpt80"],
        perf_gain=draws.figure(perf_gain),
        cost_save=draws.figure(money.cost_save),
        cost_at_best=draws.figure(money.cost_at_best),
        regret=draws.figure(base.oracle_quality - quality[:, 0]),
        ece=draws.figure(expected_calibration_error(predicted, real, draws), centred=True),
        brier=draws.figure(brier(predicted, real, draws)),
        latency_p50_ms=latency[0],
        latency_p99_ms=latency[1],
        at_budget={s: draws.figure(v) for s, v in money.at_budget.items()},
        gain={s: draws.figure(v) for s, v in gains.items()},
        share_by_model={
            m: float(loads[k]) for k, m in enumerate(comparison.models) if loads[k] > 0
        },
        frontier=_frontier(cost, quality, draws),
        policies=tuple(_policy(p, judged, comparison, draws, seed) for p in policies),
        pays=verdict.pays,
        verdict=verdict.words,
    )


class _Money:
    """What a router's curve gives for money, on every draw; NaN throughout without costs."""

    def __init__(self, n_draws: int) -> None:
        missing = np.full(n_draws, np.nan)
        self.aiq = missing
        self.cost_at_best = missing
        self.cost_save = missing
        self.at_budget: dict[str, FloatArray] = dict.fromkeys(SHARES, missing)
        self.gain: dict[str, FloatArray] = dict.fromkeys(SHARES, missing)


def _money(
    cost: FloatArray | None, quality: FloatArray, base: Baselines, draws: Resample
) -> _Money:
    money = _Money(draws.n_draws + 1)
    best_cost = base.best_cost
    if cost is None or base.cost is None or best_cost is None:
        return money
    for share in SHARES:
        budget = float(share) * best_cost
        money.at_budget[share] = quality_at(cost, quality, budget)
        money.gain[share] = money.at_budget[share] - base.mix_quality_at(budget)
    rows = np.arange(cost.shape[0])
    cheapest = base.cost.argmin(axis=1)
    all_cost = np.concatenate([cost, base.cost[rows, cheapest][:, None]], axis=1)
    all_quality = np.concatenate([quality, base.quality[rows, cheapest][:, None]], axis=1)
    money.aiq = aiq(all_cost, all_quality, base.cost.min(axis=1), base.cost.max(axis=1))
    money.cost_at_best = cost_at(cost, quality, base.best_quality)
    saved = 1.0 - money.cost_at_best / np.where(best_cost > 0, best_cost, np.nan)
    money.cost_save = np.maximum(np.nan_to_num(saved, nan=0.0), 0.0)
    return money


def _repeated(router: QueryRouter | Estimate, data: RoutingData, comparison: Comparison) -> int:
    """How many of the queries compared the router is known to have learned from."""
    if isinstance(router, Estimate):
        return 0
    texts = data.texts
    return int(seen(router, [texts[i] for i in comparison.rows]).sum())


def _two_models(judged: Contender, comparison: Comparison, draws: Resample) -> dict[str, Figure]:
    if len(comparison.models) != 2 or not judged.known.all():
        return dict.fromkeys(("apgr", "cpt50", "cpt80"), UNKNOWN)
    strong = int(comparison.quality.mean(axis=0).argmax())
    gap = judged.estimate.quality[:, strong] - judged.estimate.quality[:, 1 - strong]
    curve = two_model_curve(
        gap, comparison.quality[:, 1 - strong], comparison.quality[:, strong], draws
    )
    return {name: draws.figure(getattr(curve, name)) for name in ("apgr", "cpt50", "cpt80")}


def _frontier(
    cost: FloatArray | None, quality: FloatArray, draws: Resample
) -> tuple[FrontierPoint, ...]:
    if cost is None:
        return ()
    low, high = float(cost[0].min()), float(cost[0].max())
    grid = np.geomspace(low, high, _FRONTIER_POINTS) if 0 < low < high else np.array([high])
    points = []
    for budget in grid:
        at = quality_at(cost, quality, np.full(cost.shape[0], budget))
        points.append(FrontierPoint(float(budget), draws.figure(at)))
    return tuple(p for p in points if p.quality.known)


def _policy(
    policy: Policy, judged: Contender, comparison: Comparison, draws: Resample, seed: int
) -> PolicyResult:
    # A policy that keeps an account must not carry it from one router to the next.
    fresh = deepcopy(policy)
    allowed = np.broadcast_to(judged.known, comparison.quality.shape)
    choice = fresh.choose(judged.estimate, allowed=allowed, generator=np.random.default_rng(seed))
    target = targets_of(choice)
    answered = target >= 0
    column = np.maximum(target, 0)[:, None]

    def taken(values: FloatArray) -> FloatArray:
        return np.where(answered, np.take_along_axis(values, column, axis=1)[:, 0], 0.0)

    cost = UNKNOWN
    if comparison.cost is not None:
        cost = draws.figure(draws.mean(taken(comparison.cost)) + judged.estimate.router_cost)
    return PolicyResult(
        policy=fresh.describe(),
        answered=float(answered.mean()),
        quality=draws.figure(draws.mean(taken(comparison.quality))),
        cost=cost,
    )


def _latency(seconds: FloatArray, draws: Resample) -> tuple[Figure, Figure]:
    if not seconds.size:
        return UNKNOWN, UNKNOWN
    rng = np.random.default_rng(0)
    picked = seconds[rng.integers(0, seconds.size, (draws.n_draws, seconds.size))]
    values = np.concatenate([seconds[None], picked]) * 1e3
    p50, p99 = np.quantile(values, (0.5, 0.99), axis=1)
    return draws.figure(p50), draws.figure(p99)


def _singles(comparison: Comparison, base: Baselines, draws: Resample) -> tuple[Priced, ...]:
    every = [
        Priced(
            model,
            draws.figure(base.quality[:, m]),
            UNKNOWN if base.cost is None else draws.figure(base.cost[:, m]),
        )
        for m, model in enumerate(comparison.models)
    ]
    if base.cost is None:
        return tuple(sorted(every, key=lambda s: -s.quality.value))
    return tuple(sorted(every, key=lambda s: -s.cost.value))


def _figure(draws: Resample, values: FloatArray | None) -> Figure:
    return UNKNOWN if values is None else draws.figure(values)


def _router_notes(judged: Contender, comparison: Comparison) -> list[str]:
    notes = []
    if not judged.known.all():
        missing = [m for m, k in zip(comparison.models, judged.known, strict=True) if not k]
        notes.append(f"{judged.name} does not know {missing} and never chooses them.")
    if comparison.cost is not None and not judged.priced:
        notes.append(
            f"{judged.name} expects no cost of some models, so it has one operating point and no "
            "curve."
        )
    return notes


def _with_progress(
    routers: Mapping[str, QueryRouter | Estimate], console: Console | None
) -> Iterator[tuple[str, QueryRouter | Estimate]]:
    if console is None:
        yield from routers.items()
        return
    from rich.progress import track

    for name in track(routers, description="judging routers", console=console, transient=True):
        yield name, routers[name]

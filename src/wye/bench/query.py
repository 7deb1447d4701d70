"""Every router of the query scale on the same outcomes, parts and seeds, and whether any pays.

Each router is cross-fitted: every query is estimated by a router that had not seen its question (or
the data's own split is kept: learned on its train part, judged on its test part). All are judged on
the same queries and bootstrap draws (`wye.query.report`). Embeddings are computed once.

What is compared with what: each router's quality with that of the best single model, and its
quality at 100, 50, 25 and 10% of that model's cost (the mean over those it can keep) with the
cheapest mix of single models at the same cost. These differences are tested together by Holm's
procedure (`wye.query.metrics.significance`).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.bench.query_result import AGAINST, Difference, QueryBench, QueryRow
from wye.embed import CachedEmbedder, get_embedder
from wye.errors import WyeError
from wye.query.base import Estimate, MissingPartError, QueryRouter, RouterError
from wye.query.chat_models.base import ChatModelError
from wye.query.cross_fit import cross_fit, decision_times
from wye.query.metrics.baselines import Baselines, baselines
from wye.query.metrics.comparison import Comparison, compare_on
from wye.query.metrics.contender import contender, operating_points
from wye.query.metrics.curve import quality_at
from wye.query.metrics.resample import Resample
from wye.query.metrics.significance import holm, paired_p
from wye.query.registry import get_router, router_class, router_names
from wye.query.report import evaluate_many
from wye.query.report.types import SHARES

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.base import FloatArray
    from wye.query.report import Report

Progress = Callable[[str], None]


class BenchError(WyeError):
    """A benchmark that cannot run as asked; the message says what to do."""


@dataclass
class _Trained:
    """What training one router gave: an estimate a seed, or why there is none."""

    estimates: list[Estimate]
    train_seconds: float = float("nan")
    decision_seconds: FloatArray | None = None
    error: str = ""


def bench_query(
    data: RoutingData,
    routers: Sequence[str] | None = None,
    *,
    embedder: str = "static",
    folds: int = 3,
    own_split: bool = False,
    seeds: Sequence[int] = (0,),
    bootstrap: int = 1000,
    level: float = 0.95,
    progress: Callable[[int, int, str], None] = lambda done, total, said: None,
) -> QueryBench:
    """Train every router, or those named, and judge them on queries that they had not seen.

    Args:
        data: outcomes.
        routers: names of `wye.query.router_names()`; all when not given.
        embedder: a spec, for all routers that read an embedding.
        folds: parts of the cross-fit.
        own_split: learn on the data's train part and judge on its test part instead.
        seeds: of parts and routers. Figures and intervals are those of the first seed; the tests
            take each query's mean over the seeds.
        bootstrap, level: of the intervals.
        progress: is told how many routers of how many are done, and what runs.

    Raises:
        BenchError: no seeds, or no router that could be judged.
        RouterError: a router of no such name.
        ReportError: data that leave nothing to compare.
    """
    if not seeds or bootstrap < 2:
        raise BenchError(f"seeds={list(seeds)}, bootstrap={bootstrap}; expected one and 2 or more")
    names, broken = _loadable(routers)
    judged = data.part("test") if own_split else data
    comparison = compare_on(judged)
    left_out = broken if routers else _other_systems(names) | broken
    trained: dict[str, _Trained] = {}
    with TemporaryDirectory() as cache:
        shared = CachedEmbedder(get_embedder(embedder), cache)
        progress(0, len(names), f"embedding {len(data)} queries")
        shared.embed(data.texts)
        paid = shared.spent_usd / max(len(data), 1)
        for done, name in enumerate(names):

            def said(what: str, done: int = done, name: str = name) -> None:
                progress(done, len(names), f"{name}, {what}")

            outcome = _train(name, data, shared, folds, own_split, seeds, paid, said)
            if isinstance(outcome, str):
                left_out[name] = outcome
            else:
                trained[name] = outcome
    progress(len(names), len(names), "judging")
    return _judged(judged, comparison, trained, left_out, folds, own_split, seeds, bootstrap, level)


def _loadable(routers: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The routers to train; plug-ins that cannot be loaded, with the reason, unless named."""
    if routers:
        for name in routers:
            router_class(name)
        return list(dict.fromkeys(routers)), {}
    names, broken = [], {}
    for name in router_names():
        try:
            router_class(name)
        except RouterError as error:
            broken[name] = str(error)
        else:
            names.append(name)
    return names, broken


def _train(
    name: str,
    data: RoutingData,
    embedder: CachedEmbedder,
    folds: int,
    own_split: bool,
    seeds: Sequence[int],
    paid: float,
    said: Progress,
) -> _Trained | str:
    """The router on every seed; a string says why it is left out."""
    needed = _without_default(name)
    if needed:
        return f"needs {', '.join(needed)}, which a log of outcomes does not give"
    result = _Trained([])
    seconds = []
    try:
        for seed in seeds:
            wanted = {"embedder": embedder, "seed": seed}
            takes = inspect.signature(router_class(name)).parameters
            params = {k: v for k, v in wanted.items() if k in takes}
            first = seed == seeds[0]
            if own_split:
                said(f"seed {seed}")
                started = time.perf_counter()
                router = get_router(name, **params).fit(data.part("train"))
                seconds.append(time.perf_counter() - started)
                test = data.part("test").texts
                estimate = router.estimate(test)
                if first:
                    _embed_directly(router)
                    result.decision_seconds = decision_times(router, test)
            else:
                fitted = cross_fit(
                    lambda params=params: get_router(name, **params),  # type: ignore[misc]
                    data,
                    folds=folds,
                    seed=seed,
                    timed=first,
                    prepare=_embed_directly,
                    progress=lambda what, seed=seed: said(f"seed {seed}, {what}"),  # type: ignore[misc]
                )
                estimate = fitted.estimate
                seconds += fitted.fit_seconds
                if first:
                    result.decision_seconds = fitted.decision_seconds
            own = paid if "embedder" in params else 0.0
            result.estimates.append(replace(estimate, router_cost=estimate.router_cost + own))
    except (MissingPartError, ChatModelError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - one router's failure is its row, not the end
        result.error = f"{type(error).__name__}: {error}"
    result.train_seconds = float(np.mean(seconds)) if seconds else float("nan")
    return result


def _judged(
    data: RoutingData,
    comparison: Comparison,
    trained: dict[str, _Trained],
    left_out: dict[str, str],
    folds: int,
    own_split: bool,
    seeds: Sequence[int],
    bootstrap: int,
    level: float,
) -> QueryBench:
    draws = Resample(len(comparison), bootstrap, seed=seeds[0], level=level)
    base = baselines(comparison, draws)
    gaps: dict[str, dict[str, FloatArray]] = {}
    qualities: dict[str, tuple[float, ...]] = {}
    for name, outcome in trained.items():
        if outcome.error:
            continue
        try:
            made = [_gaps(name, e, data, comparison, base, draws) for e in outcome.estimates]
        except WyeError as error:
            outcome.error = str(error)
            continue
        gaps[name] = {key: np.mean([m[key] for m in made], axis=0) for key in AGAINST}
        single = float(base.best_quality[0])
        qualities[name] = tuple(float(m[AGAINST[0]][0]) + single for m in made)
    if not gaps:
        reasons = {n: t.error for n, t in trained.items()} | left_out
        said = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:3])
        more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
        raise BenchError(f"no router could be judged on {data.name}: {said}{more}")
    report = evaluate_many(
        {name: trained[name].estimates[0] for name in gaps},
        data,
        seed=seeds[0],
        bootstrap=bootstrap,
        level=level,
    )
    differences = _tested(gaps, draws)
    rows = [
        QueryRow(
            router=name,
            result=report.routers.get(name),
            error=outcome.error,
            train_seconds=outcome.train_seconds,
            decision_ms=_median_ms(outcome),
            router_cost=outcome.estimates[0].router_cost if outcome.estimates else float("nan"),
            quality_by_seed=qualities.get(name, ()),
            differences=differences.get(name, {}),
        )
        for name, outcome in trained.items()
    ]
    rows.sort(key=_merit, reverse=True)
    how = (
        f"learned on the train part, judged on the {len(comparison)} test queries"
        if own_split
        else f"{folds} parts by question, each judged by a router that learned the others"
    )
    return QueryBench(
        report=_reordered(report, rows),
        rows=tuple(rows),
        left_out=left_out,
        how=how,
        seeds=tuple(seeds),
        tests=sum(np.isfinite(d.p) for r in rows for d in r.differences.values()),
    )


def _gaps(
    name: str,
    estimate: Estimate,
    data: RoutingData,
    comparison: Comparison,
    base: Baselines,
    draws: Resample,
) -> dict[str, FloatArray]:
    """`[B]` differences from the best single model and from the cheapest mix."""
    judged = contender(name, estimate, data, comparison, latency_samples=0)
    points = operating_points(judged)
    quality = draws.mean(np.take_along_axis(comparison.quality, points, axis=1))
    gaps = {AGAINST[0]: quality[:, 0] - base.best_quality}
    over_mix = []
    if comparison.cost is not None and base.best_cost is not None:
        cost = draws.mean(np.take_along_axis(comparison.cost, points, axis=1))
        cost = cost + judged.estimate.router_cost
        for share in SHARES:
            budget = float(share) * base.best_cost
            over_mix.append(quality_at(cost, quality, budget) - base.mix_quality_at(budget))
    kept = [gap for gap in over_mix if np.isfinite(gap[0])]
    missing = np.full(draws.n_draws + 1, np.nan)
    gaps[AGAINST[1]] = np.mean(kept, axis=0) if kept else missing
    return gaps


def _tested(
    gaps: dict[str, dict[str, FloatArray]], draws: Resample
) -> dict[str, dict[str, Difference]]:
    keys = [(name, key) for name in gaps for key in AGAINST]
    p = np.array([paired_p(gaps[name][key]) for name, key in keys])
    corrected = dict(zip(keys, holm(p).tolist(), strict=True))
    plain = dict(zip(keys, p.tolist(), strict=True))
    return {
        name: {
            key: Difference(draws.figure(gaps[name][key]), plain[name, key], corrected[name, key])
            for key in AGAINST
        }
        for name in gaps
    }


def _merit(row: QueryRow) -> tuple[bool, float, float]:
    """Routers that failed last; else by gain over the mix, where known, and by quality."""
    if row.result is None:
        return False, -np.inf, -np.inf
    over_mix = row.differences[AGAINST[1]].figure
    return True, over_mix.value if over_mix.known else -1.0, row.result.quality.value


def _reordered(report: Report, rows: list[QueryRow]) -> Report:
    named = {r.router: report.routers[r.router] for r in rows if r.router in report.routers}
    return replace(report, routers=named)


def _median_ms(outcome: _Trained) -> float:
    taken = outcome.decision_seconds
    return float(np.median(taken)) * 1e3 if taken is not None and taken.size else float("nan")


def _embed_directly(router: QueryRouter) -> None:
    """A decision is timed as it will be made: without the memory of this benchmark."""
    held = getattr(router, "embedder_", None)
    if isinstance(held, CachedEmbedder):
        router.embedder_ = held.inner  # type: ignore[attr-defined]


def _without_default(name: str) -> list[str]:
    parameters: Any = inspect.signature(router_class(name)).parameters
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        n for n, p in parameters.items() if p.default is inspect.Parameter.empty and
        p.kind not in kinds
    ]  # fmt: skip


def _other_systems(names: Sequence[str]) -> dict[str, str]:
    """Systems of the scale that are no router of a log alone, so that nobody looks for them."""
    from wye.catalog import load_catalog

    # A paper's system may stand in the catalogue under another name than its router.
    classes = {router_class(name).__name__ for name in names}
    return {
        s.slug: "does not learn from outcomes and text alone: it reads answers, asks a language "
        "model, or is a policy, a measure or a part of other routers"
        for s in load_catalog().of_scale("query").systems
        if s.slug not in names and s.entry.rpartition(":")[2] not in classes
    }

"""The honest report as data: what every figure is called, in Python and in JSON.

In JSON every figure `x` has its bootstrap interval beside it as `x_ci`, `[low, high]`; a figure
without a meaning is null, and so is its interval. Money is USD per query (mean), quality is 0 to 1,
time is milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypedDict

from wye.query.metrics.resample import Figure

SHARES = ("1.0", "0.5", "0.25", "0.1")
Interval = list[float] | None


class SingleJson(TypedDict):
    """One model for every query."""

    model: str
    quality: float
    quality_ci: Interval
    cost_usd: float | None
    cost_usd_ci: Interval


class MixJson(TypedDict):
    """The cheapest mix of single models, cheapest vertex first; null figures without costs."""

    vertices: list[SingleJson]
    aiq: float | None
    aiq_ci: Interval
    at_budget: dict[str, float | None]
    at_budget_ci: dict[str, Interval]


class BoundJson(TypedDict):
    """Best model per dataset, or the oracle; `models` by dataset, empty for the oracle."""

    quality: float
    quality_ci: Interval
    cost_usd: float | None
    cost_usd_ci: Interval
    models: dict[str, str]


class LatencyJson(TypedDict):
    """Milliseconds from one text to a plan."""

    p50: float | None
    p99: float | None


class LatencyIntervalJson(TypedDict):
    """Intervals of `LatencyJson`."""

    p50: Interval
    p99: Interval


class PointJson(TypedDict):
    """One point of a router's frontier, at a realised mean cost."""

    cost_usd: float
    quality: float
    quality_ci: Interval


class PolicyJson(TypedDict):
    """One policy on a router's estimate; a query that goes nowhere has quality 0 and cost 0."""

    policy: str
    answered: float
    quality: float
    quality_ci: Interval
    cost_usd: float | None
    cost_usd_ci: Interval


class RouterJson(TypedDict):
    """One router.

    `quality`, `cost_usd`, `regret` (oracle's quality minus the router's) are those of the policy
    `quality`. `at_budget` maps a share of the best single model's mean cost to the quality at no
    more than that realised mean cost; `gain` is the same minus the cheapest mix of single models at
    the same cost (key "any": at any cost, minus the best single model). `cost_at_best_usd` is the
    least cost at which the frontier reaches the best single model's quality. `apgr`, `cpt50`,
    `cpt80` are null for other than two models.
    """

    router: str
    quality: float
    quality_ci: Interval
    cost_usd: float | None
    cost_usd_ci: Interval
    aiq: float | None
    aiq_ci: Interval
    apgr: float | None
    apgr_ci: Interval
    cpt50: float | None
    cpt50_ci: Interval
    cpt80: float | None
    cpt80_ci: Interval
    perf_gain: float | None
    perf_gain_ci: Interval
    cost_save: float | None
    cost_save_ci: Interval
    cost_at_best_usd: float | None
    cost_at_best_usd_ci: Interval
    regret: float
    regret_ci: Interval
    ece: float
    ece_ci: Interval
    brier: float
    brier_ci: Interval
    latency_ms: LatencyJson
    latency_ms_ci: LatencyIntervalJson
    at_budget: dict[str, float | None]
    at_budget_ci: dict[str, Interval]
    gain: dict[str, float | None]
    gain_ci: dict[str, Interval]
    share_by_model: dict[str, float]
    frontier: list[PointJson]
    policies: list[PolicyJson]
    pays: bool
    verdict: str


class ReportJson(TypedDict):
    """The whole report; `routers` by name, everything else once for the data."""

    format: str
    data: str
    queries: int
    queries_compared: int
    models: list[str]
    excluded: dict[str, str]
    notes: list[str]
    seed: int
    bootstrap: int
    level: float
    best_single: SingleJson
    singles: list[SingleJson]
    cheapest_mix: MixJson
    best_per_dataset: BoundJson
    oracle: BoundJson
    routers: dict[str, RouterJson]
    verdict: str


@dataclass(frozen=True)
class Priced:
    """A way to answer all queries: its mean quality and mean cost (unknown without costs)."""

    name: str
    quality: Figure
    cost: Figure


@dataclass(frozen=True)
class PolicyResult:
    """A policy on a router's estimate: what came out, and on which share of the queries."""

    policy: str
    answered: float
    quality: Figure
    cost: Figure


@dataclass(frozen=True)
class FrontierPoint:
    """Mean quality at a realised mean cost in USD per query."""

    cost: float
    quality: Figure


@dataclass(frozen=True)
class RouterResult:
    """All figures of one router; see `RouterJson` for what each is."""

    name: str
    quality: Figure
    cost: Figure
    aiq: Figure
    apgr: Figure
    cpt50: Figure
    cpt80: Figure
    perf_gain: Figure
    cost_save: Figure
    cost_at_best: Figure
    regret: Figure
    ece: Figure
    brier: Figure
    latency_p50_ms: Figure
    latency_p99_ms: Figure
    at_budget: dict[str, Figure]
    gain: dict[str, Figure]
    share_by_model: dict[str, float]
    frontier: tuple[FrontierPoint, ...]
    policies: tuple[PolicyResult, ...]
    pays: bool
    verdict: str

    def to_dict(self) -> RouterJson:
        """For JSON."""
        return RouterJson(
            router=self.name,
            quality=self.quality.value,
            quality_ci=interval(self.quality),
            cost_usd=number(self.cost),
            cost_usd_ci=interval(self.cost),
            aiq=number(self.aiq),
            aiq_ci=interval(self.aiq),
            apgr=number(self.apgr),
            apgr_ci=interval(self.apgr),
            cpt50=number(self.cpt50),
            cpt50_ci=interval(self.cpt50),
            cpt80=number(self.cpt80),
            cpt80_ci=interval(self.cpt80),
            perf_gain=number(self.perf_gain),
            perf_gain_ci=interval(self.perf_gain),
            cost_save=number(self.cost_save),
            cost_save_ci=interval(self.cost_save),
            cost_at_best_usd=number(self.cost_at_best),
            cost_at_best_usd_ci=interval(self.cost_at_best),
            regret=self.regret.value,
            regret_ci=interval(self.regret),
            ece=self.ece.value,
            ece_ci=interval(self.ece),
            brier=self.brier.value,
            brier_ci=interval(self.brier),
            latency_ms={"p50": number(self.latency_p50_ms), "p99": number(self.latency_p99_ms)},
            latency_ms_ci={
                "p50": interval(self.latency_p50_ms),
                "p99": interval(self.latency_p99_ms),
            },
            at_budget={k: number(v) for k, v in self.at_budget.items()},
            at_budget_ci={k: interval(v) for k, v in self.at_budget.items()},
            gain={k: number(v) for k, v in self.gain.items()},
            gain_ci={k: interval(v) for k, v in self.gain.items()},
            share_by_model=self.share_by_model,
            frontier=[
                {
                    "cost_usd": p.cost,
                    "quality": p.quality.value,
                    "quality_ci": interval(p.quality),
                }
                for p in self.frontier
            ],
            policies=[
                {
                    "policy": p.policy,
                    "answered": p.answered,
                    "quality": p.quality.value,
                    "quality_ci": interval(p.quality),
                    "cost_usd": number(p.cost),
                    "cost_usd_ci": interval(p.cost),
                }
                for p in self.policies
            ],
            pays=self.pays,
            verdict=self.verdict,
        )


@dataclass(frozen=True)
class Report:
    """Whether routing pays on a set, and by how much; prints itself as a table on a rich console.

    Attributes:
        data_name, n_queries, n_compared, models, excluded, notes: what was compared on what.
        seed, n_draws, level: of the bootstrap.
        singles: every model by itself, dearest first (by quality without costs).
        best_single: the one with the highest mean quality, ties to the cheaper.
        mix: vertices of the cheapest mix of single models, cheapest first; empty without costs.
        mix_aiq, mix_at_budget: of that mix.
        best_per_dataset, oracle: upper bounds that know datasets and outcomes.
        per_dataset: the best model by dataset.
        routers: by name, in the order given.
        verdict: in words, for the best of the routers.
    """

    data_name: str
    n_queries: int
    n_compared: int
    models: tuple[str, ...]
    excluded: dict[str, str]
    notes: tuple[str, ...]
    seed: int
    n_draws: int
    level: float
    singles: tuple[Priced, ...]
    best_single: Priced
    mix: tuple[Priced, ...]
    mix_aiq: Figure
    mix_at_budget: dict[str, Figure]
    best_per_dataset: Priced
    oracle: Priced
    per_dataset: dict[str, str]
    routers: dict[str, RouterResult]
    verdict: str

    def to_dict(self) -> ReportJson:
        """For JSON: finite numbers, strings, null."""
        return ReportJson(
            format="wye.report/1",
            data=self.data_name,
            queries=self.n_queries,
            queries_compared=self.n_compared,
            models=list(self.models),
            excluded=dict(self.excluded),
            notes=list(self.notes),
            seed=self.seed,
            bootstrap=self.n_draws,
            level=self.level,
            best_single=_single(self.best_single),
            singles=[_single(s) for s in self.singles],
            cheapest_mix={
                "vertices": [_single(s) for s in self.mix],
                "aiq": number(self.mix_aiq),
                "aiq_ci": interval(self.mix_aiq),
                "at_budget": {k: number(v) for k, v in self.mix_at_budget.items()},
                "at_budget_ci": {k: interval(v) for k, v in self.mix_at_budget.items()},
            },
            best_per_dataset=_bound(self.best_per_dataset, self.per_dataset),
            oracle=_bound(self.oracle, {}),
            routers={name: r.to_dict() for name, r in self.routers.items()},
            verdict=self.verdict,
        )

    def __rich__(self) -> Any:
        """What a rich console prints."""
        from wye.query.report.screen import screen

        return screen(self)


def number(figure: Figure) -> float | None:
    """The figure's value, None where it has no meaning."""
    return figure.value if figure.known else None


def interval(figure: Figure) -> Interval:
    """The figure's interval, None where it has none."""
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)):
        return None
    return [figure.low, figure.high]


def _single(priced: Priced) -> SingleJson:
    return {
        "model": priced.name,
        "quality": priced.quality.value,
        "quality_ci": interval(priced.quality),
        "cost_usd": number(priced.cost),
        "cost_usd_ci": interval(priced.cost),
    }


def _bound(priced: Priced, models: dict[str, str]) -> BoundJson:
    return {
        "quality": priced.quality.value,
        "quality_ci": interval(priced.quality),
        "cost_usd": number(priced.cost),
        "cost_usd_ci": interval(priced.cost),
        "models": dict(models),
    }

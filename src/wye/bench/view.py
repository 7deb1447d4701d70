"""What a frontier plot shows of a report, before anybody draws it.

Cost is in USD per 1000 queries on a logarithmic axis. The quality axis covers what the choice is
about: the mix, the routers and the models near them; what lies outside is named at the edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wye.errors import WyeError

if TYPE_CHECKING:
    from wye.query.metrics.resample import Figure
    from wye.query.report import Report

ROUTER_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
SINGLE_COLOUR = "#5b6470"
MIX_COLOUR = "#8a929c"
BEST_COLOUR = "#111827"
ORACLE_COLOUR = "#b8860b"
_BELOW = 0.08


class PlotError(WyeError):
    """A report cannot be drawn as asked; the message says what to do."""


@dataclass(frozen=True)
class Dot:
    """A way to answer: cost in USD per 1000 queries, quality, its interval."""

    label: str
    cost: float
    quality: Figure
    kind: str


@dataclass(frozen=True)
class Line:
    """A router's frontier: one entry per point, cheapest first."""

    label: str
    colour: str
    cost: tuple[float, ...]
    quality: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class FrontierView:
    """Everything on the plot.

    Attributes:
        dots: single models inside the axes (kind "single" or "best"), routers at their policy
            `quality` ("router") and the bounds ("oracle", "per dataset").
        mix: vertices of the cheapest mix, cost and quality.
        lines: one a router.
        costs, qualities: limits of the axes.
        outside: sentences on what lies outside.
        level: of the intervals.
    """

    title: str
    verdict: str
    dots: tuple[Dot, ...]
    mix: tuple[tuple[float, float], ...]
    lines: tuple[Line, ...]
    costs: tuple[float, float]
    qualities: tuple[float, float]
    outside: tuple[str, ...]
    level: float


def frontier_view(report: Report) -> FrontierView:
    """The plot of a report whose set has costs.

    Raises:
        PlotError: a cost is zero or negative everywhere, so a logarithmic axis shows nothing.
    """
    lines = tuple(
        Line(
            label=result.name,
            colour=ROUTER_COLOURS[k % len(ROUTER_COLOURS)],
            cost=tuple(p.cost * 1e3 for p in result.frontier),
            quality=tuple(p.quality.value for p in result.frontier),
            low=tuple(_or(p.quality.low, p.quality.value) for p in result.frontier),
            high=tuple(_or(p.quality.high, p.quality.value) for p in result.frontier),
        )
        for k, result in enumerate(report.routers.values())
    )
    singles = [
        Dot(s.name, s.cost.value * 1e3, s.quality, "best" if s == report.best_single else "single")
        for s in report.singles
    ]
    others = [
        *(Dot(r.name, r.cost.value * 1e3, r.quality, "router") for r in report.routers.values()),
        Dot(
            "best per dataset",
            report.best_per_dataset.cost.value * 1e3,
            report.best_per_dataset.quality,
            "per dataset",
        ),
        Dot("oracle", report.oracle.cost.value * 1e3, report.oracle.quality, "oracle"),
    ]
    mix = tuple((m.cost.value * 1e3, m.quality.value) for m in report.mix)
    shown = [d for d in (*singles, *others) if d.cost > 0]
    if not shown:
        raise PlotError(
            "every cost of this report is zero, and a frontier needs costs above zero; use --json"
        )
    qualities = _quality_limits(lines, mix, singles, others)
    inside = tuple(d for d in shown if qualities[0] <= d.quality.value <= qualities[1])
    at_least = min(d.cost for d in shown)
    at_most = max(d.cost for d in shown)
    return FrontierView(
        title=f"{report.data_name}: quality against cost, {report.n_compared} queries, "
        f"{len(report.models)} models",
        verdict=report.verdict,
        dots=inside,
        mix=mix,
        lines=lines,
        costs=(at_least / 1.25, at_most * 1.25),
        qualities=qualities,
        outside=_outside(shown, qualities),
        level=report.level,
    )


def cost_ticks(low: float, high: float) -> list[float]:
    """Ticks 1, 2, 5 of each power of ten between two costs; powers alone over a wide range."""
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in steps
    ]
    return [t for t in ticks if low <= t <= high]


def cost_label(cost: float) -> str:
    """A tick in USD without an exponent."""
    digits = max(0, -math.floor(math.log10(cost) + 1e-9))
    return f"${cost:.{digits}f}"


def quality_ticks(low: float, high: float) -> list[float]:
    """About six round ticks."""
    step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 7.5)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 6) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _quality_limits(
    lines: tuple[Line, ...],
    mix: tuple[tuple[float, float], ...],
    singles: list[Dot],
    others: list[Dot],
) -> tuple[float, float]:
    core = [q for line in lines for q in (*line.low, *line.high)]
    core += [q for _, q in mix]
    core += [d.quality.value for d in others if d.kind != "oracle"]
    floor = min(core) - _BELOW
    core += [d.quality.value for d in singles if d.quality.value >= floor]
    oracle = next(d.quality.value for d in others if d.kind == "oracle")
    low, high = min(core), max(core)
    if oracle <= high + 0.6 * (high - low):
        high = max(high, oracle)
    pad = 0.06 * max(high - low, 0.01)
    return max(low - pad, -0.02), min(high + 1.6 * pad, 1.04)


def _outside(shown: list[Dot], limits: tuple[float, float]) -> tuple[str, ...]:
    above = [d for d in shown if d.quality.value > limits[1]]
    below = [d for d in shown if d.quality.value < limits[0]]
    notes = [
        f"{d.label} above the plot: {d.quality.value:.3f} at ${d.cost:.3g} per 1000 queries"
        for d in above
    ]
    if below:
        best = max(d.quality.value for d in below)
        notes.append(f"{len(below)} weaker models below the plot (quality up to {best:.3f})")
    return tuple(notes)


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise

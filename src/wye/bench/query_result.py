"""What the comparison of query routers found: rows, the verdict in words, JSON and a screen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wye.query.report.screen import NONE, money, stacked, with_interval
from wye.query.report.types import SHARES, interval, number
from wye.query.report.verdict import points
from wye.query.wording import counted, listed, usd

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from wye.query.metrics.resample import Figure
    from wye.query.report import Report
    from wye.query.report.types import RouterResult

AGAINST = ("best single model", "cheapest mix")


@dataclass(frozen=True)
class Difference:
    """A difference in quality, its p value, and that after Holm's correction; NaN where unknown."""

    figure: Figure
    p: float
    p_holm: float


@dataclass(frozen=True)
class QueryRow:
    """One router.

    Attributes:
        result: all figures of its report; None where it failed.
        error: why it failed; empty where it did not.
        train_seconds: of one fit, mean over parts and seeds, embeddings at hand.
        decision_ms: median of single decisions, embedding included.
        router_cost: USD that deciding one query costs.
        quality_by_seed: under the policy `quality`.
        differences: by `AGAINST`.
    """

    router: str
    result: RouterResult | None
    error: str
    train_seconds: float
    decision_ms: float
    router_cost: float
    quality_by_seed: tuple[float, ...]
    differences: Mapping[str, Difference]

    def wins(self, level: float) -> bool:
        """Whether it is better than the best single model or the cheapest mix beyond chance."""
        return any(d.figure.value > 0 and d.p_holm < 1.0 - level for d in self.differences.values())


@dataclass(frozen=True)
class QueryBench:
    """What `bench_query` measured.

    Attributes:
        report: of all routers that could be judged, best first.
        rows: best first, those that failed last.
        left_out: system -> why it does not take part.
        how: what was learned on what, in words.
        seeds: of parts and routers.
        tests: how many differences were tested at once.
    """

    report: Report
    rows: tuple[QueryRow, ...]
    left_out: Mapping[str, str]
    how: str
    seeds: tuple[int, ...]
    tests: int

    @property
    def title(self) -> str:
        """What was compared on what."""
        return f"{self.report.data_name}: {counted(self.rows, 'router')} on the same queries"

    @property
    def method(self) -> str:
        """How it was compared, in a few sentences."""
        seeds = f"seeds {', '.join(map(str, self.seeds))}"
        return (
            f"{self.how}; {seeds}; figures are those of the first seed, with "
            f"{self.report.level:.0%} intervals of {self.report.n_draws} paired bootstrap draws "
            "over queries. p values are two-sided, from the bootstrap's standard error, and "
            f"corrected by Holm for all {self.tests} differences tested here. The difference from "
            "the cheapest mix is the mean over 100, 50, 25 and 10% of the best single model's "
            "cost, as far as the router can keep it."
        )

    @property
    def verdict(self) -> str:
        """Route with whom, or do not route."""
        best = self.report.best_single
        level = self.report.level
        able = [r for r in self.rows if r.result is not None]
        winners = [r for r in able if r.wins(level)]
        if not winners:
            top = max(able, key=lambda r: r.differences[AGAINST[0]].figure.value)
            gap = top.differences[AGAINST[0]]
            cheaper = ""
            if self.report.oracle.cost.known:
                mix = "the cheapest mix of single models"
                cheaper = f", and below its cost none beats {mix} beyond chance"
            return (
                f"do not route: {best.name} alone is as good as "
                f"{'this router' if len(able) == 1 else f'any of these {len(able)} routers'} "
                f"(its quality is {best.quality.value:.3f}; the best router, {top.router}, "
                f"differs by {points(gap.figure)}, p = {gap.p_holm:.2g} after Holm){cheaper}."
            )
        first = winners[0]
        said = []
        for key in AGAINST:
            gap = first.differences[key]
            if math.isfinite(gap.p_holm):
                chance = "" if gap.p_holm < 1.0 - level else ", no more than chance"
                said.append(
                    f"{points(gap.figure)} against the {key} (p = {gap.p_holm:.2g} after "
                    f"Holm{chance})"
                )
        others = [r.router for r in winners[1:]]
        also = f" Also better beyond chance: {listed(others, most=12)}." if others else ""
        alone = f"{best.name} alone has {best.quality.value:.3f}"
        return f"route with {first.router}: {'; '.join(said)}. {alone}.{also}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "format": "wye.bench.query/1",
            "method": self.method,
            "verdict": self.verdict,
            "seeds": list(self.seeds),
            "rows": [_row(r) for r in self.rows],
            "left_out": dict(self.left_out),
            "report": self.report.to_dict(),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(self.title), title_justify="left")
        for head in ("router", *HEADS):
            table.add_column(
                head,
                justify="left" if head == "router" else "right",
                no_wrap=head in INTERVALS,
            )
        for row in self.rows:
            table.add_row(escape(row.router), *map(stacked, cells(row)))
        yield table
        for row in self.rows:
            if row.error:
                yield f"[red]{escape(row.router)}: {escape(row.error)}[/]"
        if self.left_out:
            yield f"[dim]left out: {escape(', '.join(sorted(self.left_out)))}[/]"
        yield f"[dim]{escape(self.method)}[/]"
        yield f"[bold]Verdict: {escape(self.verdict)}[/]"


HEADS = (
    "quality",
    "over best single",
    "p",
    "over mix",
    "p",
    "training",
    "decision p50",
    "own cost",
)


# Columns of a figure with its interval.
INTERVALS = ("quality", "over best single", "over mix")


def cells(row: QueryRow) -> list[str]:
    """The short table: one text for each of `HEADS`."""
    if row.result is None:
        return ["failed", *([NONE] * (len(HEADS) - 1))]
    parts = [with_interval(row.result.quality)]
    for key in AGAINST:
        gap = row.differences[key]
        parts += [with_interval(gap.figure, signed=True), probability(gap.p_holm)]
    return [*parts, f"{row.train_seconds:.1f} s", f"{row.decision_ms:.2f} ms", usd(row.router_cost)]


DETAILS = (
    "quality",
    *(f"at {float(s):.0%} cost" for s in SHARES),
    *(f"gain at {float(s):.0%}" for s in SHARES),
    "AIQ", "CostSave", "PerfGain", "APGR", "regret", "ECE", "Brier", "cost", "over seeds",
)  # fmt: skip


def details(row: QueryRow) -> list[str]:
    """All metrics of a row: one text for each of `DETAILS`."""
    r = row.result
    if r is None:
        return [NONE] * len(DETAILS)
    return [
        with_interval(r.quality),
        *(with_interval(r.at_budget[s]) for s in SHARES),
        *(with_interval(r.gain[s], signed=True) for s in SHARES),
        with_interval(r.aiq),
        with_interval(r.cost_save),
        with_interval(r.perf_gain, signed=True),
        with_interval(r.apgr),
        with_interval(r.regret),
        with_interval(r.ece),
        with_interval(r.brier),
        money(r.cost),
        ", ".join(f"{q:.3f}" for q in row.quality_by_seed),
    ]


def probability(p: float) -> str:
    """A p value in two digits."""
    if not math.isfinite(p):
        return NONE
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _row(row: QueryRow) -> dict[str, Any]:
    return {
        "router": row.router,
        "error": row.error or None,
        "train_seconds": _finite(row.train_seconds),
        "decision_p50_ms": _finite(row.decision_ms),
        "router_cost_usd": _finite(row.router_cost),
        "quality_by_seed": list(row.quality_by_seed),
        "differences": {
            key: {
                "quality": number(gap.figure),
                "quality_ci": interval(gap.figure),
                "p": _finite(gap.p),
                "p_holm": _finite(gap.p_holm),
            }
            for key, gap in row.differences.items()
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

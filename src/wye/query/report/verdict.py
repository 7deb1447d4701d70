"""The verdict in words: route, or do not route and use X.

Routing pays where the router's quality exceeds that of the cheapest mix of single models at the
same realised cost, with an interval that excludes zero. Several budgets are looked at, so the
intervals of the verdict are widened to hold together (Bonferroni): level 1 - (1 - level) / n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.query.wording import counted, usd

if TYPE_CHECKING:
    from wye.query.base import FloatArray
    from wye.query.metrics.baselines import Baselines
    from wye.query.metrics.comparison import Comparison
    from wye.query.metrics.resample import Figure, Resample
    from wye.query.report.types import RouterResult


# Share of known questions up to which a verdict is given, with a note.
MOST_REPEATED = 0.05


@dataclass(frozen=True)
class Verdict:
    """Whether one router pays, and why, in words."""

    pays: bool
    words: str


def judge_one(
    name: str,
    comparison: Comparison,
    base: Baselines,
    draws: Resample,
    *,
    quality: FloatArray,
    cost: FloatArray | None,
    at_budget: dict[str, FloatArray],
    gains: dict[str, FloatArray],
    apgr: Figure,
    repeated: int = 0,
) -> Verdict:
    """The verdict on one router; none where it had learned from more than a few of the queries.

    Args:
        quality, cost: `[B]` under the policy `quality`.
        at_budget: `[B]` quality by share of the best single model's cost.
        gains: `[B]` by the same shares over the cheapest mix, and "any" over the best single model
            at any cost.
        apgr: of two models; unknown otherwise.
        repeated: how many of the queries it learned from.
    """
    if repeated > MOST_REPEATED * len(comparison):
        return Verdict(
            False,
            f"no verdict: {name} learned from {repeated} of these "
            f"{counted(len(comparison), 'query')}, and any router knows what it has seen; split "
            "the data (wye data split DATA NEW), train on that and judge again.",
        )
    looked_at = {k: v for k, v in gains.items() if np.isfinite(v[0])}
    level = 1.0 - (1.0 - draws.level) / max(len(looked_at), 1)
    figures = {k: draws.figure(v, level=level) for k, v in looked_at.items()}
    best = comparison.models[base.best]
    if not draws.n_draws:
        return Verdict(
            False, f"no verdict: whether {name} pays takes an interval, so bootstrap draws."
        )
    won = {k: f for k, f in figures.items() if f.low > 0}
    priced = cost is not None and base.best_cost is not None
    if not won:
        if not priced and apgr.low > 0.5:
            return Verdict(True, _fewer_strong_calls(name, best, base, figures["any"], apgr))
        return Verdict(False, _do_not_route(name, best, base, figures))
    if cost is None or base.best_cost is None:
        return Verdict(
            True,
            f"route with {name}: quality {quality[0]:.3f} against {base.best_quality[0]:.3f} of "
            f"{best} for everything, a gain of {points(won['any'])}.",
        )
    sentences = []
    shares = [s for s in won if s != "any"]
    if shares:
        parts = [
            f"{points(won[s])} at {float(s):.0%} (which keeps "
            f"{at_budget[s][0] / base.best_quality[0]:.1%} of its quality)"
            for s in shares
        ]
        sentences.append(
            f"at a share of the cost of {best} it gains over the cheapest mix of single models "
            + ", ".join(parts)
        )
    if "any" in won and "1.0" not in won:
        sentences.append(
            f"at {usd(float(cost[0]))} a query ({cost[0] / base.best_cost[0]:.0%} of the cost of "
            f"{best}) its quality is {quality[0]:.3f} against {base.best_quality[0]:.3f}, a gain "
            f"of {points(won['any'])}"
        )
    return Verdict(True, f"route with {name}: {'; '.join(sentences)}.")


def judge_all(results: list[RouterResult]) -> str:
    """The verdict for the data: that on the router with the largest gain, paying ones first."""

    def merit(result: RouterResult) -> tuple[bool, float]:
        known = [g.value for g in result.gain.values() if g.known]
        return result.pays, max(known, default=-1.0)

    return max(results, key=merit).verdict


def points(figure: Figure) -> str:
    """A difference of qualities in points of a hundred, with its interval."""
    return f"{figure.value * 100:+.1f} points [{figure.low * 100:+.1f}, {figure.high * 100:+.1f}]"


def _fewer_strong_calls(name: str, best: str, base: Baselines, gain: Figure, apgr: Figure) -> str:
    return (
        f"route with {name} where {best} is the dearer model: over all shares of calls to it the "
        f"router recovers more of its lead than a coin does (APGR {apgr.value:.3f} "
        f"[{apgr.low:.3f}, {apgr.high:.3f}], a coin has 0.5). For quality alone do not route, use "
        f"{best} ({points(gain)}; its quality is {base.best_quality[0]:.3f})."
    )


def _do_not_route(name: str, best: str, base: Baselines, figures: dict[str, Figure]) -> str:
    same = figures.get("1.0", figures.get("any"))
    if same is None:
        return f"do not route, use {best}: {name} shows no gain that could be measured."
    judgement = "is worse than" if same.high < 0 else "does not differ measurably from"
    where = "at the same cost" if "1.0" in figures else "in quality"
    text = (
        f"do not route, use {best}: {where} {name} {judgement} it "
        f"({points(same)}; its quality is {base.best_quality[0]:.3f})"
    )
    cheaper = {k: f for k, f in figures.items() if k not in ("1.0", "any")}
    if cheaper:
        text += (
            ", and below that cost its gain over the cheapest mix of single models is no more than "
            "chance (" + ", ".join(f"{float(k):.0%}: {points(f)}" for k, f in cheaper.items()) + ")"
        )
    return text + "."

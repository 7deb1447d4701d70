"""The verdict in words: route, or do not route and use X.

Routing pays where the router's quality exceeds that of the cheapest mix of single models at the
same realised cost, with an interval that excludes zero. Several budgets are looked at, so the
intervals of the verdict are widened to hold together (Bonferroni): level 1 - (1 - level) / n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.query.wording import usd

if TYPE_CHECKING:
    from wye.query.base import FloatArray
    from wye.query.metrics.baselines import Baselines
    from wye.query.metrics.comparison import Comparison
    from wye.query.metrics.resample import Figure, Resample
    from wye.query.report_types import RouterResult


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
) -> Verdict:
    """The verdict on one router.

    Args:
        quality, cost: `[B]` under the policy `quality`.
        at_budget: `[B]` quality by share of the best single model's cost.
        gains: `[B]` by the same shares over the cheapest mix, and "any" over the best single model
            at any cost.
    """
    looked_at = {k: v for k, v in gains.items() if np.isfinite(v[0])}
    level = 1.0 - (1.0 - draws.level) / max(len(looked_at), 1)
    figures = {k: draws.figure(v, level=level) for k, v in looked_at.items()}
    best = comparison.models[base.best]
    won = {k: f for k, f in figures.items() if f.low > 0}
    if not won:
        return Verdict(False, _do_not_route(name, best, base, figures))
    if cost is None or base.best_cost is None:
        return Verdict(
            True,
            f"route with {name}: quality {quality[0]:.3f} against {base.best_quality[0]:.3f} of "
            f"{best} for everything, a gain of {points(won['any'])}.",
        )
    sentences = [
        _at_share(share, at_budget[share], figure, best, base)
        for share, figure in won.items()
        if share != "any"
    ]
    if "any" in won:
        sentences.append(
            f"at {usd(float(cost[0]))} a query ({cost[0] / base.best_cost[0]:.0%} of the cost of "
            f"{best}) quality is {quality[0]:.3f} against {base.best_quality[0]:.3f}, a gain of "
            f"{points(won['any'])}"
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


def _at_share(share: str, quality: FloatArray, figure: Figure, best: str, base: Baselines) -> str:
    kept = quality[0] / base.best_quality[0] if base.best_quality[0] > 0 else float("nan")
    return (
        f"at {float(share):.0%} of the cost of {best} it keeps {kept:.1%} of its quality, "
        f"{points(figure)} over the cheapest mix of single models"
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
            ", and at lower budgets the cheapest mix of single models is as good ("
            + ", ".join(f"{float(k):.0%}: {points(f)}" for k, f in cheaper.items())
            + ")"
        )
    return text + "."

"""Cost against quality, for the dashboard: from a router's report, or from the log."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from wye.gateway.reports import latest_feedback
from wye.gateway.schema import decisions, outcomes

if TYPE_CHECKING:
    from wye.query.report import Report
    from wye.query.report.types import Priced


SAMPLE = 5_000


def frontier_of(report: Report) -> dict[str, Any]:
    """Points of a report: every target alone, their cheapest mix, the router, the oracle."""
    found = [
        *(_priced("single", p.name, p) for p in report.singles),
        *(_priced("mix", f"mix at {p.name}", p) for p in report.mix),
        *(
            _point("router", name, point.cost, point.quality.value)
            for name, result in report.routers.items()
            for point in result.frontier
        ),
        _priced("oracle", "oracle", report.oracle),
    ]
    note = (
        f"Measured on {report.n_compared} questions of the set {report.data_name} that the router "
        f"has not seen; cost is the mean per answer. {report.verdict}"
    )
    points = [p for p in found if math.isfinite(p["cost_usd"])]
    return {"points": points, "note": note}


def frontier_of_log(engine: sa.Engine) -> dict[str, Any]:
    """Points of the judged answers: every target on the requests that it got, and all together."""
    judged = latest_feedback(most=SAMPLE)
    known = sa.and_(outcomes.c.status == "ok", outcomes.c.cost_usd.is_not(None))
    figures = (
        sa.func.avg(outcomes.c.cost_usd).label("cost_usd"),
        sa.func.avg(judged.c.quality).label("quality"),
        sa.func.count().label("n"),
    )
    answered = sa.join(outcomes, judged, judged.c.decision_id == outcomes.c.decision_id)
    alone = sa.select(outcomes.c.target, *figures).select_from(answered).where(known)
    routed = (
        sa.select(*figures)
        .select_from(answered.join(decisions, decisions.c.id == outcomes.c.decision_id))
        .where(known, decisions.c.policy != "direct")
    )
    with engine.connect() as connection:
        rows = connection.execute(alone.group_by(outcomes.c.target)).mappings().all()
        together = connection.execute(routed).mappings().one()
    points = [_point("single", r["target"], r["cost_usd"], r["quality"]) for r in rows]
    if together["n"]:
        points.append(_point("router", "routed", together["cost_usd"], together["quality"]))
    if not points:
        note = "Nothing is known yet: judge some answers, or train a router."
    else:
        note = (
            f"From the latest {sum(r['n'] for r in rows)} judged answers of this gateway. Each target was "
            "judged on the requests that it got, so they are not compared on the same questions."
        )
    return {"points": points, "note": note}


def _priced(kind: str, label: str, priced: Priced) -> dict[str, Any]:
    return _point(kind, label, priced.cost.value, priced.quality.value)


def _point(kind: str, label: str, cost: float, quality: float) -> dict[str, Any]:
    return {"label": label, "kind": kind, "cost_usd": cost, "quality": quality}

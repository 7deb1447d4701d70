"""Cost against quality, for the dashboard: from a router's report, or from the log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from wye.gateway.reports import latest_feedback
from wye.gateway.router_service import DIRECT
from wye.gateway.schema import decisions, outcomes

if TYPE_CHECKING:
    from wye.query.report import Report
    from wye.query.report.types import Priced


SAMPLE = 3_000


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
    query = (
        sa.select(
            outcomes.c.target,
            decisions.c.policy_name,
            sa.func.sum(outcomes.c.cost_usd),
            sa.func.sum(judged.c.quality),
            sa.func.count(),
        )
        .select_from(judged)
        .join(outcomes, outcomes.c.decision_id == judged.c.decision_id)
        .join(decisions, decisions.c.id == judged.c.decision_id)
        .where(outcomes.c.status == "ok", outcomes.c.cost_usd.is_not(None))
        .group_by(outcomes.c.target, decisions.c.policy_name)
        .order_by(outcomes.c.target)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    points = [
        _mean_of("single", str(target), [row for row in rows if row[0] == target])
        for target in dict.fromkeys(row[0] for row in rows)
    ]
    routed = [row for row in rows if row[1] != DIRECT]
    if routed:
        points.append(_mean_of("router", "routed", routed))
    if not points:
        note = "Nothing is known yet: judge some answers, or train a router."
    else:
        note = (
            f"From the latest {sum(row[4] for row in rows)} judged answers of this gateway. Each "
            "target was judged on the requests that it got, so they are not compared on the same "
            "questions."
        )
    return {"points": points, "note": note}


def _mean_of(kind: str, label: str, rows: Sequence[Any]) -> dict[str, Any]:
    """A point from rows of (target, policy, sum of cost, sum of quality, number)."""
    number = sum(row[4] for row in rows)
    cost, quality = sum(row[2] for row in rows), sum(row[3] for row in rows)
    return _point(kind, label, cost / number, quality / number)


def _priced(kind: str, label: str, priced: Priced) -> dict[str, Any]:
    return _point(kind, label, priced.cost.value, priced.quality.value)


def _point(kind: str, label: str, cost: float, quality: float) -> dict[str, Any]:
    return {"label": label, "kind": kind, "cost_usd": cost, "quality": quality}

"""What the store tells: single decisions, the latest ones, sums and series.

Every figure is read from the rows that were written. Percentiles are over the latest
`SAMPLE` outcomes, so that a long history does not slow them down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa

from wye.gateway.schema import decisions, feedback, outcomes

SAMPLE = 10_000


def latest_feedback() -> sa.Subquery:
    """The feedback that counts: the latest of each decision."""
    last = (
        sa.select(sa.func.max(feedback.c.number).label("number"))
        .group_by(feedback.c.decision_id)
        .subquery()
    )
    return sa.select(feedback).join(last, feedback.c.number == last.c.number).subquery()


def decision(engine: sa.Engine, decision_id: str) -> dict[str, Any] | None:
    """Everything known of one decision, its outcome and its feedback; None when there is none."""
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(decisions).where(decisions.c.id == decision_id)
        ).mappings().first()  # fmt: skip
        if row is None:
            return None
        outcome = connection.execute(
            sa.select(outcomes).where(outcomes.c.decision_id == decision_id)
        ).mappings().first()  # fmt: skip
        judged = connection.execute(
            sa.select(feedback.c.time, feedback.c.quality, feedback.c.comment)
            .where(feedback.c.decision_id == decision_id)
            .order_by(feedback.c.number)
        ).mappings()  # fmt: skip
        found = {
            **row,
            "outcome": _without(outcome, "decision_id") if outcome is not None else None,
            "feedback": [dict(f) for f in judged],
        }
    return {**found, "explanation": explain(found)}


def latest(
    engine: sa.Engine, limit: int, before: str | None = None, key_id: str | None = None
) -> list[dict[str, Any]]:
    """The latest decisions, newest first, in short.

    Args:
        limit: most of them.
        before: only those older than this decision.
        key_id: only those of this virtual key.
    """
    judged = latest_feedback()
    query = (
        sa.select(
            decisions,
            outcomes.c.target.label("served_by"),
            outcomes.c.status,
            outcomes.c.cost_usd,
            outcomes.c.latency_s,
            outcomes.c.error,
            outcomes.c.attempts,
            judged.c.quality,
        )
        .outerjoin(outcomes, outcomes.c.decision_id == decisions.c.id)
        .outerjoin(judged, judged.c.decision_id == decisions.c.id)
        .order_by(decisions.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(decisions.c.id < before)
    if key_id is not None:
        query = query.where(decisions.c.key_id == key_id)
    with engine.connect() as connection:
        return [_short(row) for row in connection.execute(query).mappings()]


def totals(engine: sa.Engine) -> dict[str, Any]:
    """Sums over everything: requests, errors, spend, spend at the baseline, quality."""
    both = sa.and_(outcomes.c.cost_usd.is_not(None), outcomes.c.baseline_usd.is_not(None))
    judged = latest_feedback()
    with engine.connect() as connection:
        sums = connection.execute(
            sa.select(
                sa.func.count().label("requests"),
                sa.func.count().filter(outcomes.c.status == "error").label("errors"),
                sa.func.coalesce(sa.func.sum(outcomes.c.cost_usd), 0.0).label("spend_usd"),
                sa.func.sum(outcomes.c.baseline_usd).filter(both).label("baseline_usd"),
                sa.func.sum(outcomes.c.cost_usd).filter(both).label("comparable_usd"),
                sa.func.count().filter(outcomes.c.cost_usd.is_not(None)).label("priced"),
            )
        ).mappings().one()  # fmt: skip
        quality = connection.execute(
            sa.select(sa.func.avg(judged.c.quality).label("mean"), sa.func.count().label("n"))
        ).mappings().one()  # fmt: skip
        since = connection.execute(sa.select(sa.func.min(decisions.c.time))).scalar()
    baseline, spent = sums["baseline_usd"], sums["comparable_usd"]
    saved = baseline - spent if baseline is not None else None
    return {
        "requests": sums["requests"],
        "errors": sums["errors"],
        "spend_usd": sums["spend_usd"],
        "priced_requests": sums["priced"],
        "baseline_usd": baseline,
        "saved_usd": saved,
        "saved_share": saved / baseline if saved is not None and baseline else None,
        "quality": dict(quality),
        "since": since,
        **_latencies(engine),
    }


def by_target(engine: sa.Engine) -> dict[str, dict[str, Any]]:
    """Requests, share, spend, mean quality and median latency of each target that served."""
    judged = latest_feedback()
    query = (
        sa.select(
            outcomes.c.target,
            sa.func.count().label("requests"),
            sa.func.sum(outcomes.c.cost_usd).label("spend_usd"),
            sa.func.avg(judged.c.quality).label("quality"),
        )
        .outerjoin(judged, judged.c.decision_id == outcomes.c.decision_id)
        .where(outcomes.c.target.is_not(None), outcomes.c.status != "error")
        .group_by(outcomes.c.target)
    )
    with engine.connect() as connection:
        rows = {
            row["target"]: _without(row, "target") for row in connection.execute(query).mappings()
        }
    everything = sum(row["requests"] for row in rows.values())
    medians = _median_latency(engine)
    for name, row in rows.items():
        row["share"] = row["requests"] / everything
        row["latency_ms_p50"] = medians.get(name)
    return rows


def spent_by_policy(engine: sa.Engine) -> dict[str, float]:
    """USD that the requests of each policy have cost so far, by the policy's configured name."""
    query = (
        sa.select(decisions.c.policy_name, sa.func.sum(outcomes.c.cost_usd))
        .join(outcomes, outcomes.c.decision_id == decisions.c.id)
        .where(outcomes.c.cost_usd.is_not(None))
        .group_by(decisions.c.policy_name)
    )
    with engine.connect() as connection:
        return {str(row[0]): float(row[1]) for row in connection.execute(query)}


def series(engine: sa.Engine, bucket: float, limit: int = 500) -> list[dict[str, Any]]:
    """Requests, spend and baseline spend in buckets of `bucket` seconds, oldest first.

    Buckets without a request are left out; at most the latest `limit` come back.
    """
    start = (sa.cast(outcomes.c.time / bucket, sa.Integer) * bucket).label("start")
    query = (
        sa.select(
            start,
            sa.func.count().label("requests"),
            sa.func.coalesce(sa.func.sum(outcomes.c.cost_usd), 0.0).label("spend_usd"),
            sa.func.coalesce(sa.func.sum(outcomes.c.baseline_usd), 0.0).label("baseline_usd"),
        )
        .group_by(start)
        .order_by(start.desc())
        .limit(limit)
    )
    with engine.connect() as connection:
        rows = [
            {"time": row["start"], **_without(row, "start")}
            for row in connection.execute(query).mappings()
        ]
    return rows[::-1]


def explain(found: Mapping[str, Any]) -> list[str]:
    """A decision in words: where it went and why, among what, and what came of it."""
    target = found["target"]
    said = [f"{target} was chosen by {found['policy']}." if target else "No target was chosen."]
    said += [_sentence(reason) for reason in found["reasons"]]
    for candidate in found["candidates"]:
        cost = candidate["cost_usd"]
        price = f"${cost:.6f}" if cost is not None else "unknown cost"
        said.append(
            f"{candidate['target']}: expected quality {candidate['quality']:.2f} "
            f"(± {candidate['quality_std']:.2f}), {price}"
            + (
                "."
                if candidate["allowed"]
                else f"; left out: {found['excluded'][candidate['target']]}."
            )
        )
    outcome = found["outcome"]
    if outcome is None:
        return [*said, "Its outcome is not known yet."]
    said += [f"Asked in vain: {attempt['error']}." for attempt in outcome["attempts"]]
    if outcome["status"] == "ok":
        cost = outcome["cost_usd"]
        said.append(
            f"{outcome['target']} answered in {outcome['latency_s']:.2f} s for "
            + (f"${cost:.6f}." if cost is not None else "an unknown cost.")
        )
    else:
        said.append(f"It ended as {outcome['status']}: {outcome['error']}.")
    said += [f"Judged {f['quality']:.2f}." for f in found["feedback"][-1:]]
    return said


def _short(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "time": row["time"],
        "target": row["served_by"] or row["target"],
        "chosen": row["target"],
        "policy": row["policy_name"],
        "text": row["text"],
        "quality": row["quality"],
        "cost_usd": row["cost_usd"],
        "latency_ms": _ms(row["latency_s"]),
        "status": row["status"] or "pending",
        "reasons": row["reasons"],
        "attempts": row["attempts"] or [],
        "error": row["error"],
        "propensity": row["propensity"],
    }


def _latencies(engine: sa.Engine) -> dict[str, Any]:
    with engine.connect() as connection:
        answers = connection.execute(
            sa.select(outcomes.c.latency_s)
            .where(outcomes.c.status == "ok", outcomes.c.latency_s.is_not(None))
            .order_by(outcomes.c.time.desc())
            .limit(SAMPLE)
        ).scalars().all()  # fmt: skip
        deciding = connection.execute(
            sa.select(decisions.c.router_seconds)
            .where(decisions.c.router_seconds.is_not(None))
            .order_by(decisions.c.time.desc())
            .limit(SAMPLE)
        ).scalars().all()  # fmt: skip
    return {"latency_ms": _percentiles(answers), "router_ms": _percentiles(deciding)}


def _median_latency(engine: sa.Engine) -> dict[str, float]:
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(outcomes.c.target, outcomes.c.latency_s)
            .where(outcomes.c.status == "ok", outcomes.c.latency_s.is_not(None))
            .order_by(outcomes.c.time.desc())
            .limit(SAMPLE)
        ).all()  # fmt: skip
    seconds: dict[str, list[float]] = {}
    for target, latency in rows:
        seconds.setdefault(target, []).append(latency)
    return {target: float(np.median(values)) * 1e3 for target, values in seconds.items()}


def _percentiles(seconds: Any) -> dict[str, float | None]:
    if not seconds:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(seconds, dtype=float), [50, 95]) * 1e3
    return {"p50": float(p50), "p95": float(p95)}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _without(row: Mapping[Any, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def _sentence(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."

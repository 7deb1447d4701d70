"""Sums over the traffic of a store: requests, money, quality, times, by target and over time.

Every figure is read from the rows that were written, since a moment where one is given. What is
summed lies in one index of `outcomes`, so that a long history is read without its wide rows.
Percentiles are over the latest `SAMPLE` outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa

from wye.gateway.reports import latest_feedback
from wye.gateway.schema import decisions, outcomes

SAMPLE = 5_000


def totals(engine: sa.Engine, since: float | None = None) -> dict[str, Any]:
    """Sums: requests, errors, spend, spend at the baseline, quality; percentiles of times.

    Args:
        since: only outcomes from this moment on, seconds since 1970.
    """
    both = sa.and_(outcomes.c.cost_usd.is_not(None), outcomes.c.baseline_usd.is_not(None))
    sums_of = sa.select(
        sa.func.count().label("requests"),
        sa.func.count().filter(outcomes.c.status == "error").label("errors"),
        sa.func.coalesce(sa.func.sum(outcomes.c.cost_usd), 0.0).label("spend_usd"),
        sa.func.sum(outcomes.c.baseline_usd).filter(both).label("baseline_usd"),
        sa.func.sum(outcomes.c.cost_usd).filter(both).label("comparable_usd"),
        sa.func.count().filter(outcomes.c.cost_usd.is_not(None)).label("priced"),
        sa.func.min(outcomes.c.time).label("since"),
    )
    with engine.connect() as connection:
        sums = connection.execute(_from(sums_of, since)).mappings().one()
        quality = connection.execute(_judged(since)).mappings().one()
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
        "since": sums["since"],
        "latency_ms": _percentiles(_latest(engine, outcomes.c.time, outcomes.c.latency_s, since)),
        "router_ms": _percentiles(
            _latest(engine, decisions.c.time, decisions.c.router_seconds, since)
        ),
    }


def by_target(engine: sa.Engine, since: float | None = None) -> dict[str, dict[str, Any]]:
    """What each target that was asked came to.

    `requests` that it answered, their `share`, `spend_usd`, `errors` that ended with it, mean
    `quality` of the `judged` ones, and percentiles of its latency.
    """
    served = outcomes.c.status != "error"
    query = _from(
        sa.select(
            outcomes.c.target,
            sa.func.count().filter(served).label("requests"),
            sa.func.count().filter(~served).label("errors"),
            sa.func.sum(outcomes.c.cost_usd).label("spend_usd"),
        ).where(outcomes.c.target.is_not(None)),
        since,
    ).group_by(outcomes.c.target)
    judged = latest_feedback()
    qualities = _from(
        sa.select(outcomes.c.target, sa.func.avg(judged.c.quality), sa.func.count())
        .select_from(judged)
        .join(outcomes, outcomes.c.decision_id == judged.c.decision_id)
        .where(served),
        since,
    ).group_by(outcomes.c.target)
    with engine.connect() as connection:
        found = {row["target"]: dict(row) for row in connection.execute(query).mappings()}
        for target, quality, number in connection.execute(qualities):
            if target in found:
                found[target] |= {"quality": quality, "judged": number}
    everything = sum(row["requests"] for row in found.values())
    seconds: dict[str, list[float]] = {}
    for target, latency in _latencies(engine, since):
        seconds.setdefault(target, []).append(latency)
    for name, row in found.items():
        del row["target"]
        row.setdefault("quality", None)
        row.setdefault("judged", 0)
        row["share"] = row["requests"] / everything if everything else 0.0
        times = _percentiles(seconds.get(name, []))
        row |= {"latency_ms_p50": times["p50"], "latency_ms_p95": times["p95"]}
    return found


def series(
    engine: sa.Engine, bucket: float, since: float | None = None, limit: int = 500
) -> list[dict[str, Any]]:
    """Requests, errors, spend and baseline spend in buckets of `bucket` seconds, oldest first.

    Buckets without a request are left out; at most the latest `limit` come back.
    """
    start = (_floor(outcomes.c.time / bucket) * bucket).label("start")
    query = (
        _from(
            sa.select(
                start,
                sa.func.count().label("requests"),
                sa.func.count().filter(outcomes.c.status == "error").label("errors"),
                sa.func.coalesce(sa.func.sum(outcomes.c.cost_usd), 0.0).label("spend_usd"),
                sa.func.coalesce(sa.func.sum(outcomes.c.baseline_usd), 0.0).label("baseline_usd"),
            ),
            since,
        )
        .group_by(start)
        .order_by(start.desc())
        .limit(limit)
    )
    with engine.connect() as connection:
        rows = [_bucket(row) for row in connection.execute(query).mappings()]
    return rows[::-1]


def _floor(value: sa.ColumnElement[float]) -> sa.ColumnElement[int]:
    """The whole number below; casts cut off in SQLite and round in PostgreSQL."""
    whole = sa.cast(value, sa.BigInteger)
    return whole - sa.case((whole > value, 1), else_=0)


def _from(query: sa.Select[Any], since: float | None) -> sa.Select[Any]:
    return query if since is None else query.where(outcomes.c.time >= since)


def _judged(since: float | None) -> sa.Select[Any]:
    """Mean and number of the judgements, of those given since then."""
    judged = latest_feedback()
    query = sa.select(sa.func.avg(judged.c.quality).label("mean"), sa.func.count().label("n"))
    return query if since is None else query.where(judged.c.time >= since)


def _latest(
    engine: sa.Engine, moment: sa.Column[Any], figure: sa.Column[Any], since: float | None
) -> list[float]:
    """The latest values of a figure; of answers alone where it is one of an outcome."""
    query = sa.select(figure).where(figure.is_not(None)).order_by(moment.desc()).limit(SAMPLE)
    if figure.table is outcomes:
        query = query.where(outcomes.c.status == "ok")
    if since is not None:
        query = query.where(moment >= since)
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


def _latencies(engine: sa.Engine, since: float | None) -> list[tuple[str, float]]:
    query = _from(
        sa.select(outcomes.c.target, outcomes.c.latency_s)
        .where(outcomes.c.status == "ok", outcomes.c.latency_s.is_not(None))
        .order_by(outcomes.c.time.desc())
        .limit(SAMPLE),
        since,
    )
    with engine.connect() as connection:
        return [(str(row[0]), float(row[1])) for row in connection.execute(query)]


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    """p50 and p95 in milliseconds."""
    if not seconds:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(seconds, dtype=float), [50, 95]) * 1e3
    return {"p50": float(p50), "p95": float(p95)}


def _bucket(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {"time": row["start"], **{k: v for k, v in row.items() if k != "start"}}

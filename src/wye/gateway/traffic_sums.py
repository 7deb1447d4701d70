"""What the traffic came to: requests, money, quality, times, by target and over time.

Every figure is of the rows that were written, since a moment where one is given. What is summed
lies in indexes, so that a long history is read without its wide rows, and hours that are over are
remembered (`wye.gateway.hourly_sums`). Percentiles are over the latest `SAMPLE` outcomes, quality
is over the latest `SAMPLE` judgements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from wye.gateway.hourly_sums import HOUR, HourlySum, HourlySums, whole_below
from wye.gateway.reports import latest_feedback
from wye.gateway.schema import decisions, outcomes

SAMPLE = 4_000
MOST_BUCKETS = 500


class TrafficSums:
    """The sums over one store; `since` is in seconds since 1970, None for everything.

    Args:
        engine: of the store.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._hours = HourlySums(engine)

    def summary(self, since: float | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """What all of it came to, and `by_target`.

        The sums are `requests`, `errors`, `spend_usd`, what the same was expected to cost at the
        baseline, and what that saved, of requests where both are known.
        """
        hours = self._hours.since(since)
        latencies = _latencies(self._engine, since)
        judgements = _judgements(self._engine, since)
        totals = {
            **_totals(hours),
            "quality": _mean(judgements),
            "latency_ms": _percentiles([seconds for _, seconds in latencies]),
            "router_ms": _percentiles(_deciding(self._engine, since)),
        }
        return totals, _targets(hours, judgements, latencies)

    def by_target(self, since: float | None = None) -> dict[str, Any]:
        """What each target that was asked came to.

        `requests` that it answered, their `share`, `spend_usd`, `errors` that ended with it, mean
        `quality` of the `judged` ones, and percentiles of its latency.
        """
        hours, judgements = self._hours.since(since), _judgements(self._engine, since)
        return _targets(hours, judgements, _latencies(self._engine, since))

    def series(self, bucket: float, since: float | None = None) -> list[dict[str, Any]]:
        """Requests, errors, spend and baseline spend in buckets of so many seconds, oldest first.

        Buckets without a request are left out; at most the latest `MOST_BUCKETS` come back.
        """
        if bucket % HOUR:
            return _buckets(self._engine, bucket, since)
        found: dict[float, dict[str, Any]] = {}
        for hour in self._hours.since(since):
            start = hour.start // bucket * bucket
            row = found.setdefault(start, {"time": start, **_NO_TRAFFIC})
            row["requests"] += hour.requests
            row["errors"] += hour.requests if hour.status == "error" else 0
            row["spend_usd"] += hour.cost_usd
            row["baseline_usd"] += hour.baseline_usd
        return [found[start] for start in sorted(found)][-MOST_BUCKETS:]


def _totals(hours: Sequence[HourlySum]) -> dict[str, Any]:
    compared = any(hour.both for hour in hours)
    baseline = sum(hour.both_baseline_usd for hour in hours) if compared else None
    saved = None if baseline is None else baseline - sum(hour.both_cost_usd for hour in hours)
    return {
        "requests": sum(hour.requests for hour in hours),
        "errors": sum(hour.requests for hour in hours if hour.status == "error"),
        "spend_usd": sum(hour.cost_usd for hour in hours),
        "priced_requests": sum(hour.priced for hour in hours),
        "baseline_usd": baseline,
        "saved_usd": saved,
        "saved_share": saved / baseline if saved is not None and baseline else None,
        "since": min((hour.first for hour in hours), default=None),
    }


def _targets(
    hours: Sequence[HourlySum],
    judgements: Sequence[tuple[str | None, bool, Any, int]],
    latencies: Iterable[tuple[str, float]],
) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for hour in hours:
        if hour.target is None:
            continue
        row = found.setdefault(hour.target, {"requests": 0, "errors": 0, "spend_usd": None})
        row["errors" if hour.status == "error" else "requests"] += hour.requests
        if hour.priced:
            row["spend_usd"] = (row["spend_usd"] or 0.0) + hour.cost_usd
    seconds = defaultdict(list)
    for target, latency in latencies:
        seconds[target].append(latency)
    everything = sum(row["requests"] for row in found.values())
    for name, row in found.items():
        row["share"] = row["requests"] / everything if everything else 0.0
        quality = _mean([judged for judged in judgements if judged[0] == name and judged[1]])
        times = _percentiles(seconds[name])
        row |= {"quality": quality["mean"], "judged": quality["n"]}
        row |= {"latency_ms_p50": times["p50"], "latency_ms_p95": times["p95"]}
    return found


def _mean(judgements: Sequence[tuple[str | None, bool, Any, int]]) -> dict[str, Any]:
    number = sum(n for *_, n in judgements)
    return {"mean": sum(q for _, _, q, _ in judgements) / number if number else None, "n": number}


def _judgements(engine: sa.Engine, since: float | None) -> list[tuple[str | None, bool, Any, int]]:
    """The latest judgements by target and whether it answered: their sum, and how many."""
    judged = latest_feedback(since=since, most=SAMPLE)
    served = (outcomes.c.status != "error").label("served")
    query = (
        sa.select(outcomes.c.target, served, sa.func.sum(judged.c.quality), sa.func.count())
        .select_from(judged)
        .outerjoin(outcomes, outcomes.c.decision_id == judged.c.decision_id)
        .group_by(outcomes.c.target, outcomes.c.status)
    )
    with engine.connect() as connection:
        return [(row[0], bool(row[1]), row[2], row[3]) for row in connection.execute(query)]


_NO_TRAFFIC: Mapping[str, Any] = {
    "requests": 0, "errors": 0, "spend_usd": 0.0, "baseline_usd": 0.0,
}  # fmt: skip


def _buckets(engine: sa.Engine, bucket: float, since: float | None) -> list[dict[str, Any]]:
    length = sa.literal_column(repr(float(bucket)), sa.Float)
    start = (whole_below(outcomes.c.time / length) * length).label("start")
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
        .limit(MOST_BUCKETS)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).mappings().all()
    return [{"time": row["start"], **{n: row[n] for n in _NO_TRAFFIC}} for row in rows[::-1]]


def _from(query: sa.Select[Any], since: float | None) -> sa.Select[Any]:
    return query if since is None else query.where(outcomes.c.time >= since)


def _latencies(engine: sa.Engine, since: float | None) -> list[tuple[str, float]]:
    """Target and seconds of the latest answers."""
    query = _from(
        sa.select(outcomes.c.target, outcomes.c.latency_s)
        .where(outcomes.c.status == "ok", outcomes.c.latency_s.is_not(None))
        .order_by(outcomes.c.time.desc())
        .limit(SAMPLE),
        since,
    )
    with engine.connect() as connection:
        return [(row[0], row[1]) for row in connection.execute(query).all()]


def _deciding(engine: sa.Engine, since: float | None) -> list[float]:
    """Seconds that the latest decisions took."""
    query = (
        sa.select(decisions.c.router_seconds)
        .where(decisions.c.router_seconds.is_not(None))
        .order_by(decisions.c.time.desc())
        .limit(SAMPLE)
    )
    if since is not None:
        query = query.where(decisions.c.time >= since)
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    """p50 and p95 in milliseconds."""
    if not seconds:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(seconds, dtype=float), [50, 95]) * 1e3
    return {"p50": float(p50), "p95": float(p95)}

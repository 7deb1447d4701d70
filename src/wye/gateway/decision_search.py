"""Decisions by what they were about: newest first, page by page, in bounded time.

A page ends after `limit` decisions, or after `SCANNED` that were looked through: a filter that
matches little must not read a whole history at once. `next` goes on from there either way. Decision
ids sort by time, so a page is a range of the primary key, or of the index of a key or a session,
whatever is written meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from wye.gateway.reports import in_short, latest_feedback
from wye.gateway.schema import decisions, outcomes
from wye.query.decisions import format_id

SCANNED = 20_000
PENDING = "pending"
# A decision's id is made a moment before its time is read.
_SLACK_SECONDS = 60.0


@dataclass(frozen=True)
class Filter:
    """What decisions must have; None is anything.

    Attributes:
        since, until: seconds since 1970, the end excluded.
        target: who answered, or was asked last.
        policy: its configured name, or `direct`.
        key: id of a virtual key.
        session: name of the conversation.
        status: `ok`, `error`, `cancelled`, or `pending` where there is no outcome.
        surface: wire format of the request.
        text: a part of what was asked, in any case.
    """

    since: float | None = None
    until: float | None = None
    target: str | None = None
    policy: str | None = None
    key: str | None = None
    session: str | None = None
    status: str | None = None
    surface: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Page:
    """Decisions in short, newest first.

    Attributes:
        data: them.
        next: what to give as `before` for those that follow; None at the end.
        reached: time of the oldest decision that was looked at, None without any.
    """

    data: list[dict[str, Any]]
    next: str | None
    reached: float | None


def search(engine: sa.Engine, wanted: Filter, limit: int, before: str | None = None) -> Page:
    """One page of the decisions that pass a filter.

    Args:
        limit: most of them.
        before: only those older than this decision.
    """
    ids = _range(wanted, before)
    with engine.connect() as connection:
        # By an index alone: where a look at `SCANNED` decisions ends.
        last = connection.execute(
            sa.select(decisions.c.id)
            .where(*ids)
            .order_by(decisions.c.id.desc())
            .offset(SCANNED - 1)
            .limit(1)
        ).scalar()
        scanned = [*ids, decisions.c.id >= last] if last is not None else ids
        chosen = connection.execute(
            sa.select(decisions.c.id)
            .outerjoin(outcomes, outcomes.c.decision_id == decisions.c.id)
            .where(*scanned, *_conditions(wanted))
            .order_by(decisions.c.id.desc())
            .limit(limit + 1)
        ).scalars().all()  # fmt: skip
        more = len(chosen) > limit
        data = _in_short(connection, chosen[:limit])
        following = chosen[limit - 1] if more else last
        reached = connection.execute(
            sa.select(decisions.c.time).where(decisions.c.id == following)
            if following is not None
            else sa.select(sa.func.min(decisions.c.time)).where(*ids)
        ).scalar()
    return Page(data, following, reached)


def latest(
    engine: sa.Engine, limit: int, before: str | None = None, key_id: str | None = None
) -> list[dict[str, Any]]:
    """The latest decisions in short, newest first: of one virtual key, or of all."""
    return search(engine, Filter(key=key_id), limit, before).data


def _range(wanted: Filter, before: str | None) -> list[sa.ColumnElement[bool]]:
    """Bounds that an index holds."""
    bounds: list[sa.ColumnElement[bool]] = []
    if wanted.key is not None:
        bounds.append(decisions.c.key_id == wanted.key)
    if wanted.session is not None:
        bounds.append(decisions.c.session == wanted.session)
    if before is not None:
        bounds.append(decisions.c.id < before)
    if wanted.since is not None:
        bounds.append(decisions.c.id >= _id_at(wanted.since - _SLACK_SECONDS))
    if wanted.until is not None:
        bounds.append(decisions.c.id < _id_at(wanted.until + _SLACK_SECONDS))
    return bounds


def _conditions(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    d, o = decisions.c, outcomes.c
    found: list[sa.ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(d.time >= wanted.since)
    if wanted.until is not None:
        found.append(d.time < wanted.until)
    if wanted.target is not None:
        found.append(sa.func.coalesce(o.target, d.target) == wanted.target)
    if wanted.policy is not None:
        found.append(d.policy_name == wanted.policy)
    if wanted.status == PENDING:
        found.append(o.decision_id.is_(None))
    elif wanted.status is not None:
        found.append(o.status == wanted.status)
    if wanted.surface is not None:
        found.append(d.features["surface"].as_string() == wanted.surface)
    if wanted.text is not None:
        found.append(d.text.icontains(wanted.text, autoescape=True))
    return found


def _in_short(connection: sa.Connection, ids: Sequence[str]) -> list[dict[str, Any]]:
    judged = latest_feedback(ids)
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
        .where(decisions.c.id.in_(ids))
        .order_by(decisions.c.id.desc())
    )
    return [in_short(row) for row in connection.execute(query).mappings()]


def _id_at(moment: float) -> str:
    """The least id of a moment."""
    return format_id(max(0, min(int(moment * 1000), 2**48 - 1)) << 80)

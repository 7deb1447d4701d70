"""The alarms of a store: listed, and acknowledged."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from wye.errors import WyeError
from wye.gateway.schema import alarms

KINDS = ("traffic", "calibration", "guard", "model", "answers", "canary")


class AlarmError(WyeError):
    """There is no such alarm."""


def count_open(engine: sa.Engine) -> dict[str, int]:
    """Alarms that nobody has acknowledged, by kind."""
    query = (
        sa.select(alarms.c.kind, sa.func.count())
        .where(alarms.c.acknowledged.is_(None))
        .group_by(alarms.c.kind)
    )
    with engine.connect() as connection:
        return {kind: int(count) for kind, count in connection.execute(query)}


def is_open(engine: sa.Engine, kind: str, subject: str | None) -> bool:
    """Whether nobody has acknowledged an alarm of this kind about this subject."""
    about = alarms.c.subject.is_(None) if subject is None else alarms.c.subject == subject
    query = sa.select(alarms.c.id).where(
        alarms.c.kind == kind, about, alarms.c.acknowledged.is_(None)
    )
    with engine.connect() as connection:
        return connection.execute(query.limit(1)).first() is not None


def listed(engine: sa.Engine, *, limit: int = 100, open_only: bool = False) -> list[dict[str, Any]]:
    """The latest alarms, newest first."""
    query = sa.select(alarms).order_by(alarms.c.time.desc(), alarms.c.id.desc()).limit(limit)
    if open_only:
        query = query.where(alarms.c.acknowledged.is_(None))
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def acknowledge(
    engine: sa.Engine, alarm_id: str, *, by: str | None = None, note: str | None = None
) -> dict[str, Any]:
    """Note that somebody has seen an alarm; the alarm. One that was seen before stays as it was.

    Raises:
        AlarmError: there is no alarm of that id.
    """
    with engine.begin() as connection:
        connection.execute(
            sa.update(alarms)
            .where(alarms.c.id == alarm_id, alarms.c.acknowledged.is_(None))
            .values(acknowledged=time.time(), acknowledged_by=by, note=note)
        )
        row = connection.execute(sa.select(alarms).where(alarms.c.id == alarm_id)).mappings()
        found = row.first()
    if found is None:
        raise AlarmError(
            f"there is no alarm {alarm_id[:80]!r}; `wye alarms list` shows those there are"
        )
    return dict(found)

"""Is the router's promise still what feedback says? Pairs of both, as feedback comes in."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from wye.gateway.schema import decisions, feedback, outcomes
from wye.query.calibration_monitor import Alarm, CalibrationMonitor

_MOST = 5000


class CalibrationWatch:
    """Reads new feedback of a store and watches it; starts behind what is there.

    Args:
        engine: of the store.
        false_alarm_every: mean number of judged answers to a false alarm, at least.

    Attributes:
        version: whose decisions are watched, the latest that were judged.
        monitor: see `CalibrationMonitor`.
    """

    def __init__(self, engine: sa.Engine, false_alarm_every: float) -> None:
        self._engine = engine
        self._level = false_alarm_every
        self.version: str | None = None
        self.monitor = CalibrationMonitor(false_alarm_every=false_alarm_every)
        with engine.connect() as connection:
            newest = connection.execute(sa.select(sa.func.max(feedback.c.number))).scalar()
        self._read_to = int(newest or 0)

    def look(self) -> list[Alarm]:
        """Take what came since the last look; the alarms that it raises."""
        query = (
            sa.select(
                feedback.c.number,
                feedback.c.quality,
                decisions.c.policy_version,
                decisions.c.candidates,
                outcomes.c.target,
            )
            .join(decisions, decisions.c.id == feedback.c.decision_id)
            .join(outcomes, outcomes.c.decision_id == decisions.c.id)
            .where(feedback.c.number > self._read_to, outcomes.c.target.is_not(None))
            .order_by(feedback.c.number)
            .limit(_MOST)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        raised: list[Alarm] = []
        for row in rows:
            self._read_to = row.number
            if row.policy_version != self.version:
                # Another version promises anew.
                self.version = row.policy_version
                self.monitor = CalibrationMonitor(false_alarm_every=self._level)
            expected = _expected(row.candidates, row.target)
            if expected is not None:
                raised += self.monitor.update(min(max(expected, 0.0), 1.0), row.quality)
        return raised


def _expected(candidates: Any, target: str) -> float | None:
    found = (c["quality"] for c in candidates if c["target"] == target)
    quality = next(found, None)
    return None if quality is None else float(quality)

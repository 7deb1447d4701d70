"""Is what the router promised still what feedback says? Watched over the log, in order.

Every judged answer gives a pair: the quality that was expected of the target that answered, and the
quality that feedback gave it. The pairs of the version that decides at present go through a
sequential test with a known rate of false alarms (`wye.query.calibration_monitor`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from wye.gateway.reports import latest_feedback
from wye.gateway.schema import decisions, outcomes
from wye.query.calibration_monitor import CalibrationMonitor

SAMPLE = 1_000


def calibration(engine: sa.Engine) -> dict[str, Any]:
    """What the monitor found in those of the latest 1,000 judged answers that it decided."""
    judged = latest_feedback(most=SAMPLE)
    present = sa.select(decisions.c.policy_version).order_by(decisions.c.id.desc()).limit(1)
    query = (
        sa.select(decisions.c.candidates, outcomes.c.target, judged.c.quality)
        .join(outcomes, outcomes.c.decision_id == decisions.c.id)
        .join(judged, judged.c.decision_id == decisions.c.id)
        .where(
            decisions.c.policy_version == present.scalar_subquery(),
            outcomes.c.target.is_not(None),
        )
        .order_by(judged.c.number.desc())
        .limit(SAMPLE)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).all()[::-1]
    monitor = CalibrationMonitor()
    pairs = [
        (candidate["quality"], observed)
        for candidates, target, observed in rows
        for candidate in candidates
        if candidate["target"] == target and candidate["quality"] is not None
    ]
    if pairs:
        predicted, qualities = zip(*pairs, strict=True)
        monitor.update(predicted, qualities)
    return {**monitor.to_dict(), "words": monitor.words}

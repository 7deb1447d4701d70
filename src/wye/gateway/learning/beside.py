"""What learning knows of one decision: its experiment, its shadows, what was spent beside it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from wye.gateway.learning.tables import assignments, experiments, overheads, shadow_decisions

_SHADOW = (
    "experiment", "policy_version", "target", "propensity", "acted", "quality", "cost_usd",
)  # fmt: skip
_OVERHEAD = ("time", "kind", "target", "input_tokens", "output_tokens", "cost_usd", "result")


# Built once: a look-up costs little beside putting its statements together.
_WANTED = sa.bindparam("wanted", type_=sa.String)
_ASSIGNED = (
    sa.select(experiments.c.id, experiments.c.name, experiments.c.kind, assignments.c.arm)
    .join(experiments, experiments.c.id == assignments.c.experiment)
    .where(assignments.c.decision_id == _WANTED)
)
_WATCHED = sa.select(*(shadow_decisions.c[name] for name in _SHADOW)).where(
    shadow_decisions.c.decision_id == _WANTED
)
_SPENT = (
    sa.select(*(overheads.c[name] for name in _OVERHEAD))
    .where(overheads.c.decision_id == _WANTED)
    .order_by(overheads.c.number)
)


def beside(connection: sa.Connection, decision_id: str) -> dict[str, Any]:
    """`experiment` (None outside of one), `shadows` and `overheads` of a decision."""
    wanted = {"wanted": decision_id}
    arm = connection.execute(_ASSIGNED, wanted).mappings().first()
    return {
        "experiment": dict(arm) if arm is not None else None,
        "shadows": [dict(row) for row in connection.execute(_WATCHED, wanted).mappings()],
        "overheads": [dict(row) for row in connection.execute(_SPENT, wanted).mappings()],
    }

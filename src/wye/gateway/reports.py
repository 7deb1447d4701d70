"""What the store tells of a decision: in full, in short, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from wye.gateway.learning.beside import beside
from wye.gateway.schema import decisions, feedback, outcomes


def latest_feedback(
    of: Sequence[str] | None = None, *, since: float | None = None, most: int | None = None
) -> sa.Subquery:
    """The feedback that counts: the latest of each decision.

    Args:
        of: only of these decisions.
        since: only what was given from this moment on.
        most: only of so many decisions, those judged last.
    """
    last = sa.select(sa.func.max(feedback.c.number).label("number"))
    if of is not None:
        last = last.where(feedback.c.decision_id.in_(of))
    if since is not None:
        last = last.where(feedback.c.time >= since)
    last = last.group_by(feedback.c.decision_id)
    if most is not None:
        last = last.order_by(sa.func.max(feedback.c.number).desc()).limit(most)
    newest = last.subquery()
    return sa.select(feedback).join(newest, feedback.c.number == newest.c.number).subquery()


# Built once: a look-up costs little beside putting its statement together.
_WANTED = sa.bindparam("wanted", type_=sa.String)
_OF_OUTCOME = tuple(column.name for column in outcomes.c if column.name != "decision_id")
_ONE = (
    sa.select(decisions, *(column.label(f"outcome.{column.name}") for column in outcomes.c))
    .outerjoin(outcomes, outcomes.c.decision_id == decisions.c.id)
    .where(decisions.c.id == _WANTED)
)
_JUDGED = (
    sa.select(*(column for column in feedback.c if column.name not in ("number", "decision_id")))
    .where(feedback.c.decision_id == _WANTED)
    .order_by(feedback.c.number)
)


def decision(engine: sa.Engine, decision_id: str) -> dict[str, Any] | None:
    """Everything known of one decision, its outcome and its feedback; None when there is none."""
    with engine.connect() as connection:
        row = connection.execute(_ONE, {"wanted": decision_id}).mappings().first()
        if row is None:
            return None
        judged = connection.execute(_JUDGED, {"wanted": decision_id}).mappings()
        outcome = {name: row[f"outcome.{name}"] for name in _OF_OUTCOME}
        found = {
            **{column.name: row[column.name] for column in decisions.c},
            "outcome": outcome if row["outcome.decision_id"] is not None else None,
            "feedback": [dict(f) for f in judged],
            **beside(connection, decision_id),
        }
    return {**found, "explanation": explain(found)}


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
    said += [f"Judged {f['quality']:.2f}{_by(f.get('source'))}." for f in found["feedback"][-1:]]
    return said


def in_short(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of decision, outcome and latest feedback, as lists show it."""
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
        "key_id": row["key_id"],
        "session": row["session"],
        "surface": (row["features"] or {}).get("surface"),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _by(source: str | None) -> str:
    """Who judged, in words; nothing for a person, and where it is not known."""
    words = {"judge": " by a model", "outcome": " by comparing it with what was expected"}
    return words.get(source or "", "")


def _sentence(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."

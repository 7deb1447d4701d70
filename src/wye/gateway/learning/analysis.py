"""What the arms of an experiment gave so far, and whether it is to end.

The unit of the analysis is the unit that was drawn: of a session or key the first decision counts,
so that units are independent, which several requests of one conversation are not. Three metrics are
compared, each at a third of alpha (Bonferroni), by bounds that hold at every look
(`wye.gateway.learning.sequential`):

    reward   quality as judged, less cost_weight x cost; of the first decision that was judged
    cost     USD; of the first decision that was answered
    errors   1 where the request failed for good, else 0; the same decision

A canary or A/B ends as harmful when its reward is lower, its errors are more, or its cost exceeds
the limit that it was given. An A/B ends as better or worse when the rewards differ.

Shape letters: none; everything is sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from wye.gateway.learning.experiments import Experiment
from wye.gateway.learning.sequential import Difference, Sums, difference
from wye.gateway.learning.tables import assignments, shadow_decisions
from wye.gateway.learning.trials import CANDIDATE, CONTROL
from wye.gateway.schema import decisions, feedback, outcomes

METRICS = ("reward", "cost", "errors")
_DRAWN = (assignments.c.decision_id, assignments.c.arm, assignments.c.unit)


@dataclass(frozen=True)
class Verdict:
    """That an experiment is to end: the state it gets, and why in a sentence."""

    state: str
    reason: str


@dataclass(frozen=True)
class Analysis:
    """What is known of an experiment.

    Attributes:
        requests: decisions of each arm.
        sums: of each metric, of each arm, over units.
        differences: of each metric, in the order of `METRICS`.
        verdict: None while it goes on.
    """

    requests: Mapping[str, int]
    units: Mapping[str, int]
    sums: Mapping[str, Mapping[str, Sums]]
    differences: tuple[Difference, ...]
    verdict: Verdict | None

    def to_dict(self) -> dict[str, Any]:
        """As `wye.gateway.learning.learning_report` has it."""
        arms = {
            arm: {
                "requests": self.requests.get(arm, 0),
                "units": self.units.get(arm, 0),
                "judged": self.sums["reward"][arm].count,
                "reward": self.sums["reward"][arm].mean,
                "cost_usd": self.sums["cost"][arm].mean,
                "errors": self.sums["errors"][arm].mean,
            }
            for arm in (CONTROL, CANDIDATE)
        }
        return {"arms": arms, "differences": [asdict(one) for one in self.differences]}


def analyse(engine: sa.Engine, experiment: Experiment) -> Analysis:
    """What the arms gave so far."""
    with engine.connect() as connection:
        requests, units = _counts(connection, experiment)
        sums = {
            "reward": _rewards(connection, experiment),
            **_answers(connection, experiment),
        }
    alpha, least = experiment.plan.alpha / len(METRICS), experiment.plan.least
    differences = tuple(
        difference(metric, sums[metric][CANDIDATE], sums[metric][CONTROL], alpha=alpha, least=least)
        for metric in METRICS
    )
    return Analysis(requests, units, sums, differences, verdict_of(experiment, sums, differences))


def verdict_of(
    experiment: Experiment,
    sums: Mapping[str, Mapping[str, Sums]],
    differences: tuple[Difference, ...],
) -> Verdict | None:
    """Whether the differences end an experiment."""
    if experiment.kind == "shadow":
        return None
    reward, cost, errors = differences
    if errors.low is not None and errors.low > 0:
        return Verdict("harmful", f"the candidate fails more often: {_told(errors)}")
    limit, before = experiment.plan.cost_limit, sums["cost"][CONTROL].mean
    if limit is not None and cost.low is not None and before and cost.low > limit * before:
        return Verdict(
            "harmful",
            f"the candidate costs more than {limit:.0%} above the control: {_told(cost)} USD",
        )
    if reward.high is not None and reward.high < 0:
        state = "worse" if experiment.kind == "ab" else "harmful"
        return Verdict(state, f"the candidate's reward is lower: {_told(reward)}")
    if experiment.kind == "ab" and reward.low is not None and reward.low > 0:
        return Verdict("better", f"the candidate's reward is higher: {_told(reward)}")
    return None


def shadow_summary(engine: sa.Engine, experiment: Experiment) -> dict[str, Any]:
    """What a shadow chose, beside what was really chosen."""
    mine = shadow_decisions.c.experiment == experiment.id
    same = sa.case((shadow_decisions.c.target == decisions.c.target, 1.0), else_=0.0)
    totals = (
        sa.select(
            sa.func.count().label("decisions"),
            sa.func.avg(same).label("same"),
            sa.func.avg(shadow_decisions.c.quality).label("quality"),
            sa.func.avg(shadow_decisions.c.cost_usd).label("cost_usd"),
        )
        .join(decisions, decisions.c.id == shadow_decisions.c.decision_id)
        .where(mine)
    )
    chosen = (
        sa.select(shadow_decisions.c.target, sa.func.count())
        .where(mine, shadow_decisions.c.target.is_not(None))
        .group_by(shadow_decisions.c.target)
    )
    with engine.connect() as connection:
        found = dict(connection.execute(totals).mappings().one())
        found["targets"] = {str(row[0]): int(row[1]) for row in connection.execute(chosen)}
    found["same"] = None if found["same"] is None else float(found["same"])
    return found


def _counts(
    connection: sa.Connection, experiment: Experiment
) -> tuple[dict[str, int], dict[str, int]]:
    query = (
        sa.select(
            assignments.c.arm,
            sa.func.count().label("requests"),
            sa.func.count(sa.distinct(assignments.c.unit)).label("units"),
        )
        .where(assignments.c.experiment == experiment.id)
        .group_by(assignments.c.arm)
    )
    rows = connection.execute(query).all()
    return {r[0]: int(r[1]) for r in rows}, {r[0]: int(r[2]) for r in rows}


def _rewards(connection: sa.Connection, experiment: Experiment) -> dict[str, Sums]:
    """Reward of the first judged decision of every unit, by its latest judgement."""
    latest = sa.func.row_number().over(
        partition_by=assignments.c.decision_id, order_by=feedback.c.number.desc()
    )
    judged = (
        sa.select(*_DRAWN, feedback.c.quality, latest.label("latest"))
        .join(feedback, feedback.c.decision_id == assignments.c.decision_id)
        .where(assignments.c.experiment == experiment.id)
        .subquery()
    )
    place = sa.func.row_number().over(partition_by=judged.c.unit, order_by=judged.c.decision_id)
    first = sa.select(judged, place.label("place")).where(judged.c.latest == 1).subquery()
    cost = sa.func.coalesce(outcomes.c.cost_usd, 0.0)
    reward = first.c.quality - experiment.plan.cost_weight * cost
    query = (
        sa.select(first.c.arm, *_sums(reward))
        .outerjoin(outcomes, outcomes.c.decision_id == first.c.decision_id)
        .where(first.c.place == 1)
        .group_by(first.c.arm)
    )
    return _by_arm({row[0]: Sums(*_numbers(row[1:])) for row in connection.execute(query)})


def _answers(connection: sa.Connection, experiment: Experiment) -> dict[str, dict[str, Sums]]:
    """Cost and failure of the first decision of every unit that came to an end by itself."""
    place = sa.func.row_number().over(
        partition_by=assignments.c.unit, order_by=assignments.c.decision_id
    )
    failed = sa.case((outcomes.c.status == "error", 1.0), else_=0.0).label("failed")
    first = (
        sa.select(*_DRAWN, failed, outcomes.c.cost_usd, place.label("place"))
        .join(outcomes, outcomes.c.decision_id == assignments.c.decision_id)
        .where(assignments.c.experiment == experiment.id, outcomes.c.status != "cancelled")
        .subquery()
    )
    query = (
        sa.select(first.c.arm, *_sums(first.c.failed), *_sums(first.c.cost_usd))
        .where(first.c.place == 1)
        .group_by(first.c.arm)
    )
    errors, cost = {}, {}
    for row in connection.execute(query):
        errors[row[0]] = Sums(*_numbers(row[1:4]))
        cost[row[0]] = Sums(*_numbers(row[4:7]))
    return {"cost": _by_arm(cost), "errors": _by_arm(errors)}


def _sums(value: sa.ColumnElement[Any]) -> tuple[sa.ColumnElement[Any], ...]:
    return sa.func.count(value), sa.func.sum(value), sa.func.sum(value * value)


def _numbers(row: Any) -> tuple[int, float, float]:
    count, total, squares = row
    return int(count), float(total or 0.0), float(squares or 0.0)


def _by_arm(found: Mapping[str, Sums]) -> dict[str, Sums]:
    return {arm: found.get(arm, Sums()) for arm in (CONTROL, CANDIDATE)}


def _told(found: Difference) -> str:
    low, high = (f"{v:+.4g}" if v is not None else "?" for v in (found.low, found.high))
    return f"{found.estimate or 0.0:+.4g} ({low} to {high})"

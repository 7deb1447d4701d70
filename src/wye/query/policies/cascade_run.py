"""A cascade run over recorded answers: what it returns, what it pays, whom it calls.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import Estimate
from wye.query.policies.cascade import Cascade, CascadeState
from wye.query.policies.choosing import IntArray, allowed_models
from wye.query.policy import PolicyError

if TYPE_CHECKING:
    from wye.query.base import BoolArray, FloatArray

_CHUNK = 1024


@dataclass(frozen=True)
class CascadeOutcome:
    """What a cascade did on Q queries with recorded answers.

    Attributes:
        quality: `[Q]` of the answer returned; NaN where no model was possible.
        cost: `[Q]` USD of all answers run, judgements and the router itself.
        returned: `[Q]` column of the answer returned, -1 for none.
        called: `[Q, M]` models that ran.
        judged: `[Q]` answers that were judged.
    """

    quality: FloatArray
    cost: FloatArray
    returned: IntArray
    called: BoolArray
    judged: IntArray


def run_cascade(
    policy: Cascade,
    estimate: Estimate,
    quality: FloatArray,
    cost: FloatArray,
    confidence: FloatArray,
    *,
    allowed: BoolArray | None = None,
) -> CascadeOutcome:
    """Lead Q queries through `policy` with answers that were recorded.

    Args:
        quality, cost, confidence: `[Q, M]` recorded, columns as in `estimate`. A model without a
            recorded quality or cost is not chosen; one without a confidence is not heard by the
            judge.
        allowed: `[Q, M]` or `[M]`.

    Raises:
        PolicyError: shapes differ, or as the policy raises.
    """
    shape = estimate.quality.shape
    for name, array in (("quality", quality), ("cost", cost), ("confidence", confidence)):
        if array.shape != shape:
            raise PolicyError(f"cascade: {name} has shape {array.shape}, expected {shape}")
    mask = allowed_models(estimate, allowed) & np.isfinite(quality) & np.isfinite(cost)
    returned = np.full(shape[0], -1, dtype=np.intp)
    called = np.zeros(shape, dtype=np.bool_)
    judged = np.zeros(shape[0], dtype=np.intp)
    for start in range(0, shape[0], _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, shape[0]))
        _run_chunk(
            policy,
            _rows(estimate, rows),
            mask[rows],
            confidence[rows],
            rows,
            returned,
            called,
            judged,
        )
    paid = np.where(called, np.nan_to_num(cost), 0.0).sum(axis=1)
    every = np.arange(shape[0])
    return CascadeOutcome(
        quality=np.where(returned >= 0, quality[every, returned], np.nan),
        cost=paid + judged * policy.judge_cost + estimate.router_cost,
        returned=returned,
        called=called,
        judged=judged,
    )


def _run_chunk(
    policy: Cascade,
    estimate: Estimate,
    mask: BoolArray,
    confidence: FloatArray,
    rows: IntArray,
    returned: IntArray,
    called: BoolArray,
    judged: IntArray,
) -> None:
    state = policy.start(estimate, allowed=mask)
    while len(state.estimate):
        plan = policy.plan(state)
        target = policy.next_target(state, plan)
        stops = target < 0
        unread = policy.unread(plan, state) & ~stops
        returned[rows[stops]] = policy.best_answer(state)[stops]
        returned[rows[unread]] = target[unread]
        runs = ~stops
        called[rows[runs], target[runs]] = True
        on = np.flatnonzero(runs & ~unread)
        judged[rows[on]] += 1
        scores = confidence[on, target[on]]
        state = policy.judged(_subset(state, on), target[on], scores)
        rows, confidence = rows[on], confidence[on]


def _subset(state: CascadeState, rows: IntArray) -> CascadeState:
    return CascadeState(
        _rows(state.estimate, rows),
        state.allowed[rows],
        state.mean[rows],
        state.covariance[rows],
        state.ran[rows],
    )


def _rows(estimate: Estimate, rows: IntArray) -> Estimate:
    return Estimate(
        models=estimate.models,
        quality=estimate.quality[rows],
        quality_std=estimate.quality_std[rows],
        cost=estimate.cost[rows],
        latency=estimate.latency[rows],
        novelty=estimate.novelty[rows],
        router_cost=estimate.router_cost,
        router_seconds=estimate.router_seconds,
    )

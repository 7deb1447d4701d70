"""Replaying a log as a stream: an online router sees the outcomes of its own choices alone.

The log holds the outcome of every model on a query, so a replay is exact, not an estimate.

Shape letters: Q queries, M models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray, RouterError
from wye.query.online.feedback import NAN, Observed, Replay

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.learning.contexts import Task
    from wye.query.online.base import OnlineRouter, Queries


def replay(
    router: OnlineRouter,
    log: RoutingData,
    *,
    seed: int | None,
    tasks: bool,
    queries: Queries | None,
) -> Replay:
    """See `OnlineRouter.replay`."""
    if not hasattr(router, "heads_"):
        router.start(router.arms or log.model_names)
    missing = [m for m in router.models_ if m not in log.model_names]
    if missing:
        raise RouterError(f"{log.name} has no outcomes of {missing}; remove these models first")
    log = log.with_models(router.models_)
    observed = router.observed(log)
    known = np.isfinite(observed.quality)
    rows = np.flatnonzero(known.any(axis=1))
    if not rows.size:
        raise RouterError(f"{log.name} has no known outcome; a replay needs some")
    if seed is not None:
        rows = np.random.default_rng(seed).permutation(rows)
    named: list[Task] = [str(d) for d in log.datasets]
    rewards = router.rewards(observed, named)
    if queries is None:
        queries = router.read(log.texts)
    elif len(queries.vectors) != len(log):
        raise RouterError(f"{len(queries.vectors)} queries were read, but the log has {len(log)}")
    chosen = np.zeros((rows.size, len(router.models_)), np.bool_)
    propensity = np.empty(rows.size)
    for step, row in enumerate(rows.tolist()):
        task = named[row] if tasks else None
        ticket = router.select_read(queries, row, task=task, mask=known[row])
        columns = [router.models_.index(t) for t in ticket.targets]
        chosen[step, columns], propensity[step] = True, ticket.propensity
        router.update(ticket, {router.models_[c]: observed.cell(row, c) for c in columns})
    return _record(router.models_, rows, chosen, propensity, rewards, observed)


def _record(
    models: tuple[str, ...],
    rows: NDArray[np.intp],
    chosen: BoolArray,
    propensity: FloatArray,
    rewards: FloatArray,
    observed: Observed,
) -> Replay:
    size = np.maximum(chosen.sum(axis=1), 1)
    best = np.where(np.isfinite(rewards[rows]), rewards[rows], -np.inf).max(axis=1)
    return Replay(
        models=models,
        rows=rows,
        chosen=chosen,
        propensity=propensity,
        reward=np.where(chosen, rewards[rows], 0.0).sum(axis=1) / size,
        quality=np.where(chosen, observed.quality[rows], 0.0).max(axis=1),
        cost=np.where(chosen, observed.cost[rows], 0.0).sum(axis=1),
        best_reward=np.where(np.isinf(best), NAN, best),
    )
